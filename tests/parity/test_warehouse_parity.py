"""Our warehouse against rware 2.0.0: states are copied from the package and both take the same actions.

The package's random choice of the next request is replaced by the one that ours drew, so that whole episodes can agree.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from teamcredit.envs.native import NativeState
from teamcredit.envs.randomness import TASK, Clock, copy_seeds
from teamcredit.envs.warehouse import Warehouse, WarehouseTask, two_below

package = pytest.importorskip("rware.warehouse")

CONFIGS: dict[str, dict[str, Any]] = {
    "tiny-2ag": {"num_agents": 2},
    "small-4ag": {"shelf_rows": 2, "num_agents": 4},
    "medium-3ag-hard": {"shelf_rows": 2, "shelf_columns": 5, "num_agents": 3, "num_requests": 1},
    "large-2ag-easy": {"shelf_rows": 3, "shelf_columns": 5, "num_agents": 2, "num_requests": 4},
    "one robot": {"column_height": 2, "num_agents": 1},
    "crowded, 4 robots": {"column_height": 1, "num_agents": 4, "num_requests": 2},
    "crowded, 6 robots": {"column_height": 1, "num_agents": 6, "num_requests": 3},
    "crowded, 12 robots, sight 2": {"column_height": 2, "num_agents": 12, "num_requests": 6, "sensor_range": 2},
    "tiny-19ag": {"num_agents": 19},
    "short episodes": {"num_agents": 2, "episode_limit": 60},
    "global reward": {"column_height": 2, "num_agents": 5, "reward_type": "global"},
    "two-stage reward": {"column_height": 2, "num_agents": 5, "reward_type": "two_stage"},
}


def reference_of(env: Warehouse, options: dict[str, Any]) -> Any:
    return package.Warehouse(
        shelf_columns=options.get("shelf_columns", 3),
        column_height=options.get("column_height", 8),
        shelf_rows=options.get("shelf_rows", 1),
        n_agents=env.spec.num_agents,
        msg_bits=0,
        sensor_range=options.get("sensor_range", 1),
        request_queue_size=env.num_requests,
        max_inactivity_steps=None,
        max_steps=env.episode_limit,
        reward_type=package.RewardType[env.reward_type.upper()],
    )


def send_to_the_goals(reference: Any) -> None:
    """The first robots stand above the goals with requested shelves, so that there are deliveries to compare."""
    rows, _ = reference.grid_size
    (left, _), (right, _) = reference.goals
    aside = [0 if robot.x in (left, right) and robot.y >= rows - 3 else robot.y for robot in reference.agents]
    if len({(int(robot.x), int(y)) for robot, y in zip(reference.agents, aside, strict=True)}) < len(aside):
        return  # two would stand on one cell
    for robot, y in zip(reference.agents, aside, strict=True):
        robot.y = y
    loads = zip(reference.agents, reference.request_queue, strict=False)
    for (robot, shelf), (x, y) in zip(loads, [(left, rows - 2), (right, rows - 2)], strict=False):
        robot.x, robot.y, robot.dir, robot.carrying_shelf = x, y, package.Direction.DOWN, shelf
        shelf.x, shelf.y = x, y
    reference._recalc_grid()


def moment_of(env: Warehouse, references: Sequence[Any]) -> WarehouseTask:
    """The packages' moment as our tensors keep it."""

    def cells(things: Sequence[Any]) -> list[int]:
        return [int(thing.y) * env.layout.cols + int(thing.x) for thing in things]

    return env.place(
        torch.tensor([cells(reference.agents) for reference in references]),
        torch.tensor([[robot.dir.value for robot in reference.agents] for reference in references]),
        torch.tensor([[robot.carrying_shelf is not None for robot in reference.agents] for reference in references]),
        torch.tensor([cells(reference.shelfs) for reference in references]),
        torch.tensor([[shelf in reference.request_queue for shelf in reference.shelfs] for reference in references]),
    )


class OurChoice:
    """Stands in for the package's generator: the shelf that replaces a delivered one is the one that ours drew for that goal."""

    def __init__(self, reference: Any, idle: list[int], draws: list[int]):
        self.reference, self.idle, self.draws = reference, idle, dict(zip(reference.goals, draws, strict=True))

    def choice(self, candidates: list[Any]) -> Any:
        while True:  # the package goes from goal to goal, and so do we
            (x, y), draw = next(iter(self.draws.items()))
            del self.draws[x, y]
            number = int(self.reference.grid[1, y, x])
            if number and self.reference.shelfs[number - 1] in self.reference.request_queue:
                break
        fresh, self.idle[draw] = self.idle[draw], number
        assert {shelf.id for shelf in candidates} == set(self.idle) - {number} | {fresh}
        return self.reference.shelfs[fresh - 1]


def compare(name: str, copies: int, steps: int, seed: int = 0) -> dict[str, int]:
    """Play both in lock step, exactly; returns how often the rare things happened."""
    options = CONFIGS[name]
    env, rng = Warehouse(**options), np.random.default_rng(seed)
    n, cols = env.spec.num_agents, env.layout.cols
    references = [reference_of(env, options) for _ in range(copies)]
    for k, reference in enumerate(references):
        reference.reset(seed=seed + k)
        if k % 2:
            send_to_the_goals(reference)
    running = torch.zeros(copies, dtype=torch.bool)
    state = NativeState(task=moment_of(env, references), clock=Clock.start(copy_seeds(seed, copies)), terminated=running, truncated=running)
    happened = {"held up": 0, "paid": 0, "loaded": 0, "unloaded": 0, "carried": 0}
    for _ in range(steps):
        action = rng.choice(5, size=(copies, n), p=[0.04, 0.6, 0.1, 0.1, 0.16])
        draws = two_below(env.num_shelves - env.num_requests, state.clock.key(TASK)).tolist()
        idle, before = state.task.idle.tolist(), state.task
        state, step, view = env.step(state, torch.tensor(action), autoreset=False)
        for k, reference in enumerate(references):
            reference._np_random = OurChoice(reference, idle[k], draws[k])
            obs, reward, done, _, _ = reference.step(action[k].tolist())
            np.testing.assert_array_equal(view.obs[k].numpy(), np.stack(obs))
            assert step.agent_reward[k].tolist() == [float(r) for r in reward]
            assert float(step.reward[k]) == (reward[0] if env.reward_type == "global" else sum(reward))
            assert bool(step.truncated[k]) == done
            happened["paid"] += sum(reward) > 0
        theirs = moment_of(env, references)
        assert torch.equal(state.task.holds, theirs.holds)  # robots, headings, loads, shelves and requests of every cell
        for part in ("cell", "heading", "loaded"):
            assert torch.equal(getattr(state.task, part), getattr(theirs, part))
        assert torch.equal(state.task.shelf_cell[:, 1:], theirs.shelf_cell[:, 1:])
        assert torch.equal(state.task.idle.sort(1).values, theirs.idle)
        assert state.task.delivered.tolist() == [[robot.has_delivered for robot in reference.agents] for reference in references]
        ahead = env.layout.ahead.take(before.cell * 4 + before.heading)
        moved = state.task.cell != before.cell
        happened["held up"] += int(((torch.tensor(action) == 1) & (ahead != before.cell) & ~moved).sum())
        happened["carried"] += int((moved & before.loaded).sum())
        happened["loaded"] += int((state.task.loaded & ~before.loaded).sum())
        happened["unloaded"] += int((before.loaded & ~state.task.loaded).sum())
    assert cols == references[0].grid_size[1]
    return happened


@pytest.mark.parametrize("name", CONFIGS)
def test_random_play_equals_rware(name):
    happened = compare(name, 4, 60)  # the last step of the short episodes
    assert happened["loaded"] > 0
    assert happened["carried"] > 0
    assert happened["paid"] > 0
    assert happened["held up"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "short episodes"])
def test_long_random_play_equals_rware(name):
    happened = compare(name, 40, 500, seed=1000)
    assert min(happened.values()) > 8


def excess(first: torch.Tensor, second: torch.Tensor) -> float:
    """Two-sample chi-square of two histograms of equal totals, in standard deviations above its mean."""
    used = (first + second) > 0
    first, second = first[used].double(), second[used].double()
    degrees = int(used.sum()) - 1
    return float((((first - second) ** 2 / (first + second)).sum() - degrees) / (2 * degrees) ** 0.5)


@pytest.mark.parametrize("name", ["tiny-2ag", "small-4ag", "crowded, 12 robots, sight 2"])
def test_fresh_warehouses_are_distributed_as_the_packages(name):
    """Cells and headings of the robots, how far the first two stand apart, and which shelves are requested together."""
    env, count = Warehouse(**CONFIGS[name]), 500
    reference, theirs = reference_of(env, CONFIGS[name]), []
    for k in range(count):
        reference.reset(seed=k)
        theirs.append(moment_of(env, [reference]))
    ours = env.reset(copy_seeds(3, count))[0].task

    def requests(task: WarehouseTask) -> torch.Tensor:
        asked = torch.ones(len(task.idle), env.num_shelves + 1, dtype=torch.bool).scatter(1, task.idle.long(), False)
        return asked[:, 1:].nonzero()[:, 1].view(len(asked), env.num_requests)

    def views(task: WarehouseTask) -> dict[str, torch.Tensor]:
        asked = requests(task)
        return {
            "cells": task.cell,
            "headings": task.cell % 7 * 4 + task.heading,
            "apart": task.cell[:, 0] - task.cell[:, 1] + env.layout.num_cells,
            "requests": asked,
            "requests apart": asked[:, -1] - asked[:, 0],
        }

    together = WarehouseTask(*(torch.cat([getattr(task, part) for task in theirs]) for part in WarehouseTask.__dataclass_fields__))
    for what, (first, second) in {key: (value, views(together)[key]) for key, value in views(ours).items()}.items():
        size = 1 + int(max(first.max(), second.max()))
        assert excess(*(torch.bincount(sample.flatten(), minlength=size) for sample in (first, second))) < 4, what
