"""`marl bench credit` on few problems: its games, its table and words; ours meet their targets, and wrong estimators are seen."""

import json
from dataclasses import replace

import pytest
import teamcredit
import torch
from teamcredit.credit import known_wrong
from teamcredit.credit.benchmark import score_estimator
from teamcredit.credit.problems import KNOWN, of_game
from teamcredit.marl.bench import credit as suite
from teamcredit.marl.bench.credit_estimators import ENTRIES, Entry
from teamcredit.marl.bench.credit_foraging import TEAMS, foraging_problems, play_pool
from teamcredit.marl.bench.credit_learned import fit, mixer_gradients, mixer_shapley
from teamcredit.marl.bench.credit_matrix import best_joint_action, coalition_values, matrix_problems, two_step
from teamcredit.marl.bench.credit_report import to_text
from teamcredit.marl.bench.credit_targets import check, disqualified, worst
from teamcredit.marl.cli import main
from teamcredit.marl.errors import ConfigError

torch.set_num_threads(1)
TINY = suite.Sizes(budget=260, drawn=0, repetitions=2, noisy_repetitions=2, slow_repetitions=1, slow_families="", episodes=8)
AIRPORT = of_game("A3", KNOWN["A3"]())
VOTERS = of_game("A7", KNOWN["A7"]())


def entry(name: str) -> Entry:
    (found,) = [entry for entry in ENTRIES if entry.name == name]
    return found


@pytest.fixture
def few(monkeypatch):
    """The suite on its smallest games, with the quick estimators."""
    quick = ("Shapley, all coalitions", "Shapley, rings", "leave-one-out", "uniform coalitions", "inverse order", "action counts")
    monkeypatch.setattr(suite, "QUICK", TINY)
    monkeypatch.setattr(suite, "ENTRIES", tuple(map(entry, quick)))


# Games ------------------------------------------------------------------------------------------------------------------


def test_the_two_step_game_by_hand():
    """Nobody: 7 and the mean 2.5 of 2B with even chances; agent 0 leads to 2B and plays 1 there; agent 1 plays its 1."""
    problem = two_step()
    assert problem.values.tolist() == [4.75, 4.5, 5.75, 8.0]
    assert problem.shapley.tolist() == [1.0, 2.25]


def test_values_of_a_matrix_game_under_both_references():
    payoff = torch.tensor([[8.0, -12, -12], [-12, 0, 0], [-12, 0, 0]])
    assert best_joint_action(payoff) == [0, 0]
    assert coalition_values(payoff, (0, 0)).tolist() == pytest.approx([-40 / 9, -16 / 3, -16 / 3, 8])
    assert coalition_values(payoff, (1, 2), "first").tolist() == [8, -12, -12, 0]


def test_in_drawn_matrix_games_the_last_agent_changes_nothing_and_the_seed_changes_the_game():
    drawn = [problem for problem in matrix_problems(5) if "drawn" in problem.name]
    assert [problem.num_agents for problem in drawn] == [4, 5]
    assert all(bool(problem.null[-1]) and not bool(problem.null.all()) for problem in drawn)
    assert not torch.equal(drawn[0].values, next(problem for problem in matrix_problems(6) if "drawn" in problem.name).values)


def test_planted_members_that_are_their_reference_earn_exactly_nothing_and_foragers_earn():
    for problem, planted in zip(foraging_problems(seed=3, episodes=12), TEAMS, strict=True):
        idle = [member == planted.reference for member in planted.members]
        assert problem.null.tolist() == idle
        assert float(problem.shapley[0]) > 0.1
        assert problem.pool is not None
        assert torch.equal(problem.pool.mean(1), problem.values)
    assert problem.actions is not None
    assert float(problem.actions[3]) == 0  # the one that is planted to do nothing


def test_an_episode_does_not_depend_on_how_many_are_played_beside_it():
    few_episodes, _, _ = play_pool(TEAMS[1], 3, 0)
    more, did, env_steps = play_pool(TEAMS[1], 5, 0)
    assert torch.equal(more[:, :3], few_episodes)
    assert 0 < env_steps <= 16 * 5 * 25
    assert bool((did <= 25).all())


# What is read from a fitted mixer ---------------------------------------------------------------------------------------


def test_gradients_of_a_fitted_qmix_pay_who_changes_nothing_and_its_shapley_value_does_not():
    (gradient,) = score_estimator(mixer_gradients, [VOTERS], repetitions=1)
    (shapley,) = score_estimator(mixer_shapley, [VOTERS], repetitions=1)
    assert gradient.null_error > 0.1
    assert disqualified(gradient) is not None
    assert shapley.error < 0.02
    fitted = fit(VOTERS.values, 1)
    assert float((fitted.value(torch.ones(1, 3, dtype=torch.bool)) - 1).abs()) < 0.02


# Targets and words ------------------------------------------------------------------------------------------------------


def test_what_disqualifies_is_said_with_its_figures():
    (counts,) = score_estimator(known_wrong.action_counts, [VOTERS], repetitions=1)
    assert disqualified(counts) == (
        "gives an agent that changes nothing 0.333 where the team earns 1; gives agent 0 0.333 for 0.5; rank correlation 0"
    )
    (banzhaf,) = score_estimator(known_wrong.uniform_coalitions, [AIRPORT], budget=4000, repetitions=6, look_again=False)
    assert "adds up to 3.7" in (disqualified(banzhaf) or "")
    assert worst([banzhaf, counts]) is counts


def test_chance_disqualifies_nobody():
    noisy = replace(AIRPORT, noise=5.0)
    (score,) = score_estimator(entry("Shapley, rings").estimate, [noisy], budget=100, repetitions=8)
    assert score.error > 0.1
    assert disqualified(score) is None


def test_a_wrong_estimator_under_our_name_misses_its_targets():
    claimed = entry("Shapley, rings")
    (right,) = score_estimator(claimed.estimate, [VOTERS], budget=100, repetitions=4)
    (wrong,) = score_estimator(known_wrong.action_counts, [VOTERS], budget=100, repetitions=4)
    assert all(item.met for item in check(claimed, right))
    assert {item.what for item in check(claimed, wrong) if not item.met} == {"credit of agents that change nothing", "bias"}


def test_coverage_misses_its_bounds_only_beyond_three_of_its_standard_errors():
    (score,) = score_estimator(entry("Shapley, rings").estimate, [replace(VOTERS, noise=0.1)], budget=100, repetitions=4)
    missed = []
    for coverage, error in ((0.95, 0.001), (0.90, 0.02), (0.90, 0.005), (1.0, 0.005)):
        checks = check(entry("Shapley, rings"), replace(score, repetitions=1000, coverage=coverage, coverage_se=error))
        missed.append([item.met for item in checks if item.what == "coverage"] == [False])
    assert missed == [False, False, True, True]
    without = check(entry("Shapley, rings"), replace(score, coverage=None, coverage_se=None))
    assert [item.met for item in without if item.what == "coverage"] == [False]


# The command ------------------------------------------------------------------------------------------------------------

MINE = """
import torch

def exact(game, num_agents, budget, seed):
    masks = torch.arange(2**num_agents)
    values = game((masks.unsqueeze(1) >> torch.arange(num_agents)) & 1)
    alone = [values[1 << i] - values[0] for i in range(num_agents)]
    last = [values[-1] - values[-1 - (1 << i)] for i in range(num_agents)]
    return (torch.stack(alone) + torch.stack(last)) / 2

def broken(game, num_agents, budget, seed):
    return [1.0]

def fails(game, num_agents, budget, seed):
    return 1 / 0
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "my_credit.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def test_the_command_prints_one_document_with_its_keys(few, mine, capsys, tmp_path):
    tokens = ["bench", "credit", "--quick", "--seed", "5", "--families", "A,C", "--estimator", "my_credit:exact", "--check", "--json"]
    assert main([*tokens, "--out", "found.json"]) == 0
    out, _ = capsys.readouterr()
    document = json.loads(out)
    assert json.loads((tmp_path / "found.json").read_text()) == document
    assert document.keys() == {"schema", "seed", "budget", "families", "ok", "estimators", "checks"}
    assert (document["schema"], document["seed"], document["budget"], document["families"]) == (1, 5, 260, "AC")
    keys = {"name", "kind", "family", "problem", "against", "spearman", "kendall", "cosine", "rmse", "rmse_1000", "sum_error", "null_error"}
    keys |= {"null_rate", "symmetry_gap", "bias_in_se", "coverage", "evaluations", "seconds", "disqualified"}
    assert all(keys <= row.keys() for row in document["estimators"])
    rows = {(row["name"], row["family"], row["against"]): row for row in document["estimators"] if not row["noisy"]}
    assert rows["Shapley, all coalitions", "A10", "shapley"]["rmse"] <= 1e-9
    assert rows["my_credit:exact", "A7", "shapley"]["disqualified"] is None  # the mean of first and last is right here
    assert "adds up to" in rows["my_credit:exact", "A5", "shapley"]["disqualified"]
    assert rows["my_credit:exact", "A5", "shapley"]["kind"] == "yours"
    assert {row["what"] for row in document["checks"]} >= {"error", "bias", "sum error", "RMSE", "disqualified"}
    assert all(row["met"] for row in document["checks"])


def test_check_exits_with_1_when_one_of_ours_misses_its_target(few, monkeypatch, capsys):
    tokens = ["bench", "credit", "--quick", "--families", "C", "--check", "-q"]
    assert main(tokens) == 0
    assert "targets met: " in capsys.readouterr().out
    swapped = replace(entry("Shapley, rings"), estimate=known_wrong.inverse_order)
    monkeypatch.setattr(suite, "ENTRIES", (swapped,))
    assert main(tokens) == 1
    assert (
        "missed: Shapley, rings on C1 (plate and door, reference random): credit of agents that change nothing" in capsys.readouterr().out
    )
    assert main(tokens[:-2]) == 0  # without --check it only says so


@pytest.mark.parametrize(
    "tokens, message",
    [
        (["--families", "A,E"], 'no family "E". There are: A (coalition games'),
        (["--families", "d"], 'no family "d". Did you mean D?'),
        (["--families", ","], "--families names none"),
        (["--families", "C", "--budget", "5"], "--budget 5 is too small: two draws of every way to sample"),
        (["--families", "C", "--estimator", "my_credit:exac"], 'no function "exac". Did you mean exact?'),
        (["--families", "C", "--estimator", "no_such_module:f"], 'no module "no_such_module"'),
        (["--families", "C", "--estimator", "my_credit:torch"], "my_credit:torch is no function"),
        (
            ["--families", "C", "--estimator", "my_credit:broken"],
            'estimator "my_credit:broken" on C1 (plate and door, reference random) returned shape (1,)',
        ),
        (["--families", "C", "--estimator", "my_credit:fails"], "the estimator's own code fails: ZeroDivisionError"),
        (["--families", "C", "--out", "nowhere/found.json"], "there is no folder nowhere"),
    ],
)
def test_mistakes_are_named(few, mine, capsys, tokens, message):
    assert main(["bench", "credit", "--quick", "-q", *tokens]) == 2
    assert message in capsys.readouterr().err


def test_a_notebook_gets_the_same(few):
    found = teamcredit.bench_credit(lambda game, n, budget, seed: [0.0] * n, name="nothing", families="C", quick=True)
    assert found.ok
    text = to_text(found)
    assert "yours" in text
    assert "nothing: adds up to 0 where the team earns" in text
    assert text.endswith(f"targets met: {len(found.checks)} of {len(found.checks)}")
    with pytest.raises(ConfigError, match="no family"):
        teamcredit.bench_credit(families="X")


def test_the_same_seed_gives_the_same_figures(few):
    def figures(seed):
        return [replace(line.score, seconds=0.0) for line in teamcredit.bench_credit(families="B", quick=True, seed=seed).lines]

    assert figures(1) == figures(1)
    assert figures(1) != figures(2)
