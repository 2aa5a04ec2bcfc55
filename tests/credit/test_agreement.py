"""Banzhaf values, agreement of estimates, and whether their intervals tell agents apart."""

import math

import pytest
import torch
from teamcredit.credit import EpisodeGame, banzhaf, measure_interactions, shapley, wonderful_life
from teamcredit.credit.agreement import agreement, tells_apart
from teamcredit.credit.base import Credit
from teamcredit.credit.games import airport, either_or_with_worker


def credit(values: list[float], half_width: float | None = None) -> Credit:
    value = torch.tensor(values, dtype=torch.float64)
    low, high = (None, None) if half_width is None else (value - half_width, value + half_width)
    words = {"estimand": "", "method": "", "reference": "noop", "unit": "", "resampled": ""}
    return Credit(value, low, high, total=0.0, evaluations=0, episodes=0, env_steps=0, approximate=False, **words)


def test_banzhaf_values_of_the_airport_game():
    assert banzhaf(airport([1, 2, 3, 4, 5, 6]), 6).value.tolist() == [0.03125, 0.09375, 0.21875, 0.46875, 0.96875, 1.96875]


def noisy(game, num_agents: int) -> EpisodeGame:
    """Every episode adds the same noise to every coalition, so differences are exact."""

    def simulate(coalitions, episodes):
        return game(coalitions).unsqueeze(1) + episodes.to(torch.float64), 1

    return EpisodeGame(simulate, num_agents)


def test_banzhaf_values_of_episodes_are_paired():
    found = banzhaf(noisy(airport([1, 2, 3]), 3), 3, episodes=8)
    torch.testing.assert_close(found.value, banzhaf(airport([1, 2, 3]), 3).value)
    assert found.low is not None
    torch.testing.assert_close(found.low, found.value)


def test_the_either_or_pair_interacts_with_minus_two_and_nobody_else_does():
    found = measure_interactions(noisy(either_or_with_worker(), 3), episodes=4)
    torch.testing.assert_close(found.value, torch.tensor([[0, -2, 0], [-2, 0, 0], [0, 0, 0]], dtype=torch.float64))


def test_agreement_is_the_rank_correlation_over_agents_both_measured():
    first, second, partly = credit([1, 2, 3, 4]), credit([10, 30, 20, 40]), credit([4, 3, math.nan, 1])
    matrix = agreement([first, second, partly])
    assert matrix[0, 0] == pytest.approx(1)
    assert matrix[0, 1] == matrix[1, 0] == pytest.approx(0.8)  # 1 - 6 (0 + 1 + 1 + 0) / (4 * 15)
    assert matrix[0, 2] == pytest.approx(-1)
    assert agreement([credit([1, 1, 1]), credit([1, 2, 3])])[0, 1].isnan()


def test_intervals_that_overlap_do_not_tell_agents_apart():
    assert tells_apart(credit([0, 1, 2], 0.4)) == (3, 3)
    assert tells_apart(credit([0, 1, 2], 0.6)) == (1, 3)
    assert tells_apart(credit([0, 1, 2], 1.5)) == (0, 3)
    assert tells_apart(credit([0, 0, 1])) == (2, 3)
    assert tells_apart(credit([0, math.nan, 1], 0.1)) == (1, 1)


@pytest.mark.parametrize("estimate", [shapley, banzhaf])
def test_too_many_agents_are_told_the_number_of_coalitions_and_what_to_do(estimate):
    exactly = {"exact_up_to": 15} if estimate is shapley else {}
    with pytest.raises(ValueError, match=r"15 agents have 2\^15 = 32,768 coalitions.*Sample instead: shapley"):
        estimate(airport(range(15)), 15, **exactly)


def test_wonderful_life_is_the_value_lost_with_the_agents_absence_from_the_world():
    found = wonderful_life(airport([1, 2, 6]), 3)
    assert found.value.tolist() == [0, 0, 4]
    assert found.reference == "out of the world"
    assert "not in the world" in found.estimand
