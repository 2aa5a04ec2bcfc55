"""Our predator-prey against its rules in plain Python: one creature after another on a grid of lists, fed with the same chance."""

import random
from collections import Counter

import pytest
import torch
from teamcredit.envs.predator_prey import PredatorPrey
from teamcredit.envs.predator_prey_board import HEADINGS, draw_chance
from teamcredit.envs.randomness import TASK, copy_seeds

MOVES = [(0, 1), (1, 0), (0, -1), (-1, 0)]  # right, down, left, up
STAY, CATCH = 4, 5

BOARDS = {
    "10x10, 8 and 8": {},
    "crowded": {"rows": 4, "cols": 4, "num_predators": 7, "num_prey": 6},
    "full": {"rows": 3, "cols": 4, "num_predators": 7, "num_prey": 5},
    "long": {"rows": 2, "cols": 9, "num_predators": 4, "num_prey": 6, "sight": 3, "penalty": 0.5},
    "few": {"rows": 5, "cols": 4, "num_predators": 3, "num_prey": 1, "sight": 1, "penalty": 0.0},
    "far sight": {"rows": 4, "cols": 3, "num_predators": 3, "num_prey": 4, "sight": 5, "penalty": 1.0, "capture_reward": 1.0},
}

RARE = ("captures", "of three or more", "lone catches", "left with one", "prey shut in", "blocked", "ends")


class Hunt:
    """One episode, after the source of weighted QMIX with its `pred_prey_punish` settings."""

    def __init__(self, rows, cols, predators, prey, sight, penalty, capture_reward):
        self.rows, self.cols, self.sight = rows, cols, sight
        self.penalty, self.capture_reward = penalty, capture_reward
        self.predators, self.prey = list(predators), list(prey)
        self.frozen, self.caught = [False] * len(predators), [False] * len(prey)
        self.happened = Counter()

    def inside(self, row, col):
        return 0 <= row < self.rows and 0 <= col < self.cols

    def predator_at(self, cell):
        return any(where == cell and not gone for where, gone in zip(self.predators, self.frozen, strict=True))

    def prey_at(self, cell):
        return any(where == cell and not gone for where, gone in zip(self.prey, self.caught, strict=True))

    def beside(self, one, other):
        return abs(one[0] - other[0]) + abs(one[1] - other[1]) == 1

    def step(self, actions, predator_order, prey_order, headings):
        reward = 0.0
        for i in predator_order:
            if self.frozen[i] or actions[i] >= STAY:
                continue
            row, col = self.predators[i]
            cell = (row + MOVES[actions[i]][0], col + MOVES[actions[i]][1])
            if self.inside(*cell) and not self.predator_at(cell) and not self.prey_at(cell):
                self.predators[i] = cell
            else:
                self.happened["blocked"] += 1
        for j in prey_order:
            if self.caught[j]:
                continue
            near = [i for i, where in enumerate(self.predators) if not self.frozen[i] and self.beside(where, self.prey[j])]
            catchers = [i for i in near if actions[i] == CATCH]
            self.happened["left with one"] += len(catchers) == 1 and any(
                self.frozen[i] and actions[i] == CATCH and self.beside(self.predators[i], self.prey[j]) for i in range(len(self.frozen))
            )
            if len(catchers) >= 2:
                self.caught[j] = True
                reward += self.capture_reward
                for i in catchers:
                    self.frozen[i] = True
                self.happened["captures"] += 1
                self.happened["of three or more"] += len(catchers) > 2
                continue
            if len(catchers) == 1:
                reward -= self.penalty
                self.happened["lone catches"] += 1
            row, col = self.prey[j]
            cells = [(row + MOVES[u][0], col + MOVES[u][1]) for u in headings[j]]
            free = [cell for cell in cells if self.inside(*cell) and not self.predator_at(cell) and not self.prey_at(cell)]
            self.happened["prey shut in"] += not free
            if free:
                self.prey[j] = free[0]
        return reward, all(self.caught) or all(self.frozen)

    def available(self, i):
        if self.frozen[i]:
            return [True] + [False] * 5  # the contract's action 0 where the source says "stay"
        row, col = self.predators[i]
        moves = [self.inside(row + down, col + right) for down, right in MOVES]
        return [*moves, True, any(self.prey_at((row + down, col + right)) for down, right in MOVES)]

    def shown(self, row, col):
        return [float(self.predator_at((row, col))), float(self.prey_at((row, col))), 0.0]

    def observe(self, i):
        size, (row, col) = range(-self.sight, self.sight + 1), self.predators[i]
        seen = [value for down in size for right in size for value in self.shown(row + down, col + right)]
        return [0.0] * len(seen) if self.frozen[i] else seen

    def state(self):
        return [value for row in range(self.rows) for col in range(self.cols) for value in self.shown(row, col)]


def compare(name: str, copies: int, steps: int) -> Counter:
    """Play `copies` of both in lock step, exactly and without end of time; returns how often the rare things happened."""
    env, rng = PredatorPrey(**BOARDS[name], episode_limit=10**6), random.Random(steps)
    state, view = env.reset(copy_seeds(steps, copies))
    totals = Counter()
    hunts = [None] * copies
    stride = env.board.stride

    def cells(codes):
        return [(code // stride, code % stride) for code in codes.tolist()]

    for _ in range(steps):
        for k in range(copies):
            if hunts[k] is None:
                predators, prey = cells(state.task.predators[k]), cells(state.task.prey[k])
                assert len({*predators, *prey}) == len(predators) + len(prey)
                hunts[k] = Hunt(env.board.rows, env.board.cols, predators, prey, env.sight, env.penalty, env.capture_reward)
        assert view.available.tolist() == [[hunt.available(i) for i in range(env.num_predators)] for hunt in hunts]
        assert view.obs.tolist() == [[hunt.observe(i) for i in range(env.num_predators)] for hunt in hunts]
        assert view.state.tolist() == [hunt.state() for hunt in hunts]
        assert view.alive.tolist() == [[not gone for gone in hunt.frozen] for hunt in hunts]
        # One in five acts without regard to what is available, half of the others catch where they may.
        actions = []
        for hunt in hunts:
            masks = [hunt.available(i) for i in range(env.num_predators)]
            legal = [CATCH if mask[CATCH] and rng.random() < 0.5 else rng.choice([a for a in range(6) if mask[a]]) for mask in masks]
            actions.append([rng.randrange(6) if rng.random() < 0.2 else a for a in legal])
        chance = draw_chance(state.clock.key(TASK), env.num_predators, env.num_prey)
        state, step, view = env.step(state, torch.tensor(actions))
        for k, hunt in enumerate(hunts):
            headings = [HEADINGS[h] for h in chance.heading[k].tolist()]
            reward, ended = hunt.step(actions[k], chance.predator_order[k].tolist(), chance.prey_order[k].tolist(), headings)
            assert step.reward[k].item() == reward
            assert (bool(step.terminated[k]), bool(step.truncated[k])) == (ended, False)
            assert step.after.state[k].tolist() == hunt.state()
            totals["steps"] += 1
            if ended:
                totals += hunt.happened
                totals["ends"] += 1
                hunts[k] = None
            else:
                assert cells(state.task.predators[k]) == hunt.predators
                assert cells(state.task.prey[k]) == hunt.prey
    for hunt in hunts:
        totals += Counter() if hunt is None else hunt.happened
    return totals


@pytest.mark.parametrize("name", BOARDS)
def test_whole_episodes_equal_the_rules(name):
    happened = compare(name, 12, 40)
    assert happened["lone catches"] > 10
    assert happened["captures"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", BOARDS)
def test_ten_thousand_steps_equal_the_rules(name):
    happened = compare(name, 40, 260)
    assert happened["steps"] > 10_000
    rare = RARE if name in ("crowded", "far sight") else ("captures", "lone catches", "blocked", "ends")
    assert min(happened[what] for what in rare) > 0, happened
