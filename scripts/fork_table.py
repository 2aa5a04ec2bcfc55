"""Which tasks' live environments can be copied exactly, and what a copy costs beside a replay of the episode.

For every task: whether copies pass the test of envs/fork_check.py (else the first part that is not the same), and the
milliseconds, the lowest of several, of one copy and of one replay at the middle of an episode of random play (of its first
`--longest` env steps). Native tasks have no live environment: `select` indexes their tensors.

    python scripts/fork_table.py                      # every registered family
    python scripts/fork_table.py mpe/simple_spread lbf/8x8-2p-3f
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from teamcredit.envs.errors import MissingPackage
from teamcredit.envs.fork import copy_env
from teamcredit.envs.pettingzoo import PettingZooTeam
from teamcredit.envs.randomness import POLICY, Clock
from teamcredit.envs.registry import PACKAGES, make
from teamcredit.marl.bench.machine import describe, sentence
from teamcredit.marl.cli_output import table
from teamcredit.marl.exploration import uniform_policy

TASKS = ("native/spread", *(entry.id for entry in PACKAGES))


def milliseconds(act: Callable[[], Any], times: int) -> str:
    """Of the fastest of `times` calls, to two digits: what else the machine does can only add to it."""
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        act()
        spent.append(1000 * (time.perf_counter() - began))
    return f"{float(f'{min(spent):.2g}'):g}"


def row_of(task: str, longest: int) -> tuple[str, ...]:
    """The task's line of the table."""
    env = make(task)
    half = longest // 2 if env.spec.episode_limit is None else min(longest, env.spec.episode_limit) // 2
    state, env_steps = played(env, half)
    if not isinstance(env, PettingZooTeam):
        return task, "exact", milliseconds(lambda: env.select(state, torch.tensor([0])), 50), "-", str(env_steps)
    check, (moment,), live = env.copy_check, state.moments, env.live(state, 0)
    of_copy = milliseconds(lambda: copy_env(live), 20) if check.exact else "-"
    of_replay = milliseconds(lambda: env.episodes.restore([moment], [0]), 5)
    env.close()
    return task, "exact" if check.exact else check.reason, of_copy, of_replay, str(env_steps)


def played(env: Any, steps: int) -> tuple[Any, int]:
    """One copy after so many env steps of random play, before its episode ends (the seed is chosen so), and their number."""
    best: tuple[Any, int] = (None, -1)
    for seed in range(20):
        clock = Clock.start(torch.tensor([seed]))
        state, view = env.reset(clock.seed)
        done = 0
        while done < steps:
            after, step, view = env.step(state, uniform_policy(view.available, clock.key(POLICY)), autoreset=False)
            if bool(step.terminated | step.truncated):
                break
            state, done, clock = after, done + 1, clock.tick()
        if done == steps:
            return state, done
        if done > best[1]:
            best = state, done
    return best


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("tasks", nargs="*", default=TASKS)
    options.add_argument("--longest", type=int, default=100, help="env steps of an episode that are looked at")
    given = options.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    print(sentence(describe(None)))
    rows = []
    for task in given.tasks:
        try:
            rows.append(row_of(task, given.longest))
        except MissingPackage as missing:
            rows.append((task, str(missing), "-", "-", "-"))
    print(table(("task", "copies", "ms per copy", "ms per replay", "at env step"), rows))


if __name__ == "__main__":
    main()
