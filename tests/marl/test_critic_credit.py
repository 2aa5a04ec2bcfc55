"""Credit from a critic: hand arithmetic with rows set by hand, what must not count, calibration, forks, and what is said of it all."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from teamcredit.envs.base import TeamEnv, TeamSpec, View
from teamcredit.envs.matrix import MatrixGame
from teamcredit.envs.native import NativeEnv, Outcome
from teamcredit.envs.parallel_api import TeamParallelEnv
from teamcredit.envs.pettingzoo import PettingZooTeam
from teamcredit.envs.randomness import Clock
from teamcredit.envs.registry import make
from teamcredit.envs.two_step import TwoStep, TwoStepTask
from teamcredit.marl import critic_episodes
from teamcredit.marl.agents import utility_network
from teamcredit.marl.cli import main
from teamcredit.marl.cli_findings import credit_text, estimate_document
from teamcredit.marl.cli_output import to_json
from teamcredit.marl.config import Config, CriticConfig, ExplorationConfig, LearnerConfig, NetworkConfig, ReplayConfig
from teamcredit.marl.critic import CounterfactualCritic
from teamcredit.marl.critic_credit import CriticCredit, check_forks, far_from_limit, measure_critic_credit, returns_to_go
from teamcredit.marl.critic_episodes import play_on, record, valued_team
from teamcredit.marl.errors import ConfigError
from teamcredit.marl.evaluate import CREDIT_SEEDS, seeds_from
from teamcredit.marl.inspection import measure_credit
from teamcredit.marl.policies import Team, parse_members
from teamcredit.marl.rollout import begin, collect
from teamcredit.marl.run import Run, train

torch.set_num_threads(1)
Rows = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(global state, joint action) -> the rows."""


@dataclass(frozen=True)
class ByHand(Run):
    """A run whose task, team and critic are given, not read from a folder."""

    env: TeamEnv = field(kw_only=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    team: Team = field(kw_only=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    networks: Any = field(kw_only=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    reward_scale: float = field(default=1.0, kw_only=True)  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def env_steps(self) -> int:
        return self.config.steps


def by_hand(
    env: TeamEnv,
    *,
    prefer: tuple[int, ...] | None = None,
    members: tuple[str, ...] = (),
    algo: str = "vdn",
    gamma: float = 0.5,
    **parts: Any,
) -> ByHand:
    """Untrained networks; with `prefer`, agents whose outputs are 1 at their preferred action and 0 elsewhere, whatever they see."""
    spec = env.spec
    config = Config(
        spec.name, algo=algo, members=members, learner=LearnerConfig(gamma=gamma), **{"critic": CriticConfig("mlp", hidden=8), **parts}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = replace(config.network, hidden=8, share=prefer is None)
        utility = utility_network(network, spec)
        critic = CounterfactualCritic(
            config.own_critic, num_agents=spec.num_agents, obs_dim=spec.obs_dim, state_dim=spec.state_dim, num_actions=spec.num_actions
        )
    if prefer is not None:
        utility.head.weight.data.zero_()
        utility.head.bias.data = torch.nn.functional.one_hot(torch.tensor(prefer), spec.num_actions).float()
    overrides, planted = parse_members(members, spec, getattr(env, "scripted", {}))
    nowhere = Path("nowhere")
    return ByHand(nowhere, config, nowhere, env=env, team=Team(utility, overrides, planted), networks={"critic": critic})


@pytest.fixture
def knows(monkeypatch: pytest.MonkeyPatch) -> Callable[[Rows], list[torch.Tensor]]:
    """Gives every critic these rows; returns the `acting` masks it is asked with."""

    def give(rows: Rows) -> list[torch.Tensor]:
        asked: list[torch.Tensor] = []

        def see(self: Any, state: torch.Tensor, obs: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
            return state

        def answer(self: Any, state: torch.Tensor, action: torch.Tensor, acting: torch.Tensor) -> torch.Tensor:
            asked.append(acting)
            return rows(state, action)

        monkeypatch.setattr(CounterfactualCritic, "step", see)
        monkeypatch.setattr(CounterfactualCritic, "rows", answer)
        return asked

    return give


def matrix(payoff: list, noop: int | None = 0) -> MatrixGame:
    env = MatrixGame(payoff)
    object.__setattr__(env.spec, "noop", None if noop is None else (noop,) * env.spec.num_agents)
    return env


def payoff_rows(payoff: list) -> Rows:
    table = torch.tensor(payoff)
    return lambda state, action: torch.stack([table[:, action[:, 1]].T, table[action[:, 0]]], 1)


def two_step_rows(state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Q of the team that always plays (1, 1) in the two-step game, gamma 1/2: state 1 leads to 7 or 8 a step later."""
    of_2a, of_2b = torch.full((2, 2), 7.0), torch.tensor([[1.0, 8.0], [1.0, 8.0]])
    of_start = torch.tensor([[3.5, 4.0], [4.0, 4.0]])
    return torch.stack([of_start, of_2a, of_2b])[state.argmax(-1)]


PAYOFF = [[1.0, 3.0], [4.0, 10.0]]


def ends(credit: CriticCredit) -> tuple[list[float], list[float]]:
    """Lower and upper ends of the intervals."""
    assert credit.low is not None
    assert credit.high is not None
    return credit.low.tolist(), credit.high.tolist()


@pytest.mark.parametrize("reference, value", [("noop", [10 - 3, 10 - 4]), ("random", [10 - (3 + 10) / 2, 10 - (4 + 10) / 2])])
def test_credit_of_a_one_step_game_is_hand_arithmetic(knows, reference, value):
    knows(payoff_rows(PAYOFF))
    credit = measure_critic_credit(by_hand(matrix(PAYOFF), prefer=(1, 1)), reference=reference, episodes=4)
    assert credit.value.tolist() == value
    assert ends(credit) == (value, value)
    assert (credit.reference, credit.unit, credit.episodes) == (reference, "discounted team return per decision", 4)
    assert credit.forks is not None
    assert credit.forks.real.tolist() == [7, 6]  # the only other action is action 0 under either reference
    assert credit.forks.claimed.tolist() == [7, 6]
    assert credit.forks.number.tolist() == [4, 4]
    assert credit.env_steps == 4 + 2 * 8  # four episodes; eight forks with and without the replacement


def test_credit_of_the_two_step_game_is_the_mean_over_decisions(knows):
    """Random is (Q(0) + Q(1)) / 2. First step: 4 - 3.75 and 0. Second: 8 - 4.5 for both."""
    knows(two_step_rows)
    credit = measure_critic_credit(by_hand(TwoStep(), prefer=(1, 1)), reference="random", episodes=3)
    assert credit.value.tolist() == [(0.25 + 3.5) / 2, (0 + 3.5) / 2]


def test_a_perfect_critic_is_found_perfect_and_reliable(knows):
    knows(two_step_rows)
    credit = measure_critic_credit(by_hand(TwoStep(), prefer=(1, 1)), reference="random", episodes=8)
    assert credit.returns is not None
    assert credit.forks is not None
    for found in (credit.returns, credit.forks.calibration):
        assert (found.explained_variance, found.slope, found.correlation) == pytest.approx((1, 1, 1))
        assert (found.bias, found.intercept) == pytest.approx((0, 0), abs=1e-12)
    assert (credit.returns.samples, credit.returns.episodes, credit.own_share) == (16, 8, 0)
    assert credit.reliable is True


def test_a_critic_that_says_the_same_of_everything_gives_no_credit_and_is_unreliable(knows):
    knows(lambda state, action: torch.ones(*action.shape, 2))
    credit = measure_critic_credit(by_hand(TwoStep(), prefer=(1, 1)), reference="random", episodes=8)
    assert credit.value.tolist() == [0, 0]
    assert credit.reliable is False
    assert "explains 0 of the variance" in credit.why


def test_a_critic_that_knows_only_the_time_left_passes_the_returns_and_fails_the_forks(knows):
    """Values 4 and 8 are right; what the second agent's actions do in the last state has the wrong sign."""
    wrong = torch.tensor([[[3.5, 4.0], [4.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]], [[12.0, 8.0], [12.0, 8.0]]])
    knows(lambda state, action: wrong[state.argmax(-1)])
    credit = measure_critic_credit(by_hand(TwoStep(), prefer=(1, 1)), reference="random", episodes=8)
    assert credit.returns is not None
    assert credit.returns.explained_variance == pytest.approx(1)
    assert credit.reliable is False
    assert "replaced actions" in credit.why


def test_without_forks_nobody_vouches_for_the_critic(knows):
    knows(two_step_rows)
    credit = measure_critic_credit(by_hand(TwoStep(), prefer=(1, 1)), reference="random", episodes=8, forks=0)
    assert (credit.forks, credit.reliable, credit.env_steps) == (None, None, 16)


def test_what_is_said_of_a_critic_without_verdict_depends_on_whether_it_was_tested(knows):
    """Three replaced actions per agent fit some line by luck; none at all asks for some."""
    knows(two_step_rows)
    run = by_hand(TwoStep(), prefer=(1, 1))
    said = []
    for forks in (3, 0):
        credit = measure_critic_credit(run, reference="random", episodes=8, forks=forks)
        assert credit.reliable is None
        said.append(credit_text(run, [estimate_document(run, "critic", credit)]))
    assert "critic (random): critic undecided: the changes it claims" in said[0]
    assert "by chance" in said[0]
    assert "--forks" not in said[0]
    assert "critic (random): critic not tested: " in said[1]
    assert "--forks 32 replaces some" in said[1]
    assert all("discounted team return lost, by the critic, when one action of the agent is replaced" in text for text in said)


def test_coma_is_credited_under_its_softmax_policy_with_the_runs_epsilon(knows):
    """Equal outputs and epsilon play every joint action; the critic's rows are exact for each."""
    knows(payoff_rows(PAYOFF))
    run = by_hand(matrix(PAYOFF), prefer=(1, 1), algo="coma", exploration=ExplorationConfig(end=0.5))
    valued = valued_team(run)
    assert valued.epsilon == valued.training_epsilon == 0.5
    played = record(valued, seeds_from(0, 256))
    first = played.action[0, :, 0].float().mean()
    assert float(first) == pytest.approx(0.5 * math.e / (1 + math.e) + 0.25, abs=0.1)
    credit = measure_critic_credit(run, reference="noop", episodes=256)
    assert credit.returns is not None
    assert credit.returns.explained_variance == pytest.approx(1)
    low, high = ends(credit)
    assert low[0] < credit.value[0] < high[0]
    table, joint = torch.tensor(PAYOFF), record(valued, seeds_from(CREDIT_SEEDS, 256)).action[0]
    expected = (table[joint[:, 0], joint[:, 1]] - table[0, joint[:, 1]]).to(torch.float64).mean()
    assert float(credit.value[0]) == pytest.approx(float(expected))


def test_the_gradient_weight_is_taken_against_the_policy_that_collects(knows):
    """Greedy plays 10 of a row (3, 10): with epsilon 1/2 the policy is (1/4, 3/4), the mean 8.25, E|A| = 2 * 3/4 * 1.75."""
    knows(payoff_rows(PAYOFF))
    run = by_hand(matrix(PAYOFF), prefer=(1, 1), exploration=ExplorationConfig(end=0.5))
    credit = measure_critic_credit(run, reference="noop", episodes=2)
    assert credit.gradient_weight.tolist() == [2 * 0.75 * 1.75, 2 * 0.75 * 1.5]


def test_planted_members_are_not_measured_and_enter_no_row(knows):
    asked = knows(payoff_rows(PAYOFF))
    run = by_hand(matrix(PAYOFF), prefer=(1, 1), members=("agent_1=noop",))
    credit = measure_critic_credit(run, reference="noop", episodes=4)
    assert all(mask.tolist() == [[True, False]] * len(mask) for mask in asked)
    assert credit.value[0] == 4 - 1
    for values in (credit.value.tolist(), *ends(credit), credit.gradient_weight.tolist()):
        assert math.isnan(values[1])
    assert credit.forks is not None
    assert credit.forks.number.tolist() == [4, 0]
    document = json.loads(to_json(estimate_document(run, "critic", credit)))
    assert document["agents"]["agent_1"] == {"value": None, "interval": None}
    assert document["gradient_weight"]["agents"]["agent_1"] is None
    text = credit_text(run, [estimate_document(run, "critic", credit)])
    assert "agent_1  not measured" in text
    assert "agent_1 (noop) did not learn" in text


class Mortal(TwoStep):
    """The two-step game, in which the second agent dies after its first action (and is taken to play 1)."""

    def advance(self, task: TwoStepTask, action: torch.Tensor, clock: Clock) -> tuple[TwoStepTask, Outcome]:
        dead = task.place > 0
        return super().advance(task, torch.stack([action[:, 0], torch.where(dead, 1, action[:, 1])], 1), clock)

    def observe(self, task: TwoStepTask) -> View:
        view = super().observe(task)
        alive = torch.stack([torch.ones_like(task.place) > 0, task.place == 0], 1)
        only_first = torch.tensor([True, False]) | alive.unsqueeze(-1)
        return View(view.obs * alive.unsqueeze(-1), view.state, only_first, alive)


def test_decisions_of_the_dead_do_not_count(knows):
    asked = knows(two_step_rows)
    run = by_hand(Mortal(), prefer=(1, 1))
    credit = measure_critic_credit(run, reference="random", episodes=4)
    assert credit.value.tolist() == [(0.25 + 3.5) / 2, 0]
    assert credit.returns is not None
    assert credit.returns.explained_variance == pytest.approx(1)
    assert [True, False] in asked[1].tolist()
    assert credit.forks is not None
    assert credit.forks.number.tolist() == [8, 4] == [min(8, 64), min(4, 64)]


def test_an_agent_that_never_decides_has_no_value(knows):
    class Stillborn(Mortal):
        def observe(self, task: TwoStepTask) -> View:
            return super().observe(TwoStepTask(torch.full_like(task.place, 2)))

    knows(lambda state, action: torch.ones(*action.shape, 2))
    credit = measure_critic_credit(by_hand(Stillborn(), prefer=(1, 1)), reference="random", episodes=4)
    assert credit.value[0] == 0
    assert math.isnan(credit.value[1])


def test_values_learned_in_units_of_a_reward_scale_are_given_in_raw_units(knows):
    knows(payoff_rows([[0.25, 0.75], [1.0, 2.5]]))  # what a critic learns of rewards divided by 4
    credit = measure_critic_credit(replace(by_hand(matrix(PAYOFF), prefer=(1, 1)), reward_scale=4.0), reference="noop", episodes=4)
    assert credit.value.tolist() == [7, 6]
    assert credit.forks is not None
    assert credit.forks.calibration.slope == pytest.approx(1)
    assert credit.gradient_weight.tolist() == pytest.approx([2 * 0.975 * 0.025 * 7, 2 * 0.975 * 0.025 * 6], rel=1e-4)


@dataclass(frozen=True)
class Left:
    """Steps left."""

    steps: torch.Tensor


class Drip(NativeEnv[Left]):
    """Pays 1 at every step and is cut after ten."""

    def __init__(self):
        self.spec = TeamSpec("drip", ("a", "b"), num_actions=2, obs_dim=1, state_dim=1, episode_limit=10, noop=(0, 0))

    def begin(self, clock: Clock) -> Left:
        return Left(torch.full_like(clock.seed, 10))

    def advance(self, task: Left, action: torch.Tensor, clock: Clock) -> tuple[Left, Outcome]:
        left = task.steps - 1
        return Left(left), Outcome(torch.ones(len(left)), None, torch.zeros_like(left) > 0, left == 0)

    def observe(self, task: Left) -> View:
        everyone = torch.ones(len(task.steps), 2, dtype=torch.bool)
        seen = task.steps.unsqueeze(1) / 10
        return View(seen.unsqueeze(1).expand(-1, 2, -1), seen, everyone.unsqueeze(-1).expand(-1, -1, 2), everyone)


def test_a_truncated_return_ends_in_the_critics_own_value_and_says_how_much_of_it(knows):
    """1 a step for ever is worth 1 / (1 - 0.8) = 5. 0.8^4 = 0.41 is below a half and 0.8^3 is not: the steps 0 to 6 count."""
    knows(lambda state, action: torch.full((*action.shape, 2), 5.0))
    credit = measure_critic_credit(by_hand(Drip(), prefer=(1, 1), gamma=0.8), reference="noop", episodes=4)
    assert credit.returns is not None
    assert credit.returns.bias == pytest.approx(0, abs=1e-12)
    assert (credit.returns.samples, credit.returns.episodes) == (7 * 4, 4)
    assert credit.own_share == pytest.approx(sum(0.8**left for left in range(4, 11)) / 7)


def test_where_the_discount_outlasts_the_time_limit_no_return_is_called_real(knows):
    knows(lambda state, action: torch.full((*action.shape, 2), 5.0))
    credit = measure_critic_credit(by_hand(Drip(), prefer=(1, 1), gamma=0.99), reference="noop", episodes=4)
    assert (credit.returns, credit.forks, credit.reliable) == (None, None, None)
    assert "no step could be set against a real return" in credit.why


def test_steps_are_left_out_by_time_and_never_by_how_the_episode_ended():
    env = make("native/foraging-8x8-2p-3f", relative_obs=False)
    played = record(valued_team(by_hand(env, members=("agent_0=forager",), gamma=0.95)), seeds_from(0, 32))
    assert 0 < played.truncated.sum() < 32
    limit = int(played.length[played.truncated].min())
    assert far_from_limit(played, 0.95).nonzero().squeeze(-1).tolist() == list(range(limit - 13))  # 0.95^13 > 1/2 > 0.95^14
    assert far_from_limit(replace(played, truncated=torch.zeros(32, dtype=torch.bool)), 0.95).all()


def test_returns_to_go_by_hand():
    """Rewards 1, 2, 4 with gamma 1/2; the second episode ends after two steps, with a tail of 8."""
    reward = torch.tensor([[1.0, 1.0], [2.0, 2.0], [4.0, 0.0]], dtype=torch.float64)
    found = returns_to_go(reward, torch.tensor([0.0, 8.0], dtype=torch.float64), torch.tensor([3, 2]), 0.5)
    assert found[:, 0].tolist() == [1 + 1 + 1, 2 + 2, 4]
    assert found[:2, 1].tolist() == [1 + 3, 2 + 4]


@pytest.mark.parametrize("kind", ["mlp", "gru"])
@pytest.mark.parametrize("algo", ["vdn", "coma"])
def test_a_record_is_the_episode_that_collecting_sees_and_its_rows_are_those_of_training(kind, algo):
    env = make("native/foraging-5x5-3p-1f", episode_limit=12)
    parts = {"network": NetworkConfig(kind=kind), "critic": CriticConfig(kind, hidden=8), "replay": ReplayConfig(window=8)}
    run = by_hand(env, members=("agent_2=random",), algo=algo, **parts)
    valued, seeds = valued_team(run), seeds_from(0, 6)
    played = record(valued, seeds)
    steps, _, _ = collect(
        env, begin(env, run.team, seeds), run.team, epsilon=valued.epsilon, steps=len(played.reward), explore=valued.explore
    )
    critic = valued.critic
    with torch.no_grad():
        rows = critic.rows(critic.unroll(steps.state, steps.obs, steps.episode_start), steps.action, steps.alive)
    same = played.running
    torch.testing.assert_close(played.rows[same].float(), rows[same])
    assert torch.equal(played.action[same], steps.action[same])
    assert torch.equal(played.decided[same], steps.alive[same])
    assert torch.equal(played.reward[same].float(), steps.reward[same])


def foraging(**options: Any) -> TeamEnv:
    """Short episodes."""
    return make("native/foraging-5x5-2p-1f", **{"episode_limit": 12, **options})


def parallel_foraging() -> TeamEnv:
    return PettingZooTeam(lambda: TeamParallelEnv(foraging()), name="wrapped", team_reward="sum")


@pytest.mark.parametrize("algo", ["vdn", "coma"])
@pytest.mark.parametrize("maker", [foraging, parallel_foraging], ids=["native", "parallel"])
def test_a_fork_with_the_action_that_was_taken_is_the_episode_itself(maker, algo, monkeypatch):
    parts = {"network": NetworkConfig(kind="gru"), "replay": ReplayConfig(window=8)}
    valued = valued_team(by_hand(maker(), algo=algo, gamma=0.9, **parts))
    monkeypatch.setattr(critic_episodes, "copies_at_once", lambda env: 3)
    played = record(valued, seeds_from(0, 5), keep_moments=True)
    time, episode = played.running.nonzero()[::7].unbind(-1)
    agent = torch.arange(len(time)) % 2
    returns, env_steps = play_on(valued, played, time, episode, agent, played.action[time, episode, agent])
    as_played = returns_to_go(played.reward, torch.zeros(5, dtype=torch.float64), played.length, 0.9)
    torch.testing.assert_close(returns, as_played[time, episode])
    assert env_steps == int((played.length[episode] - time).sum())
    valued.env.close()


@pytest.mark.parametrize("algo", ["vdn", "coma"])
def test_another_luck_moves_only_a_team_that_draws_its_actions(algo):
    valued = valued_team(by_hand(foraging(), algo=algo, gamma=0.9))
    played = record(valued, seeds_from(0, 16), keep_moments=True)
    time, episode = torch.zeros(16, dtype=torch.int64), torch.arange(16)
    taken = played.action[0, :, 0]
    lucks = [play_on(valued, played, time, episode, torch.zeros_like(time), taken, luck=luck)[0] for luck in (0, 1, 1)]
    assert torch.equal(lucks[1], lucks[2])
    assert torch.equal(lucks[0], lucks[1]) == (algo == "vdn")


def test_real_changes_of_a_team_that_draws_its_actions_are_means_over_its_luck(knows):
    """Outputs (0, 1) and epsilon 1: everybody at random, so 2B is worth 2.5 and 2A 7; gamma 1/2: the first action is worth 2.25."""
    of_start = torch.tensor([[3.5, 1.25], [0.0, 0.0]])  # the second agent's first action does nothing
    knows(lambda state, action: of_start.expand(len(state), 2, 2))
    run = by_hand(TwoStep(), prefer=(1, 1), algo="coma", exploration=ExplorationConfig(end=1.0))
    valued = valued_team(run)
    played = record(valued, seeds_from(0, 120), keep_moments=True)
    first_only = torch.tensor([True, False])
    rho = torch.full_like(played.rows, 0.5)
    checked, _ = check_forks(valued, played, first_only, rho, 120, seed=0)
    assert checked is not None
    assert checked.calibration.slope == pytest.approx(1, abs=0.15)
    assert checked.calibration.correlation > 0.8
    assert checked.real[1] == 0


def test_episodes_do_not_depend_on_how_many_are_played_side_by_side(monkeypatch):
    valued = valued_team(by_hand(foraging()))
    whole = record(valued, seeds_from(0, 7))
    monkeypatch.setattr(critic_episodes, "copies_at_once", lambda env: 3)
    parts = record(valued, seeds_from(0, 7))
    assert torch.equal(whole.length, parts.length)
    assert torch.equal(whole.action[whole.running], parts.action[whole.running])
    torch.testing.assert_close(whole.rows[whole.running], parts.rows[whole.running], rtol=1e-4, atol=1e-5)


def test_credit_depends_on_its_seed_alone_and_draws_nothing_global():
    run = by_hand(foraging(), algo="coma")
    before = torch.get_rng_state()
    first, again, other = (measure_critic_credit(run, reference="random", episodes=8, seed=seed, forks=4) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.value, again.value)
    figures = [credit.forks.calibration for credit in (first, again, other) if credit.forks is not None]
    assert figures[0] == figures[1] != figures[2]
    assert torch.equal(first.value, other.value)  # the seed chooses forks, not episodes


class Unplayable(MatrixGame):
    def reset(self, seeds: torch.Tensor) -> Any:
        raise AssertionError("nothing may be played before the mistake is told")


@pytest.mark.parametrize(
    "parts, arguments, sentence",
    [
        ({"critic": CriticConfig("none")}, {}, "this run has no critic"),
        ({"members": ("agent_0=random", "agent_1=random")}, {}, "every member of this run is planted"),
        ({}, {"reference": "noop"}, "no action that does nothing for agent_0, agent_1: use the reference random"),
        ({}, {"reference": "still"}, "There are: noop, random, average"),
        ({}, {"episodes": 1}, "at least 2"),
        ({}, {"forks": -1}, "--forks -1 must be at least 0"),
        ({}, {"forks": 4, "method": "difference"}, "--forks 4 needs --method critic"),
    ],
)
def test_credit_that_cannot_be_measured_says_so_before_anything_is_played(parts, arguments, sentence):
    with pytest.raises(ConfigError, match=sentence):
        measure_credit(by_hand(Unplayable(PAYOFF), **parts), **{"method": "critic", **arguments})


def test_a_run_without_a_critic_is_told_how_to_train_one():
    with pytest.raises(ConfigError) as caught:
        valued_team(by_hand(matrix(PAYOFF), critic=CriticConfig("none")))
    assert caught.value.remedy == "train with --critic.kind mlp (beside vdn) or --algo coma"


def test_a_noop_that_is_masked_at_a_decision_is_named_with_its_agent():
    env = matrix([[1.0, 3.0, 0.0], [4.0, 10.0, 0.0]], noop=2)  # agent_0 has two actions
    run = by_hand(env, prefer=(1, 1))
    with pytest.raises(ConfigError, match=r"the no-op of agent_0 is not available at [0-9]+ of its [0-9]+ decisions") as caught:
        measure_critic_credit(run, reference="noop", episodes=2)
    assert caught.value.remedy == "use --reference random"
    planted = by_hand(env, prefer=(1, 1), members=("agent_0=random",))  # it is not its decision then
    assert math.isnan(measure_critic_credit(planted, reference="noop", episodes=2).value[0])


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A short run with a critic, a planted idler and rewards that were divided by their standard deviation."""
    options = {
        "members": "agent_1=noop", "critic.kind": "mlp", "critic.hidden": 8, "network.hidden": 8, "learner.standardise_rewards": True,
        "replay.rollout_steps": 16, "replay.num_envs": 8, "evaluation.episodes": 4, "evaluation.final_episodes": 4,
    }  # fmt: skip
    return train("native/spread", algo="vdn", steps=256, options=options, out=tmp_path_factory.mktemp("small") / "run")


def test_the_reward_scale_comes_from_the_checkpoint(small_run):
    scale = small_run.reward_scale
    assert scale != 1
    parts = {"env": small_run.env, "team": small_run.team, "networks": small_run.networks}
    unscaled = ByHand(small_run.folder, small_run.config, small_run.checkpoint, **parts)
    raw, plain = (measure_credit(run, method="critic", reference="noop", episodes=4) for run in (small_run, unscaled))
    measured = ~plain.value.isnan()
    torch.testing.assert_close(raw.value[measured], scale * plain.value[measured])


def test_the_command_prints_one_document_with_calibration_verdict_and_gradient_weight(small_run, capsys):
    words = [
        "credit",
        str(small_run.folder),
        "--method",
        "critic",
        "difference",
        "--reference",
        "noop",
        "random",
        "--episodes",
        "4",
        "--json",
        "-q",
    ]
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(item["method"], item["reference"]) for item in document["estimates"]] == [
        ("critic", "noop"), ("difference", "noop"), ("critic", "random"), ("difference", "random"),
    ]  # fmt: skip
    item = document["estimates"][0]
    assert {
        "method",
        "reference",
        "estimand",
        "unit",
        "env_steps",
        "agents",
        "calibration",
        "reliable",
        "why",
        "gradient_weight",
    } <= item.keys()
    assert item["agents"]["agent_1"] == {"value": None, "interval": None}
    assert item["agents"]["agent_0"].keys() == {"value", "interval"}
    figures = {"explained_variance", "explained_variance_interval", "correlation", "slope", "intercept", "bias", "samples", "episodes"}
    assert figures | {"own_share"} <= item["calibration"]["returns"].keys()
    assert figures | {"agents"} <= item["calibration"]["forks"].keys()
    assert item["reliable"] is False  # a critic of 256 env steps knows nothing
    assert item["gradient_weight"]["agents"].keys() == item["agents"].keys()
    assert "reliable" not in document["estimates"][1]
    assert (small_run.folder / "credit" / "critic-noop-step_256.json").is_file()


def test_the_command_says_critic_unreliable_and_never_lazy(small_run, capsys):
    assert main(["credit", str(small_run.folder), "--method", "critic", "--episodes", "4", "-q"]) == 0
    text = capsys.readouterr().out
    for part in ("critic unreliable: it explains", "calibration: returns:", "calibration: one-action forks:", "not measured",
                 "its mean is 0 for everybody, so it ranks nobody"):  # fmt: skip
        assert part in text
    assert "lazy" not in text


def test_without_a_critic_the_command_fails_before_the_other_methods_play(capsys, tmp_path):
    options = {"evaluation.episodes": 2, "evaluation.final_episodes": 2}
    run = train("native/two-step", algo="vdn", steps=256, options=options, out=tmp_path / "run")
    assert main(["credit", str(run.folder), "--method", "difference", "critic", "-q"]) == 2
    assert "this run has no critic" in capsys.readouterr().err
    assert not (run.folder / "credit").exists()


def test_measure_credit_gives_a_critic_credit(small_run):
    credit = measure_credit(small_run, method="critic", episodes=4, forks=2)
    assert isinstance(credit, CriticCredit)
    assert credit.reference == "noop"
    assert credit.forks is not None
    assert 0 < int(credit.forks.number.max()) <= 2
