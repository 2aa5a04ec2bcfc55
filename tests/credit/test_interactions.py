"""Interactions of pairs: hand arithmetic, games whose interactions are known, and axioms."""

import pytest
import torch
from teamcredit.credit import all_coalitions, shapley_from_values
from teamcredit.credit.games import additive, airport, either_or_with_worker, random_two_additive, unanimity
from teamcredit.credit.interactions import interactions_at_full_team, interactions_from_values


def table(game) -> torch.Tensor:
    return game(all_coalitions(game.num_agents))


def test_two_that_can_stand_in_for_each_other_by_hand():
    """v = 2 [0 or 1] + [2]: v(N) - v(1, 2) - v(0, 2) + v(2) = 3 - 3 - 3 + 1 = -2; with agent 2 nothing interacts."""
    expected = torch.tensor([[0.0, -2, 0], [-2, 0, 0], [0, 0, 0]], dtype=torch.float64)
    game = either_or_with_worker()
    assert torch.equal(interactions_at_full_team(game, 3), expected)
    torch.testing.assert_close(interactions_from_values(table(game)), expected, rtol=0, atol=1e-12)


def test_two_that_need_each_other():
    game = unanimity(3, [0, 2])
    expected = torch.tensor([[0.0, 0, 1], [0, 0, 0], [1, 0, 0]], dtype=torch.float64)
    assert torch.equal(interactions_at_full_team(game, 3), expected)
    torch.testing.assert_close(interactions_from_values(table(game)), expected, rtol=0, atol=1e-12)


def test_a_two_additive_game_gives_back_its_own_interactions():
    game = random_two_additive(6, torch.Generator().manual_seed(2))
    found = interactions_from_values(table(game))
    torch.testing.assert_close(interactions_at_full_team(game, 6), found, rtol=0, atol=1e-10)
    weights = game(torch.eye(6, dtype=torch.bool))  # v of each agent alone
    torch.testing.assert_close(weights + found.sum(1) / 2, game.shapley, rtol=0, atol=1e-10)


def test_the_two_differ_where_more_than_pairs_interact():
    """Airport 1, 2, 4: at the full team 0 and 1 never matter beside 2; over all orders they share what they save without it."""
    game = airport([1, 2, 4])
    assert float(interactions_at_full_team(game, 3)[0, 1]) == 0
    assert float(interactions_from_values(table(game))[0, 1]) == pytest.approx(-0.5)  # half of the orders: 2 - 1 - 2 + 0


@pytest.mark.parametrize("num_agents", [2, 3, 5])
def test_it_is_what_one_agents_shapley_value_loses_when_another_goes(num_agents):
    """I_ij = phi_i of the game where j is always there less phi_i of the one where j never is (Grabisch and Roubens)."""
    values = torch.randn(2**num_agents, 4, generator=torch.Generator().manual_seed(num_agents), dtype=torch.float64)
    found, last = interactions_from_values(values), num_agents - 1
    without, beside = values.split(2**last)  # the highest bit is the last agent
    expected = shapley_from_values(beside) - shapley_from_values(without)
    torch.testing.assert_close(found[last, :last], expected, rtol=0, atol=1e-12)
    assert torch.equal(found, found.transpose(0, 1))
    assert found.diagonal().count_nonzero() == 0


def test_agents_that_only_add_do_not_interact():
    assert interactions_from_values(table(additive([1, 2, 0]))).tolist() == [[0.0] * 3] * 3
    assert interactions_from_values(torch.tensor([0.0, 3.0])).tolist() == [[0.0]]  # one agent has nobody to interact with
