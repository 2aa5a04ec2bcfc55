"""Spread: hand arithmetic of one step, and the level of random play."""

import math

import pytest
import torch
from teamcredit.envs.native import NativeState, map_tensors
from teamcredit.envs.randomness import Clock, copy_seeds
from teamcredit.envs.spread import Spread, SpreadTask, contact_force


def still(position, landmark, velocity=None) -> NativeState:
    position, landmark = torch.tensor([position], dtype=torch.float64), torch.tensor([landmark], dtype=torch.float64)
    moving = torch.zeros_like(position) if velocity is None else torch.tensor([velocity], dtype=torch.float64)
    task = SpreadTask(position=position, velocity=moving, landmark=landmark)
    no = torch.zeros(1, dtype=torch.bool)
    return NativeState(task=task, clock=Clock.start(torch.zeros(1, dtype=torch.int64)), terminated=no, truncated=no)


def test_the_position_moves_with_the_velocity_before_the_push():
    env = Spread(num_agents=2)
    state = still([[0.0, 0.0], [5.0, 0.0]], [[0.0, 0.0], [5.0, 0.0]], velocity=[[1.0, 0.0], [0.0, 0.0]])
    state, _, _ = env.step(state, torch.tensor([[4, 1]]))  # up, left
    torch.testing.assert_close(state.task.position[0], torch.tensor([[0.1, 0.0], [5.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(state.task.velocity[0], torch.tensor([[0.75, 0.5], [-0.5, 0.0]], dtype=torch.float64))


def test_rewards_by_hand():
    # Nearest distances to the landmarks: 0.1 (agent 0 to landmark 0) and 1 (agent 1 to landmark 1); agents 0.2 apart collide.
    env = Spread(num_agents=2)
    state = still([[0.1, 0.0], [0.3, 0.0]], [[0.0, 0.0], [1.3, 0.0]])
    _, step, _ = env.step(state, torch.zeros(1, 2, dtype=torch.int64))
    torch.testing.assert_close(step.agent_reward, torch.tensor([[-1.05, -1.05]]))  # 0.5 * -1.1 - 0.5 * 1
    torch.testing.assert_close(step.reward, torch.tensor([-2.1]))
    mean = Spread(num_agents=2, team_reward="mean").step(state, torch.zeros(1, 2, dtype=torch.int64))[1].reward
    torch.testing.assert_close(mean, torch.tensor([-1.05]))


def test_overlapping_agents_push_each_other_apart_equally():
    force = contact_force(torch.tensor([[[0.0], [0.0]], [[0.2], [0.0]]], dtype=torch.float64))[..., 0]
    # 0.1 deep at a margin of 0.001: log(1 + e^100) is 100 to double precision, so the force is 100 * 0.1.
    torch.testing.assert_close(force, torch.tensor([[-10.0, 0.0], [10.0, 0.0]], dtype=torch.float64))
    touching = contact_force(torch.tensor([[[0.0], [0.0]], [[0.0], [0.3]]], dtype=torch.float64))[..., 0]
    torch.testing.assert_close(touching[1], torch.tensor([0.0, 0.1 * math.log(2)], dtype=torch.float64))


def test_agents_at_the_very_same_point_stay_finite():
    assert torch.equal(contact_force(torch.zeros(2, 2, 1, dtype=torch.float64)), torch.zeros(2, 2, 1, dtype=torch.float64))


def test_an_episode_is_truncated_at_its_limit_and_never_terminated():
    env = Spread(episode_limit=4)
    state, _ = env.reset(copy_seeds(0, 3))
    for t in range(1, 9):
        state, step, _ = env.step(state, torch.zeros(3, 3, dtype=torch.int64))
        assert step.truncated.tolist() == [t % 4 == 0] * 3
        assert not step.terminated.any()


def test_starts_are_uniform_on_the_square():
    task = Spread().reset(copy_seeds(1, 4000))[0].task
    for points in (task.position, task.landmark):
        assert points.abs().max() <= 1
        assert points.mean().abs() < 0.02
        assert abs(points.var().item() - 1 / 3) < 0.01


def test_random_play_returns_about_minus_80():
    env, generator = Spread(), torch.Generator().manual_seed(0)
    state, _ = env.reset(copy_seeds(2, 3000))
    total = torch.zeros(3000)
    for _ in range(25):
        state, step, _ = env.step(state, torch.randint(0, 5, (3000, 3), generator=generator), autoreset=False)
        total += step.reward
    assert -82 < total.mean() < -78  # mpe2 over 300 episodes: -80.9, standard deviation 24


@pytest.mark.parametrize("option", [{"num_agents": 0}, {"episode_limit": 0}, {"local_ratio": 1.5}, {"team_reward": "max"}])
def test_a_bad_option_is_named(option):
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        Spread(**option)


@pytest.mark.parametrize("num_agents", [1, 3, 20])
def test_an_episode_has_the_same_bits_alone_among_many_and_in_any_memory(num_agents):
    """Contacts magnify a last bit, so sums over agents must not depend on how many copies there are or how they lie."""
    env = Spread(num_agents=num_agents)
    seeds = copy_seeds(0, 65)
    many, _ = env.reset(seeds)
    one, _ = env.reset(seeds[:1])
    plain, _ = env.reset(seeds[:5])
    generator = torch.Generator().manual_seed(0)
    for _ in range(24):
        action = torch.randint(5, (65, num_agents), generator=generator)
        (many, step, view), (one, alone, seen) = env.step(many, action), env.step(one, action[:1])
        plain, _, _ = env.step(env.load(env.dump(map_tensors(torch.Tensor.contiguous, plain))), action[:5])
        assert torch.equal(many.task.position[:1], one.task.position)
        assert torch.equal(many.task.position[:5], plain.task.position)
        assert torch.equal(step.reward[:1], alone.reward)
        assert torch.equal(view.obs[:1], seen.obs)
