"""Sampled Shapley values: every way is unbiased, asks as often as it says, and has the exactness that is claimed for it."""

from itertools import permutations

import pytest
import torch
from teamcredit.credit import EpisodeGame, all_coalitions, shapley, shapley_from_values
from teamcredit.credit.games import airport, majority, random_two_additive
from teamcredit.credit.sampling import HOW, _of_orders, calls, check_sampler, draw

SAMPLERS = tuple(HOW)


def of_table(values: torch.Tensor):
    """The game with these coalition values, by mask."""
    powers = 2 ** torch.arange(values.shape[0].bit_length() - 1)
    return lambda coalitions: values[(coalitions * powers).sum(1)]


def estimates(sampler: str, game, num_agents: int, count: int, seed: int = 0) -> torch.Tensor:
    """(draw, agent)"""
    generator = torch.Generator().manual_seed(seed)
    draws = [draw(sampler, num_agents, generator) for _ in range(count)]
    return torch.stack([one.combine(game(one.coalitions)) for one in draws])


def test_one_order_gives_each_agent_its_gain_at_its_turn():
    """Agent 2 joins first, then 0, then 1 (the inverse, 1 2 0, would give agent 0 the last gain)."""
    one = _of_orders(torch.tensor([[2, 0, 1]]))
    assert one.coalitions.tolist() == [[False, False, True], [True, False, True], [False] * 3, [True] * 3]
    assert one.combine(torch.tensor([5.0, 7.0, 1.0, 17.0])).tolist() == [2, 10, 4]


def test_a_permutation_used_as_its_inverse_is_caught(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.Tensor, "argsort", lambda order, dim=-1: order)
    with pytest.raises(AssertionError):
        test_one_order_gives_each_agent_its_gain_at_its_turn()


def test_all_orders_together_are_the_exact_value():
    values = torch.randn(2**4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    one = _of_orders(torch.tensor(list(permutations(range(4)))))
    torch.testing.assert_close(one.combine(of_table(values)(one.coalitions)), shapley_from_values(values), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("num_agents", [1, 2, 5])
def test_every_way_is_unbiased_and_gives_a_null_agent_exactly_nothing(sampler, num_agents):
    values = torch.randn(2**num_agents, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    masks = torch.arange(2**num_agents)
    values = values[masks & ~1] if num_agents > 1 else values  # agent 0 changes nothing
    found = estimates(sampler, of_table(values), num_agents, 600)
    error = found.std(0) / len(found) ** 0.5
    assert bool(((found.mean(0) - shapley_from_values(values)).abs() <= 4 * error + 1e-12).all())
    if num_agents > 1:
        assert found[:, 0].tolist() == [0.0] * 600


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "stratified"])
def test_every_draw_adds_up_to_the_teams_gain(sampler):
    values = torch.randn(2**5, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    found = estimates(sampler, of_table(values), 5, 20)
    torch.testing.assert_close(found.sum(1), (values[-1] - values[0]).expand(20), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampler", ["rings", "cyclic", "stratified"])
def test_where_every_position_counts_alike_symmetric_games_are_exact(sampler):
    game = majority(7, 3)
    torch.testing.assert_close(estimates(sampler, game, 7, 5), game.shapley.expand(5, 7), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampler", ["rings", "antithetic"])
def test_both_directions_make_two_additive_games_exact(sampler):
    game = random_two_additive(6, torch.Generator().manual_seed(1))
    torch.testing.assert_close(estimates(sampler, game, 6, 5), game.shapley.expand(5, 6), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampler, expected", [("rings", 32), ("cyclic", 32), ("plain", 7), ("antithetic", 12), ("stratified", 74)])
def test_calls_are_counted_before_any_cache(sampler, expected):
    assert calls(sampler, 6) == expected
    credit = shapley(airport(range(1, 7)), 6, exact_up_to=0, budget=1000, sampler=sampler)
    assert credit.resampled.startswith(f"{1000 // expected} draws")
    assert HOW[sampler] in credit.method
    own = estimates(sampler, airport(range(1, 7)), 6, 1000 // expected)  # the same orders: the default generator has seed 0 too
    torch.testing.assert_close(credit.value, own.mean(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_episodes_are_shared_among_the_draws(sampler):
    """Episode k is worth k times the game: each of two draws sees its own half of the episodes."""
    game = airport([1, 2, 4])
    episodic = EpisodeGame(lambda coalitions, episodes: (game(coalitions).unsqueeze(1) * episodes, 0), 3)
    credit = shapley(episodic, 3, episodes=8, exact_up_to=0, rings=2, sampler=sampler)
    first, second = estimates(sampler, game, 3, 2)
    torch.testing.assert_close(credit.value, (1.5 * first + 5.5 * second) / 2, rtol=0, atol=1e-12)
    assert credit.total == pytest.approx(4 * 3.5)
    assert "2 groups, a draw each" in credit.resampled
    assert "rough, since there are fewer than 8 draws" in credit.resampled


def test_stratified_coalitions_of_different_sizes_are_drawn_apart():
    """Taken from one ranking, the smaller would lie inside the larger."""
    before = draw("stratified", 8, torch.Generator().manual_seed(0)).coalitions[64:128].unflatten(0, (8, 8))
    assert (before[:, 3] & ~before[:, 4]).any(1).sum() >= 4
    assert len({tuple(row) for row in before[:, 3].int().tolist()}) > 4


def test_a_rare_large_gain_is_not_ruled_out_by_single_orders_that_missed_it():
    """Thirty must agree: an agent earns in one order of thirty, and where none did its interval must still hold 1/30."""
    for seed in range(20):
        credit = shapley(majority(30, 30), 30, budget=300, exact_up_to=0, sampler="plain", generator=torch.Generator().manual_seed(seed))
        assert credit.high is not None
        assert bool((credit.high >= 1 / 30).all())


def test_stratified_coalitions_have_every_size_once_for_each_agent():
    one = draw("stratified", 4, torch.Generator().manual_seed(0))
    after, before = one.coalitions[:-2].unflatten(0, (2, 4, 4))
    assert before.sum(2).tolist() == [[0, 1, 2, 3]] * 4
    assert [before[i, :, i].tolist() for i in range(4)] == [[False] * 4] * 4
    assert (after ^ before).nonzero()[:, 2].tolist() == [i for i in range(4) for _ in range(4)]
    assert one.coalitions[-2:].tolist() == all_coalitions(4)[[0, -1]].tolist()


def test_a_way_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="choose one of rings, cyclic, plain, antithetic, stratified"):
        check_sampler("uniform")


def test_too_small_a_budget_names_what_would_do():
    with pytest.raises(ValueError, match=r'needs at least 1744 .*or take sampler="plain", 31 a draw'):
        shapley(majority(30, 30), 30)
