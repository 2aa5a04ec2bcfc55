import math

import pytest
import torch
from teamcredit.credit import CloserLook, classify, explain, find_lazy, floors, measure_margin
from teamcredit.credit.evidence import begin, further_needed, log_e_below, update
from teamcredit.credit.verdict import Peaks, claims

torch.set_num_threads(1)
FLOAT = torch.float64
NAMES = ("no-op", "random")
EFFORT = (0.9, 0.03, 0.8, 0.02)
BUSY_LAST = (0.9, 0.03, 0.8, 0.9)


def margin(gain=0.8, sd=0.05, episodes=64, num_agents=4, return_range=(0.0, 1.0), fraction=0.25):
    noise = sd * torch.randn(2, episodes, generator=torch.Generator().manual_seed(1), dtype=FLOAT)
    team = torch.full((episodes,), 0.9, dtype=FLOAT)
    return measure_margin(
        team, (0.9 - gain + noise).clamp(0, 1), num_agents=num_agents, names=NAMES, fraction=fraction, return_range=return_range
    )


def team_of(effects, sd=0.1, seed=0):
    """play() for agents with known mean effects (agent, reference); records which agents were played on which episodes."""
    effects = torch.tensor(effects, dtype=FLOAT)
    asked = []

    def play(agents, episodes):
        asked.append((agents, episodes.tolist()))
        draw = torch.Generator().manual_seed(seed + int(episodes[0]))
        noise = torch.randn(*effects.shape, len(episodes), generator=draw, dtype=FLOAT)
        noisy = torch.where(effects.unsqueeze(-1) == 0, 0.0, sd * noise)
        return (effects.unsqueeze(-1) + noisy)[list(agents)].clamp(-1, 1)

    return play, asked


def test_the_margin_is_a_fraction_of_an_equal_share_of_the_gain():
    measured = margin()
    torch.testing.assert_close(measured.delta, 0.25 * measured.gain / 4)
    assert measured.problem is None
    assert measured.bound == 1.0
    assert (measured.gain_low < measured.gain).all()
    assert "before 5" in floors(measured)


def test_four_agents_get_the_class_they_were_built_with():
    play, asked = team_of([[0.4, 0.3], [0.0, 0.0], [0.001, -0.01], [0.0, 0.3]])
    contributing, idle, busy, guard = find_lazy(play, margin(), effort=EFFORT)
    assert [v.verdict for v in (contributing, idle, busy, guard)] == ["contributing", "lazy-idle", "lazy-busy", "guard"]
    assert contributing.episodes < idle.episodes
    assert idle.e_below[0] > 20
    assert guard.effort == 0.02
    assert [len(agents) for agents, _ in asked] == sorted((len(agents) for agents, _ in asked), reverse=True)


def test_a_guard_that_stands_still_and_matters_is_never_lazy():
    for seed in range(40):
        play, _ = team_of([[0.4, 0.4], [0.0, 0.12], [0.4, 0.4], [0.4, 0.4]], sd=0.3, seed=1000 * seed)
        assert not find_lazy(play, margin(), effort=EFFORT)[1].verdict.startswith("lazy")


def test_pairs_start_after_the_margins_episodes_and_none_is_used_twice():
    play, asked = team_of([[0.4, 0.3], [0.0, 0.0], [0.0, 0.0], [0.05, 0.05]])
    find_lazy(play, margin(episodes=64), effort=EFFORT, batch=32, max_pairs=100)
    played = [episode for _, episodes in asked for episode in episodes]
    assert played == list(range(64, 164))


def found(share=(0.0, 0.0), room="shown", **other) -> CloserLook:
    rest = {"substitutes": (), "headroom": 0.3, "stand_in": "agent 3", "influence": 0.5, "gains_by_idling": False, "env_steps": 0}
    return CloserLook(share=share, room=room, **{**rest, **other})


def test_a_closer_look_is_taken_at_agents_of_small_effect_alone_and_tells_them_apart():
    play, _ = team_of([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.4, 0.4]])
    asked = []

    def look(agents):
        asked.append(agents)
        return [found(share=(0.3, None)), found(room="excluded"), found()]

    verdicts = find_lazy(play, margin(), effort=BUSY_LAST, look=look)
    assert [v.verdict for v in verdicts] == ["redundant", "not-needed", "lazy-busy", "contributing"]
    assert asked == [(0, 1, 2)]
    assert "its Shapley value is about 0.3: teammates can do its part" in explain(verdicts[0])
    assert "nobody tried in its place makes the team better" in explain(verdicts[1])
    assert "with agent 3 in its place the team gains 0.3" in explain(verdicts[2])


def test_an_agent_that_does_harm_is_told_from_one_that_does_nothing():
    """Below 0 against doing nothing is harm; below 0 against random alone is not: random helps there."""
    play, _ = team_of([[-0.2, 0.0], [0.0, -0.2], [-0.2, -0.2], [0.4, 0.4]])
    idle = torch.tensor([[True, False]] * 4)
    verdicts = find_lazy(play, margin(), effort=BUSY_LAST, idle_references=idle)
    assert [v.verdict for v in verdicts] == ["harmful", "lazy-idle", "harmful", "contributing"]
    assert explain(verdicts[0]).startswith('agent 0 harms the team: with "no-op" in its place the team gains about 0.2')


def test_an_effect_at_the_margin_stays_undecided_and_an_unfinished_one_says_how_many_pairs_it_needs():
    measured = margin()
    at_margin = measured.delta.tolist()
    play, _ = team_of([at_margin, [0.01, 0.01], [0.4, 0.4], [0.4, 0.4]], sd=0.2)
    boundary, unfinished, *_ = find_lazy(play, measured, effort=EFFORT, max_pairs=64)
    assert boundary.verdict == unfinished.verdict == "undecided"
    assert unfinished.needed is not None
    assert unfinished.needed > 0
    longer = find_lazy(play, measured, effort=EFFORT, max_pairs=64 + 3 * unfinished.needed)
    assert longer[1].verdict == "lazy-idle"


def test_a_team_that_does_not_beat_its_reference_gets_no_verdict_and_no_episode_is_played():
    play, asked = team_of([[0.0, 0.0]] * 4)
    lines = []
    verdicts = find_lazy(play, margin(gain=0.0, sd=0.2), report=lines.append)
    assert asked == []
    assert {v.verdict for v in verdicts} == {"undecided"}
    assert "not learned to beat" in explain(verdicts[0])
    assert "not learned to beat" in lines[0]


def test_an_agent_without_a_no_op_is_judged_on_random_alone_and_is_never_idle():
    effects = [[0.0, 0.0], [0.0, 0.0], [0.9, 0.0], [0.4, 0.4]]
    applies = torch.tensor([[True, True], [False, True], [False, True], [True, True]])
    play, _ = team_of(effects)
    _, second, third, _ = find_lazy(play, margin(), effort=(0.0, None, None, 0.9), applies=applies)
    assert second.references == third.references == ("random",)
    assert second.verdict == third.verdict == "lazy-busy"
    assert "cannot idle" in second.note
    with pytest.raises(ValueError, match="no reference applies to agent 1"):
        find_lazy(play, margin(), applies=torch.tensor([[True, True], [False, False], [True, True], [True, True]]))


def test_a_policy_that_is_its_reference_is_told_so():
    play, _ = team_of([[0.0, 0.001], [0.4, 0.4], [0.4, 0.4], [0.4, 0.4]])
    same = torch.tensor([[True, False], [True, True], [False, False], [False, False]])
    verdicts = find_lazy(play, margin(), effort=(0.0, 0.9, 0.9, 0.9), identical=lambda: same)
    assert verdicts[0].identical == (True, False)
    assert verdicts[1].identical == (False, False)  # a difference was seen
    assert 'did just what "no-op" would do' in explain(verdicts[0])


def test_an_unknown_return_range_marks_every_verdict_approximate():
    play, _ = team_of([[0.4, 0.3], [0.0, 0.0], [0.001, -0.01], [0.0, 0.3]])
    measured = margin(return_range=None)
    assert measured.approximate
    verdicts = find_lazy(play, measured, effort=EFFORT)
    assert [v.verdict for v in verdicts] == ["contributing", "lazy-idle", "lazy-busy", "guard"]
    assert all(v.approximate and v.episodes >= 64 and "approximate" in v.note for v in verdicts)
    assert "range of returns is unknown" in explain(verdicts[1])


@pytest.mark.parametrize("teams", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_false_lazy_verdicts_over_a_whole_team_stay_within_alpha(teams):
    """Everyone sits exactly at the margin through a rare decisive episode: the hardest truth."""
    delta = 0.05
    measured = measure_margin(
        torch.ones(400), torch.full((1, 400), 0.4), num_agents=3, names=("random",), fraction=0.25, return_range=(0.0, 1.0)
    )
    torch.testing.assert_close(measured.delta, torch.tensor([delta], dtype=FLOAT), atol=1e-6, rtol=0)
    wrong = 0
    for team in range(teams):
        draw = torch.Generator().manual_seed(team)

        def play(agents, episodes, draw=draw):
            return (torch.rand(len(agents), 1, len(episodes), generator=draw) < delta + 1e-6).to(FLOAT)

        wrong += any(v.verdict.startswith("lazy") for v in find_lazy(play, measured, max_pairs=256))
    assert wrong / teams <= 0.05


def peaks(small, large) -> Peaks:
    none = torch.zeros_like(small)
    return Peaks(small, large, none, none)


def test_a_team_that_stands_still_is_not_one_of_guards():
    play, _ = team_of([[0.0, 0.3], [0.01, 0.3], [0.3, 0.3], [0.0, 0.3]])
    idle = torch.tensor([[True, False]] * 4)
    still = find_lazy(play, margin(), effort=[0.05, 0.0, 0.03, 0.0], idle_references=idle, max_pairs=256)
    # The third one's few actions are worth more than the margin: its place is earned, as those of a player who shoots once a game.
    assert [v.verdict for v in still] == ["undecided", "undecided", "contributing", "undecided"]
    assert "nobody in this team acts" in explain(still[0])
    assert still[0].episodes == 256
    dead = find_lazy(play, margin(), effort=[0.05, 0.0, 0.03, None], has_choice=[1.0, 1.0, 1.0, 0.0], idle_references=idle, max_pairs=256)
    assert [v.verdict for v in dead] == ["undecided", "undecided", "contributing", "not-assessed"]
    awake = find_lazy(play, margin(), effort=[0.05, 0.0, 0.8, 0.0], idle_references=idle, max_pairs=256)
    assert [v.verdict for v in awake] == ["guard", "guard", "contributing", "guard"]
    assert not any("nobody" in v.note for v in awake)


def test_lazy_needs_every_reference_and_contributing_needs_one():
    strong, none = math.log(1000.0), 0.0
    every = torch.ones(3, 2, dtype=torch.bool)
    small = torch.tensor([[strong, strong], [strong, none], [none, none]])
    large = torch.tensor([[none, none], [none, none], [none, strong]])
    shown = claims(peaks(small, large), every, every)
    assert shown.below.tolist() == [True, False, False]
    assert shown.above.tolist() == [False, False, True]
    assert shown.settled.tolist() == [False, False, True]  # the first may yet prove harmful


def test_what_a_reference_that_does_nothing_shows_is_acting_alone():
    every, idle = torch.ones(2, 2, dtype=torch.bool), torch.tensor([[True, False], [True, False]])
    large = torch.log(torch.tensor([[1.0, 500.0], [500.0, 1.0]]))
    shown = claims(peaks(torch.zeros(2, 2), large), every, idle)
    assert shown.above.tolist() == [True, True]
    assert shown.acting.tolist() == [False, True]
    assert not claims(peaks(torch.zeros(2, 2), large), every, torch.zeros_like(idle)).acting.any()


def test_contributing_pays_for_the_choice_of_reference():
    alone, of_two = torch.tensor([[True, False]]), torch.tensor([[True, True]])
    log_e = torch.log(torch.tensor([[30.0, 1.0]]))
    assert claims(peaks(torch.zeros(1, 2), log_e), alone, alone).above.all()
    assert not claims(peaks(torch.zeros(1, 2), log_e), of_two, of_two).above.any()


SMALL = {"above": False, "below": True, "harms": False, "effort": 0.05, "has_choice": 0.9, "look": None, "delta": (0.1, 0.1)}
CASES = {
    "contributing": {"above": True, "below": False, "effort": 0.8},
    "guard": {"above": True, "below": False},
    "contributing by the little it does": {"above": True, "below": False, "acting": True},
    "harmful": {"harms": True},
    "undecided": {"below": False},
    "not-assessed": {"has_choice": 0.01, "harms": True},
    "redundant": {"look": found(share=(0.0, 0.1))},
    "redundant by interaction": {"look": found(substitutes=("agent 1",), room="excluded")},
    "not-needed": {"look": found(room="excluded")},
    "undecided for want of headroom": {"look": found(room="open")},
    "lazy-idle": {"look": found()},
    "lazy-busy": {"look": found(), "effort": 0.1},
    "lazy-busy without a no-op": {"look": found(), "effort": None},
    "free-rider": {"look": found(gains_by_idling=True)},
}


@pytest.mark.parametrize("case", CASES)
def test_every_class_has_its_rule(case):
    assert classify(**{**SMALL, **CASES[case]}) == case.split(" ")[0]


def test_each_class_is_explained_in_one_sentence():
    play, _ = team_of([[0.4, 0.3], [0.0, 0.0], [0.001, -0.01], [0.05, 0.05]])
    told = [explain(v) for v in find_lazy(play, margin(), effort=EFFORT, names=("Ann", "Bo", "Cy", "Di"), max_pairs=128)]
    assert told[0].startswith("Ann contributes: with")
    assert told[1].startswith("Bo does not earn its place: it hardly ever acts (3% of its choices are actions), and replaced by")
    assert 'replaced by "no-op" the team loses 0 of 0.79' in told[1]
    assert told[2].startswith("Cy does not earn its place: it acts (80%")
    assert told[3].startswith("Di cannot be judged yet")
    assert all(sentence.endswith(".") for sentence in told)


def test_whoever_contributes_but_is_worse_than_a_reference_is_told_so():
    play, _ = team_of([[0.4, 0.3], [0.4, -0.3], [-0.3, 0.4], [0.4, 0.0]])
    verdicts = find_lazy(play, margin(), effort=[0.8, 0.8, None, 0.05], names=("Ann", "Bo", "Cy", "Di"))
    assert [v.verdict for v in verdicts] == ["contributing", "contributing", "contributing", "guard"]
    told = [explain(v) for v in verdicts]
    assert '; yet with "random" in its place the team gains about 0.2' in told[1]
    assert '; yet with "no-op" in its place the team gains about 0.' in told[2]  # nothing here counts as doing nothing: no harm is claimed
    assert not any("yet" in told[k] for k in (0, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: margin(fraction=25.0), "fraction of an equal share"),
        (lambda: measure_margin(torch.ones(4), torch.ones(1, 4), num_agents=2, names=("a", "b")), "2 reference names"),
        (lambda: measure_margin(torch.ones(4), torch.ones(1, 4), num_agents=2, names=("a",)), "no credit to share"),
        (lambda: find_lazy(lambda a, e: torch.zeros(4, 1, len(e)), margin()), r"expected \(4, 2, 32\)"),
        (lambda: find_lazy(lambda a, e: torch.full((4, 2, len(e)), math.nan), margin()), "NaN"),
        (lambda: find_lazy(lambda a, e: torch.full((4, 2, len(e)), 3.0), margin()), "return_range"),
        (lambda: find_lazy(lambda a, e: torch.zeros(4, 2, len(e)), margin(), batch=0), "at least 1 pair"),
    ],
)
def test_mistakes_are_refused_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_hopeless_pair_limit_is_announced():
    lines = []
    play, _ = team_of([[0.0, 0.0]] * 4)
    verdicts = find_lazy(play, margin(), effort=EFFORT, max_pairs=32, report=lines.append)
    assert "too few to call an agent lazy unless it harms" in lines[1]
    assert {v.verdict for v in verdicts} == {"undecided"}


def test_more_looks_make_a_wider_interval_of_the_gain_and_no_look_is_refused():
    team, replaced = torch.linspace(0, 1, 64).double(), torch.zeros(1, 64).double()
    once, often = (measure_margin(team, replaced, num_agents=2, names=("noop",), return_range=(0.0, 1.0), looks=looks) for looks in (1, 3))
    assert float(often.gain_low) < float(once.gain_low) < float(once.gain) == float(often.gain)
    with pytest.raises(ValueError, match="looks is 0"):
        measure_margin(team, replaced, num_agents=2, names=("noop",), looks=0)


def test_a_forecast_of_further_pairs_is_by_the_boldest_stake_endless_above_the_margin_and_nothing_where_all_is_shown():
    begun = begin(torch.tensor([0.1]), 1.0)
    missing = math.log(20) + math.log(2)  # the boldest stake has half the capital
    assert further_needed(begun, math.log(20)).tolist() == [math.ceil(missing / math.log1p(0.1 / 0.9))]
    assert further_needed(begun, math.log(20), 0.2).tolist() == [math.inf]
    shown = update(begun, torch.zeros(1, 64))
    assert float(log_e_below(shown)) > math.log(20)
    assert further_needed(shown, math.log(20)).tolist() == further_needed(shown, math.log(20), 0.2).tolist() == [0]
