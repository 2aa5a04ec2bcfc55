"""CPU seconds of whole training runs and the greedy return they end at: a mode of scripts/bench_peers.py."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from teamcredit.marl.bench.child import ONE_THREAD
from teamcredit.marl.bench.machine import describe, sentence
from teamcredit.marl.cli_output import table

EPISODES = 1_000
PUBLISHED = {
    "native/spread": (
        "JaxMARL VDN-GRU, its defaults, 10M env steps: greedy return -25.6 after 889 CPU seconds; QMIX-GRU: -36.8 after 1,157",
        "a planner that sees everything: -22.5; random play: -79.2",
    ),
    "native/foraging-8x8-2p-3f": (
        "EPyMARL VDN, its defaults, 500k env steps: greedy return .09 after 1,014 CPU seconds",
        "random play: .18",
    ),
}
"""Measured once, elsewhere, each alone on a quiet two-core machine: for orientation, not of this run."""


def train_once(task: str, preset: str, algo: str, steps: str | None, seed: int, folder: Path) -> dict[str, Any]:
    """One run of `marl train` in a process of its own, its final evaluation included; CPU seconds of all its processes."""
    command = [sys.executable, "-m", "teamcredit.marl.cli", "train", task, "--preset", preset, "--algo", algo, "--seed", str(seed)]
    command += ["--final-episodes", str(EPISODES), "--out", str(folder / f"{algo}-{seed}"), "--json", "-q"]
    command += ["--steps", steps] if steps else []
    output = folder / f"{algo}-{seed}.jsonl"
    with open(output, "w") as out:
        process = subprocess.Popen(command, stdout=out, env={**os.environ, **ONE_THREAD})
        _, status, usage = os.wait4(process.pid, 0)  # its usage holds its own children's, which have ended
    process.returncode = os.waitstatus_to_exitcode(status)
    last = json.loads(output.read_text().splitlines()[-1])
    if process.returncode:
        raise SystemExit(f"marl train ended with {process.returncode}: {last['error']['message']}")
    return {
        "algo": algo, "seed": seed, "env_steps": last["env_steps"], "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "return": last["return"],
    }  # fmt: skip


def time_to_return(task: str, preset: str, algos: list[str], steps: str | None, seeds: list[int]) -> tuple[dict[str, Any], str]:
    """All runs one after another; the JSON document and the text."""
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for algo in algos:
            for seed in seeds:
                run = train_once(task, preset, algo, steps, seed, Path(folder))
                print(f"{algo} {seed}: {run['return']['mean']:.2f}, {run['cpu_seconds']:.0f} CPU s", file=sys.stderr, flush=True)
                runs.append(run)
    header = describe(None)
    header["machine"]["torch_threads"] = 1  # of each run
    published = PUBLISHED.get(task, ())
    lines = [
        (run["algo"], str(run["seed"]), f"{run['env_steps']:,}", f"{run['cpu_seconds']:.0f}", f"{run['return']['mean']:.2f}",
         "({:.2f} to {:.2f})".format(*run["return"]["interval"])) for run in runs
    ]  # fmt: skip
    heads = ("algo", "seed", "env steps", "CPU seconds", "greedy return", f"{EPISODES:,} episodes")
    text = "\n\n".join([sentence(header), f"{task}, preset {preset}, one thread", table(heads, lines), *published])
    return {"task": task, "preset": preset, **header, "runs": runs, "published": list(published)}, text
