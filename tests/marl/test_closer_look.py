"""What a closer look tells apart: lazy, redundant, not needed, free-riding; one-step games whose answers are hand arithmetic."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from teamcredit.credit.verdict import Verdict
from teamcredit.credit.words import explain
from teamcredit.envs.base import Step, TeamEnv, View
from teamcredit.envs.matrix import MatrixGame
from teamcredit.envs.randomness import Clock
from teamcredit.envs.registry import make
from teamcredit.marl.agents import UtilityNetwork
from teamcredit.marl.best_response import train_best_response
from teamcredit.marl.closer_look import measure_shares, pays_by_timeline
from teamcredit.marl.config import NetworkConfig
from teamcredit.marl.errors import ConfigError
from teamcredit.marl.evaluate import play, seeds_from
from teamcredit.marl.headroom import default_candidates, measure_headroom
from teamcredit.marl.influence import measure_influence
from teamcredit.marl.laziness import find_lazy, judge_team, older_teams
from teamcredit.marl.policies import Override, Policy, StandIn, Team, parse_members
from teamcredit.marl.references import reference_of
from teamcredit.marl.run import train


def always(action: list[int]) -> Policy:
    def act(view: View, clock: Clock) -> torch.Tensor:
        return torch.tensor(action).expand(view.alive.shape)

    return act


def game(payoff: Any) -> MatrixGame:
    """A one-step game in which action 0 does nothing."""
    env = MatrixGame(payoff)
    object.__setattr__(env.spec, "noop", (0,) * env.spec.num_agents)
    return env


def network(env: TeamEnv, kind: str = "mlp") -> UtilityNetwork:
    torch.manual_seed(0)
    spec = env.spec
    shape = {"num_agents": spec.num_agents, "obs_dim": spec.obs_dim, "num_actions": spec.num_actions}
    return UtilityNetwork(NetworkConfig(kind=kind, hidden=8), **shape)


def playing(env: TeamEnv, joint: list[int]) -> Team:
    return Team(network(env), (Override(always(joint), torch.ones(env.spec.num_agents, dtype=torch.bool)),))


def judged(env: TeamEnv, team: Team, **options: Any) -> tuple[Verdict, ...]:
    """By doing nothing alone, which leaves no chance in one-step games."""
    options = {"margin_episodes": 32, **options}
    return judge_team(env, team, stands=[reference_of("noop", env, team)], **options).verdicts


OR_PAIR_AND_WORKER = [[[0.0, 1.0], [2.0, 3.0]], [[2.0, 3.0], [2.0, 3.0]]]


def test_of_an_or_pair_each_is_the_others_substitute_and_both_are_redundant():
    env = game(OR_PAIR_AND_WORKER)
    first, second, worker = judged(env, playing(env, [1, 1, 1]))
    assert [one.verdict for one in (first, second, worker)] == ["redundant", "redundant", "contributing"]
    assert worker.look is None
    assert first.look is not None
    assert first.look.substitutes == ("agent_1",)
    assert first.look.share == (1.0,)
    assert "agent_1 can do its part" in explain(first)


def test_substitutes_are_found_in_teams_too_large_to_enumerate():
    """Six agents: 0 and 1 are an OR pair worth 2, 2 to 4 add 1 each, 5 adds nothing."""
    in_team = (torch.arange(64).unsqueeze(1) >> torch.arange(5, -1, -1)) & 1  # row-major: agent 0 is the first axis
    value = 2.0 * (in_team[:, :2].sum(1) > 0) + in_team[:, 2:5].sum(1)
    env = game(value.view((2,) * 6).tolist())
    team = playing(env, [1] * 6)
    stand = reference_of("noop", env, team)
    margin = judge_team(env, team, stands=[stand], max_pairs=2, margin_episodes=8, look=False).margin
    shares = measure_shares(env, team, [0, 5], [stand], margin, episodes=48)
    assert shares.substitutes == {0: (1,), 5: ()}
    torch.testing.assert_close(shares.phi[0], torch.tensor([1.0, 1, 1, 1, 1, 0], dtype=torch.float64))


def test_an_idler_that_does_less_harm_without_a_teammate_is_not_replaced_by_it():
    """Agent 0 stays out, where joining would help (0, 1, .5 and 3 for nobody, 1, 0, both): against random it loses 1 beside agent 1 and
    .625 beside a random one. The interaction is -.375, but agent 0 earns nothing that agent 1 could stand in for."""
    env = game([[0.0, 1.0], [0.5, 3.0]])
    team = playing(env, [0, 1])
    stands = [reference_of(name, env, team) for name in ("noop", "random")]
    margin = judge_team(env, team, stands=stands[:1], max_pairs=2, margin_episodes=8, look=False).margin
    wide = replace(
        margin,
        references=("noop", "random"),
        gain=margin.gain.repeat(2),
        gain_low=margin.gain_low.repeat(2),
        gain_high=margin.gain_high.repeat(2),
    )
    shares = measure_shares(env, team, [0], stands, wide, episodes=2048)
    assert shares.substitutes == {0: ()}


def test_what_the_guard_the_walker_and_the_dummy_of_plate_and_door_are():
    env = make("native/plate-and-door")
    members, planted = parse_members(("guard=trained", "walker=trained", "dummy=trained"), env.spec, env.scripted)
    team = Team(network(env), members, planted)
    report = judge_team(env, team, stands=[reference_of(name, env, team) for name in ("noop", "random")])
    assert [one.verdict for one in report.verdicts] == ["guard", "contributing", "not-needed"]
    dummy = report.verdicts[2]
    assert dummy.look is not None
    assert (dummy.look.share, dummy.look.substitutes, dummy.look.room) == ((0.0, 0.0), (), "excluded")
    guard, walker, nobody = report.influence
    assert nobody == 0.0
    assert walker == 1.0
    assert 0 < guard < 1  # off the plate only when the walker comes to the door
    assert report.stages["closer look"] == dummy.look.env_steps
    assert list(report.stages) == ["contract", "margin", "influence", "pairs", "closer look"]
    assert report.env_steps == sum(report.stages.values())


COULD_EARN = [[0.0, 10.0, 0.0], [0.0, 10.0, 0.0], [5.0, 15.0, 5.0]]  # agent 1 earns 10 by action 1; agent 0 could earn 5 by action 2


@pytest.mark.parametrize(
    "candidates, verdict",
    [
        ({"a worker": [2, 2]}, "lazy-busy"),
        ({"an idler": [0, 0], "a worker": [2, 2]}, "lazy-busy"),
        ({"an idler": [0, 0]}, "not-needed"),
        ({}, "undecided"),
    ],
)
def test_an_agent_of_no_effect_is_lazy_only_if_somebody_in_its_place_does_better(candidates, verdict):
    env = game(COULD_EARN)
    tried = {name: always(joint) for name, joint in candidates.items()}
    first, second = judged(env, playing(env, [1, 1]), candidates=tried)
    assert (first.verdict, second.verdict) == (verdict, "contributing")
    assert first.look is not None
    if verdict == "lazy-busy":
        assert (first.look.headroom, first.look.stand_in) == (5.0, "a worker")
        assert "with a worker in its place the team gains 5" in explain(first)
    if verdict == "undecided":
        assert "would do better is not shown" in first.note


def test_without_a_closer_look_lazy_says_what_it_may_be():
    env = game(COULD_EARN)
    first, _ = judged(env, playing(env, [0, 1]), look=False)
    assert (first.verdict, first.look) == ("lazy-idle", None)
    assert "may be redundant or not needed" in first.note


def test_the_race_drops_those_that_are_excluded_and_never_tries_an_agent_in_its_own_place():
    env = game(COULD_EARN)
    team = playing(env, [1, 1])
    stand = reference_of("noop", env, team)
    margin = judge_team(env, team, stands=[stand], max_pairs=2, margin_episodes=8, look=False).margin
    candidates = {"an idler": always([0, 0]), "a worker": always([2, 2])}
    (first, second), steps = measure_headroom(env, team, [0, 1], candidates, margin, first_seed=0, batch=16)
    assert (first.room, second.room) == ("shown", "excluded")
    assert second.gain == -10.0
    assert (first.pairs, second.pairs) == (32, 16)
    assert steps == 16 * (1 + 4) + 16 * (1 + 2)  # the team and four worlds, then the two of the agent that is still open
    learned = Team(network(env))
    (own,), steps = measure_headroom(env, learned, [0], {"itself": StandIn(learned, 0)}, margin, first_seed=0)
    assert (own.room, own.gain, steps) == ("open", None, 0)


class Paying:
    """Every action but doing nothing costs the agent 1 of its own reward."""

    def __init__(self, env: TeamEnv):
        self.env, self.spec = env, env.spec

    def step(self, state: Any, action: torch.Tensor, *, autoreset: bool = True) -> tuple[Any, Step, View]:
        state, step, view = self.env.step(state, action, autoreset=autoreset)
        return state, replace(step, agent_reward=-(action != 0).to(torch.float32)), view

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)


def test_an_idler_that_saves_itself_the_cost_is_a_free_rider():
    env = Paying(game(COULD_EARN))
    first, _ = judged(env, playing(env, [0, 1]), candidates={"a worker": always([2, 2])})
    assert first.verdict == "free-rider"
    assert "gains by letting its teammates work" in explain(first)


def test_a_task_that_cannot_be_copied_has_no_influence():
    class Once(Paying):
        def select(self, state: Any, rows: torch.Tensor) -> Any:
            raise ValueError("this task draws on more than its seed")

    env = Once(game(COULD_EARN))
    assert measure_influence(env, playing(env, [1, 1]), 0) == ([None, None], 4)


def test_influence_of_a_one_step_game_is_whether_another_action_changes_the_reward():
    """Agent 0 changes the reward by action 2 alone, one of its two other actions; agent 1's 0 and 2 both lose 10."""
    env = game(COULD_EARN)
    (first, second), steps = measure_influence(env, playing(env, [1, 1]), 0)
    assert 0 < first < 1
    assert second == 1.0
    assert steps == 16 + 2 * 2 * 16  # 16 episodes of one decision, and for each agent two copies of each


def timeline(*effects: Mapping[str, float]) -> list[dict[str, Any]]:
    return [{"event": "train"}, *({"credit": {name: {"noop": {"effect": effect}} for name, effect in row.items()}} for row in effects)]


def test_the_timeline_shows_an_agent_that_left_its_work_to_others():
    handed_over = timeline(*[{"a": 1.0, "b": 0.0}] * 2, *[{"a": 0.5, "b": 0.5}] * 2, *[{"a": 0.0, "b": 1.0}] * 2)
    assert pays_by_timeline(handed_over, ("a", "b"), 0.5).tolist() == [True, False]
    only_fell = timeline(*[{"a": 1.0, "b": 0.0}] * 3, *[{"a": 0.0, "b": 0.0}] * 3)
    assert not pays_by_timeline(only_fell, ("a", "b"), 0.5).any()
    assert not pays_by_timeline(handed_over[:5], ("a", "b"), 0.5).any()
    assert not pays_by_timeline([{"credit": None}] * 9, ("a", "b"), 0.5).any()


def test_a_best_response_finds_what_the_agent_could_earn():
    env = game(COULD_EARN)
    team = playing(env, [0, 1])
    policy, steps = train_best_response((env, team), 0, 2048)
    assert steps >= 2048
    better = play(env, team, seeds_from(0, 4), [Override(policy, torch.tensor([True, False]))])
    assert better.returns.tolist() == [15.0] * 4
    with pytest.raises(ConfigError, match="beside memoryless teammates"):
        train_best_response((env, Team(network(env, "gru"))), 0, 16)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    options = {"members": "agent_1=noop", "replay.rollout_steps": 16, "replay.num_envs": 4, "network.hidden": 8,
               "env.episode_limit": 10, "evaluation.every": 64, "evaluation.episodes": 4, "evaluation.final_episodes": 4}  # fmt: skip
    return train("native/foraging-5x5-2p-1f", algo="vdn", steps=256, options=options, out=tmp_path_factory.mktemp("small") / "run")


def test_in_a_runs_agents_place_are_tried_teammates_random_and_its_older_checkpoints(small_run):
    assert list(default_candidates(small_run.env, small_run.team)) == ["the policy of agent_0", "random"]
    assert list(older_teams(small_run)) == ["itself at 64 env steps", "itself at 128 env steps"]
    assert older_teams(replace(small_run, folder=Path("nowhere"))) == {}


def test_a_best_response_is_trained_only_if_asked_for(small_run):
    with pytest.raises(ConfigError, match="--best-response -1 must be at least 0"):
        find_lazy(small_run, best_response=-1)
    recurrent = replace(small_run, config=replace(small_run.config, members=()))
    recurrent.__dict__["team"] = Team(network(small_run.env, "gru"))
    with pytest.raises(ConfigError, match="beside memoryless teammates"):
        find_lazy(recurrent, best_response=16)


def test_a_best_response_is_tried_in_its_own_agents_place_alone(tmp_path):
    members = "guard=trained,walker=trained,dummy=trained"
    run = train(
        "native/plate-and-door", algo="vdn", steps=0, options={"members": members, "evaluation.final_episodes": 2}, out=tmp_path / "run"
    )
    lines: list[str] = []
    report = find_lazy(run, margin_episodes=64, best_response=64, on_progress=lines.append)
    assert "training a best response of dummy for 64 env steps" in lines
    assert report.candidates == ("trained", "random", "its best response")
    dummy = report.verdicts[2]
    assert (dummy.verdict, dummy.look.headroom) == ("not-needed", 0.0)
