import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from teamcredit.credit import confidence_sequence, floor_pairs, mean_interval
from teamcredit.credit.evidence import begin, e_holm, log_e_above, log_e_below, log_e_path, scaled, update
from teamcredit.credit.intervals import betting_interval, t_interval, t_quantile
from teamcredit.credit.scores import coverage, null_agent_error, ranks, spearman, sum_error

torch.set_num_threads(1)
FLOAT = torch.float64
claim = settings(deadline=None, derandomize=True, max_examples=30)
seeds = st.integers(0, 2**31)
ENOUGH = math.log(20)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(mean, sd, shape, seed=0):
    return (mean + sd * torch.randn(*shape, generator=generator(seed), dtype=FLOAT)).clamp(-1, 1)


def rare(chance, shape, seed=0):
    return (torch.rand(*shape, generator=generator(seed), dtype=FLOAT) < chance).to(FLOAT)


# fixed numbers of samples


@pytest.mark.parametrize(("df", "table"), [(1, 12.706205), (2, 4.302653), (3, 3.182446), (4, 2.776445), (10, 2.228139), (30, 2.042272)])
def test_t_quantiles_agree_with_the_printed_table(df, table):
    assert t_quantile(df) == pytest.approx(table, abs=1e-6)
    assert t_quantile(100_000) == pytest.approx(1.959987, abs=1e-5)


def test_a_t_interval_by_hand():
    low, high = t_interval(torch.tensor([1.0, 2.0, 3.0]))
    assert float(high) == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-5)
    assert float(low) == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-5)


CASES = {
    "gaussian": (0.2, lambda n, seed: gaussian(0.2, 0.3, (2000, n), seed)),
    "rare .05": (0.05, lambda n, seed: rare(0.05, (2000, n), seed)),
    "rare .02": (0.02, lambda n, seed: rare(0.02, (2000, n), seed)),
    "rare, both signs": (0.03, lambda n, seed: rare(0.06, (2000, n), seed) * (1 - 2 * rare(0.25, (2000, n), seed + 1))),
}


@pytest.mark.parametrize("kind", [{"bound": 1.0}, {"worst": 1.0}], ids=["betting", "t and one imaginary sample"])
@pytest.mark.parametrize("count", [20, 64, 200])
@pytest.mark.parametrize("case", CASES)
def test_intervals_for_differences_cover_at_least_93_percent_even_for_rare_events(case, count, kind):
    mean, draw = CASES[case]
    low, high, _ = mean_interval(draw(count, 7), **kind)
    assert coverage(low.unsqueeze(-1), high.unsqueeze(-1), torch.tensor([mean], dtype=FLOAT)) >= 0.93


def test_the_plain_t_interval_fails_on_rare_events_which_is_why_it_is_not_used_for_them():
    low, high = t_interval(rare(0.05, (2000, 20)))
    assert coverage(low.unsqueeze(-1), high.unsqueeze(-1), torch.tensor([0.05], dtype=FLOAT)) < 0.7


@claim
@given(seed=seeds, shift=st.floats(-0.5, 0.5), count=st.integers(2, 50))
def test_a_betting_interval_holds_the_sample_mean_and_mirrors_with_the_samples(seed, shift, count):
    samples = gaussian(shift, 0.3, (count,), seed)
    low, high = betting_interval(samples, 1.0)
    assert -1 <= low <= samples.mean() <= high <= 1
    mirrored_low, mirrored_high = betting_interval(-samples, 1.0)
    torch.testing.assert_close((low, high), (-mirrored_high, -mirrored_low))


def test_a_betting_interval_scales_with_the_unit():
    samples = gaussian(0.1, 0.3, (64,))
    torch.testing.assert_close(torch.stack(betting_interval(samples, 1.0)) * 50, torch.stack(betting_interval(samples * 50, 50.0)))


# evidence that grows


def test_the_floor_is_the_rule_of_three():
    assert floor_pairs(0.1, 1.0, 0.05) == 29
    assert floor_pairs(0.021, 1.0, 0.05) == 142
    assert floor_pairs(0.0525, 1.0, 0.05) == 56
    assert floor_pairs(0.0525, 1.0, 0.05 / 4) == 82
    assert floor_pairs(0.01, 1.0, 0.05) == pytest.approx(3 / 0.01, rel=0.01)


@pytest.mark.parametrize("alpha", [0.05, 0.0125, 0.001])
@pytest.mark.parametrize("delta", [0.2, 0.1, 0.02])
def test_when_every_difference_is_zero_a_verdict_takes_at_most_1_35_floors(delta, alpha):
    floor = floor_pairs(delta, 1.0, alpha)
    path = log_e_path(torch.zeros(2 * floor, dtype=FLOAT), delta, 1.0, "below")
    pairs = int((path >= math.log(1 / alpha)).to(torch.int64).argmax()) + 1
    assert floor <= pairs <= 1.35 * floor


@pytest.mark.parametrize(
    ("mean", "sd", "side", "at_most"), [(0.0, 0.0, "below", 37), (0.0, 0.1, "below", 40), (0.3, 0.3, "above", 29), (0.2, 0.4, "above", 129)]
)
def test_median_pairs_to_a_verdict_at_delta_one_tenth_of_the_range(mean, sd, side, at_most):
    path = log_e_path(gaussian(mean, sd, (400, 600)), 0.1, 1.0, side)
    reached = path >= ENOUGH
    pairs = torch.where(reached.any(1), reached.to(torch.int64).argmax(1) + 1, 601)
    assert pairs.median() <= at_most


BOUNDARY = {
    "rare .1": (0.1, lambda shape, seed: rare(0.1, shape, seed)),
    "rare .02": (0.02, lambda shape, seed: rare(0.02, shape, seed)),
    "gaussian": (0.1, lambda shape, seed: gaussian(0.1, 0.3, shape, seed)),
}


def false_claim_rate(case, side, simulations, looks):
    delta, draw = BOUNDARY[case]
    claimed = sum(
        int((log_e_path(draw((500, looks), seed), delta, 1.0, side).amax(1) >= ENOUGH).sum()) for seed in range(simulations // 500)
    )
    return claimed / simulations


@pytest.mark.parametrize("side", ["below", "above"])
@pytest.mark.parametrize("case", BOUNDARY)
def test_at_the_boundary_false_claims_stay_within_alpha_under_optional_stopping(case, side):
    assert false_claim_rate(case, side, 2000, 500) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("side", ["below", "above"])
@pytest.mark.parametrize("case", BOUNDARY)
def test_at_the_boundary_false_claims_stay_within_alpha_in_20000_simulations(case, side):
    assert false_claim_rate(case, side, 20_000, 2000) <= 0.05


@pytest.mark.parametrize("case", BOUNDARY)
def test_asymptotic_evidence_is_not_far_from_its_level_at_the_boundary(case):
    delta, draw = BOUNDARY[case]
    looks = range(0, 512, 16)
    differences = draw((2000, 512), 3)
    evidence = begin(torch.full((2000,), delta, dtype=FLOAT), 1.0, approximate=True)
    most_below = most_above = torch.zeros(2000, dtype=FLOAT)
    for look in looks:
        evidence = update(evidence, differences[:, look : look + 16])
        most_below, most_above = torch.maximum(most_below, log_e_below(evidence)), torch.maximum(most_above, log_e_above(evidence))
    assert (most_below >= ENOUGH).double().mean() <= 0.06
    assert (most_above >= ENOUGH).double().mean() <= 0.06


def test_asymptotic_evidence_reaches_verdicts_in_both_directions_but_not_before_64_pairs():
    evidence = begin(torch.full((2,), 0.3, dtype=FLOAT), 2.0, approximate=True)
    differences = torch.stack([torch.zeros(63, dtype=FLOAT), torch.full((63,), 1.0, dtype=FLOAT)])
    evidence = update(evidence, differences)
    assert (log_e_below(evidence) == 0).all()
    assert (log_e_above(evidence) == 0).all()
    evidence = update(evidence, differences)
    assert log_e_below(evidence)[0] > ENOUGH > log_e_below(evidence)[1]
    assert log_e_above(evidence)[1] > ENOUGH > log_e_above(evidence)[0]


@claim
@given(seed=seeds, cut=st.integers(1, 39))
def test_evidence_depends_neither_on_batches_nor_on_the_order_of_pairs(seed, cut):
    differences = gaussian(0.1, 0.4, (3, 40), seed)
    delta = torch.tensor([0.05, 0.1, 0.2], dtype=FLOAT)
    whole = update(begin(delta, 1.0), differences)
    parts = update(update(begin(delta, 1.0), differences[:, cut:]), differences[:, :cut])
    torch.testing.assert_close(log_e_below(whole), log_e_below(parts))
    torch.testing.assert_close(log_e_above(whole), log_e_above(parts))
    torch.testing.assert_close(log_e_below(whole)[1], log_e_path(differences[1], 0.1, 1.0, "below")[-1])


def test_claims_that_are_not_valid_keep_their_evidence():
    start = update(begin(torch.full((2,), 0.1, dtype=FLOAT), 1.0), torch.zeros(2, 5, dtype=FLOAT))
    after = update(start, torch.full((2, 5), math.nan, dtype=FLOAT).index_fill(0, torch.tensor([0]), 0.0), torch.tensor([True, False]))
    assert after.count.tolist() == [10, 5]
    assert float(log_e_below(after)[1]) == float(log_e_below(start)[1])
    assert float(log_e_below(after)[0]) > float(log_e_below(start)[0])
    with pytest.raises(ValueError, match="NaN"):
        update(start, torch.full((2, 5), math.nan, dtype=FLOAT))


def test_one_worst_pair_costs_much_but_never_everything():
    evidence = update(begin(torch.tensor([0.1], dtype=FLOAT), 1.0), torch.tensor([[1.0, -1.0]], dtype=FLOAT))
    assert torch.isfinite(log_e_below(evidence)).all()
    assert torch.isfinite(log_e_above(evidence)).all()


def test_a_forecast_of_twice_the_pairs_is_the_evidence_of_playing_them_again():
    differences = gaussian(0.0, 0.2, (1, 32))
    once = update(begin(torch.tensor([0.1], dtype=FLOAT), 1.0), differences)
    torch.testing.assert_close(log_e_below(scaled(once, torch.tensor([2.0])))[0], log_e_below(update(once, differences)))


@pytest.mark.parametrize("delta", [0.0, -0.1, 1.0])
def test_margins_outside_the_range_are_refused(delta):
    with pytest.raises(ValueError, match="must lie above 0"):
        begin(torch.tensor([delta]), 1.0)


@pytest.mark.parametrize("approximate", [False, True])
def test_a_confidence_sequence_is_the_evidence_turned_inside_out(approximate):
    differences = gaussian(0.15, 0.3, (4, 128))
    low, high = confidence_sequence(differences, 1.0, confidence=0.9, approximate=approximate)
    just_above, just_below = high + 1e-6, high - 1e-6
    assert (log_e_below(update(begin(just_above, 1.0, approximate=approximate), differences)) >= ENOUGH).all()
    assert (log_e_below(update(begin(just_below, 1.0, approximate=approximate), differences)) < ENOUGH).all()
    assert (low < differences.mean(1)).all()
    assert (low > differences.mean(1) - 0.3).all()


def test_a_confidence_sequence_holds_the_mean_at_every_look_at_once():
    differences = rare(0.05, (200, 256))
    held = torch.ones(200, dtype=torch.bool)
    for look in range(16, 257, 16):
        low, high = confidence_sequence(differences[:, :look], 1.0)
        held &= (low <= 0.05) & (high >= 0.05)
    assert held.double().mean() >= 0.95


def test_holm_on_e_values_by_hand():
    log_e = torch.log(torch.tensor([19.0, 100.0, 45.0, 59.0]))
    assert e_holm(log_e, 0.05).tolist() == [False, True, False, False]  # needs 80, 60, 40, 20: 59 < 60 ends it
    assert e_holm(torch.log(torch.tensor([21.0, 100.0, 45.0, 61.0])), 0.05).all()
    assert not e_holm(torch.log(torch.tensor([79.0, 79.0, 79.0, 79.0])), 0.05).any()


# scores


def test_spearman_shares_the_places_of_ties():
    assert ranks(torch.tensor([5.0, 1.0, 5.0])).tolist() == [2.5, 1.0, 2.5]
    assert spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 20.0, 25.0])) == pytest.approx(1.0)
    assert spearman(torch.tensor([1.0, 2.0, 2.0, 4.0]), torch.tensor([4.0, 2.0, 3.0, 1.0])) == pytest.approx(-3 / math.sqrt(10))
    assert math.isnan(spearman(torch.ones(3), torch.tensor([1.0, 2.0, 3.0])))


def test_sum_error_and_null_agent_error_by_hand():
    assert sum_error(torch.tensor([1.0, 2.0]), 3.5) == 0.5
    assert null_agent_error(torch.tensor([1.0, -0.25, 0.125]), torch.tensor([False, True, True])) == 0.25
    assert null_agent_error(torch.tensor([1.0]), torch.tensor([False])) == 0.0
