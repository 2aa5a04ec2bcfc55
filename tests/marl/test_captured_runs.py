"""The captured loop as the compiler makes it: equal to the plain trainer to rounding, one graph for good, the same after a kill.

Everything here runs in processes of its own: the compiler does not trace through the checks of shapes that these tests run under.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from teamcredit.marl.folder import read_metrics
from teamcredit.marl.kernels import find_compiler

pytestmark = [
    pytest.mark.slow,  # each case compiles for half a minute and more
    pytest.mark.skipif(find_compiler() is None, reason="there is no C++ compiler here"),
]

COMPARE = """
import json, sys
import torch
from teamcredit.marl.run import configure, make_env
from teamcredit.marl.trainer import Trainer

torch.set_num_threads(1)
options, rounds = json.loads(sys.argv[1])
pair, starts = [], []
for mode in ("on", "off"):
    config = configure(options={"steps": 100_000_000, "compile": mode, **options}).config
    trainer = Trainer(config, make_env(config))
    starts.append([value.detach().clone() for value in trainer.networks.parameters()])
    for number in range(rounds):
        trainer.round()
        if number == rounds // 2:
            trainer.settle()
    trainer.settle()
    pair.append(trainer)
captured, plain = pair
far = lambda one, other: max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))
weights = [list(trainer.networks.parameters()) for trainer in pair]
result = {
    "engine": captured.choice.engine,
    "counters": [vars(trainer.counters) for trainer in pair],
    "weights": far(*weights),
    "targets": far(*(trainer.targets.parameters() for trainer in pair)),
    "moved": far(weights[1], starts[1]),
    "replay": float((captured.replay.floats - plain.replay.floats).abs().max()),
    "raw": bool(torch.equal(captured.replay.raw, plain.replay.raw)),
    "scales": [trainer.reward_scale.scale for trainer in pair],
    "metrics": [trainer.metrics() for trainer in pair],
}
print(json.dumps(result))
"""

PLAIN: dict[str, Any] = {"replay.rollout_steps": 16, "replay.num_envs": 8, "network.hidden": 32}
SPLIT = PLAIN | {"replay.minibatch_size": 32, "learner.td_lambda": 0.8}
WINDOWS = PLAIN | {
    "replay.sampling": "uniform", "replay.window": 4, "replay.minibatch_size": 32, "replay.capacity": 400, "learner.target": "soft",
    "learner.n_step": 3,
}  # fmt: skip
GRU = PLAIN | {
    "network.kind": "gru", "replay.sampling": "uniform", "replay.window": 8, "replay.burn_in": 3, "replay.minibatch_size": 64,
    "learner.target_every": 3,
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "the preset of spread": {"task": "native/spread", "algo": "qmix"},
    "iql, split, kept, no targets": SPLIT
    | {"task": "native/spread", "algo": "iql", "learner.target": "none", "replay.minibatch_size": 48, "replay.last_minibatch": "keep"},
    "qmix, windows, own weights": WINDOWS
    | {"task": "native/foraging-8x8-2p-3f", "algo": "qmix", "network.share": False, "learner.standardise_rewards": True},
    "vdn, recurrent": GRU | {"task": "native/switch2", "algo": "vdn", "learner.td_lambda": 0.7},
    "qmix, recurrent, own weights, rectified": GRU
    | {"task": "native/spread", "algo": "qmix", "network.share": False, "learner.optimiser": "radam", "learner.target": "soft"},
    "iql, agents paid their Shapley values, probe episodes": SPLIT
    | {
        "task": "native/coalition-airport-4", "algo": "iql", "agent_reward": "shapley", "learner.standardise_rewards": True,
        "exploration.probe_share": 0.5,
    },
    "vdn, recurrent, split, no targets, one copy": {
        "task": "native/two-step", "algo": "vdn", "network.kind": "gru", "network.hidden": 24, "replay.rollout_steps": 32,
        "replay.num_envs": 1, "replay.window": 4, "replay.minibatch_size": 16, "replay.epochs": 2, "learner.target": "none",
    },
    "qmix, one copy": {
        "task": "native/predator-prey", "algo": "qmix", "replay.rollout_steps": 64, "replay.num_envs": 1, "network.hidden": 16,
    },
    "vdn on the warehouse": SPLIT | {"task": "native/rware-tiny-2ag", "algo": "vdn", "learner.lr_decay": "linear"},
    "vdn, learning alone, planted": WINDOWS | {"task": "native/spread", "algo": "vdn", "members": ["agent_2=noop"]},
    "qmix, learning alone, stepped in Python": GRU | {"task": "mpe/simple_spread", "algo": "qmix"},
    "iql, one-shot": SPLIT | {"task": "native/matrix-climbing", "algo": "iql", "replay.minibatch_size": "full", "replay.epochs": 3},
}  # fmt: skip


ROUNDS = {"the preset of spread": 1}
"""Rounding grows with the iterations: this preset's learning rate is high, its forces are stiff, a round has 16. All others: 5."""


@pytest.mark.parametrize("case", CASES)
def test_the_captured_run_equals_the_plain_one(case: str):
    command = [sys.executable, "-W", "ignore", "-c", COMPARE, json.dumps([CASES[case], ROUNDS.get(case, 5)])]
    result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert result["engine"] == ("learning compiled" if "alone" in case else "compiled")
    ours, theirs = result["counters"]
    assert ours == theirs
    assert ours["iterations"] > 0
    assert result["replay"] <= 1e-3
    assert result["raw"]
    assert result["moved"] > 1e-3
    assert max(result["weights"], result["targets"]) <= min(1e-4, 0.05 * result["moved"])
    assert result["scales"][0] == pytest.approx(result["scales"][1], rel=1e-6)
    for name, value in result["metrics"][1].items():
        assert result["metrics"][0][name] == (None if value is None else pytest.approx(value, rel=1e-3, abs=1e-5)), name


RUN = """
import json, os, signal, sys
import torch
from teamcredit.marl.run import train

torch.set_num_threads(1)
out, options, killed_at = json.loads(sys.argv[1])

def watch(event):
    if event["event"] == "progress" and event["env_steps"] == killed_at:
        os.kill(os.getpid(), signal.SIGKILL)

train("native/spread", algo="qmix", steps=STEPS, seed=1, options=options, out=out, on_event=watch)
"""
RESUME = """
import sys
import torch
from teamcredit.marl.run import resume

torch.set_num_threads(1)
resume(sys.argv[1])
"""
STEPS, KILLED_AT = 4096, 2304
KILLED = {
    "mlp": WINDOWS | {"learner.standardise_rewards": True},
    "gru": GRU | {"learner.optimiser": "radam"},
}


def python(script: str, *arguments: str) -> int:
    return subprocess.run([sys.executable, "-W", "ignore", "-c", script.replace("STEPS", str(STEPS)), *arguments], check=False).returncode


def untimed(folder: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if not name.startswith("time.")} for record in read_metrics(folder)]


@pytest.mark.parametrize("kind", KILLED)
def test_a_captured_run_that_was_killed_goes_on_as_if_nothing_had_happened(kind: str, tmp_path: Path):
    """Number for number: the log of the resumed run is that of the one left alone."""
    options = KILLED[kind] | {
        "compile": "on", "evaluation.every": 1536, "evaluation.episodes": 2, "evaluation.final_episodes": 2, "checkpoint.every": 640,
    }  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert python(RUN, json.dumps([str(whole), options, -1])) == 0
    assert python(RUN, json.dumps([str(killed), options, KILLED_AT])) == -9
    shutil.copytree(killed, tmp_path / "as it was left")
    assert len(untimed(killed)) < len(untimed(whole))
    assert python(RESUME, str(killed)) == 0
    assert untimed(killed) == untimed(whole)
