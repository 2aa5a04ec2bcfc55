"""Our side of scripts/bench_peers.py, in a process of its own: training rounds, or the bare matrix products of the update.

python scripts/side_ours.py train|floor TASK ALGO OPTIONS_AS_JSON
"""

import json
import sys
from typing import Any

import torch
from teamcredit.marl.allocator import keep_freed_memory
from teamcredit.marl.bench.child import serve
from teamcredit.marl.bench.clock import Side, steady
from teamcredit.marl.bench.scaling import rounds_of, warmed
from teamcredit.marl.bench.updates import bare, one_update, products, trainer


def make(mode: str, task: str, algo: str, options: dict[str, Any]) -> tuple[Side, dict[str, Any]]:
    """The side after its first iteration."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as the command line does
    learning = warmed(trainer(algo, options, task=task))
    facts = {"torch": torch.__version__, "threads": torch.get_num_threads(), "engine": learning.choice.engine}
    if mode == "train":
        return steady(rounds_of(learning)), facts
    replay = learning.config.replay
    shapes = products(one_update(learning))
    env_steps = int(replay.minibatch_size) / replay.replay_ratio  # env steps that one update is owed to
    once = bare(shapes)
    return steady(lambda: once() * env_steps), {**facts, "products": len(shapes)}


if __name__ == "__main__":
    serve(lambda: make(sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])))
