"""Return decomposition: RRD's loss over subsets, RUDDER's differences, the residual, and padding that never counts."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from teamcredit.credit.temporal import (
    decomposition_loss,
    last_value,
    lengths,
    prediction_differences,
    prediction_loss,
    random_subset,
    residual_share,
    spread_residual,
    subset_variance,
)

free = settings(deadline=None, derandomize=True, max_examples=60)


def column(*values: float) -> torch.Tensor:
    """One episode."""
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def mask(*numbers: int, rows: int) -> torch.Tensor:
    """Episodes of these lengths."""
    return torch.arange(rows).unsqueeze(1) < torch.tensor(numbers)


def all_subsets(time: int, size: int) -> list[torch.Tensor]:
    chosen = []
    for steps in combinations(range(time), size):
        of_one = torch.zeros(time, 1, dtype=torch.bool)
        of_one[list(steps)] = True
        chosen.append(of_one)
    return chosen


def test_rrd_loss_by_hand():
    predicted, returns, valid = column(1.0, 2.0, 4.0), torch.tensor([10.0], dtype=torch.float64), mask(3, rows=3)
    first_and_last = torch.tensor([[True], [False], [True]])
    assert decomposition_loss(predicted, returns, first_and_last, valid).item() == pytest.approx((10 - 3 / 2 * 5) ** 2)
    assert decomposition_loss(predicted, returns, valid, valid).item() == pytest.approx((10 - 7) ** 2)


def test_the_mean_loss_over_all_subsets_by_hand():
    # (1, 2, 4), R = 10, K = 2: the three pairs give 1.5 * 3, 1.5 * 5, 1.5 * 6, so errors 5.5, 2.5, 1
    predicted, returns, valid = column(1.0, 2.0, 4.0), torch.tensor([10.0], dtype=torch.float64), mask(3, rows=3)
    losses = [decomposition_loss(predicted, returns, chosen, valid).item() for chosen in all_subsets(3, 2)]
    assert sum(losses) / 3 == pytest.approx((5.5**2 + 2.5**2 + 1) / 3)
    # S^2 = ((4/3)^2 + (1/3)^2 + (5/3)^2) / 2 = 7/3, times 9/2 (1 - 2/3) = 3.5
    assert subset_variance(predicted, valid, 2).item() == pytest.approx(3.5)
    assert sum(losses) / 3 == pytest.approx(9 + 3.5)


@free
@given(time=st.integers(1, 6), size=st.integers(1, 6), seed=st.integers(0, 10_000))
def test_the_mean_loss_over_all_subsets_is_the_full_error_plus_the_subset_variance(time, size, seed):
    generator = torch.Generator().manual_seed(seed)
    predicted = torch.randn(time, 1, generator=generator, dtype=torch.float64)
    returns, valid = torch.randn(1, generator=generator, dtype=torch.float64), mask(time, rows=time)
    subsets = all_subsets(time, min(size, time))
    mean = torch.stack([decomposition_loss(predicted, returns, chosen, valid) for chosen in subsets]).mean()
    full = (returns - predicted.sum(0)).square()
    torch.testing.assert_close(mean, (full + subset_variance(predicted, valid, size)).squeeze())


def test_every_subset_is_drawn_equally_often_and_none_outside_the_episode():
    number = 6_000
    valid = mask(*[4] * number, rows=6)
    chosen = random_subset(valid, 2, generator=torch.Generator().manual_seed(0))
    assert bool((chosen.sum(0) == 2).all())
    assert not bool((chosen & ~valid).any())
    kinds, counts = chosen[:4].T.unique(dim=0, return_counts=True)
    assert len(kinds) == 6
    assert bool(((counts - 1000).abs() < 5 * 30).all())  # a binomial's standard deviation is 29


def test_a_shorter_episode_enters_whole_and_the_same_seed_draws_the_same():
    valid = mask(1, 3, 6, rows=6)
    first, second = (random_subset(valid, 4, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.sum(0).tolist() == [1, 3, 4]


def test_rudders_differences_by_hand():
    # g = 2, 5, 5, 9 and before that 1: differences 1, 3, 0, 4, and a quarter of the 1 for each; they add up to 9
    rewards = prediction_differences(column(2.0, 5.0, 5.0, 9.0), mask(4, rows=4), torch.tensor([1.0], dtype=torch.float64))
    assert rewards.squeeze(1).tolist() == [1.25, 3.25, 0.25, 4.25]


def test_the_last_prediction_is_that_of_the_last_real_step():
    values = torch.tensor([[1.0, 10.0], [2.0, 20.0], [torch.nan, 30.0]])
    assert last_value(values, mask(2, 3, rows=3)).tolist() == [2.0, 30.0]


def test_rudders_loss_by_hand():
    # R = 4, g = 1, 3: the last error is 1, the mean of both (9 + 1) / 2
    loss = prediction_loss(column(1.0, 3.0, 77.0), torch.tensor([4.0], dtype=torch.float64), mask(2, rows=3), early=0.5)
    assert loss.item() == pytest.approx(1 + 0.5 * 5)


@free
@given(numbers=st.lists(st.integers(1, 7), min_size=1, max_size=5), seed=st.integers(0, 10_000), scale=st.sampled_from([1e-3, 1.0, 1e5]))
def test_rewards_add_up_to_the_return_and_padding_gets_nothing(numbers, seed, scale):
    generator, valid = torch.Generator().manual_seed(seed), mask(*numbers, rows=8)
    predicted = scale * torch.randn(valid.shape, generator=generator)
    predicted[~valid] = torch.nan
    returns = scale * torch.randn(len(numbers), generator=generator, dtype=torch.float64)
    rewards, residual = spread_residual(predicted, returns, valid)
    torch.testing.assert_close(rewards.sum(0), returns, rtol=1e-12, atol=1e-12 * scale)
    assert not bool(rewards[~valid].any())
    exact = torch.where(valid, predicted, 0.0).double()
    torch.testing.assert_close(rewards - exact, torch.where(valid, residual / valid.sum(0), 0.0), rtol=0, atol=1e-9 * scale)


@pytest.mark.parametrize("what", ["decomposition", "prediction", "variance", "differences"])
def test_what_stands_in_the_padding_changes_nothing_and_gets_no_gradient(what):
    valid = mask(2, 4, rows=5)
    returns = torch.tensor([1.0, -2.0])

    def value(predicted: torch.Tensor) -> torch.Tensor:
        if what == "decomposition":
            return decomposition_loss(predicted, returns, random_subset(valid, 2, generator=torch.Generator().manual_seed(1)), valid)
        if what == "prediction":
            return prediction_loss(predicted, returns, valid)
        if what == "variance":
            return subset_variance(predicted, valid, 1)
        return prediction_differences(predicted, valid, returns).square().sum(0)

    base = torch.randn(5, 2, generator=torch.Generator().manual_seed(2))
    other = base.masked_fill(~valid, 1e6).requires_grad_()
    assert torch.equal(value(base), value(other))
    value(other).sum().backward()
    assert other.grad is not None
    assert not bool(other.grad[~valid].any())
    assert bool(other.grad[valid].any())


def test_the_residual_share_is_0_for_a_perfect_model_1_for_the_mean_and_undefined_where_returns_agree():
    returns = torch.tensor([1.0, 3.0, 8.0], dtype=torch.float64)
    assert residual_share(torch.zeros(3, dtype=torch.float64), returns) == 0
    assert residual_share(returns - returns.mean(), returns) == 1
    assert residual_share(torch.ones(2), torch.ones(2)) != residual_share(torch.ones(2), torch.ones(2))


def test_no_step_and_gaps_and_empty_subsets_are_refused():
    with pytest.raises(ValueError, match="without a single valid step"):
        lengths(mask(0, 2, rows=3))
    with pytest.raises(ValueError, match="without a gap"):
        lengths(torch.tensor([[True], [False], [True]]))
    with pytest.raises(ValueError, match="at least 1"):
        random_subset(mask(2, rows=2), 0, generator=torch.Generator())
