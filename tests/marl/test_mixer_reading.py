"""Credit from a run's own mixer: hand arithmetic with a mixer that squares, who counts, units, and what is refused."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from teamcredit.envs.base import TeamEnv, View
from teamcredit.envs.matrix import MatrixGame
from teamcredit.envs.registry import make
from teamcredit.envs.two_step import TwoStep
from teamcredit.marl import mixer_reading
from teamcredit.marl.agents import utility_network
from teamcredit.marl.config import Config
from teamcredit.marl.errors import ConfigError
from teamcredit.marl.evaluate import CREDIT_SEEDS, play, seeds_from
from teamcredit.marl.mixer_reading import MixerCredit, check_arguments, measure_mixer_credit, record_decisions
from teamcredit.marl.policies import Team, parse_members
from teamcredit.marl.run import Run, train
from teamcredit.mixers import make_mixer
from teamcredit.mixers.base import Mixer, mix

torch.set_num_threads(1)


class Square(Mixer):
    """Q_tot = (sum_i Q_i)^2."""

    monotone, linear = False, False

    def forward(self, q: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return q.sum(-1).square()


@dataclass(frozen=True)
class ByHand(Run):
    """A run whose task, team and mixer are given, not read from a folder."""

    env: TeamEnv = field(kw_only=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    team: Team = field(kw_only=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    networks: Any = field(kw_only=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    reward_scale: float = field(default=1.0, kw_only=True)  # pyright: ignore[reportIncompatibleVariableOverride]


def by_hand(
    env: TeamEnv,
    mixer: Mixer | str,
    *,
    utilities: list | None = None,
    members: tuple[str, ...] = (),
    algo: str = "qmix",
    scale: float = 1.0,
) -> ByHand:
    """Untrained networks; with `utilities` (agent, action), agents that see those in every view."""
    spec, nowhere = env.spec, Path("nowhere")
    config = Config(spec.name, algo=algo, members=members)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = utility_network(replace(config.network, hidden=8, share=utilities is None), spec)
        if isinstance(mixer, str):
            mixer = make_mixer(mixer, num_agents=spec.num_agents, state_dim=spec.state_dim, embed_dim=8, hyper_dim=8)
    if utilities is not None:
        network.head.weight.data.zero_()
        network.head.bias.data = torch.tensor(utilities)
    overrides, planted = parse_members(members, spec, getattr(env, "scripted", {}))
    team = Team(network, overrides, planted)
    return ByHand(nowhere, config, nowhere, env=env, team=team, networks={"utility": network, "mixer": mixer}, reward_scale=scale)


def matrix(noop: int | None = 0, payoff: Any = ((1.0, 3.0), (4.0, 10.0))) -> MatrixGame:
    env = MatrixGame(torch.tensor(payoff))
    object.__setattr__(env.spec, "noop", None if noop is None else (noop,) * env.spec.num_agents)
    return env


UTILITIES = [[1.0, 2.0], [1.0, 3.0]]
"""Squared sums: nobody joins 4, the first 9, the second 16, both 25."""


def ends(credit: MixerCredit) -> tuple[list[float], list[float]]:
    assert credit.low is not None
    assert credit.high is not None
    return credit.low.tolist(), credit.high.tolist()


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_credit_against_the_noop_is_hand_arithmetic_in_raw_reward(scale):
    credit = measure_mixer_credit(by_hand(matrix(), Square(), utilities=UTILITIES, scale=scale), reference="noop", episodes=4)
    assert credit.value.tolist() == [scale * ((9 - 4) + (25 - 16)) / 2, scale * ((16 - 4) + (25 - 9)) / 2]
    assert ends(credit) == (credit.value.tolist(), credit.value.tolist())
    assert credit.total == scale * 21
    assert (credit.draws, credit.sum_error, credit.episodes, credit.env_steps, credit.evaluations) == (1, 0, 4, 4, 4 * 4)
    assert (credit.reference, credit.unit) == ("noop", "learned discounted team return per decision")
    assert credit.estimand.startswith(
        "learned Q_tot lost when one decision of the agent is replaced by the reference, averaged over all orders"
    )


def test_integrated_gradients_against_the_noop_are_hand_arithmetic():
    """f = (q_0 + q_1)^2 from (1, 1) to (2, 3): the slope is 2 (2 + 3t), on average 7, for both."""
    run = by_hand(matrix(), Square(), utilities=UTILITIES, scale=10.0)
    credit = measure_mixer_credit(run, reference="noop", episodes=4, how="integrated-gradients")
    assert credit.value.tolist() == pytest.approx([70, 140])
    assert credit.total == 210
    assert 0 <= credit.sum_error < 1e-4
    assert "integrated gradients" in credit.method


def test_slopes_are_not_called_credit_and_know_no_reward_unit():
    run = by_hand(matrix(), Square(), utilities=UTILITIES, scale=10.0)
    credit = measure_mixer_credit(run, reference="noop", episodes=4, how="gradient")
    assert credit.value.tolist() == [10, 10]  # 2 (2 + 3)
    assert math.isnan(credit.total)
    assert "not credit" in credit.method
    assert "no credit" in credit.estimand
    assert credit.reference == "none"


def test_against_random_the_outputs_of_joint_draws_are_averaged():
    """v is 13.5 with nobody (4, 9, 16, 25), 17, 20.5 and 25: phi = 4 and 7.5. The mean utilities 1.5 and 2 would give 12.25 for nobody."""
    run = by_hand(matrix(), Square(), utilities=UTILITIES)
    credit = measure_mixer_credit(run, reference="random", episodes=200, draws=4)
    (low, high) = ends(credit)
    for agent, truth in enumerate((4.0, 7.5)):
        assert low[agent] < truth < high[agent]
        assert high[agent] - low[agent] < 0.2
    assert credit.total == pytest.approx(float(credit.value.sum()))
    assert abs(credit.total - 11.5) < 0.3
    assert credit.draws == 4
    assert "4 joint draws" in credit.resampled
    again, other = (measure_mixer_credit(run, reference="random", episodes=200, draws=4, seed=seed) for seed in (0, 1))
    assert torch.equal(again.value, credit.value)
    assert ends(again) == (low, high)
    assert ends(other) != (low, high)


@pytest.mark.parametrize("how", ["shapley", "integrated-gradients"])
@pytest.mark.parametrize("reference, gaps", [("noop", [1.0, 2.0]), ("random", [0.5, 1.0])])
def test_the_credit_of_a_sum_is_its_gaps_exactly(how, reference, gaps):
    run = by_hand(matrix(), "vdn", utilities=UTILITIES, algo="vdn")
    credit = measure_mixer_credit(run, reference=reference, episodes=3, how=how)
    assert credit.value.tolist() == gaps
    assert (credit.draws, credit.sum_error, credit.total) == (1, 0, sum(gaps))
    assert "vdn mixer" in credit.method


def test_the_recorded_decisions_are_those_of_the_team_as_it_is_evaluated():
    env = make("native/foraging-8x8-3p-3f")
    run = by_hand(env, "qmix", members=("agent_1=random",))
    seeds = seeds_from(CREDIT_SEEDS, 6)
    played = record_decisions(run, seeds)
    assert played.env_steps == play(env, run.team, seeds).env_steps
    assert played.decided.any(0).tolist() == [True, False, True]
    assert (played.taken[:, 1] == 0).all()
    allowed = played.utilities.masked_fill(~played.available, -torch.inf).amax(-1)
    assert torch.equal(played.taken[:, [0, 2]], allowed[:, [0, 2]])


def test_credit_of_episodes_is_the_mean_over_decisions_of_the_values_training_learned():
    """Every step's game written out with the function training mixes with; steps of short and long episodes weigh as their episode does."""
    env = make("native/foraging-5x5-2p-1f")
    run = by_hand(env, "qmix")
    with torch.no_grad():
        for parameter in run.networks["mixer"].parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    played = record_decisions(run, seeds_from(CREDIT_SEEDS, 5))
    absent = played.utilities[..., 0]
    per_episode: dict[int, list[torch.Tensor]] = {}
    with torch.no_grad():
        for step, episode in enumerate(played.episode.tolist()):
            q, r = played.taken[step].tolist(), absent[step].tolist()
            joint = torch.tensor([r, [q[0], r[1]], [r[0], q[1]], q])
            state = played.state[step].expand(4, -1)
            nobody, first, second, both = mix(run.networks["mixer"], joint, state, torch.ones(4, 2, dtype=torch.bool)).squeeze(-1)
            phi = torch.stack([(first - nobody + both - second) / 2, (second - nobody + both - first) / 2])
            per_episode.setdefault(episode, []).append(phi)
    truth = torch.stack([torch.stack(steps).mean(0) for steps in per_episode.values()]).mean(0)
    assert truth.abs().min() > 1e-3
    credit = measure_mixer_credit(run, reference="noop", episodes=5)
    torch.testing.assert_close(credit.value.float(), truth, atol=1e-5, rtol=1e-4)
    assert credit.total == pytest.approx(float(credit.value.sum()), rel=1e-6)


def test_a_planted_member_has_no_credit_and_takes_none():
    env = make("native/foraging-8x8-3p-3f")
    run = by_hand(env, "qmix", members=("agent_1=random",))
    credit = measure_mixer_credit(run, reference="noop", episodes=4)
    assert credit.value.isnan().tolist() == [False, True, False]
    assert credit.total == pytest.approx(float(credit.value.nansum()), rel=1e-5)
    assert credit.evaluations == len(record_decisions(run, seeds_from(CREDIT_SEEDS, 4)).time) * 4


class SecondDies(TwoStep):
    """The two-step game, in whose second step the second agent is dead; action 0 does nothing."""

    def observe(self, task: Any) -> View:
        alive = torch.stack([torch.ones_like(task.place, dtype=torch.bool), task.place == 0], -1)
        return replace(super().observe(task), alive=alive)


def test_agents_that_die_are_credited_for_their_own_decisions_only():
    """First step 7 and 14 as in the one-step game; then q = (2, 0) against (1, 0): 4 - 1 for the survivor alone."""
    env = SecondDies()
    object.__setattr__(env.spec, "noop", (0, 0))
    run = by_hand(env, Square(), utilities=UTILITIES)
    credit = measure_mixer_credit(run, reference="noop", episodes=3)
    assert credit.value.tolist() == [(7 + 3) / 2, 14]
    assert math.isnan(credit.total)  # the two means are over different steps
    slopes = measure_mixer_credit(run, reference="noop", episodes=3, how="gradient")
    assert slopes.value.tolist() == [(10 + 4) / 2, 10]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A trained run of qmix with standardised rewards."""
    options = {"replay.rollout_steps": 16, "replay.num_envs": 4, "network.hidden": 8, "env.episode_limit": 10, "evaluation.episodes": 4,
               "evaluation.final_episodes": 4, "learner.standardise_rewards": True, "compile": "off"}  # fmt: skip
    out = tmp_path_factory.mktemp("small") / "run"
    return train("native/foraging-8x8-2p-3f", algo="qmix", steps=256, options=options, out=out)


@pytest.mark.parametrize("how", ["shapley", "integrated-gradients", "gradient"])
@pytest.mark.parametrize("reference", ["noop", "random"])
def test_a_trained_run_is_read_in_every_way(small_run, how, reference):
    credit = measure_mixer_credit(small_run, reference=reference, episodes=6, how=how)
    assert credit.low is not None
    assert credit.high is not None
    assert (credit.low <= credit.value).all()
    assert (credit.value <= credit.high).all()
    if how == "gradient":
        assert (credit.value > 0).all()
    else:
        assert credit.sum_error < 1e-3
        assert credit.total == pytest.approx(float(credit.value.sum()), abs=1e-3)
        # QMIX is monotone and the team greedy: against either reference no decision can be worth less than nothing.
        assert (credit.value >= -1e-6).all()


def test_the_scale_rewards_were_learned_in_is_undone(small_run):
    learned = ByHand(
        small_run.folder, small_run.config, small_run.checkpoint, env=small_run.env, team=small_run.team, networks=small_run.networks
    )
    assert small_run.reward_scale != 1
    raw, unscaled = (measure_mixer_credit(run, reference="noop", episodes=4) for run in (small_run, learned))
    torch.testing.assert_close(raw.value, unscaled.value * small_run.reward_scale)
    assert raw.total == pytest.approx(unscaled.total * small_run.reward_scale)


def test_steps_read_in_pieces_give_the_same_credit(small_run, monkeypatch):
    whole = measure_mixer_credit(small_run, reference="noop", episodes=4)
    monkeypatch.setattr(mixer_reading, "_AT_ONCE", 4 * 7)  # seven steps at a time
    torch.testing.assert_close(measure_mixer_credit(small_run, reference="noop", episodes=4).value, whole.value)


PLANTED, NO_NOOP = ("agent_0=random", "agent_1=random"), "no action that does nothing for agent_0, agent_1: use the reference random"
MASKED = "the no-op of agent_0 is not available at [0-9]+ of its [0-9]+ decisions"


@pytest.mark.parametrize(
    "run, arguments, sentence, remedy",
    [
        (lambda: by_hand(matrix(), "none", algo="iql"), {}, r"this run \(iql\) has no mixer", "--algo vdn or --algo qmix"),
        (lambda: by_hand(matrix(), "vdn", members=PLANTED), {}, "every member of this run is planted", "difference"),
        (lambda: by_hand(matrix(), "qmix"), {"reference": "average"}, "its reference is noop or random", ""),
        (lambda: by_hand(matrix(), "qmix"), {"episodes": 1}, "at least 2", ""),
        (lambda: by_hand(matrix(), "qmix"), {"draws": 0}, "at least 1 a step", ""),
        (lambda: by_hand(TwoStep(), "qmix"), {}, NO_NOOP, ""),
        (lambda: by_hand(matrix(2, [[1.0, 3.0, 0.0], [4.0, 10.0, 0.0]]), "qmix"), {}, MASKED, "use --reference random"),
        (lambda: by_hand(matrix(0, torch.zeros((2,) * 13).tolist()), "qmix"), {}, "13 agents learn in this run", "integrated gradients"),
    ],
)
def test_what_a_mixer_cannot_say_is_refused_with_what_to_do(run, arguments, sentence, remedy):
    with pytest.raises(ConfigError, match=sentence) as caught:
        measure_mixer_credit(run(), **{"reference": "noop", "episodes": 4, **arguments})
    assert remedy in caught.value.remedy


def test_a_run_of_coma_is_told_which_runs_have_a_mixer():
    run = by_hand(matrix(), "vdn", algo="coma")
    del run.networks["mixer"]
    with pytest.raises(ConfigError, match=r"this run \(coma\) has no mixer") as caught:
        measure_mixer_credit(run, reference="random")
    assert caught.value.remedy == "train with --algo vdn or --algo qmix"


def test_an_unknown_way_is_refused_with_the_ways_there_are():
    with pytest.raises(ConfigError, match="use one of shapley, integrated-gradients, gradient"):
        check_arguments(by_hand(matrix(), "qmix"), "noop", episodes=4, how="banzhaf")
