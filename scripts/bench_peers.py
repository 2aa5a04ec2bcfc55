"""Training speed beside other trainers at equal hyperparameters, side by side in one run; and the CPU time to a stated return.

    python scripts/bench_peers.py --jaxmarl JaxMARL --epymarl epymarl      # checkouts at the commits below; BenchMARL where installed
    python scripts/bench_peers.py --only jaxmarl --algos vdn --turns 5
    python scripts/bench_peers.py --time-to-return spread-vdn --algos vdn --steps 2M

Every side is a process of its own (scripts/side_*.py) on one and the same core with one thread; they take turns, and env steps per
CPU second are counted. Equal are networks and mixers, env steps, updates, and joint steps in an update; evaluation, logs and
checkpoints are off on all sides, compiling is over before the first turn. Packages of the peers: pip install "teamcredit[bench]"
flax distrax gymnax hydra-core sacred, and for BenchMARL: pip install --no-deps benchmarl==1.5.2; pip install tqdm.
"""

import argparse
import json
import subprocess
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from teamcredit.marl.bench.child import Child, SideFailed
from teamcredit.marl.bench.clock import Pace, Side, interleave, one_core
from teamcredit.marl.bench.machine import describe
from teamcredit.marl.bench.report import ratio, to_document, to_text
from teamcredit.marl.bench.rows import Row, paired
from teamcredit.marl.bench.updates import RECURRENT
from teamcredit.marl.cli_output import number, to_json
from time_to_return import time_to_return

UNIT = "env steps of training per CPU second"
HERE = Path(__file__).resolve().parent
CHECKOUTS = {
    "jaxmarl": ("https://github.com/FLAIROx/JaxMARL", "c793d095618c6d3edfb5632802348f57b70a4b94"),
    "epymarl": ("https://github.com/uoe-agents/epymarl", "cbc38c09588064eab978501d0f12c2cf58fa7fc2"),
}
EPYMARL: dict[str, Any] = {
    "network": {"kind": "mlp", "hidden": 64, "layers": 2, "layer_norm": False},
    "mixer": {"embed_dim": 32, "hyper_dim": 64},
    "learner": {"gamma": 0.99, "lr": 5e-4, "grad_clip": 10, "target_every": 200, "standardise_rewards": True},
    "replay": {
        "sampling": "uniform", "rollout_steps": 25, "num_envs": 1, "window": 25, "minibatch_size": 800, "replay_ratio": 32,
        "capacity": 125_000, "learning_starts": 800,
    },
}  # fmt: skip
"""EPyMARL's defaults: after every episode of one copy an update of 32 episodes of 25 steps."""
BENCHMARL: dict[str, Any] = {
    "network": {"kind": "mlp", "hidden": 256, "layers": 2, "layer_norm": False},
    "learner": {"gamma": 0.99, "lr": 5e-5, "grad_clip": 5, "target": "soft", "target_tau": 0.005},
    "replay": {
        "sampling": "uniform", "rollout_steps": 36, "num_envs": 10, "minibatch_size": 128, "replay_ratio": 128 / 6, "capacity": 50_000,
    },
}  # fmt: skip
"""BenchMARL's defaults: 6 env steps of 10 copies to one update of 128 joint steps."""


@dataclass(frozen=True)
class Bench:
    """What was asked for, and the processes that are at work."""

    args: argparse.Namespace
    pace: Pace
    running: ExitStack

    def start(self, script: str, *words: str, python: str | None = None) -> Child:
        """A side; it ends with the comparison."""
        return self.running.enter_context(closing(Child([str(HERE / script), *words], python=python)))


def ours(bench: Bench, task: str, algo: str, options: dict[str, Any]) -> dict[str, Child]:
    """Our sides: eager, and compiled (of an environment that is stepped in Python the learning alone)."""

    def start(**more: Any) -> Child:
        return bench.start("side_ours.py", "train", task, algo, json.dumps(options | more))

    modes = {"off": "", "on": ", compiled"}
    return {modes[mode]: start(compile=mode) for mode in modes if bench.args.compile in (mode, "both")}


def beside(bench: Bench, what: str, mine: dict[str, Child], peer: str, theirs: Child, note: str) -> list[Row]:
    """All sides in turns; one row for each of ours."""
    sides: dict[str, Side] = {f"ours{name}": side for name, side in mine.items()}
    done = interleave({peer: theirs, **sides}, bench.pace)
    note += f"; peak memory ours {', '.join(_megabytes(side) for side in mine.values())}, theirs {_megabytes(theirs)}"
    engines = {name: f"{note}; ours ran {side.facts['engine']}" for name, side in mine.items()}
    return [paired(what + name, peer, UNIT, done[f"ours{name}"], done[peer], note=engines[name]) for name in mine]


def beside_jaxmarl(bench: Bench, algo: str) -> list[Row]:
    """QMIX-GRU and VDN-GRU under JaxMARL's defaults."""
    checkout, name = bench.args.jaxmarl, f"{algo.upper()}-GRU"
    theirs = bench.start("side_jaxmarl.py", checkout, algo, str(bench.args.jaxmarl_steps), python=bench.args.peer_python)
    note = f"commit {commit_of(checkout)[:12]}, compiling {theirs.facts['compile_seconds']:.0f} CPU s apart"
    return beside(bench, f"{name}, native/spread", ours(bench, "native/spread", algo, RECURRENT), f"JaxMARL {name}", theirs, note)


def beside_epymarl(bench: Bench, algo: str) -> list[Row]:
    """EPyMARL's default on MPE spread, ours on the same package and on the native task; and the floor of the update."""
    rows, checkout, name = [], bench.args.epymarl, algo.upper()
    note = f"commit {commit_of(checkout)[:12]}, one copy of MPE2's spread, an update of 32 episodes per episode"
    theirs = bench.start("side_epymarl.py", checkout, algo, python=bench.args.peer_python)
    floor = bench.start("side_ours.py", "floor", "native/spread", algo, json.dumps(EPYMARL))
    share = f"{floor.facts['products']} matrix products of one update of ours; ratio: their share of our training time"
    for task in ("mpe/simple_spread", "native/spread"):
        mine = ours(bench, task, algo, EPYMARL)
        rows += beside(bench, f"{name}, {task}", mine, f"EPyMARL {name}", theirs, note)
        rows += beside(bench, f"{name}, {task}", mine, "floor: its products bare", floor, share)
    return rows


def beside_benchmarl(bench: Bench, algo: str) -> list[Row]:
    """BenchMARL's default on PettingZoo's spread."""
    theirs = bench.start("side_benchmarl.py", algo, python=bench.args.peer_python)
    mine, note = ours(bench, "mpe/simple_spread", algo, BENCHMARL), "6 env steps to an update of 128"
    return beside(bench, f"{algo.upper()}, mpe/simple_spread", mine, f"BenchMARL {algo.upper()}", theirs, note)


SIDES = {"jaxmarl": beside_jaxmarl, "epymarl": beside_epymarl, "benchmarl": beside_benchmarl}


def why_not(peer: str, args: argparse.Namespace) -> str | None:
    """What to do before this peer can be measured; None when all is there."""
    if peer == "benchmarl":
        there = args.peer_python is not None or find_spec("benchmarl") is not None
        return None if there else 'not installed: pip install "teamcredit[bench]" && pip install --no-deps benchmarl==1.5.2 hydra-core tqdm'
    address, commit = CHECKOUTS[peer]
    given = getattr(args, peer)
    folder = given or address.rpartition("/")[2]
    if given and Path(given).is_dir():
        return None
    return f"no checkout: git clone {address} {folder} && git -C {folder} checkout {commit}, then --{peer} {folder}"


def commit_of(folder: str) -> str:
    """The commit that is checked out; "unknown" where the folder is no repository."""
    done = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def measure(args: argparse.Namespace) -> list[Row]:
    """All rows asked for; a peer that is not there, or whose process ends, gets a row that says so."""
    rows: list[Row] = []
    pace = Pace(args.turns, args.seconds)
    for peer in args.only:
        reason = why_not(peer, args)
        if reason is not None:
            rows.append(Row(what="training", peer=peer, unit=UNIT, note=reason))
            continue
        for algo in args.algos:
            print(f"measuring  {algo} beside {peer}", file=sys.stderr, flush=True)
            try:
                with ExitStack() as running:
                    found = SIDES[peer](Bench(args, pace, running), algo)
            except SideFailed as error:
                found = [Row(what=algo, peer=peer, unit=UNIT, note=f"not measured: {error}")]
            for row in found:  # a long run that is stopped has said what it found
                print(f"  {row.what}, ours {number(row.ours)}, {row.peer} {number(row.theirs)}: {ratio(row)}", file=sys.stderr, flush=True)
            rows += found
    return rows


def _megabytes(side: Child) -> str:
    return f"{side.peak_memory() / 1e6:,.0f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--algos", nargs="+", choices=("qmix", "vdn"), default=["qmix", "vdn"])
    parser.add_argument("--jaxmarl", metavar="DIR", help="a checkout of JaxMARL")
    parser.add_argument("--epymarl", metavar="DIR", help="a checkout of EPyMARL")
    parser.add_argument("--peer-python", metavar="PATH", help="interpreter of the peers' environment; teamcredit is installed there too")
    parser.add_argument("--jaxmarl-steps", type=int, default=50_000, help="env steps of a JaxMARL turn")
    parser.add_argument("--compile", choices=("on", "off", "both"), default="both", help="ours compiled, eager, or both")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="CPU seconds of a turn")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--time-to-return", metavar="PRESET", help="train ours under a preset instead, seeds 0 to 4")
    parser.add_argument("--task", default="native/spread")
    parser.add_argument("--steps", help="with --time-to-return: env steps instead of the preset's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    args = parser.parse_args()
    if args.time_to_return:
        document, text = time_to_return(args.task, args.time_to_return, args.algos, args.steps, args.seeds)
        print(to_json(document) if args.json else text)
        return
    with one_core() as core:
        rows = measure(args)
        header = describe(core)
    header["machine"]["torch_threads"] = 1  # every side sets its own
    header["commits"] = {name: commit for name, (_, commit) in CHECKOUTS.items()}
    print(to_json(to_document(0, header, rows)) if args.json else to_text(header, rows))


if __name__ == "__main__":
    main()
