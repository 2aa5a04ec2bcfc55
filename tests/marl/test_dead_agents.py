"""Agents that die on the way enter no loss: knights, archers and zombies, as collected."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from teamcredit.envs.base import TeamEnv
from teamcredit.envs.randomness import copy_seeds
from teamcredit.envs.registry import make
from teamcredit.marl.config import Config, LearnerConfig, NetworkConfig, ReplayConfig
from teamcredit.marl.data import Minibatch, Rollout
from teamcredit.marl.learners import ALGORITHMS
from teamcredit.marl.learners.value import ValueLearner
from teamcredit.marl.policies import Team
from teamcredit.marl.rollout import begin, collect
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
pytest.importorskip("pygame")
torch.set_num_threads(1)
STEPS = 170


@cache
def task() -> TeamEnv:
    """Many zombies, so that agents die and episodes go on without them."""
    return make("butterfly/knights_archers_zombies", spawn_delay=2, max_zombies=40)


def learner(algo: str, kind: str) -> ValueLearner:
    spec = task().spec
    replay = ReplayConfig(rollout_steps=STEPS, num_envs=2, minibatch_size="full", window=STEPS if kind == "gru" else 1)
    config = Config(spec.name, network=NetworkConfig(kind=kind, hidden=8), learner=LearnerConfig(td_lambda=0.8), replay=replay)
    return ValueLearner(config, spec, ALGORITHMS[algo][1])


@cache
def collected() -> Rollout:
    """Two copies under random play."""
    env = task()
    team = Team(learner("iql", "mlp").make_networks(0)["utility"])
    rollout, _, _ = collect(env, begin(env, team, copy_seeds(0, 2)), team, epsilon=1.0, steps=STEPS)
    return rollout


def loss_and_gradients(algo: str, kind: str, rollout: Rollout) -> list[Tensor]:
    made = learner(algo, kind)
    networks, targets = made.make_networks(0), made.make_networks(1)
    loss = made.loss(networks, targets, Minibatch(rollout))
    return [loss.total, *torch.autograd.grad(loss.total, list(networks.parameters()), allow_unused=True, materialize_grads=True)]


def with_dead_agents_changed(rollout: Rollout, by: float) -> Rollout:
    """Other observations, actions and own rewards wherever an agent is dead, now or after the step."""
    dead, dead_after = ~rollout.alive, ~rollout.next_alive
    return replace(
        rollout,
        obs=rollout.obs + by * dead.unsqueeze(-1),
        next_obs=rollout.next_obs + by * dead_after.unsqueeze(-1),
        action=torch.where(dead, 5 - rollout.action, rollout.action),
        agent_reward=rollout.agent_reward + by * dead,
        behaviour=torch.where(dead, 0.5, rollout.behaviour),
    )


def test_agents_die_in_the_collected_rollout_and_their_team_plays_on():
    rollout = collected()
    some_dead = (~rollout.alive).any(-1) & rollout.alive.any(-1)
    assert some_dead.sum() > 20
    assert (rollout.alive & ~rollout.next_alive & ~(rollout.terminated | rollout.truncated).unsqueeze(-1)).any()


@pytest.mark.parametrize("kind", ["mlp", "gru"])
@pytest.mark.parametrize("algo", ["iql", "vdn", "qmix"])
def test_what_dead_agents_see_and_do_changes_neither_the_loss_nor_any_gradient(algo, kind):
    original = loss_and_gradients(algo, kind, collected())
    changed = loss_and_gradients(algo, kind, with_dead_agents_changed(collected(), 3.0))
    assert original[0] > 0
    for before, after in zip(original, changed, strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("algo", ["iql", "vdn", "qmix"])
def test_the_same_change_to_living_agents_is_noticed(algo):
    rollout = collected()
    original = loss_and_gradients(algo, "mlp", rollout)
    changed = loss_and_gradients(algo, "mlp", replace(rollout, obs=rollout.obs + 3.0 * rollout.alive.unsqueeze(-1)))
    assert not torch.equal(original[0], changed[0])
