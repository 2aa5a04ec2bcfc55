"""Stepping copies as they get ready: each plays as in lockstep, and what is used wrongly, fails or dies is named."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from teamcredit.envs.asynchronous import Asynchronous
from teamcredit.envs.base import View
from teamcredit.envs.errors import WorkerDied
from teamcredit.envs.pettingzoo import PettingZooTeam
from teamcredit.envs.randomness import POLICY, Clock, choice, copy_seeds, split
from teamcredit.envs.registry import make

torch.set_num_threads(1)

TASKS = '''
import os
import signal
import time

import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv


class Uneven(ParallelEnv):
    """Steps that take now longer, now shorter; short episodes with deaths; action 2 sleeps, 3 fails, 4 kills the process."""

    metadata = {"name": "uneven"}
    possible_agents = ["a", "b"]

    def observation_space(self, agent):
        return Box(-9, 9, (2,))

    def action_space(self, agent):
        return Discrete(5)

    def seen(self):
        return {agent: self.luck.random(2).astype(np.float32) for agent in self.agents}

    def reset(self, seed=None, options=None):
        self.luck, self.agents, self.time = np.random.default_rng(seed), ["a", "b"], 0
        self.end, self.death = self.luck.integers(3, 7), self.luck.integers(1, 7)
        return self.seen(), {}

    def step(self, actions):
        self.time += 1
        time.sleep(0.002 * self.luck.random())
        odd = max(actions.values())
        if odd == 2:
            time.sleep(1)
        if odd == 3:
            raise ValueError("the door is stuck")
        if odd == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        views, acted = self.seen(), self.agents
        over = self.time >= self.end
        dead = {agent: agent == "b" and self.time == self.death for agent in acted}
        self.agents = [] if over else [agent for agent in acted if not dead[agent]]
        return views, dict.fromkeys(acted, float(odd + self.luck.random())), dead, dict.fromkeys(acted, bool(over)), {}


def uneven(): return Uneven()
'''


@pytest.fixture(scope="module", autouse=True)
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "uneven_task.py").write_text(TASKS)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def apart() -> Iterator[PettingZooTeam]:
    """Two workers, shared by the tests that leave them sound."""
    env = make("uneven_task:uneven", workers=2)
    yield env
    env.close()


@pytest.fixture
def here() -> PettingZooTeam:
    return make("uneven_task:uneven")


def act(view: View, clock: Clock) -> torch.Tensor:
    """0 or 1, each copy's own numbers."""
    return choice(split(clock.key(POLICY), 2), view.available & (torch.arange(5) < 2))


def rows_of(view: View, rows: torch.Tensor) -> View:
    return View(view.obs[rows], view.state[rows], view.available[rows], view.alive[rows])


def everything(step: Any, view: View, k: int) -> list[torch.Tensor]:
    seen = [getattr(one, name)[k] for one in (step.after, view) for name in ("obs", "state", "available", "alive")]
    return [step.reward[k], step.agent_reward[k], step.terminated[k], step.truncated[k], *seen]


def in_lockstep(env: PettingZooTeam, copies: int, steps: int) -> tuple[list[list[list[torch.Tensor]]], Any]:
    """Per copy and step, all that is seen; then the last handle."""
    seeds = copy_seeds(5, copies)
    (state, view), clock, seen = env.reset(seeds), Clock.start(seeds), [[] for _ in range(copies)]
    for _ in range(steps):
        state, step, view = env.step(state, act(view, clock))
        clock = clock.tick(step.terminated | step.truncated)
        for i in range(copies):
            seen[i].append(everything(step, view, i))
    return seen, state


def as_ready(env: PettingZooTeam, copies: int, steps: int, minimum: int) -> tuple[list[list[list[torch.Tensor]]], Any]:
    """The same, acting in at least `minimum` copies at a time."""
    seeds = copy_seeds(5, copies)
    state, view = env.reset(seeds)
    stepping, clock, seen = Asynchronous(env, state), Clock.start(seeds), [[] for _ in range(copies)]
    stepping.send(torch.arange(copies), act(view, clock))
    while stepping.out:
        ready, step, view = stepping.recv(min(minimum, stepping.out))
        own = Clock(clock.seed[ready], clock.episode[ready], clock.step[ready]).tick(step.terminated | step.truncated)
        clock.episode[ready], clock.step[ready] = own.episode, own.step
        for k, i in enumerate(ready.tolist()):
            seen[i].append(everything(step, view, k))
        go_on = torch.tensor([len(seen[i]) < steps for i in ready.tolist()])
        if go_on.any():
            stepping.send(ready[go_on], act_for(view, own, go_on))
    return seen, stepping.state()


def act_for(view: View, clock: Clock, rows: torch.Tensor) -> torch.Tensor:
    return act(rows_of(view, rows), Clock(clock.seed[rows], clock.episode[rows], clock.step[rows]))


def assert_same(first: Any, second: Any) -> None:
    if isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert torch.equal(first, second)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("minimum", [1, 3, 6])
def test_a_copy_plays_as_in_lockstep_whichever_is_ready_first(apart, here, workers, minimum):
    there, alone = apart if workers else here, make("uneven_task:uneven")
    (expected, mine), (seen, theirs) = in_lockstep(alone, 6, 12), as_ready(there, 6, 12, minimum)
    assert_same(expected, seen)
    assert any(bool(step[2]) or bool(step[3]) for copy in seen for step in copy)
    assert not all(bool(step[7].all()) for copy in seen for step in copy)  # somebody died
    assert_same(list(alone.dump(mine).tensors.values()), list(there.dump(theirs).tensors.values()))
    action = torch.ones(6, 2, dtype=torch.int64)
    assert torch.equal(alone.step(mine, action)[1].reward, there.step(theirs, action)[1].reward)


def test_a_copy_that_is_ready_does_not_wait_for_one_that_computes(apart):
    state, _ = apart.reset(copy_seeds(1, 2))
    stepping = Asynchronous(apart, state)
    stepping.send(torch.arange(2), torch.tensor([[2, 0], [0, 0]]))  # copy 0 sleeps
    for out in (2, 2, 2):
        ready, _, _ = stepping.recv(1)
        assert (ready.tolist(), stepping.out) == ([1], out - 1)
        stepping.send(ready, torch.zeros(1, 2, dtype=torch.int64))
    assert stepping.recv(2)[0].tolist() == [0, 1]


def test_the_handle_it_started_from_stays_good_and_others_may_be_stepped_meanwhile(apart, here):
    seen, _ = in_lockstep(here, 3, 4)
    seeds, zeros = copy_seeds(5, 3), torch.zeros(3, 2, dtype=torch.int64)
    state, _ = apart.reset(seeds)
    stepping = Asynchronous(apart, state)
    stepping.send(torch.arange(3), zeros)
    assert_same(seen, in_lockstep(apart, 3, 4)[0])  # while three copies are out
    _, first, _ = apart.step(state, zeros)  # replayed in other environments
    _, second, _ = stepping.recv(3)
    assert torch.equal(first.reward, second.reward)
    assert torch.equal(first.after.obs, second.after.obs)


@pytest.mark.parametrize(
    "rows, action, sentence",
    [
        ([1], [[0, 0]], "copy 1 still computes its last step: recv it before it is sent another action"),
        ([3], [[0, 0]], "there is no copy 3; there are 3, from 0"),
        ([-1], [[0, 0]], "there is no copy -1"),
        ([0, 0], [[0, 0], [0, 0]], "copy 0 is named twice"),
        ([0], [[0, 5]], "b has actions 0 to 4, not 5"),
    ],
)
def test_what_cannot_be_sent_is_refused_and_nothing_is_sent(here, rows, action, sentence):
    stepping = Asynchronous(here, here.reset(copy_seeds(1, 3))[0])
    stepping.send(torch.tensor([1]), torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=sentence):
        stepping.send(torch.tensor(rows), torch.tensor(action))
    assert stepping.out == 1


def test_more_than_are_out_cannot_be_received_and_a_state_is_of_copies_that_are_back(here):
    stepping = Asynchronous(here, here.reset(copy_seeds(1, 3))[0])
    stepping.send(torch.tensor([1]), torch.zeros(1, 2, dtype=torch.int64))
    for minimum in (0, 2):
        with pytest.raises(ValueError, match=rf"recv\({minimum}\) while 1 copies are out"):
            stepping.recv(minimum)
    with pytest.raises(ValueError, match="1 copies are out: recv them first"):
        stepping.state()
    stepping.recv(1)
    assert here.dump(stepping.state()).tensors["step"].tolist() == [0, 1, 0]


def test_a_copy_that_ended_for_good_is_refused(here):
    state, _ = here.reset(copy_seeds(1, 1))
    for _ in range(8):
        state, _, _ = here.step(state, torch.zeros(1, 2, dtype=torch.int64), autoreset=False)
    with pytest.raises(ValueError, match="copy 0 has ended"):
        Asynchronous(here, state).send(torch.tensor([0]), torch.zeros(1, 2, dtype=torch.int64))


@pytest.mark.parametrize("workers", [0, 2])
def test_what_an_environment_raises_is_raised_by_recv_and_one_goes_on_from_the_handle(apart, here, workers):
    env = apart if workers else here
    state, _ = env.reset(copy_seeds(1, 3))
    stepping = Asynchronous(env, state)
    stepping.send(torch.arange(3), torch.tensor([[0, 0], [3, 0], [0, 0]]))
    with pytest.raises(ValueError, match="the door is stuck"):
        stepping.recv(3)
    with pytest.raises(ValueError, match="an environment or its worker has failed: go on from an earlier state"):
        stepping.send(torch.tensor([0]), torch.zeros(1, 2, dtype=torch.int64))
    fine, fresh = torch.ones(3, 2, dtype=torch.int64), make("uneven_task:uneven")
    expected = fresh.step(fresh.reset(copy_seeds(1, 3))[0], fine)[1]
    assert torch.equal(expected.after.obs, env.step(state, fine)[1].after.obs)


def test_a_worker_that_dies_is_named_with_the_copy_it_moved():
    env = make("uneven_task:uneven", workers=1)
    stepping = Asynchronous(env, env.reset(copy_seeds(1, 3))[0])
    stepping.send(torch.arange(3), torch.tensor([[0, 0], [4, 0], [0, 0]]))
    with pytest.raises(WorkerDied, match=r"was killed by SIGKILL while it moved copy 1 \(seed .*; with it went copy .*2 \(seed "):
        stepping.recv(3)
    env.close()
