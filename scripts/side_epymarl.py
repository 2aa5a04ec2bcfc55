"""EPyMARL's own training loop as a side of scripts/bench_peers.py: its defaults for QMIX or VDN on MPE spread.

    python scripts/side_epymarl.py CHECKOUT qmix|vdn

`run_sequential` of its run.py runs untouched in a thread that goes on only while the side has its turn: the episode runner is a
subclass that waits between two training episodes. Tests and logs are put off for ever. Its PettingZoo wrapper asks for
pettingzoo.mpe, which is mpe2 now; smaclite, which it imports without using it here, is an empty module. Needs sacred, mpe2, vmas.
"""

# pyright: reportMissingImports=false
import importlib
import logging
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import torch
import yaml
from teamcredit.marl.bench.child import serve
from teamcredit.marl.bench.clock import Side, Turn

NEVER = 10**12


class Handover:
    """Lets a loop in a thread run for a while: `turn` from outside, `step` from inside after every piece of work."""

    def __init__(self) -> None:
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.until, self.units = 0.0, 0.0

    def turn(self, seconds: float) -> Turn:
        """Let the loop go on for at least `seconds` CPU seconds of this process."""
        before, began = self.units, time.process_time()
        self.until = began + seconds
        self.go.release()
        self.done.acquire()
        return Turn(self.units - before, time.process_time() - began)

    def step(self, units: float) -> None:
        """Count work; wait for the next turn once this one's time is over."""
        self.units += units
        if time.process_time() >= self.until:
            self.done.release()
            self.go.acquire()

    def start(self, loop: Any) -> None:
        """Run `loop` in a thread that ends with the process; it stands still until the first turn."""

        def wait_and_run() -> None:
            self.go.acquire()
            loop()

        threading.Thread(target=wait_and_run, daemon=True).start()


def settings(source: Path, algo: str) -> dict[str, Any]:
    """Its defaults, then those of gymnasium tasks, then the algorithm's, as its main.py merges them."""
    merged: dict[str, Any] = {}
    for file in ("default", "envs/gymma", f"algs/{algo}"):
        for key, value in yaml.safe_load((source / "config" / f"{file}.yaml").read_text()).items():
            merged[key] = merged.get(key, {}) | value if isinstance(value, dict) else value
    merged["env_args"] |= {"key": "pz-mpe-simple-spread-v3", "time_limit": 25, "seed": 0}
    intervals = ("test_interval", "log_interval", "runner_log_interval", "learner_log_interval", "t_max")
    return merged | dict.fromkeys(intervals, NEVER) | {"test_nepisode": 1, "use_cuda": False, "device": "cpu", "seed": 0}


def make(source: Path, algo: str) -> tuple[Side, dict[str, Any]]:
    """The side after enough episodes that every further one brings an update."""
    torch.set_num_threads(1)
    sys.path.insert(0, str(source))
    spread = importlib.import_module("mpe2.simple_spread_v3")
    package: Any = types.ModuleType("pettingzoo.mpe")
    package.simple_spread_v3 = spread
    stand_ins = {"pettingzoo.mpe": package, "pettingzoo.mpe.simple_spread_v3": spread, "smaclite": types.ModuleType("smaclite")}
    sys.modules.update(stand_ins)
    import gymnasium

    wrapped = {"lib_name": "mpe", "env_name": "simple_spread_v3"}
    gymnasium.register("pz-mpe-simple-spread-v3", entry_point="envs.pz_wrapper:PettingZooWrapper", kwargs=wrapped)
    run, runners = importlib.import_module("run"), importlib.import_module("runners.episode_runner")
    handover = Handover()

    class Waiting(runners.EpisodeRunner):
        def run(self, test_mode: bool = False) -> Any:
            batch = super().run(test_mode)
            if not test_mode:
                handover.step(self.t)
            return batch

    run.r_REGISTRY["episode"] = Waiting
    config = settings(source, algo)
    logger = importlib.import_module("utils.logging").Logger(logging.getLogger("quiet"))
    torch.manual_seed(0)
    handover.start(lambda: run.run_sequential(types.SimpleNamespace(**config), logger))
    while handover.units < (config["batch_size"] + 8) * 25:
        handover.turn(0.0)
    return handover.turn, {"torch": torch.__version__, "threads": torch.get_num_threads()}


if __name__ == "__main__":
    serve(lambda: make(Path(sys.argv[1]).resolve() / "src", sys.argv[2]))
