"""Additive fits: Banzhaf, Shapley or leave-one-out by what they have seen; what free ends cost; the sampler's distribution."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from teamcredit.credit import all_coalitions, banzhaf_from_values, leave_one_out, shapley_from_values
from teamcredit.credit.games import (
    additive,
    airport,
    either_or_with_worker,
    glove,
    harmful_agent,
    majority,
    random_two_additive,
    unanimity,
    weighted_vote,
)
from teamcredit.credit.probes import (
    additive_fit,
    draw_members,
    draw_size,
    joining_weights,
    kernel_weights,
    pinned_fit,
    shapley_kernel_coalitions,
    size_probabilities,
    size_weights,
    weight_of_ends,
    with_total,
)

torch.set_num_threads(1)
FLOAT = torch.float64
claim = settings(deadline=None, derandomize=True, max_examples=25)
GAMES = {
    "additive with a dummy": additive([1, 2, 3, 0]),
    "airport": airport(range(1, 7)),
    "glove": glove(2, 4),
    "majority": majority(5, 3),
    "weighted vote": weighted_vote(4, [3, 2, 1, 1]),
    "unanimity": unanimity(3, [0, 1]),
    "either-or": either_or_with_worker(),
    "harmful": harmful_agent(),
    "2-additive": random_two_additive(7, torch.Generator().manual_seed(0)),
}
every_game = pytest.mark.parametrize("game", GAMES.values(), ids=GAMES)


def vector(*values):
    return torch.tensor(values, dtype=FLOAT)


def near(expected, within):
    return {"expected": expected, "rtol": 0, "atol": within}


def finite_kernel(coalitions):
    weights = kernel_weights(coalitions)
    return torch.where(weights.isinf(), 0.0, weights)


def random_values(num_agents, seed):
    return torch.randn(2**num_agents, generator=torch.Generator().manual_seed(seed), dtype=FLOAT)


@every_game
def test_all_coalitions_alike_give_the_banzhaf_value(game):
    coalitions = all_coalitions(game.num_agents)
    values = game(coalitions)
    torch.testing.assert_close(additive_fit(coalitions, values).gain, **near(banzhaf_from_values(values), 1e-6))


@every_game
def test_the_shapley_kernel_with_both_ends_pinned_gives_the_shapley_value(game):
    coalitions = all_coalitions(game.num_agents)
    values = game(coalitions)
    fit = pinned_fit(coalitions, values, finite_kernel(coalitions), empty=float(values[0]), full=float(values[-1]))
    torch.testing.assert_close(fit.gain, **near(game.shapley, 1e-6))


def test_the_printed_digits_of_airport():
    coalitions = all_coalitions(6)
    values = airport(range(1, 7))(coalitions)
    uniform = additive_fit(coalitions, values).gain
    torch.testing.assert_close(uniform, **near(vector(0.03125, 0.09375, 0.21875, 0.46875, 0.96875, 1.96875), 1e-9))
    nearly_full = additive_fit(coalitions, values, joining_weights(torch.full((6,), 0.95, dtype=FLOAT))).gain
    torch.testing.assert_close(nearly_full, **near(vector(0, 0, 0, 0.003, 0.053, 1.053), 5e-4))


@every_game
def test_where_nearly_always_everybody_is_in_the_fit_is_leave_one_out(game):
    coalitions = all_coalitions(game.num_agents)
    fit = additive_fit(coalitions, game(coalitions), joining_weights(torch.full((game.num_agents,), 1 - 1e-4, dtype=FLOAT)))
    torch.testing.assert_close(fit.gain, **near(leave_one_out(game, game.num_agents).value, 3e-3))


def test_kernel_weights_by_hand():
    # n = 4: 3 / (4 * 1 * 3), 3 / (6 * 2 * 2), 3 / (4 * 3 * 1)
    sizes = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.bool)
    assert kernel_weights(sizes).tolist() == pytest.approx([math.inf, 1 / 4, 1 / 8, 1 / 4, math.inf])


@given(seed=st.integers(0, 2**31), num_agents=st.integers(3, 6), ends=st.sampled_from([0.0, 0.1, 0.5, 0.9]))
@claim
def test_with_free_ends_gains_differ_as_shapley_values_do_and_add_up_as_said(seed, num_agents, ends):
    coalitions, values = all_coalitions(num_agents), random_values(num_agents, seed)
    truth, total = shapley_from_values(values), float(values[-1] - values[0])
    fit = additive_fit(coalitions, values, size_weights(size_probabilities(num_agents, ends)))
    torch.testing.assert_close(fit.gain - fit.gain[0], **near(truth - truth[0], 1e-9))
    torch.testing.assert_close(with_total(fit.gain, total), **near(truth, 1e-9))
    between = float(additive_fit(coalitions, values, size_weights(size_probabilities(num_agents, 0.0))).gain.sum())
    share = weight_of_ends(num_agents, ends)
    assert float(fit.gain.sum()) == pytest.approx(share * total + (1 - share) * between, abs=1e-9)


@given(seed=st.integers(0, 2**31), ends=st.sampled_from([0.1, 0.5, 0.9]))
@claim
def test_of_two_agents_a_free_fit_gives_the_shapley_value_itself(seed, ends):
    values = random_values(2, seed)
    gain = additive_fit(all_coalitions(2), values, size_weights(size_probabilities(2, ends))).gain
    torch.testing.assert_close(gain, **near(shapley_from_values(values), 1e-9))


@given(seed=st.integers(0, 2**31), empty=st.floats(0.01, 0.5), full=st.floats(0.01, 0.5))
@claim
def test_however_unlike_the_ends_are_the_differences_stay_shapleys(seed, empty, full):
    values = random_values(4, seed)
    probabilities = (1 - empty - full + 0.01) * size_probabilities(4, 0.0)
    probabilities[0], probabilities[-1] = empty, full
    gain = additive_fit(all_coalitions(4), values, size_weights(probabilities)).gain
    truth = shapley_from_values(values)
    torch.testing.assert_close(gain - gain[0], **near(truth - truth[0], 1e-9))


def test_other_sizes_than_the_kernels_give_other_differences():
    values = airport(range(1, 5))(all_coalitions(4))
    gain = additive_fit(all_coalitions(4), values, size_weights(torch.full((5,), 0.2, dtype=FLOAT))).gain
    truth = shapley_from_values(values)
    assert float((gain - gain[0] - truth + truth[0]).abs().max()) > 0.03


def test_the_share_of_the_ends_by_hand():
    # n = 6: V = 2 (4/5 + 1/8) / (2/5 + 2/8 + 1/9) = 2.430657; 4.5 / (4.5 + V / 2)
    assert weight_of_ends(6, 0.5) == pytest.approx(0.787356, abs=1e-6)
    assert weight_of_ends(6, 0.0) == 0
    assert weight_of_ends(6, 1.0) == 1
    assert weight_of_ends(2, 0.1) == 1


def test_an_additive_game_is_fitted_without_error_from_any_coalitions():
    game = additive([1, 2, 0])
    coalitions = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    fit = additive_fit(coalitions, game(coalitions) + 5)
    torch.testing.assert_close(fit.gain, **near(vector(1, 2, 0), 1e-9))
    assert (float(fit.base), float(fit.error)) == pytest.approx((5, 0), abs=1e-9)


def test_the_error_is_what_is_left_over():
    # XOR of two: the best additive fit is 1/2 everywhere, half a unit off everywhere.
    fit = additive_fit(all_coalitions(2), vector(0, 1, 1, 0))
    torch.testing.assert_close(fit.gain, **near(vector(0, 0), 1e-9))
    assert (float(fit.base), float(fit.error)) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("num_agents", [2, 3, 6])
def test_drawn_coalitions_have_the_kernels_sizes_and_every_member_alike(num_agents):
    count = 40_000
    drawn = shapley_kernel_coalitions(count, num_agents, torch.Generator().manual_seed(0), ends=0.3)
    expected = size_weights(size_probabilities(num_agents, 0.3))
    masks = (drawn.to(torch.int64) << torch.arange(num_agents)).sum(1)
    frequency = torch.bincount(masks, minlength=2**num_agents) / count
    assert (frequency - expected).abs().max() < 4 * 0.5 / count**0.5  # four standard errors at most


def test_size_probabilities_by_hand():
    assert size_probabilities(4).tolist() == pytest.approx([0, 4 / 11, 3 / 11, 4 / 11, 0])
    assert size_probabilities(3, 0.5).tolist() == pytest.approx([0.25, 0.25, 0.25, 0.25])
    assert size_probabilities(1, 1.0).tolist() == [0.5, 0.5]


def test_numbers_pick_sizes_and_scores_pick_members():
    numbers = vector(0, 0.2499, 0.25, 0.7501, 1 - 2.0**-53)
    assert draw_size(numbers, size_probabilities(3, 0.5)).tolist() == [0, 0, 1, 3, 3]
    assert draw_members(vector(0.3, 0.1, 0.2), torch.tensor(2)).tolist() == [False, True, True]


def test_shapley_values_are_estimated_from_drawn_coalitions():
    game, empty, full = airport(range(1, 7)), 0.0, 6.0
    drawn = shapley_kernel_coalitions(20_000, 6, torch.Generator().manual_seed(1))
    torch.testing.assert_close(pinned_fit(drawn, game(drawn), empty=empty, full=full).gain, **near(game.shapley, 0.04))
    uniform = all_coalitions(6)[torch.randint(64, (20_000,), generator=torch.Generator().manual_seed(2))]
    assert float((additive_fit(uniform, game(uniform)).gain - game.shapley).abs().max()) > 0.4


def test_one_agent_alone_earns_the_whole():
    fit = pinned_fit(all_coalitions(1), vector(2, 5), empty=2.0, full=5.0)
    assert (fit.gain.tolist(), float(fit.base)) == ([3], 2)


@pytest.mark.parametrize(
    "coalitions, sentence",
    [
        ([[1, 0], [1, 1], [1, 0]], "agent 0 is always in"),
        ([[0, 0], [1, 0]], "agent 1 is never in"),
        ([[0, 1], [1, 0]], "who joins follows from who else does"),
        ([[0, 0], [1, 1]], "who joins follows from who else does"),
    ],
)
def test_coalitions_that_do_not_tell_the_agents_apart_are_refused(coalitions, sentence):
    with pytest.raises(ValueError, match=sentence):
        additive_fit(torch.tensor(coalitions, dtype=torch.bool), torch.zeros(len(coalitions), dtype=FLOAT))


def test_infinite_weights_and_impossible_shares_are_refused():
    coalitions = all_coalitions(3)
    with pytest.raises(ValueError, match="pinned"):
        additive_fit(coalitions, torch.zeros(8, dtype=FLOAT), kernel_weights(coalitions))
    with pytest.raises(ValueError, match=r"ends 1\.5 must lie in"):
        size_probabilities(3, 1.5)
    with pytest.raises(ValueError, match="one agent alone"):
        size_probabilities(1, 0.5)
