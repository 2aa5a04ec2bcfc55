"""Agents paid their own credit: hand arithmetic, axioms, exact copies, and that only what is asked for changes."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from teamcredit.credit import all_coalitions, shapley_from_values
from teamcredit.envs.native import name_tensors
from teamcredit.envs.randomness import COUNTERFACTUAL, copy_seeds, split, uniform
from teamcredit.envs.registry import make
from teamcredit.envs.tracing import tracing
from teamcredit.marl.agent_reward import AgentReward, immediate_rewards, make_agent_reward
from teamcredit.marl.agents import utility_network
from teamcredit.marl.coalition_tasks import coalition_task, true_game
from teamcredit.marl.config import Config, ExplorationConfig, LearnerConfig, NetworkConfig, ReplayConfig
from teamcredit.marl.data import Minibatch, Rollout
from teamcredit.marl.errors import ConfigError
from teamcredit.marl.graphs import recorded
from teamcredit.marl.learners.value import ValueLearner
from teamcredit.marl.policies import Team
from teamcredit.marl.probes import noop_actions, reference_action
from teamcredit.marl.rollout import advance, begin, collect
from teamcredit.marl.tally import RewardScale
from teamcredit.marl.trainer import Trainer
from teamcredit.marl.trees import owned

torch.set_num_threads(1)
Kind = Literal["team", "difference", "shapley"]
KINDS: tuple[Kind, ...] = ("difference", "shapley")
every_kind = pytest.mark.parametrize("kind", KINDS)


def reward_of(kind: Kind, env) -> AgentReward:
    made = make_agent_reward(Config(task=env.spec.name, algo="iql", agent_reward=kind), env)
    assert made is not None
    return made


def team(env, kind: Kind | None = None) -> Team:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        utility = utility_network(NetworkConfig(hidden=16), env.spec)
    return Team(utility, pay=None if kind is None else reward_of(kind, env))


def played(env, players: Team, *, copies: int = 16, steps: int = 30):
    return collect(env, begin(env, players, copy_seeds(0, copies)), players, epsilon=1.0, steps=steps)[0]


def paid_for_joining(kind: Kind, name: str) -> list[float]:
    """What everybody is paid when all join the game."""
    env = coalition_task(name)
    state, view = env.reset(torch.arange(2))
    everybody = torch.ones(2, env.spec.num_agents, dtype=torch.int64)
    reward = env.step(state, everybody)[1].reward
    pay = reward_of(kind, env)
    credit = pay.split(pay.others(env, state, view, everybody, state.clock), reward)
    assert torch.equal(credit[0], credit[1])
    return credit[0].tolist()


@pytest.mark.parametrize(
    "name", ["airport-6", "majority-5-3", "either-or", "harmful", "glove-1-2", "vote-4-3-2-1-1", "additive-4-1", "pairs-5-0"]
)
def test_where_all_join_they_are_paid_the_games_true_credit(name):
    truth = true_game(name)
    assert paid_for_joining("difference", name) == pytest.approx(truth.leave_one_out.tolist(), abs=1e-5)
    assert paid_for_joining("shapley", name) == pytest.approx(truth.shapley.tolist(), abs=1e-5)


def test_by_hand_where_one_of_two_replaceable_agents_stays_out():
    # either-or: v = 2 [0 or 1 in C] + [2 in C]. Agents 0 and 2 join: without agent 1's help each is needed.
    env = coalition_task("either-or")
    state, view = env.reset(torch.arange(1))
    action, reward = torch.tensor([[1, 0, 1]]), torch.tensor([3.0])

    def paid(kind: Kind) -> list[float]:
        pay = reward_of(kind, env)
        return pay.split(pay.others(env, state, view, action, state.clock), reward)[0].tolist()

    for kind in KINDS:
        assert paid(kind) == [2, 0, 1]
    # All three: neither of the pair is missed (0), but in half of the orders each comes first (1).
    action = torch.ones(1, 3, dtype=torch.int64)
    assert paid("difference") == [0, 0, 1]
    assert paid("shapley") == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("task", ["foraging-8x8-3p-2f", "spread", "predator-prey", "switch2", "two-step"])
def test_rewards_of_copies_are_those_of_the_whole_environment_stepped(task):
    # One joint action at a time in the environment itself, by its public step.
    env = make(f"native/{task}")
    n, (state, view) = env.spec.num_agents, env.reset(copy_seeds(3, 8))
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        weights = view.available.flatten(0, 1).float()
        ways = torch.stack([torch.multinomial(weights, 1, generator=generator).view(8, n) for _ in range(3)])
        kept = {name: value.clone() for name, value in name_tensors(state).items()}
        rewards = immediate_rewards(env, state, ways)
        for joint, found in zip(ways, rewards, strict=True):
            assert torch.equal(env.step(state, joint, autoreset=False)[1].reward, found)
        assert all(torch.equal(value, kept[name]) for name, value in name_tensors(state).items())
        state, _, view = env.step(state, ways[0])


@pytest.mark.parametrize("task", ["foraging-8x8-3p-2f", "matrix-climbing", "two-step"])
def test_shapley_pay_adds_up_and_difference_pay_is_leave_one_out_with_the_same_reference(task):
    env = make(f"native/{task}")
    carry = begin(env, team(env), copy_seeds(1, 32))
    n, total = env.spec.num_agents, 0.0
    pays = {kind: reward_of(kind, env) for kind in KINDS}
    for _ in range(12):
        before = carry
        carry, row, _ = advance(env, carry, team(env), epsilon=1.0)
        given = env, before.state, before.view, row["action"], before.clock
        paid = {kind: pay.split(pay.others(*given), row["reward"]) for kind, pay in pays.items()}
        numbers = uniform(split(before.clock.key(COUNTERFACTUAL), n))
        absent, _ = reference_action(noop_actions(env.spec), before.view.available, numbers)
        joint = torch.where(all_coalitions(n).unsqueeze(1), row["action"], absent)
        values = immediate_rewards(env, before.state, joint)
        torch.testing.assert_close(paid["shapley"].sum(1), row["reward"] - values[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(paid["shapley"], shapley_from_values(values).T.float(), rtol=0, atol=1e-5)
        without = torch.stack([values[2**n - 1 - 2**i] for i in range(n)], 1)
        torch.testing.assert_close(paid["difference"], row["reward"].unsqueeze(1) - without, rtol=0, atol=1e-6)
        total += float(paid["difference"].abs().sum())
    assert total > 0


@every_kind
def test_paying_changes_nothing_but_the_pay(kind):
    env = coalition_task("either-or")
    plain, paid = played(env, team(env)), played(env, team(env, kind))
    for name in ("obs", "action", "behaviour", "reward", "terminated", "truncated", "next_obs"):
        assert torch.equal(getattr(plain, name), getattr(paid, name)), name
    assert not torch.equal(plain.agent_reward, paid.agent_reward)


@every_kind
def test_who_does_nothing_is_paid_nothing(kind):
    env = make("native/foraging-8x8-3p-2f", episode_limit=9)
    paid = played(env, team(env, kind), copies=64)
    idle = paid.action == 0  # foraging's no-op
    assert idle.any()
    assert paid.agent_reward[idle].abs().max() < 1e-6
    assert paid.agent_reward[~idle].abs().max() > 0.1


@every_kind
def test_one_env_step_with_pay_is_one_graph_and_equals_the_plain_one(kind):
    env = coalition_task("airport-4")
    players = team(env, kind)
    carry, epsilon = owned(begin(env, players, copy_seeds(0, 16))), torch.ones((), dtype=torch.float64)

    def step(carry, epsilon):
        return advance(env, carry, players, epsilon=epsilon)[1]

    with torch.no_grad():
        plain = step(carry, epsilon)
        with tracing():
            in_graph = recorded(step)(carry, epsilon)
    assert all(torch.equal(in_graph[name], value) for name, value in plain.items())


def config(kind: Kind = "team", **learner) -> Config:
    return Config(
        task="native/coalition-either-or",
        algo="iql",
        steps=256,
        agent_reward=kind,
        network=NetworkConfig(hidden=16, layers=1),
        replay=ReplayConfig(rollout_steps=4, num_envs=16, minibatch_size=32),
        learner=LearnerConfig(**learner),
    )


def returns_of(trainer: Trainer, rollout: Rollout) -> torch.Tensor:
    learner = trainer.learner
    assert isinstance(learner, ValueLearner)
    return learner.returns(trainer.networks, trainer.targets, Minibatch(rollout), scale=2.0)


@every_kind
def test_the_targets_of_a_one_step_game_are_the_pay_itself(kind):
    trainer = Trainer(config(kind), coalition_task("either-or"))
    rollout = played(trainer.env, trainer.team)
    targets = returns_of(trainer, rollout)
    torch.testing.assert_close(targets, rollout.agent_reward / 2)
    team_trainer = Trainer(config(), coalition_task("either-or"))
    torch.testing.assert_close(returns_of(team_trainer, rollout), (rollout.reward / 2).unsqueeze(-1).expand(-1, -1, 3))


@every_kind
def test_the_scale_is_that_of_the_pay_of_agents_who_learn_and_metrics_are_raw(kind):
    trainer = Trainer(config(kind, standardise_rewards=True), coalition_task("either-or"))
    trainer.round()
    batch = trainer.replay.newest()
    expected = batch.agent_reward.to(torch.float64).std(correction=0)
    assert trainer.reward_scale.scale == pytest.approx(float(expected))
    line = trainer.metrics()
    assert line["agent_reward"] == pytest.approx(float(batch.agent_reward.mean()), rel=1e-5)
    assert line["agent_reward_size"] == pytest.approx(float(batch.agent_reward.abs().mean()), rel=1e-5)
    assert line["target"] == pytest.approx(float(batch.agent_reward.mean()), rel=1e-4)  # one step: the target is the pay, raw
    assert line["return"] == pytest.approx(float(batch.reward.mean()), rel=1e-5)  # what is shown is the team's
    scale = RewardScale()
    scale.update(torch.zeros(0))  # a batch in which nobody was alive
    assert scale.scale == 1.0


def test_without_the_option_there_are_no_such_metrics_and_no_copies():
    trainer = Trainer(config(), coalition_task("either-or"))
    trainer.round()
    assert trainer.team.pay is None
    assert not {name for name in trainer.metrics() if name.startswith("agent_reward")}


@every_kind
def test_paid_agents_learn_to_join_where_joining_pays(kind):
    wanted = replace(config(kind, lr=0.01), steps=1_024, exploration=ExplorationConfig(end=1.0))
    trainer = Trainer(wanted, coalition_task("vote-4-3-2-1-1"))
    while not trainer.finished:
        trainer.round()
    _, view = trainer.env.reset(torch.arange(1))
    with torch.no_grad():
        q, _ = trainer.team.utility(view.obs, trainer.team.utility.initial_memory(1))
    assert (q[0, :, 1] > q[0, :, 0]).all()  # absent agents are paid 0, joining is worth its chance of being decisive


@pytest.mark.parametrize("algo", ["vdn", "qmix", "coma"])
def test_learners_of_one_team_value_are_refused(algo):
    with pytest.raises(ValueError, match=f"{algo} learns .*: use --algo iql"):
        Config(task="native/spread", algo=algo, agent_reward="difference")


@every_kind
def test_a_task_in_which_no_action_changes_the_reward_of_its_own_step_is_refused(kind):
    with pytest.raises(ConfigError, match="no agent's action changed the team reward of its own step"):
        reward_of(kind, make("native/spread"))


@every_kind
def test_a_live_environment_is_paid_from_exact_copies_and_goes_on_undisturbed(kind):
    """The package's foraging: who does nothing is paid nothing, somebody is paid, and the episode is that without pay."""
    env = make("lbf/5x5-2p-1f", time_limit=12)
    plain, paid = (played(env, team(env, pay), copies=2, steps=60) for pay in (None, kind))
    for name in ("obs", "action", "reward", "terminated", "truncated"):
        assert torch.equal(getattr(plain, name), getattr(paid, name)), name
    idle = paid.action == 0
    assert paid.agent_reward[idle].abs().max() < 1e-6
    assert paid.agent_reward.abs().max() > 0.1


def test_uncopyable_environments_and_large_teams_are_refused():
    env = make("native/coalition-airport-7")
    with pytest.raises(ConfigError, match=r"needs 2\^7 copies of every state for 7 agents; at most 6"):
        reward_of("shapley", env)
    assert len(reward_of("difference", env).coalitions) == 7
    working = make("lbf/5x5-2p-1f", workers=1)
    with pytest.raises(ConfigError, match="is not copied exactly: its environments live in worker processes"):
        reward_of("difference", working)
