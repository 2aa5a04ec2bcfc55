"""Exploration: a schedule that is a function, draws that belong to one agent and one copy, probabilities that are true."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from teamcredit.envs.base import View
from teamcredit.envs.randomness import EXPLORE, POLICY, Clock, copy_seeds
from teamcredit.envs.registry import make
from teamcredit.marl.agents import UtilityNetwork
from teamcredit.marl.config import ExplorationConfig, NetworkConfig
from teamcredit.marl.exploration import (
    draw,
    epsilon_at,
    epsilon_greedy,
    greedy,
    greedy_probabilities,
    softmax_epsilon,
    softmax_probabilities,
    uniform_action,
    uniform_policy,
)
from teamcredit.marl.policies import Override, Team, make_policy, override, random_policy
from teamcredit.marl.rollout import begin, collect

examples = settings(deadline=None, derandomize=True, max_examples=50)


def keys(count: int, seed: int = 0) -> torch.Tensor:
    return Clock.start(copy_seeds(seed, count)).key(EXPLORE)


def some_available(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    available = torch.rand(shape, generator=generator) < 0.6
    available[..., 0] |= ~available.any(-1)
    return available


@pytest.mark.parametrize("env_steps, epsilon", [(0, 1.0), (150, 0.525), (300, 0.05), (301, 0.05), (1000, 0.05), (10**9, 0.05)])
def test_epsilon_falls_linearly_over_its_fraction_of_the_run(env_steps, epsilon):
    config = ExplorationConfig(start=1.0, end=0.05, fraction=0.3)
    assert epsilon_at(config, env_steps, 1000) == pytest.approx(epsilon)


def test_epsilon_does_not_depend_on_what_was_asked_before():
    config = ExplorationConfig()
    forwards = [epsilon_at(config, step, 100) for step in range(100)]
    assert [epsilon_at(config, step, 100) for step in reversed(range(100))] == forwards[::-1]


def test_without_a_fraction_epsilon_is_at_its_end_from_the_first_step():
    assert epsilon_at(ExplorationConfig(fraction=0.0), 0, 1000) == 0.05


@given(seed=st.integers(0, 2**31), epsilon=st.sampled_from([0.0, 0.3, 1.0]))
@examples
def test_only_available_actions_are_taken(seed, epsilon):
    available = some_available(seed, 64, 3, 5)
    q = torch.randn(64, 3, 5, generator=torch.Generator().manual_seed(seed))
    q = q.masked_fill(~available, 100.0)  # the best is never available
    action, behaviour = epsilon_greedy(q, available, epsilon, keys(64, seed))
    assert available.gather(-1, action.unsqueeze(-1)).all()
    assert (behaviour > 0).all()
    assert available.gather(-1, uniform_policy(available, keys(64, seed)).unsqueeze(-1)).all()


@given(seed=st.integers(0, 2**31))
@examples
def test_without_exploration_the_best_available_action_is_taken(seed):
    available = some_available(seed, 32, 2, 4)
    q = torch.randn(32, 2, 4, generator=torch.Generator().manual_seed(seed))
    action, behaviour = epsilon_greedy(q, available, 0.0, keys(32, seed))
    assert torch.equal(action, greedy(q, available))
    assert (behaviour == 1).all()
    assert (q.masked_fill(~available, -torch.inf).amax(-1) == q.gather(-1, action.unsqueeze(-1)).squeeze(-1)).all()


def test_a_number_picks_each_available_action_from_an_equal_part_of_the_unit_interval():
    available = torch.tensor([False, True, True, False, True])
    numbers = torch.tensor([0.0, 0.333, 0.334, 0.666, 0.667, 1 - 2.0**-53], dtype=torch.float64)
    assert uniform_action(numbers, available.expand(6, -1)).tolist() == [1, 1, 2, 2, 4, 4]


@pytest.mark.parametrize("epsilon", [0.0, 0.4, 1.0])
def test_the_behaviour_probability_is_the_frequency_with_which_actions_are_taken(epsilon):
    count = 40_000
    available = torch.tensor([[True, True, True, False], [False, True, True, True]])
    q = torch.tensor([[0.0, 2.0, 1.0, 9.0], [9.0, 0.0, 1.0, 2.0]])
    action, behaviour = epsilon_greedy(q.expand(count, -1, -1), available.expand(count, -1, -1), epsilon, keys(count))
    for agent in range(2):
        stated = torch.zeros(4, dtype=torch.float64)
        for choice in action[:, agent].unique().tolist():
            said = behaviour[action[:, agent] == choice, agent].unique()
            assert len(said) == 1
            stated[choice] = said[0]
        frequency = torch.bincount(action[:, agent], minlength=4) / count
        assert stated.sum() == pytest.approx(1.0)
        assert (frequency - stated).abs().max() < 4 * (0.25 / count) ** 0.5  # four standard errors


def test_agents_explore_independently():
    action, _ = epsilon_greedy(torch.zeros(20_000, 2, 4), torch.ones(20_000, 2, 4, dtype=torch.bool), 1.0, keys(20_000))
    joint = torch.bincount(action[:, 0] * 4 + action[:, 1], minlength=16) / 20_000
    assert (joint - 1 / 16).abs().max() < 4 * (1 / 16 / 20_000) ** 0.5


def test_an_agents_draw_is_the_same_however_many_teammates_there_are_and_whatever_they_do():
    available = some_available(0, 50, 4, 5)
    q = torch.randn(50, 4, 5)
    action, behaviour = epsilon_greedy(q, available, 0.5, keys(50))
    alone, alone_behaviour = epsilon_greedy(q[:, :1], available[:, :1], 0.5, keys(50))
    assert torch.equal(action[:, :1], alone)
    assert torch.equal(behaviour[:, :1], alone_behaviour)
    other = q.clone()
    other[:, 1:] = torch.randn(50, 3, 5)
    assert torch.equal(epsilon_greedy(other, available, 0.5, keys(50))[0][:, 0], action[:, 0])


def test_overriding_one_agent_moves_no_other_agents_draw():
    clock = Clock.start(copy_seeds(0, 30))
    available = some_available(1, 30, 3, 4)
    view = View(obs=torch.zeros(30, 3, 1), state=torch.zeros(30, 1), available=available, alive=torch.ones(30, 3, dtype=torch.bool))
    drawn = random_policy(view, clock)
    assert torch.equal(drawn, uniform_policy(available, clock.key(POLICY)))
    zeros = Override(lambda view, clock: torch.zeros(30, 3, dtype=torch.int64), torch.tensor([False, True, False]))
    replaced = override(drawn, [zeros], view, clock)
    assert torch.equal(replaced[:, [0, 2]], drawn[:, [0, 2]])
    assert (replaced[:, 1] == 0).all()


@pytest.mark.parametrize("kind", ["mlp", "gru"])
def test_copy_k_collects_the_same_steps_alone_as_among_many(kind):
    env = make("native/foraging-8x8-2p-3f", episode_limit=7)
    torch.manual_seed(0)
    net = UtilityNetwork(NetworkConfig(kind=kind, hidden=8), num_agents=2, obs_dim=env.spec.obs_dim, num_actions=6)
    seeds = copy_seeds(3, 16)

    def steps(rows: torch.Tensor):
        rollout, _, _ = collect(env, begin(env, Team(net), seeds[rows]), Team(net), epsilon=0.3, steps=20)
        return rollout

    many, alone = steps(torch.arange(16)), steps(torch.tensor([5]))
    assert many.episode_start[1:].any()
    for name in ("obs", "action", "behaviour", "reward", "terminated", "truncated", "next_obs"):
        assert torch.equal(getattr(many, name)[:, 5:6], getattr(alone, name)), name


def test_a_planted_member_acts_its_policy_and_does_not_learn():
    env = make("native/foraging-8x8-2p-3f")
    torch.manual_seed(0)
    net = UtilityNetwork(NetworkConfig(hidden=8), num_agents=2, obs_dim=env.spec.obs_dim, num_actions=6)
    idle = Override(lambda view, clock: torch.zeros(view.alive.shape, dtype=torch.int64), torch.tensor([False, True]))
    free, planted = Team(net), Team(net, members=(idle,), planted={"agent_1": "noop"})
    seeds = copy_seeds(0, 4)
    rollout, _, _ = collect(env, begin(env, planted, seeds), planted, epsilon=1.0, steps=1)
    before, _, _ = collect(env, begin(env, free, seeds), free, epsilon=1.0, steps=1)
    assert (rollout.action[..., 1] == 0).all()
    assert torch.equal(rollout.action[..., 0], before.action[..., 0])
    assert rollout.alive.tolist() == [[[True, False]] * 4]
    assert rollout.next_alive.tolist() == [[[True, False]] * 4]
    assert (rollout.behaviour[..., 1] == 1).all()


def test_softmax_probabilities_by_hand():
    logits, available = torch.tensor([0.0, math.log(3.0), 50.0]), torch.tensor([True, True, False])
    torch.testing.assert_close(softmax_probabilities(logits, available, 0.0), torch.tensor([0.25, 0.75, 0.0]))
    torch.testing.assert_close(softmax_probabilities(logits, available, 0.2), torch.tensor([0.8 * 0.25 + 0.1, 0.8 * 0.75 + 0.1, 0.0]))


def test_greedy_probabilities_by_hand():
    q, available = torch.tensor([0.0, 3.0, 50.0]), torch.tensor([True, True, False])
    assert greedy_probabilities(q, available, 0.0).tolist() == [0.0, 1.0, 0.0]
    torch.testing.assert_close(greedy_probabilities(q, available, 0.2), torch.tensor([0.1, 0.9, 0.0]))


@pytest.mark.parametrize("probabilities", [softmax_probabilities, greedy_probabilities])
@given(seed=st.integers(0, 2**31), epsilon=st.sampled_from([0.0, 0.3, 1.0]), scale=st.sampled_from([0.0, 1.0, 1e4]))
@examples
def test_policies_sum_to_1_and_leave_out_what_is_not_available(probabilities, seed, epsilon, scale):
    available = some_available(seed, 8, 3, 5)
    q = scale * torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(seed))
    policy = probabilities(q, available, epsilon)
    torch.testing.assert_close(policy.sum(-1), torch.ones(8, 3))
    assert (policy[~available] == 0).all()
    assert (policy >= 0).all()
    assert epsilon == 0 or (policy[available] > 0).all()


@pytest.mark.parametrize("epsilon", [0.0, 0.4, 1.0])
def test_epsilon_greedy_states_the_greedy_probabilities(epsilon):
    available = some_available(0, 500, 2, 4)
    q = torch.randn(500, 2, 4, generator=torch.Generator().manual_seed(0))
    action, behaviour = epsilon_greedy(q, available, epsilon, keys(500))
    stated = greedy_probabilities(q, available, epsilon).gather(-1, action.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(behaviour, stated)


@pytest.mark.parametrize("epsilon", [0.0, 0.4, 1.0])
def test_softmax_actions_come_as_often_as_their_probabilities_say(epsilon):
    count = 40_000
    available = torch.tensor([[True, True, True, False], [False, True, True, True]])
    logits = torch.tensor([[0.0, 2.0, 1.0, 9.0], [9.0, 0.0, 1.0, -2.0]])
    policy = softmax_probabilities(logits, available, epsilon)
    action, behaviour = softmax_epsilon(logits.expand(count, -1, -1), available.expand(count, -1, -1), epsilon, keys(count))
    assert torch.equal(behaviour, policy.expand(count, -1, -1).gather(-1, action.unsqueeze(-1)).squeeze(-1))
    for agent in range(2):
        observed = torch.bincount(action[:, agent], minlength=4)
        assert (observed[~available[agent]] == 0).all()
        expected = count * policy[agent]
        chi_square = ((observed - expected).square() / expected)[available[agent]].sum()
        assert chi_square < 13.8  # two degrees of freedom: exceeded by chance once in a thousand
    joint = torch.bincount(action[:, 0] * 4 + action[:, 1], minlength=16) / count
    product = torch.outer(policy[0], policy[1]).flatten()
    assert (joint - product).abs().max() < 4 * (0.25 / count) ** 0.5  # agents draw independently


@given(seed=st.integers(0, 2**31), epsilon=st.sampled_from([0.0, 0.3, 1.0]))
@examples
def test_no_softmax_action_is_unavailable(seed, epsilon):
    available = some_available(seed, 64, 3, 5)
    logits = torch.randn(64, 3, 5, generator=torch.Generator().manual_seed(seed)).masked_fill(~available, 100.0)
    action, behaviour = softmax_epsilon(logits, available, epsilon, keys(64, seed))
    assert available.gather(-1, action.unsqueeze(-1)).all()
    assert (behaviour > 0).all()


@given(
    weights=st.lists(st.sampled_from([0.0, 0.0, 1e-30, 1e-8, 0.1, 1.0, 1 / 3]), min_size=1, max_size=7).filter(any),
    number=st.sampled_from([0.0, 5e-324, 0.3, 0.5, 1 - 2.0**-53]),
    single=st.booleans(),
)
@examples
def test_no_number_draws_an_action_of_probability_0(weights, number, single):
    """Also at both ends of [0, 1), in either precision, where the probabilities do not quite sum to 1."""
    probabilities = torch.tensor(weights) / sum(weights)
    drawn = min(number, 1 - 2.0**-24) if single else number
    action = draw(probabilities, torch.tensor(drawn, dtype=torch.float32 if single else torch.float64))
    assert probabilities[action] > 0


def test_an_agents_softmax_draw_is_the_same_whatever_its_teammates_do():
    available = some_available(0, 50, 4, 5)
    logits = torch.randn(50, 4, 5, generator=torch.Generator().manual_seed(0))
    action, _ = softmax_epsilon(logits, available, 0.5, keys(50))
    other = torch.cat([logits[:, :1], -logits[:, 1:]], 1)
    assert torch.equal(softmax_epsilon(other, available, 0.5, keys(50))[0][:, 0], action[:, 0])
    assert torch.equal(softmax_epsilon(logits[:, :1], available[:, :1], 0.5, keys(50))[0], action[:, :1])


def test_a_half_policy_is_half_of_each_and_its_draws_belong_to_one_agent_and_copy():
    """In half of the draws the no-op (a quarter of the other half is no-op too); the others' masks and the copies beside change nothing."""
    spec = make("native/foraging-8x8-4p-3f").spec
    available = torch.ones(4000, 4, spec.num_actions, dtype=torch.bool)
    available[..., 4:] = False
    view = View(torch.zeros(4000, 4, 1), torch.zeros(4000, 1), available, torch.ones(4000, 4, dtype=torch.bool))
    clock = Clock.start(copy_seeds(0, 4000))
    half = make_policy("half-noop", spec, {})
    action = half(view, clock)
    torch.testing.assert_close((action == 0).double().mean(0), torch.full((4,), 0.625, dtype=torch.float64), atol=0.025, rtol=0)
    assert torch.equal(half(view, clock), action)
    assert not torch.equal(half(view, clock.tick()), action)
    some = View(view.obs[:7], view.state[:7], available[:7], view.alive[:7])
    assert torch.equal(half(some, Clock.start(copy_seeds(0, 7))), action[:7])
    agrees = (action == action[:, :1]).double().mean(0)[1:]  # independent agents agree with probability .625^2 + 3 (.125)^2
    torch.testing.assert_close(agrees, torch.full((3,), 0.4375, dtype=torch.float64), atol=0.03, rtol=0)


def test_half_of_an_unknown_policy_is_refused_by_its_name():
    with pytest.raises(ValueError, match=r'no policy "forger".*half- before one of these'):
        make_policy("half-forger", make("native/spread").spec, {})
