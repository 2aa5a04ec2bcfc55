"""Verdicts on teams with planted members: constructed cases whose answer is known, and what cannot be judged."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import torch
from teamcredit.envs.base import TeamEnv, View
from teamcredit.envs.matrix import MatrixGame
from teamcredit.envs.randomness import Clock
from teamcredit.envs.registry import make
from teamcredit.marl.agents import UtilityNetwork
from teamcredit.marl.config import NetworkConfig
from teamcredit.marl.errors import ConfigError
from teamcredit.marl.evaluate import play, seeds_from
from teamcredit.marl.laziness import LazyReport, judge_team, measure_effort
from teamcredit.marl.policies import Override, StandIn, Team, parse_members
from teamcredit.marl.references import default_references, reference_of
from teamcredit.marl.worlds import Worlds, identical_to_reference, measure_choice


def team(env: TeamEnv, members: tuple[str, ...] = ()) -> Team:
    """Untrained agents, some replaced by scripted members."""
    torch.manual_seed(0)
    spec = env.spec
    shape = {"num_agents": spec.num_agents, "obs_dim": spec.obs_dim, "num_actions": spec.num_actions}
    overrides, planted = parse_members(members, spec, getattr(env, "scripted", {}))
    return Team(UtilityNetwork(NetworkConfig(hidden=8), **shape), overrides, planted)


def judge(env: TeamEnv, members: tuple[str, ...], references: tuple[str, ...] = (), **options: Any) -> LazyReport:
    players = team(env, members)
    stands = [reference_of(name, env, players) for name in references or default_references(env.spec)]
    return judge_team(env, players, stands=stands, **{"margin_episodes": 64, **options})


FORAGERS = ("agent_0=forager", "agent_1=forager")


def test_the_idle_member_of_a_scripted_foraging_team_is_found():
    report = judge(make("native/foraging-6x6-3p-2f"), (*FORAGERS, "agent_2=noop"), max_pairs=128)
    foragers, idler = report.verdicts[:2], report.verdicts[2]
    assert [verdict.verdict for verdict in foragers] == ["contributing", "contributing"]
    assert all(verdict.effort is not None and verdict.effort > 0.1 for verdict in foragers)
    assert (idler.verdict, idler.effort, idler.references) == ("lazy-idle", 0, ("noop", "random"))
    assert (idler.identical, idler.effect[0], idler.pivotal[0]) == ((True, False), 0, 0)
    assert idler.look is not None
    assert (idler.look.room, idler.look.stand_in, idler.look.substitutes, idler.look.share[0]) == ("shown", "forager", (), 0)
    assert 0 < foragers[0].pivotal[0] <= 1
    assert report.env_steps == sum(report.stages.values())


def test_a_member_that_acts_at_random_is_identical_to_that_reference_and_still_contributes():
    """It lends its level now and then."""
    report = judge(
        make("native/foraging-6x6-3p-2f"), ("agent_0=forager", "agent_1=noop", "agent_2=random"), margin_episodes=128, max_pairs=64
    )
    mover = report.verdicts[2]
    assert (mover.verdict, mover.identical, mover.effect[1]) == ("contributing", (False, True), 0)


def test_verdicts_depend_on_the_seed_alone():
    env = make("native/foraging-5x5-2p-1f")
    first, again, other = (judge(env, FORAGERS, max_pairs=32, seed=seed) for seed in (0, 0, 1))
    assert first.verdicts == again.verdicts
    assert first.env_steps == again.env_steps > 0
    assert [verdict.e_above for verdict in first.verdicts] != [verdict.e_above for verdict in other.verdicts]


def test_a_team_no_better_than_its_reference_is_not_judged():
    env = make("native/foraging-5x5-2p-1f")
    report = judge(env, ("agent_0=random", "agent_1=noop"), ("random",), max_pairs=32)
    assert {verdict.verdict for verdict in report.verdicts} == {"undecided"}
    assert "has not learned to beat its reference" in report.verdicts[0].note


def test_a_gain_that_is_not_shown_at_once_is_measured_on_more_episodes():
    lines = []
    env = make("native/foraging-5x5-2p-1f")
    report = judge(env, FORAGERS, ("random",), max_pairs=32, margin_episodes=6, on_progress=lines.append)
    assert report.margin.problem is None
    assert report.margin.episodes in (12, 24)
    assert any("12 episodes instead of 6" in line for line in lines)


def test_a_team_that_is_clearly_worse_than_its_reference_is_not_measured_on():
    env = make("native/foraging-5x5-2p-1f")
    report = judge(env, ("agent_0=noop", "agent_1=noop"), ("random",), max_pairs=32, margin_episodes=256)
    assert report.margin.episodes == 256
    assert float(report.margin.gain_high) < 0


def test_a_team_that_is_its_reference_is_told_so():
    env = make("native/foraging-5x5-2p-1f")
    with pytest.raises(ConfigError, match='every agent of this team acts just as the reference "random" does'):
        judge(env, ("agent_0=random", "agent_1=random"), ("random",))
    players = team(env)
    with pytest.raises(ConfigError, match="replacing one changes nothing"):
        judge_team(env, players, stands=[replace(reference_of("random", env, players), policy=StandIn(players))])


def test_a_network_that_stands_in_for_itself_is_identical_and_its_peer_is_not():
    env = make("native/foraging-5x5-2p-1f")
    players, other = team(env), team(env, ("agent_1=noop",))
    policies = [StandIn(players, 0), StandIn(players), StandIn(other)]
    found = identical_to_reference(players, env.spec, ("peer:agent_0", "@1", "@2"), [None, None], policies)
    assert found.tolist() == [[True, True, True], [False, True, False]]


def test_effort_is_the_share_of_choices_on_which_an_agent_acts():
    env = make("native/foraging-8x8-2p-3f")
    effort = measure_effort(play(env, team(env, ("agent_0=noop", "agent_1=forager")), seeds_from(0, 8)), env.spec)
    assert effort[0] == 0
    assert effort[1] > 0.3
    without = make("native/two-step")
    assert measure_effort(play(without, team(without), seeds_from(0, 2)), without.spec) == [None, None]


def test_a_choice_is_counted_only_where_there_is_one():
    env = make("native/plate-and-door")
    players = team(env, ("guard=trained", "walker=trained", "dummy=trained"))
    assert measure_choice(play(env, players, seeds_from(0, 4))) == [1.0, 1.0, 1.0]
    observe = env.observe

    def bound(task: Any) -> View:
        view = observe(task)
        available = view.available.clone()
        available[:, 2, 1:] = False
        return replace(view, available=available)

    object.__setattr__(env, "observe", bound)
    assert measure_choice(play(env, players, seeds_from(0, 4))) == [1.0, 1.0, 0.0]
    verdicts = judge_team(env, players, stands=[reference_of("random", env, players)], max_pairs=64).verdicts
    assert verdicts[2].verdict == "not-assessed"


def always(action: list[int]) -> Override:
    def act(view: View, clock: Clock) -> torch.Tensor:
        return torch.tensor(action).expand(view.alive.shape)

    return Override(act, torch.ones(len(action), dtype=torch.bool))


def test_worse_than_doing_nothing_is_harmful_and_worse_than_random_alone_is_not():
    env = MatrixGame([[0.0, 10.0], [-4.0, 6.0]])  # the second agent earns 10, the first takes 4 away
    object.__setattr__(env.spec, "noop", (0, 0))
    players = Team(team(env).utility, (always([1, 1]),))
    verdicts = judge_team(
        env, players, stands=[reference_of(name, env, players) for name in ("noop", "random")], margin_episodes=32
    ).verdicts
    assert [verdict.verdict for verdict in verdicts] == ["harmful", "contributing"]
    assert verdicts[0].effect == (-4.0, pytest.approx(-2, abs=0.5))


class Unseeded:
    """A task that draws on more than its seed: every reset is another episode."""

    def __init__(self, env: TeamEnv):
        self.env, self.spec, self.calls = env, env.spec, count()

    def reset(self, seeds: torch.Tensor) -> tuple[Any, View]:
        return self.env.reset(seeds + 1000 * next(self.calls))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return getattr(self.env, name)


def test_a_task_that_its_seed_does_not_settle_is_judged_unpaired_and_says_so():
    lines: list[str] = []
    env = Unseeded(make("native/foraging-5x5-2p-1f"))
    report = judge(env, FORAGERS, margin_episodes=48, max_pairs=32, on_progress=lines.append)
    assert not report.paired
    assert "no two episodes are paired" in lines[0]
    assert report.influence == (None, None)
    assert [verdict.verdict for verdict in report.verdicts] == ["contributing", "contributing"]
    assert judge(make("native/foraging-5x5-2p-1f"), FORAGERS, max_pairs=32).paired


def test_a_stated_return_range_replaces_the_tasks_own_and_must_hold():
    env = make("native/foraging-5x5-2p-1f")
    assert judge(env, FORAGERS, max_pairs=32, return_range=(-1.0, 3.0)).margin.bound == 4
    with pytest.raises(ConfigError, match=r"--return-range 0,0.4 does not hold: an episode's team return was 1"):
        judge(env, FORAGERS, return_range=(0.0, 0.4))
    with pytest.raises(ConfigError, match="declares return_range"):
        Worlds(env, team(env, FORAGERS), [], return_range=(0.0, 0.4)).play(seeds_from(0, 8), [])
    object.__setattr__(env.spec, "return_range", None)
    assert judge(env, FORAGERS, max_pairs=32).margin.approximate
    assert not judge(env, FORAGERS, max_pairs=32, return_range=(0.0, 1.0)).margin.approximate


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"margin": 0.0}, "between 0 and 1"),
        ({"margin": 1.0}, "between 0 and 1"),
        ({"max_pairs": 1}, "between 2 and"),
        ({"max_pairs": 99_999}, "episode seeds of one --seed would not be enough"),
        ({"margin_episodes": 1}, "gives no interval"),
        ({"margin_episodes": 25_001}, "25,000 at most: 4 times as many may be needed"),
        ({"seed": 100}, "between 0 and 99"),
        ({"alpha": 1.0}, "chance of a false verdict"),
        ({"return_range": (1.0, 1.0)}, "must be below the highest"),
        ({"references": ("still",)}, "There are: noop, random, average"),
    ],
)
def test_laziness_that_cannot_be_tested_says_why(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        judge(make("native/foraging-5x5-2p-1f"), FORAGERS, **options)


def test_one_agent_alone_cannot_be_lazy():
    env = make("native/spread-1")
    with pytest.raises(ConfigError, match="one agent among teammates"):
        judge(env, ())
