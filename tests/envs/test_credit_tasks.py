"""The tasks of known credit, by hand: plate and door, the delayed chain, key and door."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from teamcredit.envs.delayed_chain import DelayedChain
from teamcredit.envs.draw_credit import draw_delayed_chain, draw_key_and_door, draw_plate_and_door
from teamcredit.envs.key_and_door import KeyAndDoor
from teamcredit.envs.native import NativeEnv
from teamcredit.envs.plate_and_door import PlateAndDoor, PlateTask
from teamcredit.envs.randomness import copy_seeds
from teamcredit.envs.registry import make


def follow(env: Any, script: str) -> tuple[list, list]:
    """Three copies until they end, everybody by the script: the steps, and the joint actions."""
    state, view = env.reset(copy_seeds(0, 3))
    steps, actions = [], []
    for _ in range(env.spec.episode_limit):
        actions.append(env.scripted[script](view.obs, view.available))
        state, step, view = env.step(state, actions[-1], autoreset=False)
        steps.append(step)
        if (step.terminated | step.truncated).all():
            break
    return steps, actions


def play(env: NativeEnv, joint: list[list[int]]) -> list[tuple[float, bool, bool]]:
    """(reward, terminated, truncated) of one copy that plays `joint`."""
    state, _ = env.reset(torch.tensor([0]))
    outcome = []
    for action in joint:
        state, step, _ = env.step(state, torch.tensor([action]), autoreset=False)
        outcome.append((float(step.reward), bool(step.terminated), bool(step.truncated)))
    return outcome


# Plate and door: stay 0, left 1, right 2 -------------------------------------------------------------------------------

ON, PAID = (0.0, False, False), (1.0, True, False)


def test_the_trained_walker_arrives_after_three_steps_and_is_paid_once():
    steps, actions = follow(make("native/plate-and-door"), "trained")
    assert [action[0].tolist() for action in actions] == [[0, 2, 0]] * 3
    assert [step.reward.tolist() for step in steps] == [[0.0] * 3, [0.0] * 3, [1.0] * 3]
    assert steps[-1].terminated.all()
    assert not steps[-1].truncated.any()


def test_the_door_asks_where_the_guard_stood_when_the_step_began():
    walk = [[0, 2, 0], [0, 2, 0]]
    assert play(PlateAndDoor(), [*walk, [2, 2, 0]]) == [ON, ON, PAID]  # leaves as the walker passes
    away = [[2, 2, 0], [0, 2, 0]]
    assert play(PlateAndDoor(), [*away, [1, 2, 0], [0, 2, 0]]) == [ON, ON, ON, PAID]  # shut, then back on the plate, then through


def test_moves_beyond_an_end_stay_and_a_late_arrival_is_truncated():
    env = PlateAndDoor(horizon=4)
    state, _ = env.reset(torch.tensor([0]))
    for action in ([1, 1, 2], [2, 0, 1], [2, 0, 0]):
        state, _, view = env.step(state, torch.tensor([action]))
    assert (state.task.guard.item(), state.task.walker.item()) == (2, 0)
    assert view.state.tolist() == [[0, 0, 1, 1, 0, 0, 0, 0.25]]
    assert play(env, [[0, 0, 0], [0, 2, 0], [0, 2, 0], [0, 0, 0]]) == [ON, ON, ON, (0.0, False, True)]
    assert play(env, [[0, 0, 0], [0, 2, 0], [0, 2, 0], [0, 2, 0]])[-1] == PAID  # in the last step, it still terminates


def test_an_agent_sees_its_own_cell_and_the_time():
    _, view = PlateAndDoor().reset(torch.tensor([0]))
    assert view.obs[0].tolist() == [[1, 0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 1, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 1, 1]]


# Delayed chain ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cue", [False, True])
def test_everything_right_earns_every_weight_and_is_paid_with_the_last_step(cue):
    env = make("native/delayed-chain", cue=cue)
    steps, actions = follow(env, "trained")
    assert [step.reward.tolist() for step in steps[:-1]] == [[0.0] * 3] * 7
    assert steps[-1].reward.tolist() == [float(env.weights.sum())] * 3 == [env.spec.return_range[1]] * 3
    assert steps[-1].terminated.all()
    assert not (torch.stack(actions) == 0).any()


def test_hits_are_paid_by_their_weights():
    env = DelayedChain(2, 2, 3, weights=[[1, 2], [4, 8]])
    (a, b), (c, d) = env.targets.tolist()
    assert play(env, [[a, b], [0, d]])[-1] == (11.0, True, False)
    assert play(env, [[a, 3 - b], [c, 0]])[-1] == (5.0, True, False)
    assert play(env, [[0, 0], [0, 0]])[-1] == (0.0, True, False)


def test_half_hits_at_even_steps_alone():
    env = DelayedChain(3, 5)
    steps, actions = follow(env, "half")
    assert steps[-1].reward.tolist() == [float(env.weights[::2].sum())] * 3
    assert [bool((action == 0).all()) for action in actions] == [False, True, False, True, False]


def test_one_step_and_one_agent_are_worth_nothing_and_the_other_weights_differ():
    weights = DelayedChain().weights
    assert weights[4].tolist() == [0, 0, 0, 0]
    assert weights[:, 3].tolist() == [0] * 8
    rest = weights[[0, 1, 2, 3, 5, 6, 7], :3]
    assert (rest > 0).all()
    assert all(len(set(row)) == 3 for row in rest.tolist())
    assert ((DelayedChain(null_step=False, null_agent=False).weights * 8) % 1 == 0).all()


def test_the_right_actions_are_the_seeds_and_the_same_in_every_copy_and_episode():
    assert torch.equal(DelayedChain(seed=3).targets, DelayedChain(seed=3).targets)
    assert not torch.equal(DelayedChain(seed=3).targets, DelayedChain(seed=4).targets)
    env = DelayedChain(steps=2)
    state, _ = env.reset(copy_seeds(0, 64))
    for _ in range(3):
        assert torch.equal(state.task.target, env.targets[0].expand(64, -1))
        for _ in range(2):
            state, _, _ = env.step(state, torch.zeros(64, 4, dtype=torch.int64))


def test_cues_name_right_actions_that_differ_between_copies_steps_and_agents():
    env = DelayedChain(3, 4, 4, cue=True)
    state, view = env.reset(copy_seeds(1, 500))
    seen = []
    for _ in range(4):
        cue = view.obs[..., -3:]
        assert torch.equal(cue.sum(-1), torch.ones(500, 3))
        for agent in range(3):  # each agent's cues and right actions are one to one
            pairs = torch.stack([cue[:, agent].argmax(-1), state.task.target[:, agent]], 1).unique(dim=0)
            assert len(pairs) == 3 == len(pairs[:, 0].unique()) == len(pairs[:, 1].unique())
        seen.append(state.task.target)
        state, _, view = env.step(state, state.task.target, autoreset=False)
    drawn = torch.stack(seen).flatten(1).double()
    counts = torch.stack(seen).flatten().bincount(minlength=4)
    assert counts[0] == 0
    assert (counts[1:] - 2000).abs().max() < 150  # 6,000 draws of thirds: sd 37
    assert drawn.corrcoef().fill_diagonal_(0).abs().max() < 0.1  # 1,500 pairs: sd 0.026


# Key and door: wait 0, take 1, open 2 ----------------------------------------------------------------------------------


def test_only_the_key_agents_and_the_door_agents_one_action_each_is_paid_at_the_end():
    good = [[0, 0, 0] for _ in range(6)]
    good[1][0], good[4][1] = 1, 2
    env = make("native/key-and-door")
    nothing, over = [(0.0, False, False)] * 5, (0.0, True, False)
    assert play(env, good) == [*nothing, (1.0, True, False)]
    for step in range(6):
        for agent in range(3):
            for action in (a for a in range(3) if a != good[step][agent]):
                other = [list(joint) for joint in good]
                other[step][agent] = action
                decisive = (step, agent) in ((1, 0), (4, 1))
                assert play(env, other)[-1] == (over if decisive else (1.0, True, False)), (step, agent, action)


def test_take_and_open_come_too_early_or_too_late_for_anybody_else():
    assert play(KeyAndDoor(), [[2, 1, 1], [2, 1, 1], [1, 2, 2], [1, 2, 2], [1, 1, 2], [1, 2, 2]])[-1] == (0.0, True, False)


def test_the_trained_two_succeed_wherever_they_sit():
    steps, actions = follow(KeyAndDoor(4, 5, key_step=0, door_step=3, key_agent=3, door_agent=2), "trained")
    assert [action[0].tolist() for action in actions] == [[0, 0, 0, 1], [0] * 4, [0] * 4, [0, 0, 2, 0], [0] * 4]
    assert steps[-1].reward.tolist() == [1.0] * 3


# Refusals and pictures -------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match="walker needs 3"):
        PlateAndDoor(horizon=2)
    with pytest.raises(ValueError, match="num_actions is 1"):
        DelayedChain(num_actions=1)
    with pytest.raises(ValueError, match=r"2 rows .* of 2 numbers"):
        DelayedChain(2, 2, weights=[[1.0, 2.0]])
    with pytest.raises(ValueError, match="every weight is 0"):
        DelayedChain(2, 2, weights=[[0, 0], [0, 0]])
    with pytest.raises(ValueError, match="rise from 0"):
        KeyAndDoor(key_step=4, door_step=4)
    with pytest.raises(ValueError, match="two of the agents 0 to 2"):
        KeyAndDoor(key_agent=1)


def test_pictures_show_where_everybody_is_and_what_the_coming_step_is():
    def across(guard: int, walker: int) -> list[float]:
        task = PlateTask(torch.tensor([guard]), torch.tensor([walker]), torch.tensor([1]))
        return [place.x for place in draw_plate_and_door(task, 0, 480).places or () if place is not None]

    moved = [after - before for before, after in zip(across(0, 1), across(1, 2), strict=True)]
    assert moved == pytest.approx([0.19 * 480, 0.19 * 480, 0])
    tasks: list[tuple[Any, Callable]] = [(DelayedChain(), draw_delayed_chain), (KeyAndDoor(), draw_key_and_door)]
    for env, draw in tasks:
        state, _ = env.reset(torch.tensor([0]))
        idle = [0] * env.num_agents
        after, _, _ = env.step(state, torch.tensor([idle]))
        pictures = [draw(env, task, 0, now, 480).pixels for task, now in ((state.task, None), (after.task, None), (state.task, idle))]
        assert (pictures[0] != pictures[1]).any()
        assert (pictures[0] != pictures[2]).any()
