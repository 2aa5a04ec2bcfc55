"""RWARE and collect_treasure: number for number the packages' tasks, with an honest end and a state."""

from typing import Any

import numpy as np
import pytest
import torch
from teamcredit.envs.check import broken_rules
from teamcredit.envs.errors import UnknownTask
from teamcredit.envs.randomness import choice, fold, mix_seed
from teamcredit.envs.registry import make, resolve

torch.set_num_threads(1)
pytest.importorskip("rware")
pytest.importorskip("mpe2")
gymnasium = pytest.importorskip("gymnasium")


def actions(env: Any, steps: int, seed: int = 0) -> list[torch.Tensor]:
    """Random joint actions of one copy; forward twice as often as each other, so that robots get somewhere."""
    keys = fold(fold(torch.tensor(seed), torch.arange(steps)).unsqueeze(1), torch.arange(env.spec.num_agents))
    drawn = choice(keys, torch.ones(steps, env.spec.num_agents, 6, dtype=torch.bool))
    return list(torch.where(drawn == 5, 1, drawn).unsqueeze(1))


@pytest.mark.parametrize("size", ["tiny-2ag", "small-4ag", "medium-3ag-hard", "large-2ag-easy"])
def test_a_warehouse_is_the_packages_step_by_step(size):
    env = make(f"rware/{size}")
    reference = gymnasium.make(f"rware-{size}-v2").unwrapped
    state, view = env.reset(torch.tensor([3]))
    obs, _ = reference.reset(seed=mix_seed(3, 0))
    np.testing.assert_array_equal(view.obs[0].numpy(), np.stack(obs))
    for action in actions(env, 120):
        state, step, _ = env.step(state, action)
        obs, rewards, over, _, _ = reference.step(action[0].tolist())
        np.testing.assert_array_equal(step.after.obs[0].numpy(), np.stack(obs))
        np.testing.assert_array_equal(step.agent_reward[0].numpy(), np.array(rewards, dtype=np.float32))
        assert float(step.reward) == sum(rewards)
        assert not over


@pytest.mark.parametrize("size", ["tiny", "small", "medium", "large"])
def test_every_id_stands_for_what_the_package_registers(size):
    from teamcredit.envs.rware import size_options

    for agents in (1, 4, 19):
        for difficulty in ("-easy", "", "-hard"):
            registered = dict(gymnasium.spec(f"rware-{size}-{agents}ag{difficulty}-v2").kwargs)
            registered["reward_type"] = registered["reward_type"].name.lower()
            assert size_options(f"{size}-{agents}ag{difficulty}") == registered


@pytest.mark.parametrize("task", ["rware/tiny", "rware/tiny-0ag", "rware/tiny-20ag", "rware/huge-2ag", "rware/tiny-2ag-medium"])
def test_a_warehouse_that_the_package_does_not_have_is_no_task(task):
    with pytest.raises(UnknownTask, match="no environment"):
        resolve(task)


def test_a_bare_name_means_the_warehouse():
    assert resolve("tiny-2ag") == "rware/tiny-2ag"


def test_a_warehouse_keeps_the_contract():
    assert broken_rules(make("rware/tiny-2ag", max_steps=6), episodes=1) == []


@pytest.mark.parametrize("limit", [{"max_steps": 5}, {"max_inactivity_steps": 5}])
def test_the_limits_of_a_warehouse_truncate_and_never_terminate(limit):
    env = make("rware/tiny-2ag", **limit)
    state, _ = env.reset(torch.tensor([0]))
    for t in range(5):
        state, step, _ = env.step(state, torch.zeros(1, 2, dtype=torch.int64), autoreset=False)
        assert not step.terminated
        assert bool(step.truncated) == (t == 4)


def test_the_state_of_a_warehouse_shows_every_robot_and_every_shelf():
    env = make("rware/tiny-2ag")
    state, view = env.reset(torch.tensor([5]))
    for action in actions(env, 60):
        state, _, view = env.step(state, action)
    inner = env.live(state, 0).env
    robots, cells = view.state[0, :14].reshape(2, 7), view.state[0, 14:].reshape(2, 11, 10)
    for row, robot in zip(robots, inner.agents, strict=True):
        np.testing.assert_allclose(row[:3] * torch.tensor([9, 10, 1]), [robot.x, robot.y, robot.carrying_shelf is not None], atol=1e-6)
        assert row[3:].argmax() == robot.dir.value
        assert row[3:].sum() == 1
    np.testing.assert_array_equal(cells[0].numpy() > 0, inner.grid[1] > 0)
    assert {(int(x), int(y)) for y, x in cells[1].nonzero()} == {(shelf.x, shelf.y) for shelf in inner.request_queue}


def test_a_delivery_pays_the_robot_that_makes_it_and_the_team_once():
    env = make("rware/tiny-2ag")
    state, _ = env.reset(torch.tensor([5]))
    inner = env.live(state, 0).env
    (x, y), shelf = inner.goals[0], inner.request_queue[0]
    for robot, column in zip(inner.agents, (x, 0), strict=True):  # the second waits in a corner
        robot.x, robot.y, robot.dir = column, y - 1, type(robot.dir).DOWN
    inner.agents[0].carrying_shelf, shelf.x, shelf.y = shelf, x, y - 1
    inner._recalc_grid()
    _, step, _ = env.step(state, torch.tensor([[1, 0]]))
    assert step.agent_reward.tolist() == [[1.0, 0.0]]
    assert step.reward.tolist() == [1.0]


def test_the_no_op_of_a_warehouse_moves_nobody():
    env = make("rware/small-4ag")
    state, first = env.reset(torch.tensor([1]))
    _, step, _ = env.step(state, torch.zeros(1, 4, dtype=torch.int64))
    assert env.spec.noop == (0, 0, 0, 0)
    assert torch.equal(step.after.obs, first.obs)


def test_the_words_of_a_warehouse_choose_how_it_pays_and_shows():
    assert make("rware/tiny-2ag").spec.team_reward == "sum"
    assert make("rware/tiny-2ag", reward_type="global").spec.team_reward == "shared"
    assert make("rware/tiny-2ag", observation_type="image").spec.obs_dim == 5 * 3 * 3
    spec = make("rware/tiny-2ag", msg_bits=1).spec
    assert (spec.num_actions, spec.action_names) == (10, ())
    with pytest.raises(ValueError, match=r"--env.reward-type 'globl' is not one of global, individual, two_stage. Did you mean global\?"):
        make("rware/tiny-2ag", reward_type="globl")
    with pytest.raises(ValueError, match=r"observation_type gives dictionaries, not arrays. Use --env.observation-type flattened"):
        make("rware/tiny-2ag", observation_type="dict")
    with pytest.raises(ValueError, match=r'rware/tiny-2ag has no option "max_step". Did you mean max_steps\?'):
        make("rware/tiny-2ag", max_step=3)


def test_collect_treasure_is_a_team_of_two_kinds_paid_by_the_sum():
    env = make("mpe/collect_treasure")
    spec = env.spec
    assert (spec.num_agents, spec.obs_dim, spec.state_dim, spec.team_reward, spec.noop) == (8, 86, 684, "sum", (0,) * 8)
    state, view = env.reset(torch.tensor([2]))
    np.testing.assert_allclose(view.state[0].numpy(), env.live(state, 0).state())
    _, step, _ = env.step(state, torch.arange(8).remainder(5).unsqueeze(0))
    torch.testing.assert_close(step.reward, step.agent_reward.sum(-1))
    assert len(set(step.agent_reward[0].tolist())) == 8


def test_collect_treasure_of_another_size_keeps_the_contract():
    env = make("mpe/collect_treasure", num_collectors=2, num_deposits=1, num_treasures=2, max_cycles=4)
    assert [len(names) for names in env.spec.action_names] == [5, 5, 5]
    assert broken_rules(env, episodes=1) == []
