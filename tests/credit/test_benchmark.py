"""The benchmark of credit estimators: its truths, its scores, and that it tells right estimators from wrong ones."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from teamcredit.credit import benchmark, benchmark_steps, estimators, known_wrong
from teamcredit.credit.benchmark import Known, Sample, confirmed_bias, score_estimator, score_sample
from teamcredit.credit.benchmark_steps import matrix_by_orders, score_steps, steps_problems
from teamcredit.credit.problems import KNOWN, coalition_problems, draw_game, make_problem, noisy_problems, of_game, shapley_by_orders
from teamcredit.credit.scores import kendall
from teamcredit.credit.trial import Trial

torch.set_num_threads(1)
FLOAT = torch.float64
exact = {"rtol": 0, "atol": 1e-9}
AIRPORT = of_game("A3", KNOWN["A3"]())
VOTERS = of_game("A7", KNOWN["A7"]())
UNSEEN = 20_260


def vector(*values):
    return torch.tensor(values, dtype=FLOAT)


def known(credit, *, null=(), alike=None, scale=1.0):
    n = len(credit)
    return Known(
        family="X",
        problem="by hand",
        num_agents=n,
        against="shapley",
        credit=vector(*credit),
        null=torch.tensor([agent in null for agent in range(n)]),
        alike=torch.arange(n) if alike is None else torch.tensor(alike),
        scale=scale,
    )


def sample(values, low=None, high=None):
    return Sample(vector(*values), low, high, 500.0, 0.0)


# Truths ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", KNOWN)
def test_closed_forms_are_what_all_orders_give_on_games_nobody_has_seen(family):
    for seed in (0, UNSEEN):
        for _ in range(2):
            problem = of_game(family, draw_game(family, torch.Generator().manual_seed(seed)))
            if problem.num_agents <= 6:
                torch.testing.assert_close(problem.shapley, shapley_by_orders(problem.values), **exact)
            assert 3 <= problem.num_agents <= 8
    problem = of_game(family, KNOWN[family]())
    torch.testing.assert_close(problem.shapley, shapley_by_orders(problem.values), **exact)


def test_agents_that_change_nothing_and_agents_that_are_alike_are_found():
    assert VOTERS.null.tolist() == [False, False, True]
    assert VOTERS.alike.tolist() == [0, 0, 2]
    assert of_game("A4", KNOWN["A4"]()).alike.tolist() == [0, 0, 2, 2, 2, 2]
    assert AIRPORT.alike.tolist() == list(range(6))


def test_the_airports_other_indices_are_those_of_the_textbook():
    torch.testing.assert_close(AIRPORT.banzhaf, vector(0.03125, 0.09375, 0.21875, 0.46875, 0.96875, 1.96875), **exact)
    assert AIRPORT.leave_one_out.tolist() == [0, 0, 0, 0, 0, 1]
    assert (AIRPORT.total, AIRPORT.scale) == (6, 6)


def test_another_seed_draws_other_games_and_the_same_seed_the_same():
    first, again, other = (coalition_problems(seed) for seed in (1, 1, 2))
    assert all(torch.equal(a.values, b.values) for a, b in zip(first, again, strict=True))
    drawn = [problem for problem in zip(first, other, strict=True) if "drawn" in problem[0].name]
    assert len(drawn) == 10
    assert not all(a.values.shape == b.values.shape and torch.equal(a.values, b.values) for a, b in drawn)


# What an estimator meets -----------------------------------------------------------------------------------------------


def test_every_row_is_counted_also_one_that_is_known():
    trial = Trial(AIRPORT, budget=10, seed=0)
    everyone = torch.ones(2, 6, dtype=torch.bool)
    assert trial(everyone).tolist() == [6, 6]
    assert trial.play(everyone, [3, 3]).tolist() == [[6, 6], [6, 6]]
    assert trial.evaluations == 6
    with pytest.raises(ValueError, match=r"asked for 12 values of a budget of 10; every row counts"):
        trial.play(np.ones((3, 6), dtype=bool), [0, 1])


def test_a_noisy_game_repeats_an_episode_by_its_number_and_gives_every_row_of_a_call_a_new_one():
    problem = noisy_problems(0)[0]
    trial = Trial(problem, budget=100_000, seed=4)
    full = torch.ones(1, 6, dtype=torch.bool)
    played = trial.play(full, torch.arange(600))[0]
    assert torch.equal(trial.play(full, [500, 2])[0], played[[500, 2]])
    assert torch.equal(trial(full.expand(3, 6)), played[:3])
    assert torch.equal(trial(full), played[3:4])
    assert float(played.mean()) == pytest.approx(6, abs=0.1)
    assert float(played.std()) == pytest.approx(problem.noise, rel=0.1)
    assert not torch.equal(Trial(problem, budget=10, seed=5)(full), played[:1])


def test_a_pools_episodes_are_its_columns_for_all_coalitions_together():
    pool = torch.arange(8.0, dtype=FLOAT).view(4, 2)
    problem = make_problem("D", "two episodes", pool.mean(1), pool=pool)
    played = Trial(problem, budget=400, seed=0).play([[0, 0], [1, 0], [0, 1], [1, 1]], torch.arange(100))
    assert {tuple(column) for column in played.T.tolist()} == {(0, 2, 4, 6), (1, 3, 5, 7)}


# Scores by hand --------------------------------------------------------------------------------------------------------


def test_kendall_counts_pairs():
    assert kendall(vector(1, 2, 3, 4), vector(1, 2, 4, 3)) == pytest.approx(4 / 6)
    assert kendall(vector(1, 2, 3), vector(1, 2, 2)) == pytest.approx(2 / math.sqrt(6))
    assert math.isnan(kendall(vector(1, 1), vector(1, 2)))


def test_scores_of_two_repetitions_are_those_of_a_pencil():
    score = score_sample(sample([[1.0, 0.0, 2.0], [3.0, 0.5, 2.0]]), known([1, 0, 2], null=(1,), alike=[0, 1, 0], scale=2.0), "e")
    assert score.rmse == pytest.approx(math.sqrt((4 + 0.25) / 6))
    assert score.rmse_1000 == pytest.approx(score.rmse * math.sqrt(0.5))
    assert score.sum_error == pytest.approx((0 + 2.5) / 2)
    assert (score.error, score.bias) == (2, 1)
    assert score.bias_in_se == pytest.approx(1.0)  # agent 0: mean 2 for 1, sd sqrt(2), SE 1
    assert score.null_error == pytest.approx(0.25 / 2)
    assert score.null_rate == 0.5
    assert score.symmetry_gap == 0
    assert score.spearman == pytest.approx((1 + 0.5) / 2)  # ranks 2 1 3, then 3 1 2, of 2 1 3
    assert score.kendall == pytest.approx((1 + 1 / 3) / 2)
    assert score.document()["name"] == "e"


def test_where_the_truth_has_no_order_there_is_no_rank_correlation_and_where_the_estimate_has_none_it_is_0():
    assert score_sample(sample([[1.0, 2.0]]), known([1, 1]), "e").spearman is None
    flat = score_sample(sample([[1.0, 1.0 + 1e-12]]), known([1, 2]), "e")
    assert (flat.spearman, flat.kendall) == (0, 0)
    assert score_sample(sample([[0.0, 0.0]]), known([1, 2]), "e").cosine == 0
    assert score_sample(sample([[0.0, 1.0]]), known([0, 0]), "e").cosine is None


def test_coverage_counts_the_agents_of_a_repetition_as_one():
    low, high = vector([0.0, 0.0], [0.0, 5.0]), vector([2.0, 2.0], [2.0, 6.0])
    score = score_sample(sample([[1.0, 1.0], [1.0, 5.5]], low, high), known([1, 1.5]), "e")
    assert score.coverage == 0.75
    assert score.coverage_se == pytest.approx(math.sqrt(0.125) / math.sqrt(2))
    assert score.width == pytest.approx(7 / 4)


def test_missing_alike_every_time_is_infinitely_biased_and_1000_evaluations_would_not_mend_it():
    score = score_sample(sample([[1.0, 2.0]] * 3), known([1, 1]), "e")
    assert score.bias_in_se == math.inf
    assert score.rmse_1000 is None
    assert score_sample(sample([[1.0, 1.0]] * 3), known([1, 1]), "e").bias_in_se == 0
    once = score_sample(sample([[1.0, 2.0]]), known([1, 1]), "e")
    assert (once.bias_in_se, once.rmse_1000, once.standard_error) == (None, None, None)


def test_bias_counts_only_if_fresh_repetitions_agree():
    truth = known([0, 0])
    suspect = sample([[1.0, 0.2], [1.2, -0.2], [1.1, 0.1]])
    fresh = sample([[0.5, 9.0], [0.1, 9.1], [0.3, 8.9]])
    opposite = sample([[-0.5, 0.0], [-0.1, 0.0], [-0.3, 0.0]])
    second = abs(suspect.values[:, 1].mean()) / suspect.values[:, 1].std() * math.sqrt(3)
    assert confirmed_bias(suspect, fresh, truth) == pytest.approx(0.3 / (0.2 / math.sqrt(3)))
    assert confirmed_bias(suspect, opposite, truth) == pytest.approx(float(second))


# Right and wrong estimators ---------------------------------------------------------------------------------------------


def test_exact_estimators_are_perfect_on_games_nobody_has_seen():
    problems = coalition_problems(UNSEEN)
    right = ((estimators.exact, "shapley"), (estimators.alone, "leave_one_out"), (estimators.banzhaf, "banzhaf"))
    for estimate, against in right:
        for score in score_estimator(estimate, problems, against=against, repetitions=1):
            assert score.error <= 1e-9 * score.scale
            assert score.sum_error <= 1e-9 * score.scale
            assert score.null_error in (None, 0)
            assert score.null_rate in (None, 0)
            assert score.spearman in (None, pytest.approx(1))


@pytest.mark.parametrize("way", ["rings", "cyclic", "plain", "antithetic", "stratified"])
def test_sampled_ways_are_unbiased_and_give_nothing_for_nothing(way):
    chosen = [AIRPORT, of_game("A2", KNOWN["A2"]()), of_game("A9", draw_game("A9", torch.Generator().manual_seed(UNSEEN)))]
    for score in score_estimator(estimators.sampled(way), chosen, budget=150, repetitions=6):
        assert score.bias_in_se is not None
        assert score.bias_in_se <= 3
        assert score.null_error in (None, 0)
        assert score.evaluations <= 150
        assert score.coverage is not None


def test_right_orders_pass_where_a_permutation_used_as_its_inverse_is_told_by_the_agent_that_changes_nothing():
    (right,) = score_estimator(estimators.sampled("plain"), [VOTERS], budget=100, repetitions=4)
    (wrong,) = score_estimator(known_wrong.inverse_order, [of_game("A2", KNOWN["A2"]())], budget=400, repetitions=10, look_again=False)
    assert (right.null_error, right.null_rate) == (0, 0)
    assert wrong.sum_error <= 1e-9  # efficiency does not see it
    assert wrong.null_error > 0.1
    assert wrong.null_rate == 1


def test_uniform_coalitions_are_told_by_the_sum_and_by_a_bias_that_samples_do_not_mend():
    for budget in (600, 6_000):
        (score,) = score_estimator(known_wrong.uniform_coalitions, [AIRPORT], budget=budget, repetitions=8, look_again=False)
        torch.testing.assert_close(vector(*score.mean), AIRPORT.banzhaf, rtol=0, atol=0.1)
        assert score.sum_error == pytest.approx(2.25, abs=0.25)
        assert score.bias == pytest.approx(0.4823, abs=0.1)
        assert score.bias_in_se > 5
        assert score.rmse_1000 is None


def test_vdns_least_squares_on_uniform_play_are_the_banzhaf_value():
    (score,) = score_estimator(known_wrong.additive_fit, [AIRPORT], against="banzhaf", budget=20_000, repetitions=2)
    assert score.rmse < 0.03


def test_the_mean_advantage_is_0_for_everybody_and_counts_are_equal_for_everybody():
    (advantage,) = score_estimator(known_wrong.mean_advantage, [AIRPORT], repetitions=1)
    assert max(map(abs, advantage.mean)) <= 1e-12
    assert advantage.sum_error == pytest.approx(6)
    (counts,) = score_estimator(known_wrong.action_counts, [VOTERS], repetitions=1)
    assert counts.mean == pytest.approx((1 / 3,) * 3)
    assert counts.null_error == pytest.approx(1 / 3)
    assert counts.spearman == 0
    moved = replace(VOTERS, actions=vector(0, 3, 1))
    assert score_estimator(known_wrong.action_counts, [moved], repetitions=1)[0].mean == (0, 0.75, 0.25)


def test_leave_one_out_is_right_about_itself_and_blind_to_a_vote():
    vote = of_game("A5", KNOWN["A5"]())
    (own,) = score_estimator(estimators.alone, [vote], against="leave_one_out", repetitions=1)
    (beside,) = score_estimator(estimators.alone, [vote], repetitions=1)
    assert own.error == 0
    assert beside.sum_error == pytest.approx(1)


# A user's estimator -----------------------------------------------------------------------------------------------------


def example():
    """The function that the module's first lines show, run as it stands there."""
    assert benchmark.__doc__ is not None
    block = [line[4:] for line in benchmark.__doc__.splitlines() if line.startswith("    ") or not line.strip()]
    names = {"torch": torch}
    exec("\n".join(line for line in block if not line.startswith("score_estimator")), names)
    return names["my_estimator"]


def test_the_example_in_the_docs_is_leave_one_out():
    scores = score_estimator(example(), coalition_problems(seed=0), against="leave_one_out", repetitions=1)
    assert len(scores) == 20
    assert max(score.error for score in scores) <= 1e-12


@pytest.mark.parametrize("form", [list, tuple, np.array, torch.tensor, lambda values: torch.tensor(values, requires_grad=True)])
def test_values_may_come_in_any_form(form):
    (score,) = score_estimator(lambda game, n, budget, seed: form(VOTERS.shapley.tolist()), [VOTERS], repetitions=2)
    assert score.error <= 1e-6


@pytest.mark.parametrize(
    "estimate, message",
    [
        (lambda game, n, budget, seed: [1.0], r'estimator "mine" on A7 \(unanimity, 3 agents\) returned shape \(1,\); expected \(3,\)'),
        (lambda game, n, budget, seed: [math.nan] * n, r"on A7 .* returned NaN or infinity"),
        (lambda game, n, budget, seed: {"agent_0": 1.0}, r"on A7 .* returned a dict; expected one number for each of 3 agents"),
        (lambda game, n, budget, seed: game(torch.zeros(budget + 1, n))[:n], r"on A7 .* asked for 101 values of a budget of 100"),
        (lambda game, n, budget, seed: game(torch.zeros(n)), r"on A7 .* coalitions of shape \(3,\); expected \(m, 3\)"),
    ],
)
def test_mistakes_of_an_estimator_are_named_with_the_problem(estimate, message):
    with pytest.raises(ValueError, match=message):
        score_estimator(estimate, [VOTERS], name="mine", budget=100, repetitions=1)


@pytest.mark.parametrize("wrong, message", [({"budget": 1}, "budget is 1"), ({"repetitions": 0}, "repetitions is 0")])
def test_counts_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        score_estimator(estimators.exact, [VOTERS], **wrong)


def test_the_same_seed_gives_the_same_scores_and_another_seed_others():
    def scores(seed):
        found = score_estimator(estimators.sampled("rings"), noisy_problems(0)[:1], budget=100, repetitions=2, seed=seed, look_again=False)
        return [replace(score, seconds=0.0) for score in found]

    assert scores(3) == scores(3)
    assert scores(3) != scores(4)


# Agents at steps --------------------------------------------------------------------------------------------------------


def test_matrices_in_closed_form_are_what_all_orders_give_at_every_step():
    for problem in steps_problems(UNSEEN):
        torch.testing.assert_close(problem.matrix, matrix_by_orders(problem.rewards, problem.values), **exact)
        torch.testing.assert_close(problem.at_the_start().shapley, shapley_by_orders(problem.values[:, 0]), **exact)


def test_the_switch_off_matrix_is_exact_and_sharing_the_reward_pays_who_changes_nothing():
    problems = steps_problems(UNSEEN)
    for score in score_steps(benchmark_steps.exact_matrix, problems, name="switch-off", repetitions=1):
        assert score.error <= 1e-9
        assert score.null_error == 0
        assert score.spearman == pytest.approx(1)
    for score in score_steps(benchmark_steps.played_matrix, problems, name="played", repetitions=20):
        assert score.bias_in_se is not None
        assert score.bias_in_se <= 3
    shared = score_steps(benchmark_steps.reward_shared, problems, name="shared", repetitions=1)
    assert shared[0].null_error == pytest.approx((1 / 3) / problems[0].scale)
