"""Watching credit while a team learns: one error rate for the whole run, detection at the next look, a budget, and no touch of training."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from teamcredit.credit.evidence import floor_pairs
from teamcredit.envs.coalition import CoalitionTask
from teamcredit.envs.registry import make
from teamcredit.marl.agents import utility_network
from teamcredit.marl.checkpoint import list_checkpoints, read
from teamcredit.marl.cli_progress import kinds_of
from teamcredit.marl.config import Config, NetworkConfig
from teamcredit.marl.errors import ConfigError, Interrupted, LazyAgent
from teamcredit.marl.evaluate import play as play_episodes
from teamcredit.marl.evaluate import seeds_from
from teamcredit.marl.folder import read_metrics
from teamcredit.marl.policies import Override, Team
from teamcredit.marl.run import Run, resume, train
from teamcredit.marl.watch import BATCH, WatchState, begin_watch, log_e, observe, pairs_needed, restarted, update
from teamcredit.marl.watching import WATCH_SEEDS, Watcher, measure_gain
from torch import Tensor

DELTA = torch.tensor([0.1], dtype=torch.float64)


def pairs(*means: float, number: int = 8) -> Tensor:
    """Pairs of one reference whose differences all equal their agent's mean."""
    return torch.tensor(means, dtype=torch.float64).view(-1, 1, 1).expand(-1, 1, number).contiguous()


def watched(*looks: Tensor, alpha: float = 0.05, bound: float = 1.0) -> tuple[WatchState, list[tuple[int, str, int]]]:
    """The state after these looks, and (look, what, agent) of all that changed."""
    state, told = begin_watch(len(looks[0]), 1), []
    for number, look in enumerate(looks):
        state, alarms = update(state, look, DELTA, bound=bound, alpha=alpha)
        told += [(number, alarm.kind, alarm.agent) for alarm in alarms]
    return state, told


# The process ------------------------------------------------------------------------------------------------------------


def test_an_agent_that_turns_lazy_is_suspected_and_judged_at_the_next_look():
    state, effect = begin_watch(2, 1), [0.5, 0.5]

    def play(agents: tuple[int, ...], number: int) -> tuple[Tensor, int]:
        return pairs(*(effect[agent] for agent in agents), number=number), number * (1 + len(agents))

    for _ in range(2):
        state, seen = observe(state, play, DELTA, bound=1.0)
        assert not seen.alarms
    effect[1] = 0.0
    state, seen = observe(state, play, DELTA, bound=1.0)
    assert [(alarm.kind, alarm.agent) for alarm in seen.alarms] == [("suspect", 1), ("lazy", 1)]
    assert seen.alarms[1].pairs == 48 == 3 * BATCH
    assert seen.alarms[1].evidence >= 2 / 0.05
    assert seen.test_steps == 48 * 2  # of the team and of agent 1's world alone


def test_the_capital_after_48_zero_differences_by_hand():
    """Topped up by 1/2; the boldest of ten stakes has half of it, and each zero multiplies that by 1 + delta / (R - delta)."""
    state, _ = watched(pairs(0.0, 0.5))
    state, _ = update(state, pairs(0.0, number=48), DELTA, bound=1.0, alpha=1e-9, agents=(0,))
    shares = [0.5] + [0.5 / 9] * 9
    by_hand = 0.5 * sum(share * (1 + 2 ** (-j / 2) / 9) ** 48 for j, share in enumerate(shares))
    assert math.exp(log_e(state)[0][0]) == pytest.approx(by_hand, rel=1e-12)


def test_the_pairs_of_the_look_that_raised_a_suspicion_do_not_count():
    state, told = watched(pairs(0.0, 0.5))
    assert told == [(0, "suspect", 0)]
    assert math.exp(log_e(state)[0][0]) == pytest.approx(0.5)
    assert int(state.pairs[0]) == 0


def expected_capital(state: WatchState, looks: int) -> float:
    """E[M + what is left to top up] of agent 0 after so many more looks of one pair each: D is 1 with probability 1/10 and else 0."""
    if looks == 0:
        spent = sum(1 / (j * (j + 1)) for j in range(1, int(state.suspicions[0]) + 1))
        return math.exp(log_e(state)[0][0]) + 1 - spent
    after = {value: update(state, pairs(value, 1.0, number=1), DELTA, bound=1.0, alpha=0.01)[0] for value in (0.0, 1.0)}
    return 0.9 * expected_capital(after[0.0], looks - 1) + 0.1 * expected_capital(after[1.0], looks - 1)


def test_capital_and_what_is_left_to_top_up_never_grow_in_expectation():
    """The mean is exactly the margin; over all 2^8 runs of outcomes."""
    assert expected_capital(begin_watch(2, 1), 8) == pytest.approx(1)


@pytest.mark.slow
def test_useful_agents_at_the_margin_are_called_lazy_in_at_most_5_percent_of_runs():
    """The worst case there is: the mean is the margin, by rare decisive pairs, for 20 looks with their tests."""
    generator, false, runs = torch.Generator().manual_seed(0), 0, 400

    def play_rare(agents: tuple[int, ...], number: int) -> tuple[Tensor, int]:
        return (torch.rand(len(agents), 1, number, generator=generator) < 0.1).to(torch.float64), number

    for _ in range(runs):
        state, lazy = begin_watch(2, 1), False
        for _ in range(20):
            state, seen = observe(state, play_rare, DELTA, bound=1.0, max_pairs=128)
            lazy = lazy or any(alarm.kind == "lazy" for alarm in seen.alarms)
        false += lazy
    assert false / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_lazy_needs_every_reference():
    differences = torch.stack([torch.zeros(2, 64), torch.full((2, 64), 0.5)], 1).to(torch.float64)
    state, alarms = update(begin_watch(2, 2), differences, torch.tensor([0.1, 0.1]), bound=1.0)
    assert not alarms
    assert not state.low_looks.any()


def test_an_agent_with_a_large_effect_is_cleared_and_then_needs_two_low_looks_in_a_row():
    one_low = [pairs(0.0, 0.5), pairs(0.5, 0.5), pairs(0.5, 0.5), pairs(0.0, 0.5), pairs(0.5, 0.5)]
    state, told = watched(*one_low)
    assert told == [(0, "suspect", 0), (2, "cleared", 0)]
    assert math.exp(log_e(state)[0][0]) == 0
    _, told = watched(*one_low, pairs(0.0, 0.5), pairs(0.0, 0.5))
    assert told[2:] == [(6, "suspect", 0)]


def test_a_suspicion_is_given_up_after_max_pairs():
    state, alarms = update(watched(pairs(0.0, 0.5))[0], pairs(0.09, number=64), DELTA, bound=1.0, max_pairs=64, agents=(0,))
    assert [alarm.kind for alarm in alarms] == ["undecided"]
    assert state.status == ("cleared", "watched")
    assert not update(watched(pairs(0.0, 0.5))[0], pairs(0.09, number=64), DELTA, bound=1.0, agents=(0,))[1]


def test_a_test_whose_pairs_lie_above_the_margin_ends_after_64_of_them():
    suspected = watched(pairs(0.0, 0.5))[0]
    assert not update(suspected, pairs(0.12, number=63), DELTA, bound=1.0, agents=(0,))[1]
    state, alarms = update(suspected, pairs(0.12, number=64), DELTA, bound=1.0, agents=(0,))
    assert [alarm.kind for alarm in alarms] == ["undecided"]
    assert math.exp(log_e(state)[0][0]) == 0


def test_an_agent_without_which_the_team_does_better_takes_fewer_pairs_by_forecast_too():
    """All of it on the boldest stake, which has half the capital: ln(2 / alpha) + ln 2 for the top-up + ln 2 for the stake."""
    state = watched(pairs(0.0, 0.5))[0]
    missing = math.log(2 / 0.05) + 2 * math.log(2)
    assert pairs_needed(state, 0, 0.05) == math.ceil(missing / math.log1p(0.1 / 0.9))
    assert pairs_needed(state, 0, 0.05, torch.tensor([-0.5]).double()) == math.ceil(missing / math.log1p(0.6 / 0.9))
    assert pairs_needed(state, 0, 0.05, torch.tensor([0.5]).double()) == pairs_needed(state, 0, 0.05)


def test_a_lazy_agent_that_earns_again_is_recovered_and_a_cure_starts_its_evidence_anew():
    state, alarms = update(watched(pairs(0.0, 0.5))[0], pairs(0.0, number=64), DELTA, bound=1.0, agents=(0,))
    assert [alarm.kind for alarm in alarms] == ["lazy"]
    again, alarms = update(state, pairs(0.5, 0.5, number=64), DELTA, bound=1.0)
    assert [(alarm.kind, alarm.agent) for alarm in alarms] == [("recovered", 0)]
    assert again.status == ("cleared", "watched")
    cured = restarted(state, 0)
    assert cured.status == ("cured", "watched")
    assert (int(cured.pairs[0]), float(cured.total[0])) == (0, 0)
    assert int(cured.suspicions[0]) == 1  # what was topped up stays spent


@given(st.lists(st.sampled_from([0.0, 0.05, 0.5, -0.2]), min_size=1, max_size=6))
def test_an_agents_evidence_does_not_depend_on_its_teammates(means):
    alone, told = watched(*(pairs(mean, 0.5) for mean in means))
    crowd, other = watched(*(pairs(mean, 0.0) for mean in means))
    assert [entry for entry in told if entry[2] == 0] == [entry for entry in other if entry[2] == 0]
    torch.testing.assert_close(alone.evidence.log_wealth_below[0], crowd.evidence.log_wealth_below[0])


def test_a_test_is_not_begun_where_the_budget_cannot_reach_its_floor():
    played = []

    def play_lazy(agents: tuple[int, ...], number: int) -> tuple[Tensor, int]:
        played.append((agents, number))
        return pairs(*([0.5, 0.0][agent] for agent in agents), number=number), number * (1 + len(agents)) * 10

    state = begin_watch(2, 1)
    needed = pairs_needed(watched(pairs(0.5, 0.0))[0], 1, 0.05)
    assert floor_pairs(0.1, 1.0, 0.05 / 2) < needed < 60  # ln(1/4) of capital dearer
    state, seen = observe(state, play_lazy, DELTA, bound=1.0, test_budget=needed * 20.0 - 1)
    assert played == [((0, 1), 8)]
    assert (seen.waiting, seen.needed, seen.test_steps) == ((1,), needed, 0)
    state, seen = observe(state, play_lazy, DELTA, bound=1.0, test_budget=64 * 20.0)
    assert [(alarm.kind, alarm.agent) for alarm in seen.alarms] == [("lazy", 1)]
    assert seen.test_steps <= 64 * 2 * 10


def test_the_gain_and_its_lower_end_by_hand():
    gain = measure_gain(torch.tensor([1.0, 3.0]), torch.tensor([[0.0, 1.0]]))
    assert float(gain.mean) == 1.5
    assert float(gain.low) == pytest.approx(1.5 - 2.1 * math.sqrt(2 / 2 + 0.5 / 2))


# Runs -------------------------------------------------------------------------------------------------------------------

PLANTED = {"members": "guard=trained,walker=trained,dummy=trained"}
TINY: dict[str, Any] = {
    "network.hidden": 8, "replay.rollout_steps": 64, "replay.num_envs": 16, "replay.minibatch_size": 512, "evaluation.every": 1024,
    "evaluation.episodes": 8, "evaluation.final_episodes": 8, "checkpoint.every": 1024, "compile": "off",
}  # fmt: skip
WATCHED = {"watch_credit": "evaluations", "watch.overhead": 1.0}


def run_of(out: Path, options: dict[str, Any], *, steps: int = 4096, **more: Any) -> Run:
    return train("native/plate-and-door", algo="vdn", steps=steps, seed=0, options=TINY | options, out=out, **more)


def records(run: Path, *events: str) -> list[dict[str, Any]]:
    lines = ({name: value for name, value in record.items() if not name.startswith("time.")} for record in read_metrics(run))
    return [record for record in lines if not events or record["event"] in events]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_of(tmp_path_factory.mktemp("watched") / "run", PLANTED | WATCHED)


def test_the_dummy_is_found_and_the_guard_and_the_walker_are_not(planted):
    assert {record["agent"] for record in records(planted.folder, "lazy")} == {"dummy"}
    last = records(planted.folder, "credit")[-1]
    assert (last["status"]["walker"], last["status"]["dummy"]) == ("watched", "lazy")
    assert last["credit"]["walker"]["noop"]["effect"] == 1.0
    assert last["credit"]["dummy"]["random"] == {"effect": 0.0, "interval": last["credit"]["dummy"]["random"]["interval"]}
    assert last["gain"]["noop"] == 1.0
    assert last["delta"]["noop"] == pytest.approx(0.25 / 3)


def test_the_timeline_counts_the_env_steps_of_watching(planted):
    line = records(planted.folder, "credit")
    assert [record["env_steps"] for record in line] == [1024, 2048, 3072, 4096]
    assert all(0 < record["watch.env_steps"] == round(record["watch.share"] * record["env_steps"]) for record in line)
    assert all(record["watch.share"] <= 1.0 for record in line)


def test_watching_changes_no_number_of_training(planted, tmp_path):
    unwatched = run_of(tmp_path / "run", PLANTED)
    assert records(unwatched.folder) == records(planted.folder, "train", "evaluation")
    ends = [read(list_checkpoints(run.folder / "checkpoints")[-1]).groups for run in (planted, unwatched)]
    for group in ("networks", "training", "replay"):
        assert all(torch.equal(value, ends[1][group][name]) for name, value in ends[0][group].items()), group


def test_a_watched_run_that_was_stopped_goes_on_as_the_unbroken_one(planted, tmp_path):
    polls = iter([None, None, 15])
    with pytest.raises(Interrupted):
        run_of(tmp_path / "run", PLANTED | WATCHED, stop_signal=lambda: next(polls))
    resume(str(tmp_path / "run"))
    assert records(tmp_path / "run") == records(planted.folder)
    ends = [read(list_checkpoints(folder / "checkpoints")[-1]).meta["watch"] for folder in (tmp_path / "run", planted.folder)]
    assert ends[0] == ends[1]


def test_a_run_may_stop_at_a_lazy_agent_and_goes_on_when_resumed(tmp_path):
    with pytest.raises(LazyAgent, match=r"dummy does not pull its weight; saved\. Go on all the same with: marl resume") as caught:
        run_of(tmp_path / "run", PLANTED | WATCHED | {"watch.on_lazy": "stop"})
    assert caught.value.exit == 1
    assert not (tmp_path / "run" / "result.json").exists()
    resume(str(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["env_steps"] == 4096


def test_looks_between_evaluations_have_their_own_pace(tmp_path):
    run = run_of(tmp_path / "run", PLANTED | WATCHED | {"watch_credit": 2048})
    assert [record["env_steps"] for record in records(run.folder, "credit")] == [2048, 4096]


def test_the_budget_shortens_and_skips_looks_and_says_so(tmp_path):
    run = run_of(tmp_path / "run", PLANTED | WATCHED | {"watch.overhead": 0.15})
    line = records(run.folder, "credit")
    assert line[0]["pairs"] < 8
    assert "pairs would take" in line[0]["note"]
    assert all(record["note"] is None or isinstance(record["note"], str) for record in line)
    assert line[-1]["watch.share"] <= 0.15


def test_what_the_watcher_remembers_survives_json_and_a_look_uses_fresh_seeds(planted):
    env, saved = planted.env, read(planted.checkpoint, ("networks",)).meta["watch"]
    watcher = Watcher(planted.config, env, json.loads(json.dumps(saved)))
    assert watcher.dump() == saved
    first = watcher.ledger.next_seed
    assert first > WATCH_SEEDS
    watcher.look(planted.team, 100_000, play_episodes(env, planted.team, seeds_from(0, 4)))
    assert watcher.ledger.next_seed >= first + 8


def test_the_policy_of_a_lazy_teammate_is_copied_only_where_there_is_no_other():
    env = make("native/uphill-3p")
    watcher, all_learn = Watcher(Config(task="any", watch_credit="evaluations"), env), torch.ones(3, dtype=torch.bool)
    watcher.newest = torch.tensor([[-0.01, 0.5], [0.0, 0.01], [-0.02, -0.02]], dtype=torch.float64)  # a guard, an idler, and who is treated
    assert watcher.best_teammate(2, all_learn) == 1
    watcher.state = replace(watcher.state, status=("watched", "lazy", "lazy"))
    assert watcher.best_teammate(2, all_learn) == 0
    assert watcher.best_teammate(2, torch.tensor([False, True, True])) == 1
    watcher.state = replace(watcher.state, status=("lazy", "lazy", "lazy"))
    assert watcher.best_teammate(2, all_learn) == 1


def test_nothing_of_a_look_that_was_broken_off_is_kept(planted, monkeypatch):
    watcher = Watcher(planted.config, planted.env)
    before = watcher.dump()

    def fall(*_: Any, **__: Any) -> None:
        raise RuntimeError("a worker died")

    monkeypatch.setattr("teamcredit.marl.watching.observe", fall)
    with pytest.raises(RuntimeError):
        watcher.look(planted.team, 100_000, play_episodes(planted.env, planted.team, seeds_from(0, 16)))
    assert watcher.dump() == before


def joining(env: CoalitionTask, *agents: bool) -> Team:
    """A team of a coalition game in which these agents always join, and the others never."""
    config = Config(task="any", network=NetworkConfig(hidden=4))
    everyone = torch.ones(len(agents), dtype=torch.bool)
    act = Override(lambda view, clock: torch.tensor(agents).to(torch.int64).expand(len(view.alive), -1), everyone)
    return Team(utility=utility_network(config.network, env.spec), members=(act,))


def looks_at(env: CoalitionTask, *teams: Team) -> list[list[dict[str, Any]]]:
    """The records of a look at each team in turn, 100,000 env steps apart."""
    watcher = Watcher(Config(task="any", watch_credit="evaluations"), env)
    return [
        [
            record
            for record in watcher.look(team, 100_000 * number, play_episodes(env, team, seeds_from(0, 32)))
            if record["event"] != "suspect"
        ]
        for number, team in enumerate(teams, start=1)
    ]


def test_an_agent_that_falls_idle_is_judged_by_what_the_team_has_proven_before():
    """v = number of members: when agent 1 leaves, the gain falls from 2 to 1, and the margin stays (1/4) 2 / 2."""
    env = CoalitionTask([0.0, 1.0, 1.0, 2.0])
    before, after = looks_at(env, joining(env, True, True), joining(env, True, False))
    assert [record["event"] for record in before] == ["credit"]
    assert before[0]["delta"]["noop"] == after[0]["delta"]["noop"] == 0.25
    assert 0 < after[0]["delta"]["random"] <= before[0]["delta"]["random"]  # by the lower end of what was proven
    assert after[0]["gain"]["noop"] == 1.0
    (lazy,) = after[1:]
    assert (lazy["event"], lazy["agent"], lazy["verdict"], lazy["teammates_earn"]) == ("lazy", env.spec.agents[1], "lazy-idle", True)


def test_without_a_declared_range_verdicts_are_approximate_and_by_the_span_of_returns_seen():
    env = CoalitionTask([0.0, 1.0, 1.0, 2.0])
    env.spec = replace(env.spec, return_range=None)
    _, after = looks_at(env, joining(env, True, True), joining(env, True, False))
    (lazy,) = after[1:]
    assert (lazy["event"], lazy["agent"], lazy["approximate"]) == ("lazy", env.spec.agents[1], True)
    assert "(approximately: the task declares no range of returns)" in lazy["text"]


def test_where_a_whole_team_collapses_the_verdict_says_that_nobody_earns_anything():
    """v = 1 for both together: when agent 1 leaves, agent 0 earns nothing either, and nothing tells who left."""
    env = CoalitionTask([0.0, 0.0, 0.0, 1.0])
    _, after = looks_at(env, joining(env, True, True), joining(env, True, False))
    lazy = [record for record in after if record["event"] == "lazy"]
    assert not any(record["teammates_earn"] for record in lazy)
    assert all("it may only depend on one that idles" in record["text"] for record in lazy)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"watch_credit": "0"}, "watch_credit 0 must be at least 1 env step"),
        ({"watch_credit": "sometimes"}, "is not"),
        ({"watch.on_lazy": "stop"}, "watch.on_lazy stop needs somebody who looks: --watch-credit evaluations"),
        ({"watch_credit": "evaluations", "watch.margin": 1.5}, "watch.margin 1.5 must lie between 0 and 1"),
        ({"watch_credit": "evaluations", "watch.pairs": 1}, "watch.pairs 1 must be at least 2"),
        ({"watch_credit": "evaluations", "watch.overhead": 0}, "watch.overhead 0.0 must be above 0"),
        ({"watch_credit": "evaluations", "watch.references": "peer:guard"}, "use noop or random"),
    ],
)
def test_a_watch_that_makes_no_sense_is_refused_before_anything_is_written(options, sentence, tmp_path):
    with pytest.raises(ConfigError, match=sentence):
        run_of(tmp_path / "run", options)
    assert not (tmp_path / "run").exists()


def test_no_op_is_a_reference_only_where_every_agent_has_one():
    config = Config(task="any", watch_credit="evaluations")
    assert Watcher(config, make("native/plate-and-door")).references == ("noop", "random")
    assert Watcher(config, make("native/two-step")).references == ("random",)


def test_a_note_is_said_once_whatever_its_numbers_but_each_suspect_anew():
    first = "shortened to 4 of 8 pairs: 8 pairs would take 880 env steps; agent_1 under suspicion: a test takes 116 pairs"
    again = "shortened to 2 of 8 pairs: 8 pairs would take 800 env steps; agent_1 under suspicion: a test takes 84 pairs"
    other = "agent_2 under suspicion: a test takes 84 pairs"
    assert kinds_of(first) == kinds_of(again) == {"shortened to  of  pairs", "agent_1"}
    assert kinds_of(other) == {"agent_2"}
    assert kinds_of(None) == set()
