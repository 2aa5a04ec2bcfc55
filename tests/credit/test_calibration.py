"""How claims of a critic are held against what happened: by hand, at the edges, and over whole episodes."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from teamcredit.credit.calibration import Calibration, calibrate, judge_critic
from teamcredit.credit.counterfactual import counterfactual_advantage, expected_gradient_weight

torch.set_num_threads(1)
claims = settings(deadline=None, derandomize=True, max_examples=30)


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def noisy(seed: int, samples: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Claims, outcomes that follow them with noise, and ten episodes of four decisions."""
    generator = torch.Generator().manual_seed(seed)
    claim, noise = torch.randn(2, samples, generator=generator, dtype=torch.float64)
    return claim, claim + 0.5 * noise, torch.arange(samples) // 4


def test_figures_by_hand():
    """Both have variance 5/4; the errors 0, 1, -1, 0 have variance 1/2; the covariance is 1."""
    found = calibrate(numbers(0, 1, 2, 3), numbers(0, 2, 1, 3), torch.arange(4))
    assert found.explained_variance == pytest.approx(1 - 0.5 / 1.25)
    assert (found.correlation, found.slope, found.intercept) == pytest.approx((0.8, 0.8, 0.3))
    assert (found.bias, found.samples, found.episodes) == (0, 4, 4)


def test_a_perfect_critic_has_explained_variance_1_slope_1_and_no_bias():
    claim, _, episode = noisy(0)
    found = calibrate(claim, claim, episode)
    assert (found.explained_variance, found.correlation, found.slope) == pytest.approx((1, 1, 1))
    assert (found.bias, found.intercept) == pytest.approx((0, 0), abs=1e-12)
    assert found.explained_variance_interval == pytest.approx((1, 1))


@claims
@given(st.integers(0, 2**31), st.floats(-50, 50))
def test_a_constant_added_to_the_claims_is_bias_and_nothing_else(seed, shift):
    claim, outcome, episode = noisy(seed)
    plain, shifted = calibrate(claim, outcome, episode, resamples=10), calibrate(claim + shift, outcome, episode, resamples=10)
    assert shifted.bias == pytest.approx(plain.bias + shift)
    assert shifted.intercept == pytest.approx(plain.intercept - plain.slope * shift)
    for name in ("explained_variance", "correlation", "slope"):
        assert getattr(shifted, name) == pytest.approx(getattr(plain, name))


@claims
@given(st.integers(0, 2**31), st.floats(0.1, 10))
def test_claims_twice_too_far_apart_have_half_the_slope_and_the_same_correlation(seed, factor):
    claim, outcome, episode = noisy(seed)
    plain, stretched = calibrate(claim, outcome, episode, resamples=10), calibrate(factor * claim, outcome, episode, resamples=10)
    assert stretched.slope == pytest.approx(plain.slope / factor)
    assert stretched.correlation == pytest.approx(plain.correlation)


def test_a_constant_critic_explains_nothing_and_is_unreliable():
    _, outcome, episode = noisy(0)
    found = calibrate(torch.full_like(outcome, 3.0), outcome, episode)
    assert found.explained_variance == pytest.approx(0)
    assert math.isnan(found.correlation)
    assert math.isnan(found.slope)
    assert found.correlation_interval is None
    assert judge_critic(found, None)[0] is False


def test_outcomes_all_alike_leave_nothing_to_explain_though_they_carry_rounding():
    claim, _, episode = noisy(0)
    found = calibrate(claim, 100 + 1e-9 * claim, episode)
    assert math.isnan(found.explained_variance)
    assert math.isnan(found.correlation)
    assert found.explained_variance_interval is None
    assert found.slope == pytest.approx(0, abs=1e-6)


def test_more_decisions_of_the_same_episodes_are_no_more_evidence():
    claim, outcome, episode = noisy(1)
    once, often = calibrate(claim, outcome, episode), calibrate(claim.repeat(25), outcome.repeat(25), episode.repeat(25))
    assert often.explained_variance_interval == pytest.approx(once.explained_variance_interval)
    assert often.correlation_interval == pytest.approx(once.correlation_interval)
    apart = calibrate(claim.repeat(25), outcome.repeat(25), torch.arange(1000))  # wrongly taken for independent
    assert width(apart) < 0.4 * width(once)


def width(found: Calibration) -> float:
    assert found.explained_variance_interval is not None
    low, high = found.explained_variance_interval
    return high - low


def test_one_episode_gives_no_interval_and_no_decision_gives_nothing():
    claim, outcome, _ = noisy(0)
    assert calibrate(claim, outcome, torch.zeros(40, dtype=torch.int64)).explained_variance_interval is None
    with pytest.raises(ValueError, match="at least one claim"):
        calibrate(claim[:0], outcome[:0], torch.arange(0))


def test_calibration_depends_on_its_seed_alone():
    before = torch.get_rng_state()
    first, again, other = (calibrate(*noisy(2), seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.explained_variance_interval != other.explained_variance_interval
    assert torch.equal(before, torch.get_rng_state())


GOOD, POOR = (
    calibrate(numbers(0, 1, 2, 3), numbers(0, 2, 1, 3), torch.arange(4)),
    calibrate(numbers(0, 1, 2), numbers(1, 0, 1), torch.arange(3)),
)
MANY = calibrate(numbers(0, 1, 2, 3).repeat(16), numbers(0, 2, 1, 3).repeat(16), torch.arange(64))
"""GOOD's figures from sixteen times as many samples."""
LINE = calibrate(numbers(0, 1), numbers(3, 5), torch.arange(2))
NOISE = calibrate(torch.arange(8.0), numbers(4, 0, 3, 1, 2, 6, 5, 4), torch.arange(8))
ALIKE, FLAT = calibrate(numbers(0, 1), numbers(2, 2), torch.arange(2)), calibrate(numbers(1, 1), numbers(1, 1), torch.arange(2))


@pytest.mark.parametrize(
    "returns, forks, reliable, why",
    [
        (GOOD, MANY, True, "explains 0.6 of the variance of real returns, and the changes .* correlate by 0.8"),
        (GOOD, GOOD, None, "correlate by 0.8 with the real ones, but 4 of them from 4 episodes may do that by chance"),
        (GOOD, LINE, None, "correlate by 1 with the real ones, but 2 of them from 2 episodes may do that by chance"),
        (GOOD, NOISE, None, "correlate by 0.5.* with the real ones, but 8 of them from 8 episodes may do that by chance"),
        (GOOD, None, None, "no action was replaced"),
        (POOR, MANY, False, "explains -3 of the variance of real returns, less than 0.5"),
        (GOOD, POOR, False, "correlate by 0 with the real ones, less than 0.5"),
        (ALIKE, MANY, True, "all real returns are alike"),
        (None, MANY, True, "no step could be set against"),
        (None, None, None, "no step could be set against"),
        (GOOD, ALIKE, False, "the real change was the same for all"),
        (GOOD, FLAT, None, "the same change for every replaced action"),
    ],
)
def test_a_critic_is_believed_only_where_nothing_speaks_against_it_and_forks_speak_for_it(returns, forks, reliable, why):
    verdict, sentence = judge_critic(returns, forks)
    assert verdict is reliable
    assert re.search(why, sentence)


def test_the_gradient_weight_is_the_mean_size_of_the_advantage_whose_mean_is_0():
    """Q = (1, 5), pi = (1/4, 3/4): the mean is 4, the advantages -3 and 1."""
    q, policy = numbers(1, 5).expand(1, 2), numbers(0.25, 0.75).expand(1, 2)
    advantage = torch.cat([counterfactual_advantage(q, policy, torch.tensor([action])) for action in (0, 1)])
    assert advantage.tolist() == [-3, 1]
    assert float(advantage @ policy[0]) == 0
    assert expected_gradient_weight(q, policy).tolist() == [0.25 * 3 + 0.75 * 1]
