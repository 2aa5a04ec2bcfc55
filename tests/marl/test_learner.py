"""The value learner's loss: sums that add up, entries that must not count, targets by hand."""

import dataclasses
from typing import Any

import pytest
import torch
from teamcredit.envs.base import TeamSpec
from teamcredit.marl.config import Config, LearnerConfig, NetworkConfig, ReplayConfig
from teamcredit.marl.data import Minibatch, Rollout
from teamcredit.marl.learners import ALGORITHMS
from teamcredit.marl.learners.base import Loss
from teamcredit.marl.learners.value import ValueLearner
from teamcredit.marl.replay import Replay
from torch import Tensor, nn

AGENTS, OBS, STATE, ACTIONS, STEPS, COPIES = 3, 5, 4, 4, 16, 2
SPEC = TeamSpec(name="random", agents=("a", "b", "c"), num_actions=ACTIONS, obs_dim=OBS, state_dim=STATE)
every_learner = pytest.mark.parametrize("algo", ["iql", "vdn", "qmix"])
every_network = pytest.mark.parametrize("kind", ["mlp", "gru"])


def rollout(seed: int = 0) -> Rollout:
    """Random steps: unequal numbers of real ones, agents that are dead now and then, episodes that end either way."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.randn(STEPS, COPIES, *shape, generator=generator)

    available = rand(AGENTS, ACTIONS) < 0.5
    available[..., 0] = True
    truncated = rand() > 1.3
    done = truncated | (rand() > 1.3)
    start = torch.cat([torch.ones(1, COPIES, dtype=torch.bool), done[:-1]])
    return Rollout(
        obs=rand(AGENTS, OBS), state=rand(STATE), available=available, alive=rand(AGENTS) < 0.8,
        action=torch.randint(ACTIONS, (STEPS, COPIES, AGENTS), generator=generator), behaviour=rand(AGENTS),
        reward=rand(), agent_reward=rand(AGENTS), terminated=done & ~truncated, truncated=truncated, episode_start=start,
        valid=rand() < 0.8, policy_version=torch.zeros(STEPS, COPIES, dtype=torch.int64),
        actor=torch.zeros(STEPS, COPIES, dtype=torch.int64), next_obs=rand(AGENTS, OBS), next_state=rand(STATE),
        next_available=available.flip(0), next_alive=rand(AGENTS) < 0.8,
    )  # fmt: skip


def make(algo: str, kind: str = "mlp", *, size: Any = 8, window: int = 1, burn_in: int = 0, **learner: Any) -> ValueLearner:
    replay = ReplayConfig(rollout_steps=STEPS, num_envs=COPIES, minibatch_size=size, window=window, burn_in=burn_in)
    config = Config("random", network=NetworkConfig(kind=kind, hidden=8), learner=LearnerConfig(**learner), replay=replay)
    return ValueLearner(config, SPEC, ALGORITHMS[algo][1])


def networks_and_targets(learner: ValueLearner) -> tuple[nn.ModuleDict, nn.ModuleDict]:
    return learner.make_networks(0), learner.make_networks(1)


def gradients(loss: Loss, networks: nn.ModuleDict) -> list[Tensor]:
    found = torch.autograd.grad(loss.total, list(networks.parameters()), allow_unused=True, materialize_grads=True)
    assert any((gradient != 0).any() for gradient in found)
    return list(found)


@every_learner
@every_network
def test_the_minibatches_losses_weights_and_gradients_sum_to_the_full_batchs(algo, kind):
    window = {"mlp": 1, "gru": 4}[kind]
    totals, weights, sums = [], [], []
    for size in (8, "full"):
        learner = make(algo, kind, size=size, window=window, td_lambda=0.5)
        networks, targets = networks_and_targets(learner)
        batch = rollout()
        replay = Replay(learner.config.replay, batch)
        replay.add(batch)
        target = learner.prepare(networks, targets, batch, 1.0)
        losses = [
            learner.loss(networks, targets, minibatch, target=part.get("agents"))
            for minibatch, part in replay.split(torch.Generator().manual_seed(0), {} if target is None else {"agents": target})
        ]
        assert len(losses) == (1 if size == "full" else 4)
        assert size == "full" or len({float(loss.weight) for loss in losses}) > 1  # unequal numbers of real entries
        totals.append(sum(loss.total for loss in losses))
        weights.append(sum(float(loss.weight) for loss in losses))
        sums.append([sum(parts) for parts in zip(*(gradients(loss, networks) for loss in losses), strict=True)])
    assert weights[0] == weights[1]
    torch.testing.assert_close(totals[0], totals[1])
    torch.testing.assert_close(sums[0], sums[1], rtol=1e-4, atol=1e-4)


@every_learner
def test_the_weight_is_the_number_of_real_entries(algo):
    learner, steps = make(algo), rollout()
    networks, targets = networks_and_targets(learner)
    acting = (steps.valid.unsqueeze(-1) & steps.alive).sum() if algo == "iql" else steps.valid.sum()
    assert learner.loss(networks, targets, Minibatch(steps)).weight == acting


@every_learner
@every_network
@pytest.mark.parametrize("padding", [100.0, float("nan")])
def test_what_stands_in_padding_changes_no_loss_and_no_gradient(algo, kind, padding):
    learner = make(algo, kind, window={"mlp": 1, "gru": 4}[kind], td_lambda=0.7)
    networks, targets = networks_and_targets(learner)
    valid = torch.arange(STEPS).unsqueeze(1) < torch.tensor([STEPS - 3, STEPS // 2])
    clean = dataclasses.replace(rollout(), valid=valid)
    changed = {}
    for item in ("obs", "state", "reward", "next_obs", "next_state"):
        changed[item] = getattr(clean, item).clone()
        changed[item][~valid] = padding
    changed["action"] = torch.where(valid.unsqueeze(-1), clean.action, ACTIONS - 1 - clean.action)
    for item in ("available", "next_available", "alive", "next_alive", "terminated"):
        changed[item] = getattr(clean, item).clone()
        changed[item][~valid] = False
    losses = [learner.loss(networks, targets, Minibatch(steps)) for steps in (clean, dataclasses.replace(clean, **changed))]
    assert torch.equal(losses[0].total, losses[1].total)
    first, second = (torch.stack(list(loss.metrics.values())) for loss in losses)
    assert torch.equal(first, second)
    torch.testing.assert_close(*(gradients(loss, networks) for loss in losses), rtol=0, atol=0)
    assert (losses[1].td_error[~valid] == 0).all()


@every_learner
@every_network
def test_dead_and_planted_agents_change_no_loss_and_get_no_gradient(algo, kind):
    """Agent b is planted (never alive to the learner), agent c dies in the middle."""
    learner = make(algo, kind, window={"mlp": 1, "gru": 4}[kind])
    networks, targets = networks_and_targets(learner)
    alive = torch.ones(STEPS + 1, COPIES, AGENTS, dtype=torch.bool)
    alive[..., 1] = False
    alive[STEPS // 2 :, :, 2] = False
    clean = dataclasses.replace(rollout(), alive=alive[:-1], next_alive=alive[1:], obs=rollout().obs.requires_grad_())
    obs, next_obs, action = clean.obs.detach().clone(), clean.next_obs.clone(), clean.action.clone()
    obs[~clean.alive], next_obs[~clean.next_alive], action[~clean.alive] = 50.0, -50.0, 0
    other = dataclasses.replace(clean, obs=obs, next_obs=next_obs, action=action)
    losses = [learner.loss(networks, targets, Minibatch(steps)) for steps in (clean, other)]
    assert torch.equal(losses[0].total, losses[1].total)
    torch.testing.assert_close(*(gradients(loss, networks) for loss in losses), rtol=0, atol=1e-6)
    (moved,) = torch.autograd.grad(learner.loss(networks, targets, Minibatch(clean)).total, clean.obs)
    assert (moved[~clean.alive] == 0).all()
    assert (moved[clean.alive & clean.valid.unsqueeze(-1)] != 0).any()


def test_burn_in_steps_enter_no_loss():
    learner = make("vdn", "gru", window=4, burn_in=3)
    networks, targets = networks_and_targets(learner)
    steps = rollout()
    first = learner.loss(networks, targets, Minibatch(steps, burn_in=3))
    assert first.weight == steps.valid[3:].sum()
    reward = steps.reward.clone()
    reward[:3] = 1e6
    assert torch.equal(learner.loss(networks, targets, Minibatch(dataclasses.replace(steps, reward=reward), burn_in=3)).total, first.total)


def test_targets_of_the_whole_batch_equal_those_of_a_window_as_long_as_the_rollout():
    learner = make("qmix", size=STEPS, window=STEPS, td_lambda=0.8)
    networks, targets = networks_and_targets(learner)
    steps = dataclasses.replace(rollout(), valid=torch.ones(STEPS, COPIES, dtype=torch.bool))
    prepared = learner.prepare(networks, targets, steps, 2.0)
    losses = [learner.loss(networks, targets, Minibatch(steps), target=target, scale=2.0) for target in (prepared, None)]
    assert torch.equal(losses[0].total, losses[1].total)


def test_only_memoryless_agents_on_a_split_batch_get_targets_of_the_whole_batch():
    learner = make("vdn", "gru", window=4)
    assert learner.prepare(*networks_and_targets(learner), rollout(), 1.0) is None
    config = dataclasses.replace(make("vdn").config, replay=ReplayConfig(sampling="uniform"))
    uniform = ValueLearner(config, SPEC, "vdn")
    assert uniform.prepare(*networks_and_targets(uniform), rollout(), 1.0) is None


def test_the_target_mixer_sees_the_state_that_was_reached():
    learner, steps = make("qmix"), rollout()
    networks, targets = networks_and_targets(learner)
    here = learner.returns(networks, targets, Minibatch(steps), scale=1.0)
    before = dataclasses.replace(steps, state=torch.randn_like(steps.state), obs=torch.randn_like(steps.obs))
    assert torch.equal(learner.returns(networks, targets, Minibatch(before), scale=1.0), here)
    after = dataclasses.replace(steps, next_state=torch.randn_like(steps.state))
    moved = (learner.returns(networks, targets, Minibatch(after), scale=1.0) != here).squeeze(-1)
    assert torch.equal(moved, ~steps.terminated)


def test_the_gradient_flows_through_the_value_alone():
    learner = make("qmix", target="none")
    networks = learner.make_networks(0)
    assert not learner.returns(networks, networks, Minibatch(rollout()), scale=1.0).requires_grad


@every_learner
def test_values_are_shown_in_raw_reward_units_whatever_the_scale(algo):
    learner, steps = make(algo, gamma=0.0), rollout()
    networks, targets = networks_and_targets(learner)
    plain, scaled = (learner.loss(networks, targets, Minibatch(steps), scale=scale) for scale in (1.0, 4.0))
    torch.testing.assert_close(scaled.metrics["target"], plain.metrics["target"])  # gamma 0: the raw rewards
    torch.testing.assert_close(scaled.metrics["value"], 4 * plain.metrics["value"])
    quarter = learner.loss(networks, targets, Minibatch(dataclasses.replace(steps, reward=steps.reward / 4)))
    torch.testing.assert_close(scaled.total, quarter.total)
    torch.testing.assert_close(scaled.metrics["td_error"], 4 * quarter.metrics["td_error"])
