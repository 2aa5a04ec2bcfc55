"""Tasks as one captured graph: begin, advance and observe compiled whole equal the eager ones."""

import dataclasses
from pathlib import Path

import pytest
import torch
from teamcredit.envs.delayed_chain import DelayedChain
from teamcredit.envs.key_and_door import KeyAndDoor
from teamcredit.envs.native import NativeEnv, name_tensors
from teamcredit.envs.plate_and_door import PlateAndDoor
from teamcredit.envs.predator_prey import PredatorPrey
from teamcredit.envs.randomness import EXPLORE, choice, copy_seeds, split
from teamcredit.envs.switch import Switch
from teamcredit.envs.uphill import Uphill
from teamcredit.marl.graphs import compiled
from teamcredit.marl.kernels import find_compiler

pytestmark = [
    pytest.mark.slow,  # the compiler takes about a minute
    pytest.mark.skipif(find_compiler() is None, reason="there is no C++ compiler here"),
]


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(name_tensors(one).values(), name_tensors(other).values(), strict=True))


TASKS = {
    "switch": Switch(4, clock=True),
    "predator-prey": PredatorPrey(5, 5, 4, 4, episode_limit=30),
    "plate and door": PlateAndDoor(),
    "delayed chain with cues": DelayedChain(cue=True),
    "key and door": KeyAndDoor(),
    "uphill": Uphill(),
}


@pytest.mark.parametrize("env", list(TASKS.values()), ids=list(TASKS))
def test_a_task_is_captured_whole_and_equals_the_eager_one(env: NativeEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    state, view = env.reset(copy_seeds(0, 48))
    action = torch.zeros(48, env.spec.num_agents, dtype=torch.int64)
    examples = {env.begin: (state.clock,), env.advance: (state.task, action, state.clock), env.observe: (state.task,)}
    begin, advance, observe = (compiled(part, *example).bind() for part, example in examples.items())
    assert same(begin(state.clock), state.task)
    paid = 0
    for _ in range(60):
        action = choice(split(state.clock.key(EXPLORE), env.spec.num_agents), view.available)
        (task, outcome), (expected, wanted) = advance(state.task, action, state.clock), env.advance(state.task, action, state.clock)
        assert same(task, expected)
        for item in dataclasses.fields(wanted):
            ours, theirs = getattr(outcome, item.name), getattr(wanted, item.name)
            assert ours is theirs is None or torch.equal(ours, theirs), item.name
        assert same(observe(task), env.observe(expected))
        state, step, view = env.step(state, action)
        paid += int((step.reward > 0).sum())
    assert paid > 0
