"""Keeping freed memory: answers everywhere, changes no number, and is never done by the library itself."""

import platform
import subprocess
import sys

import pytest
from teamcredit.marl import allocator
from teamcredit.marl.allocator import keep_freed_memory

LOSSES = """
import torch
from teamcredit.marl.allocator import keep_freed_memory
from teamcredit.marl.run import configure, make_env
from teamcredit.marl.trainer import Trainer

torch.set_num_threads(1)
config = configure(options={"task": "native/spread", "algo": "vdn", "steps": 100_000, "compile": "off"}).config

def numbers():
    trainer = Trainer(config, make_env(config))
    trainer.round()
    line = trainer.metrics()
    return [line["loss"], line["grad_norm"], *(value.double().sum().item() for value in trainer.networks.state_dict().values())]

before = numbers()
print(keep_freed_memory(), numbers() == before)
"""


def test_it_changes_no_number():
    """In a process of its own."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", LOSSES], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(platform.libc_ver()[0] == "glibc"), "True"]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("asked for the C library"))
    assert keep_freed_memory() is False


def test_training_from_python_leaves_the_process_as_it_is():
    script = """
import sys
import teamcredit
from teamcredit.marl import allocator
allocator.keep_freed_memory = lambda: sys.exit("the library set the allocator")
import tempfile
small = {"evaluation.episodes": 1, "evaluation.final_episodes": 1, "replay.num_envs": 2, "network.hidden": 8}
teamcredit.train("native/two-step", algo="vdn", steps=256, options=small, out=tempfile.mkdtemp() + "/run")
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)
