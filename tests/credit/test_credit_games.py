import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from teamcredit.credit import CachedGame, all_coalitions, banzhaf_from_values, leave_one_out, shapley, shapley_from_values
from teamcredit.credit.games import (
    additive,
    airport,
    either_or_with_worker,
    glove,
    harmful_agent,
    majority,
    random_two_additive,
    two_additive,
    unanimity,
    weighted_vote,
)
from teamcredit.credit.sampling import ring_coalitions, shapley_from_ring
from teamcredit.credit.scores import coverage, null_agent_error, rmse, sum_error

torch.set_num_threads(1)
FLOAT = torch.float64
exact = {"rtol": 0, "atol": 1e-9}
seeds = st.integers(0, 2**31)
sizes = st.integers(2, 6)
claim = settings(deadline=None, derandomize=True, max_examples=25)


def vector(*values):
    return torch.tensor(values, dtype=FLOAT)


def random_values(num_agents, seed):
    return torch.randn(2**num_agents, generator=torch.Generator().manual_seed(seed), dtype=FLOAT)


def game_of(values):
    return lambda coalitions: values[(coalitions.long() << torch.arange(coalitions.shape[1])).sum(1)]


KNOWN = [
    (additive([3.0, -1.0, 0.5]), (3.0, -1.0, 0.5), (3.0, -1.0, 0.5)),
    (additive([2.0, 0.0, 1.0]), (2.0, 0.0, 1.0), (2.0, 0.0, 1.0)),
    (airport([1, 2, 3, 4, 5, 6]), (1 / 6, 11 / 30, 37 / 60, 0.95, 1.45, 2.45), (0, 0, 0, 0, 0, 1)),
    (glove(1, 2), (2 / 3, 1 / 6, 1 / 6), (1, 0, 0)),
    (glove(2, 4), (11 / 15, 11 / 15, 2 / 15, 2 / 15, 2 / 15, 2 / 15), (1, 1, 0, 0, 0, 0)),
    (majority(5, 3), (0.2,) * 5, (0,) * 5),
    (majority(4, 4), (0.25,) * 4, (1,) * 4),
    (weighted_vote(4, [3, 2, 1, 1]), (1 / 2, 1 / 6, 1 / 6, 1 / 6), (0, 0, 0, 0)),
    (unanimity(3, [0, 1]), (1 / 2, 1 / 2, 0), (1, 1, 0)),
    (either_or_with_worker(), (1, 1, 1), (0, 0, 1)),
    (harmful_agent(), (11 / 6, 11 / 6, -2 / 3), (2, 2, -1)),
]


@pytest.mark.parametrize(("game", "truth", "alone"), KNOWN, ids=lambda item: getattr(item, "name", None))
def test_known_games_have_their_known_credit(game, truth, alone):
    n = game.num_agents
    credit = shapley(game, num_agents=n)
    torch.testing.assert_close(credit.value, vector(*truth), **exact)
    torch.testing.assert_close(game.shapley, vector(*truth), **exact)
    torch.testing.assert_close(leave_one_out(game, num_agents=n).value, vector(*alone), **exact)
    torch.testing.assert_close(game.leave_one_out, vector(*alone), **exact)
    assert credit.low is None
    assert not credit.approximate
    assert credit.evaluations == 2**n


@claim
@given(seed=seeds, n=sizes)
def test_two_additive_games_share_every_interaction_in_halves(seed, n):
    game = random_two_additive(n, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(shapley(game, n).value, game.shapley, **exact)


def test_uniform_coalitions_would_give_the_banzhaf_value_instead():
    values = airport([1, 2, 3, 4, 5, 6])(all_coalitions(6))
    torch.testing.assert_close(banzhaf_from_values(values), vector(0.03125, 0.09375, 0.21875, 0.46875, 0.96875, 1.96875), **exact)
    assert float(banzhaf_from_values(values).sum()) != pytest.approx(6)


@claim
@given(seed=seeds, n=st.integers(1, 7))
def test_shapley_values_add_up_to_the_total(seed, n):
    values = random_values(n, seed)
    credit = shapley(game_of(values), n)
    assert sum_error(credit.value, credit.total) < 1e-9
    assert credit.total == pytest.approx(float(values[-1] - values[0]))


@claim
@given(seed=seeds, n=sizes)
def test_a_dummy_agent_earns_exactly_nothing(seed, n):
    values = random_values(n, seed)
    dummy = seed % (n + 1)
    others = torch.tensor([agent for agent in range(n + 1) if agent != dummy])
    credit = shapley(lambda coalitions: game_of(values)(coalitions[:, others]), n + 1)
    assert null_agent_error(credit.value, torch.arange(n + 1) == dummy) == 0


@claim
@given(seed=seeds, n=sizes)
def test_relabelling_agents_relabels_their_credit(seed, n):
    values = random_values(n, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    relabelled = shapley(lambda coalitions: game_of(values)(coalitions[:, order]), n)
    torch.testing.assert_close(relabelled.value[order], shapley(game_of(values), n).value, **exact)


@claim
@given(seed=seeds, n=sizes)
def test_agents_that_are_interchangeable_earn_the_same(seed, n):
    by_size = random_values(n, seed)[: n + 1]
    credit = shapley(lambda coalitions: by_size[coalitions.sum(1)], n)
    torch.testing.assert_close(credit.value, credit.value.mean().expand(n), **exact)


@claim
@given(seed=seeds, n=sizes)
def test_credit_of_a_sum_of_games_is_the_sum_of_credits(seed, n):
    a, b = random_values(n, seed), random_values(n, seed + 1)
    torch.testing.assert_close(shapley_from_values(2 * a + b), 2 * shapley_from_values(a) + shapley_from_values(b), **exact)


@claim
@given(seed=seeds, n=sizes)
def test_every_single_ring_adds_up_to_the_total_and_gives_a_dummy_nothing(seed, n):
    values = random_values(n, seed)
    ring = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    estimate = shapley_from_ring(ring, game_of(values)(ring_coalitions(ring)))
    assert sum_error(estimate, float(values[-1] - values[0])) < 1e-9
    ignored = ring_coalitions(ring).clone()
    ignored[:, 0] = False
    assert float(shapley_from_ring(ring, game_of(values)(ignored))[0]) == 0


def test_the_average_over_all_rings_is_the_shapley_value():
    values = random_values(4, 3)
    rings = list(torch.cartesian_prod(*[torch.arange(4)] * 4))
    rings = [ring for ring in rings if len(ring.unique()) == 4]
    estimates = torch.stack([shapley_from_ring(ring, game_of(values)(ring_coalitions(ring))) for ring in rings])
    assert len(rings) == 24
    torch.testing.assert_close(estimates.mean(0), shapley_from_values(values), **exact)


def test_sampled_airport_is_unbiased_and_within_the_target_error_at_1000_evaluations():
    game = airport([1, 2, 3, 4, 5, 6])
    runs = [shapley(game, 6, exact_up_to=5, budget=1000, generator=torch.Generator().manual_seed(seed)) for seed in range(100)]
    values = torch.stack([run.value for run in runs])
    assert rmse(values, game.shapley) <= 0.065
    standard_error = values.std(0) / math.sqrt(len(runs))
    assert ((values.mean(0) - game.shapley).abs() <= 3 * standard_error + 1e-12).all()
    held = coverage(torch.stack([run.low for run in runs]), torch.stack([run.high for run in runs]), game.shapley)
    assert 0.91 <= held <= 0.99
    assert all(run.approximate for run in runs)
    assert max(run.evaluations for run in runs) <= 64


def test_sampled_two_additive_games_are_exact_because_rings_are_read_in_both_directions():
    game = random_two_additive(7, torch.Generator().manual_seed(0))
    credit = shapley(game, 7, exact_up_to=0, budget=2000)
    torch.testing.assert_close(credit.value, game.shapley, **exact)
    torch.testing.assert_close(credit.low, credit.high, **exact)


def test_sampled_majority_is_exactly_one_nth_with_zero_width():
    credit = shapley(majority(9, 5), 9, exact_up_to=0, budget=200)
    torch.testing.assert_close(credit.value, torch.full((9,), 1 / 9, dtype=FLOAT), **exact)
    torch.testing.assert_close(credit.low, credit.high, **exact)


def test_the_same_generator_seed_gives_the_same_estimate():
    game = airport([1, 2, 3, 4, 5, 6, 7])
    a, b, c = (shapley(game, 7, exact_up_to=0, generator=torch.Generator().manual_seed(s)).value for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_cached_game_asks_for_every_coalition_once():
    asked = []

    def game(coalitions):
        asked.append(len(coalitions))
        return coalitions.sum(1).to(FLOAT)

    cached = CachedGame(game, 3)
    cached(all_coalitions(3)[[1, 1, 2]])
    cached(all_coalitions(3))
    assert asked == [2, 6]
    assert cached.evaluations == 8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shapley(lambda c: c.sum(), 3), "one value per coalition"),
        (lambda: shapley(lambda c: c.sum(1) / 0.0, 3), "NaN or infinity"),
        (lambda: shapley(majority(3, 2), 0), "num_agents is 0"),
        (lambda: shapley(majority(13, 7), 13, exact_up_to=20), "up to 12 agents"),
        (lambda: shapley(majority(9, 2), 9, exact_up_to=0, budget=100), "at least 148"),
        (lambda: shapley(majority(3, 2), 3, episodes=10), "EpisodeGame"),
        (lambda: shapley_from_values(torch.zeros(6)), "2\\^n"),
        (lambda: airport([2, 1]), "rise"),
        (lambda: majority(3, 4), "needs 1 to 3"),
        (lambda: two_additive(torch.zeros(2), torch.tensor([[0.0, 1.0], [0.0, 0.0]])), "symmetric"),
    ],
)
def test_mistakes_are_refused_with_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_function_wins_over_its_module_as_the_name_in_the_package():
    import importlib

    module = importlib.import_module("teamcredit.credit.shapley")
    package = importlib.import_module("teamcredit.credit")
    assert package.shapley is module.shapley
    assert callable(package.shapley)
