"""The value learner's targets on utilities that are tables, by hand.

Two agents in places 0, 1, 2 (one-hot observations), two actions. Unless a test says otherwise the utilities of both are
q(place 0) = (1, 2), q(place 1) = (3, 5), q(place 2) = (40, 10); gamma is 0.5.
"""

import dataclasses
from typing import Any

import pytest
import torch
from teamcredit.envs.base import TeamSpec
from teamcredit.marl.config import Config, LearnerConfig, NetworkConfig, ReplayConfig
from teamcredit.marl.data import Minibatch, Rollout
from teamcredit.marl.learners.value import ValueLearner
from torch import nn

SPEC = TeamSpec(name="places", agents=("a", "b"), num_actions=2, obs_dim=3, state_dim=3)
LIVE = [[1.0, 2.0], [3.0, 5.0], [40.0, 10.0]]


def make(mixer: str = "vdn", **learner: Any) -> ValueLearner:
    config = Config(
        "places",
        network=NetworkConfig(hidden=3, layers=1, layer_norm=False),
        learner=LearnerConfig(**{"gamma": 0.5, **learner}),
        replay=ReplayConfig(rollout_steps=4, minibatch_size=4, window=4),
    )
    return ValueLearner(config, SPEC, mixer)


def tables(learner: ValueLearner, table: list[list[float]]) -> nn.ModuleDict:
    """Networks whose utilities are the table: the hidden layer copies the one-hot observation, the head reads it."""
    networks = learner.make_networks(0)
    with torch.no_grad():
        for parameter in networks.parameters():
            parameter.zero_()
        networks["utility"].first.linear.weight[:, :3] = torch.eye(3)
        networks["utility"].head.weight.copy_(torch.tensor(table).T)
    return networks


def steps(places: list[int], rewards: list[float], **flags: Any) -> Rollout:
    """One copy that walks through `places` (one more than rewards), both agents seeing the same and playing action 0."""
    count = len(rewards)
    seen = torch.eye(3)[torch.tensor(places)].unsqueeze(1)
    both = seen.unsqueeze(2).expand(-1, 1, 2, 3)
    no, yes = torch.zeros(count, 1, dtype=torch.bool), torch.ones(count, 1, 2, 2, dtype=torch.bool)
    marked = {name: torch.tensor(values, dtype=torch.bool).view(count, 1) for name, values in flags.items()}
    numbers = torch.zeros(count, 1, 2)
    whole = Rollout(
        obs=both[:-1], state=seen[:-1], available=yes, alive=yes[..., 0], action=numbers.long(), behaviour=numbers,
        reward=torch.tensor(rewards).unsqueeze(1), agent_reward=numbers, terminated=no, truncated=no, episode_start=no,
        valid=~no, policy_version=no.long(), actor=no.long(), next_obs=both[1:], next_state=seen[1:], next_available=yes,
        next_alive=yes[..., 0],
    )  # fmt: skip
    return dataclasses.replace(whole, **marked)


def targets_of(learner: ValueLearner, rollout: Rollout, *, target: list[list[float]] | None = None, scale: float = 1.0) -> list:
    live = tables(learner, LIVE)
    return learner.returns(live, live if target is None else tables(learner, target), Minibatch(rollout), scale=scale).squeeze(1).tolist()


def test_the_tables_are_the_utilities():
    learner = make()
    q, _ = tables(learner, LIVE)["utility"](torch.eye(3).unsqueeze(1).expand(-1, 2, -1), torch.zeros(3, 2, 0))
    assert q.tolist() == [[row, row] for row in LIVE]


def test_a_running_step_bootstraps_from_the_sum_of_the_best_utilities():
    assert targets_of(make(), steps([0, 1, 0], [1.0, 2.0])) == [[1 + 0.5 * (5 + 5)], [2 + 0.5 * (2 + 2)]]


def test_a_terminated_step_is_worth_its_reward_alone():
    assert targets_of(make(), steps([0, 1, 2], [1.0, 2.0], terminated=[0, 1])) == [[1 + 0.5 * 10], [2]]


def test_a_truncated_step_bootstraps_from_its_last_view():
    assert targets_of(make(), steps([0, 1, 2], [1.0, 2.0], truncated=[0, 1])) == [[1 + 0.5 * 10], [2 + 0.5 * 80]]


def test_lambda_returns_stop_at_the_truncated_step_too():
    found = targets_of(make(td_lambda=1.0), steps([0, 1, 2, 0], [1.0, 2.0, 4.0], truncated=[0, 1, 0]))
    assert found == [[1 + 0.5 * (2 + 0.5 * 80)], [2 + 0.5 * 80], [4 + 0.5 * 4]]


def test_n_step_returns_are_taken_inside_the_window():
    found = targets_of(make(n_step=2), steps([0, 1, 2, 0], [1.0, 2.0, 4.0], terminated=[0, 0, 1]))
    assert found == [[1 + 0.5 * 2 + 0.25 * 80], [2 + 0.5 * 4], [4]]


def test_an_unavailable_action_is_never_bootstrapped_from():
    rollout = steps([0, 1], [1.0])
    available = rollout.next_available.clone()
    available[..., 0, 1] = False  # the first agent may only play 0 in place 1
    assert targets_of(make(), dataclasses.replace(rollout, next_available=available)) == [[1 + 0.5 * (3 + 5)]]


def test_double_q_learning_values_the_live_networks_choice_by_the_target_network():
    target = [[0.0, 0.0], [100.0, 7.0], [0.0, 0.0]]
    rollout = steps([0, 1], [1.0])
    assert targets_of(make(double=True), rollout, target=target) == [[1 + 0.5 * (7 + 7)]]
    assert targets_of(make(double=False), rollout, target=target) == [[1 + 0.5 * (100 + 100)]]


def test_rewards_are_divided_by_the_scale():
    assert targets_of(make(), steps([0, 1], [6.0]), scale=4.0) == [[6 / 4 + 0.5 * 10]]


def test_independent_learners_each_bootstrap_from_their_own_utility():
    assert targets_of(make("none"), steps([0, 1], [1.0])) == [[1 + 0.5 * 5, 1 + 0.5 * 5]]


@pytest.mark.parametrize("td_lambda", [0.0, 1.0])
def test_for_an_independent_learner_its_own_death_is_the_end(td_lambda):
    """Agent b dies in step 0: with one-step and with lambda returns alike, what the team is paid later is not its."""
    rollout = steps([0, 1, 2], [1.0, 2.0], terminated=[0, 1])
    alive = torch.tensor([[[True, True]], [[True, False]]])
    rollout = dataclasses.replace(rollout, alive=alive, next_alive=torch.tensor([[[True, False]], [[False, False]]]))
    (first, second), _ = targets_of(make("none", td_lambda=td_lambda), rollout)
    assert first == 1 + 0.5 * (5 if td_lambda == 0 else 2)
    assert second == 1


def test_a_dead_teammate_adds_nothing_to_the_teams_bootstrap():
    rollout = steps([0, 1], [1.0])
    rollout = dataclasses.replace(rollout, next_alive=torch.tensor([[[True, False]]]))
    assert targets_of(make(), rollout) == [[1 + 0.5 * 5]]


def test_the_loss_is_the_sum_of_squared_errors_by_hand():
    learner = make()
    live = tables(learner, LIVE)
    loss = learner.loss(live, live, Minibatch(steps([0, 1, 0], [1.0, 2.0], terminated=[0, 1])))
    errors = [(1 + 0.5 * 10) - (1 + 1), 2 - (3 + 3)]
    assert loss.td_error.flatten().tolist() == errors
    assert loss.total == sum(error**2 for error in errors)
    assert {name: float(value) for name, value in loss.metrics.items()} == {"td_error": 4 + 4, "value": 2 + 6, "target": 6 + 2}
