"""The counterfactual critic: what may enter a row and what may not, its memory, and that it is a guest beside a value learner."""

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from teamcredit.envs.registry import make
from teamcredit.marl.config import Config, CriticConfig, LearnerConfig, NetworkConfig, ReplayConfig
from teamcredit.marl.critic import CounterfactualCritic
from teamcredit.marl.data import Minibatch
from teamcredit.marl.learners.base import AGENTS, CRITIC, Context
from teamcredit.marl.resolve import owners_of, resolve
from teamcredit.marl.trainer import Trainer
from torch import Tensor

TEAM, OBS, STATE, ACTIONS, STEPS, COPIES = 4, 5, 3, 3, 7, 6
examples = settings(deadline=None, derandomize=True, max_examples=15)
every_kind = pytest.mark.parametrize("kind", ["mlp", "gru"])


def critic(kind: str = "mlp", *, agents: int = TEAM, layers: int = 2, layer_norm: bool = True, seed: int = 0) -> CounterfactualCritic:
    config = CriticConfig(kind=kind, hidden=16, layers=layers, layer_norm=layer_norm)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CounterfactualCritic(config, num_agents=agents, obs_dim=OBS, state_dim=STATE, num_actions=ACTIONS)


def window(seed: int = 0, *, agents: int = TEAM, start: tuple[int, ...] = ()) -> tuple[Tensor, Tensor, Tensor]:
    """State, observations and episode starts of a window in which an episode starts at the given steps (and at the first)."""
    generator = torch.Generator().manual_seed(seed)
    state, obs = torch.randn(STEPS, COPIES, STATE, generator=generator), torch.randn(STEPS, COPIES, agents, OBS, generator=generator)
    starts = torch.zeros(STEPS, COPIES, dtype=torch.bool)
    starts[[0, *start]] = True
    return state, obs, starts


@every_kind
@given(agents=st.integers(2, 5), layers=st.integers(1, 3), layer_norm=st.booleans(), seed=st.integers(0, 2**31))
@examples
def test_an_agents_own_action_never_reaches_its_row(kind, agents, layers, layer_norm, seed):
    """Bit for bit: the row is the counterfactual one, whatever the agent did. A living teammate's action does reach it."""
    net, generator = critic(kind, agents=agents, layers=layers, layer_norm=layer_norm, seed=seed), torch.Generator().manual_seed(seed)
    features = net.unroll(*window(seed, agents=agents))
    action = torch.randint(ACTIONS, (STEPS, COPIES, agents), generator=generator)
    everyone = torch.ones(STEPS, COPIES, agents, dtype=torch.bool)
    rows = net.rows(features, action, everyone)
    assert rows.shape == (STEPS, COPIES, agents, ACTIONS)
    for agent in range(agents):
        other = action.clone()
        other[..., agent] = (action[..., agent] + 1) % ACTIONS
        changed = (net.rows(features, other, everyone) != rows).any(-1)
        assert not changed[..., agent].any()
        assert changed.any(0).any(0).tolist() == [j != agent for j in range(agents)]


@every_kind
def test_the_actions_of_the_dead_and_the_planted_reach_no_row(kind):
    net, generator = critic(kind), torch.Generator().manual_seed(0)
    features = net.unroll(*window())
    acting = torch.rand(STEPS, COPIES, TEAM, generator=generator) < 0.6
    action = torch.randint(ACTIONS, acting.shape, generator=generator)
    other = torch.where(acting, action, (action + 1) % ACTIONS)
    assert torch.equal(net.rows(features, other, acting), net.rows(features, action, acting))
    assert not torch.equal(net.rows(features, action, torch.ones_like(acting)), net.rows(features, action, acting))


def test_an_agents_row_sees_the_state_and_its_own_observation_and_no_other():
    net, (state, obs, starts) = critic(), window()
    action, everyone = torch.zeros(STEPS, COPIES, TEAM, dtype=torch.int64), torch.ones(STEPS, COPIES, TEAM, dtype=torch.bool)
    rows = net.rows(net.unroll(state, obs, starts), action, everyone)
    other = obs.clone()
    other[:, :, 2] = 0
    moved = (net.rows(net.unroll(state, other, starts), action, everyone) != rows).any(-1).any(0).any(0)
    assert moved.tolist() == [False, False, True, False]
    assert (net.rows(net.unroll(-state, obs, starts), action, everyone) != rows).any(-1).all()


def test_images_of_bytes_are_scaled_to_the_unit_interval():
    net, (state, _, _) = critic(), window()
    raw = torch.randint(256, (STEPS, COPIES, TEAM, OBS), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(net.features(state, raw), net.features(state, raw.float() / 255))


def test_a_window_of_two_episodes_is_each_alone():
    net, (state, obs, starts) = critic("gru"), window(start=(3,))
    whole = net.unroll(state, obs, starts)
    alone = torch.cat([net.unroll(state[:3], obs[:3], starts[:3]), net.unroll(state[3:], obs[3:], starts[3:])])
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-6)
    ran_on = net.unroll(state, obs, starts & (torch.arange(STEPS) == 0).unsqueeze(1))
    assert (ran_on[3:] - whole[3:]).abs().max() > 1e-3


def test_burn_in_rebuilds_the_memory_without_a_gradient():
    net, (state, obs, starts) = critic("gru"), window(start=(1,))
    state.requires_grad_()
    burnt = net.unroll(state, obs, starts, burn_in=3)
    torch.testing.assert_close(burnt, net.unroll(state, obs, starts)[3:], rtol=0, atol=1e-6)
    (seen,) = torch.autograd.grad(burnt.sum(), state)
    assert (seen[:3] == 0).all()
    assert (seen[3:] != 0).any(-1).all()


@every_kind
def test_to_unroll_and_take_a_step_is_to_unroll_one_step_more(kind):
    net, (state, obs, starts) = critic(kind), window()
    features = net.unroll(state[:-1], obs[:-1], starts[:-1])
    memory = features[-1] if net.memory_dim else features[-1, ..., :0]
    torch.testing.assert_close(net.step(state[-1], obs[-1], memory), net.unroll(state, obs, starts)[-1], rtol=0, atol=1e-6)


# Beside a value learner, and in the trainer.

SPLIT = {"rollout_steps": 16, "num_envs": 4, "minibatch_size": 32}
UNIFORM = {"sampling": "uniform", "rollout_steps": 8, "num_envs": 4, "minibatch_size": 32, "window": 4, "capacity": 256}


def trainer(task: str, *, algo: str = "qmix", kind: str = "mlp", replay: dict[str, Any], **top: Any) -> Trainer:
    options = {"critic": CriticConfig(kind=kind, hidden=16), "learner": LearnerConfig(target_every=2)} | top
    config = Config(task, algo=algo, steps=1_000, network=NetworkConfig(hidden=16), replay=ReplayConfig(**replay), **options)
    return Trainer(config, make(task))


@pytest.mark.parametrize(
    "algo, kind, target, replay, members, target_network",
    [
        ("qmix", "mlp", "one-step", SPLIT, (), "hard"),
        ("iql", "mlp", "retrace", SPLIT, ("agent_1=noop",), "none"),
        ("vdn", "gru", "tree-backup", UNIFORM, ("agent_0=random",), "soft"),
    ],
)
def test_a_critic_beside_a_value_learner_changes_nothing(algo, kind, target, replay, members, target_network):
    """Number for number: the agents' weights, their metrics and how they play."""
    learner, runs = LearnerConfig(target=target_network, target_every=2), []
    for config in (CriticConfig(), CriticConfig(kind=kind, hidden=16, target=target)):
        run = trainer("native/foraging-5x5-2p-1f", algo=algo, replay=replay, members=members, critic=config, learner=learner)
        first = {name: value.clone() for name, value in run.networks.state_dict().items()}
        for _ in range(2):
            run.round()
        moved = {name.partition(".")[0] for name, value in run.networks.state_dict().items() if not torch.equal(value, first[name])}
        assert moved >= ({"utility"} if config.kind == "auto" else {"utility", "critic"})
        runs.append(run)
    without, beside = runs
    weights = beside.networks.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in without.networks.state_dict().items())
    assert without.evaluate(4) == beside.evaluate(4)
    line, more = without.metrics(), beside.metrics()
    assert line.items() <= more.items()
    assert more.keys() - line.keys() == {f"critic.{name}" for name in ("loss", "grad_norm", "td_error", "value", "target")}


def test_beside_a_value_learner_it_evaluates_the_greedy_policy():
    """y = r + gamma Q'(s', greedy u'), in the mean over the agents' rows."""
    run = trainer("native/spread", replay=SPLIT)
    run.round()
    steps, net = run.replay.newest(), run.targets["critic"]
    q, _ = run.networks["utility"](steps.next_obs, steps.next_obs[..., :0])
    best = q.masked_fill(~steps.next_available, -torch.inf).argmax(-1)
    rows = net.rows(net.features(steps.next_state, steps.next_obs), best, steps.next_alive)
    value = rows.gather(-1, best.unsqueeze(-1)).squeeze(-1).mean(-1).masked_fill(steps.terminated, 0.0)
    planned = run.learner.plan(run.networks, run.targets, steps, Context(epsilon=0.9, generator=torch.Generator()))
    torch.testing.assert_close(planned[CRITIC].squeeze(-1), steps.reward + run.config.learner.gamma * value)


@pytest.mark.parametrize("target", ["one-step", "retrace", "tree-backup"])
def test_beside_a_value_learner_its_targets_do_not_depend_on_what_is_explored(target):
    run = trainer("native/spread", replay=SPLIT, critic=CriticConfig(kind="mlp", hidden=16, target=target))
    run.round()
    steps, found = run.replay.newest(), []
    for epsilon in (0.0, 0.9):
        context = Context(epsilon=epsilon, generator=torch.Generator().manual_seed(0))
        planned = run.learner.plan(run.networks, run.targets, steps, context)[CRITIC]
        losses = run.learner.losses(run.networks, run.targets, Minibatch(steps), planned={}, context=context)
        torch.testing.assert_close(losses[CRITIC].metrics["target"], planned.sum() * run.env.spec.num_agents)
        found.append(planned)
    assert torch.equal(*found)


@pytest.mark.parametrize("decay, left", [("none", 1.0), ("linear", 1 - 64 / 1_000)])
def test_the_critic_has_a_learning_rate_of_its_own_that_decays_as_the_agents_does(decay, left):
    run = trainer(
        "native/spread", replay=SPLIT, critic=CriticConfig(kind="mlp", hidden=16, lr=0.25), learner=LearnerConfig(lr=0.5, lr_decay=decay)
    )
    run.round()
    run.round()  # by the 64 env steps of the round before
    rates = {part: optimiser.param_groups[0]["lr"] for part, optimiser in run.optimisers.items()}
    assert rates == {AGENTS: pytest.approx(0.5 * left), CRITIC: pytest.approx(0.25 * left)}


@pytest.mark.parametrize("algo", ["qmix", "coma"])
def test_no_loss_of_one_part_sends_a_gradient_into_another(algo):
    run = trainer("native/spread", algo=algo, replay=SPLIT)
    run.round()
    context = Context(epsilon=0.1, generator=torch.Generator().manual_seed(0))
    losses = run.learner.losses(run.networks, run.targets, Minibatch(run.replay.newest()), planned={}, context=context)
    assert set(losses) == {AGENTS, CRITIC}
    for part, loss in losses.items():
        gradients = torch.autograd.grad(loss.total, list(run.networks.parameters()), allow_unused=True, retain_graph=True)
        reached = {name for (name, _), gradient in zip(run.networks.named_parameters(), gradients, strict=True) if gradient is not None}
        own = tuple(f"{name}." for name in run.learner.parts[part])
        assert reached
        assert all(name.startswith(own) for name in reached)


def test_what_the_critic_learns_is_shown_in_raw_units_whatever_the_scale():
    """gamma 0: the target is the reward. Divided by 4 while learning, multiplied by 4 where shown."""
    run = trainer("native/spread", replay=SPLIT, learner=LearnerConfig(gamma=0.0))
    run.round()
    steps = run.replay.newest()
    quarter = dataclasses.replace(steps, reward=steps.reward / 4)

    def loss(of: Any, scale: float) -> Any:
        context = Context(scale=scale, generator=torch.Generator().manual_seed(0))
        return run.learner.losses(run.networks, run.targets, Minibatch(of), planned={}, context=context)[CRITIC]

    plain, scaled, small = loss(steps, 1.0), loss(steps, 4.0), loss(quarter, 1.0)
    torch.testing.assert_close(plain.metrics["target"], steps.reward.sum() * run.env.spec.num_agents)
    torch.testing.assert_close(scaled.metrics["target"], plain.metrics["target"])
    torch.testing.assert_close(scaled.metrics["value"], 4 * plain.metrics["value"])
    torch.testing.assert_close(scaled.total, small.total)
    torch.testing.assert_close(scaled.metrics["td_error"], 4 * small.metrics["td_error"])


def test_standardised_rewards_are_shown_in_raw_units():
    """gamma 0 and a critic that stays 0: the target is the reward over its deviation, and what is shown is of the reward itself."""
    net = CriticConfig(kind="mlp", hidden=16, lr=1e-12)
    run = trainer("native/spread", replay=SPLIT, critic=net, learner=LearnerConfig(gamma=0.0, standardise_rewards=True))
    with torch.no_grad():
        for parameter in run.networks["critic"].parameters():
            parameter.zero_()
    run.round()
    reward, line = run.replay.newest().reward.double(), run.metrics()
    assert run.reward_scale.scale == pytest.approx(float(reward.std(correction=0)))
    assert line["critic.target"] == pytest.approx(float(reward.mean()), rel=1e-4)
    assert line["critic.td_error"] == pytest.approx(float(reward.abs().mean()), rel=1e-4)
    assert line["critic.loss"] == pytest.approx(float(reward.square().mean()), rel=1e-4)


# What is refused.


@pytest.mark.parametrize(
    "algo, critic, replay, said",
    [
        ("coma", {"kind": "none"}, {}, "coma learns from its critic.*use mlp or gru"),
        ("coma", {"kind": "gru"}, {}, "critic.kind gru needs replay.window above 1.*--window 8"),
        ("qmix", {"kind": "gru"}, {"window": 1}, "critic.kind gru needs replay.window above 1"),
        ("coma", {"target": "retrace"}, {"sampling": "uniform"}, "critic.target retrace needs replay.window above 1.*one-step"),
        ("vdn", {"kind": "mlp", "target": "tree-backup"}, {"sampling": "uniform"}, "critic.target tree-backup needs replay.window above 1"),
        ("coma", {"trace_lambda": 1.5}, {}, r"critic.trace_lambda 1.5 must lie in \[0, 1\]"),
        ("coma", {"lr": 0.0}, {}, "critic.lr 0.0 must be above 0"),
        ("coma", {"hidden": 0}, {}, "critic.hidden 0 must be at least 1"),
        ("coma", {"layers": 0}, {}, "critic.layers 0 must be at least 1"),
    ],
)
def test_a_critic_that_cannot_learn_is_refused_with_the_remedy(algo, critic, replay, said):
    with pytest.raises(ValueError, match=said):
        Config("native/spread", algo=algo, critic=CriticConfig(**critic), replay=ReplayConfig(**replay))


@pytest.mark.parametrize(
    "algo, critic, replay",
    [
        ("coma", {"target": "retrace"}, {}),  # a split batch is one long window
        ("coma", {"target": "retrace"}, {"sampling": "uniform", "window": 8}),
        ("qmix", {"target": "retrace"}, {"sampling": "uniform"}),  # no critic at all
        ("vdn", {"kind": "gru"}, {"window": 8, "burn_in": 2}),
    ],
)
def test_a_critic_that_can_learn_is_let_be(algo, critic, replay):
    config = Config("native/spread", algo=algo, critic=CriticConfig(**critic), replay=ReplayConfig(**replay))
    assert config.own_critic.kind == {"coma": "mlp", "qmix": "none", "vdn": "gru"}[algo]


def test_a_bare_name_is_the_agents_unless_only_the_critic_has_it():
    resolved = resolve([("flags", {"task": "native/spread", "lr": 0.25, "hidden": 7, "trace_lambda": 0.5})])
    assert resolved.sources == dict.fromkeys(("task", "learner.lr", "network.hidden", "critic.trace_lambda"), "flags")
    assert owners_of("lr", ["learner.lr", "critic.lr"]) == ["learner.lr"]
    assert owners_of("trace_lambda", ["learner.lr", "critic.trace_lambda"]) == ["critic.trace_lambda"]
