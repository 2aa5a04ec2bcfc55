"""Integrated gradients: closed forms, the axioms, what is refused, and that what the integral misses is told."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from teamcredit.credit.attribution import MOST_STEPS, NODES, WEIGHTS, group, group_labels, integrated_gradients, mean_over_episodes
from torch import nn

seeds = st.integers(0, 10_000)


def random_numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(seed: int, inputs: int, activation: type[nn.Module] = nn.ReLU, hidden: int = 16) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Linear(inputs, hidden), activation(), nn.Linear(hidden, hidden), activation(), nn.Linear(hidden, 1), nn.Flatten(0)
        return nn.Sequential(*layers).double()


@given(seed=seeds)
def test_a_linear_function_gives_each_input_its_term(seed):
    w, x, b = random_numbers(seed, 5), random_numbers(seed + 1, 3, 5), random_numbers(seed + 2, 3, 5)
    found = integrated_gradients(lambda x: x @ w + 4, x, b, steps=4)
    torch.testing.assert_close(found.value, w * (x - b), rtol=1e-12, atol=1e-12)
    assert found.error.abs().max() < 1e-12
    assert found.steps.tolist() == [4, 4, 4]
    assert found.converged.all()


def test_a_product_is_shared_by_hand_arithmetic():
    """x y from (1, 0) to (3, 2): dx int (0 + 2t) dt = 2, dy int (1 + 2t) dt = 4; together 6 = 3 * 2 - 1 * 0."""
    found = integrated_gradients(lambda x: x[:, 0] * x[:, 1], torch.tensor([3.0, 2.0]).double(), torch.tensor([1.0, 0.0]).double(), steps=4)
    torch.testing.assert_close(found.value, torch.tensor([2.0, 4.0]).double())
    assert (float(found.f_x), float(found.f_baseline)) == (6, 0)


@given(seed=seeds)
def test_a_quadratic_form_has_a_closed_form(seed):
    """f = x' A x: IG_k = (x_k - b_k) ((A + A') (x + b) / 2)_k."""
    A, x, b = random_numbers(seed, 4, 4), random_numbers(seed + 1, 6, 4), random_numbers(seed + 2, 6, 4)
    found = integrated_gradients(lambda x: torch.einsum("ri,ij,rj->r", x, A, x), x, b, steps=4)
    torch.testing.assert_close(found.value, (x - b) * ((x + b) / 2 @ (A + A.T)))


def test_the_rule_of_a_piece_is_exact_up_to_degree_seven():
    powers = torch.arange(9, dtype=torch.float64)
    missed = (WEIGHTS.unsqueeze(1) * NODES.unsqueeze(1) ** powers).sum(0) - 1 / (powers + 1)
    assert missed[:8].abs().max() < 1e-15
    assert missed[8].abs() > 1e-6


@given(seed=seeds, inputs=st.integers(1, 8), activation=st.sampled_from([nn.ReLU, nn.Tanh]))
def test_attributions_add_up_to_the_change(seed, inputs, activation):
    f = network(seed, inputs, activation)
    x, b = random_numbers(seed, 7, inputs), random_numbers(seed + 1, 7, inputs)
    found = integrated_gradients(f, x, b)
    torch.testing.assert_close(found.f_x, f(x).detach())
    torch.testing.assert_close(found.f_baseline, f(b).detach())
    assert found.converged.all()
    assert found.relative_error.max() <= 1e-3
    torch.testing.assert_close(found.error, found.value.sum(-1) - (f(x) - f(b)).detach())


@settings(max_examples=12)
@given(seed=seeds)
def test_a_network_of_relus_agrees_with_very_many_steps(seed):
    f, x, b = network(seed, 4), random_numbers(seed, 3, 4), random_numbers(seed + 1, 3, 4)
    t = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    places = (b.unsqueeze(1) + t.unsqueeze(-1) * (x - b).unsqueeze(1)).requires_grad_()
    (slope,) = torch.autograd.grad(f(places.flatten(0, 1)).sum(), places)
    found = integrated_gradients(f, x, b, tolerance=1e-5)
    size = found.value.abs().sum(-1, keepdim=True)
    torch.testing.assert_close(found.value / size, (x - b) * slope.mean(1) / size, rtol=0, atol=5e-4)


@given(seed=seeds)
def test_an_input_the_function_ignores_gets_exactly_nothing(seed):
    f = network(seed, 3)
    x, b = random_numbers(seed, 5, 4), random_numbers(seed + 1, 5, 4)
    found = integrated_gradients(lambda x: f(x[:, :3]), x, b)
    assert found.value[:, 3].tolist() == [0] * 5
    assert found.value[:, :3].abs().sum() > 0


@settings(max_examples=12)
@given(seed=seeds)
def test_two_networks_of_one_function_get_the_same_attributions(seed):
    """Hidden units permuted, and each scaled up before a ReLU and down after it."""
    f, x, b = network(seed, 4), random_numbers(seed, 5, 4), random_numbers(seed + 1, 5, 4)
    g = network(seed, 4)
    order, scale = torch.randperm(16, generator=torch.Generator().manual_seed(seed)), random_numbers(seed, 16).exp()
    (first, bias, second), mine = (list(net.parameters())[:3] for net in (f, g))
    moved = (first * scale.unsqueeze(1))[order], (bias * scale)[order], (second / scale)[:, order]
    for parameter, values in zip(mine, moved, strict=True):
        parameter.data = values.detach()
    ours, theirs = (integrated_gradients(net, x, b, tolerance=1e-5).value for net in (f, g))
    assert not torch.equal(first, mine[0])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(ours.abs().sum(-1).max()))


def test_the_place_of_a_kink_is_found():
    """relu(x - 0.7) from 0 to 1: the slope is 1 on the last 0.3 of the path alone, a place no even grid of nodes hits."""

    def f(x):
        return torch.relu(x[:, 0] - 0.7) + 0.01 * x[:, 1]

    ones = torch.ones(1, 2, dtype=torch.float64)
    rough = integrated_gradients(f, ones, 0 * ones, steps=4, tolerance=1e6)
    found = integrated_gradients(f, ones, 0 * ones, steps=4)
    assert rough.steps.tolist() == [4]
    assert abs(float(rough.error)) > 0.01
    assert abs(float(found.value[0, 0]) - 0.3) < 1e-3 * 0.31
    assert 4 < int(found.steps) < 100


def test_a_jump_no_gradient_sees_is_told_as_an_error():
    x = torch.tensor([[1.0], [0.4]], dtype=torch.float64)
    found = integrated_gradients(lambda x: x[:, 0] + (x[:, 0] > 0.5), x, torch.zeros_like(x))
    assert found.value[:, 0].tolist() == pytest.approx([1, 0.4])
    assert found.error.tolist() == pytest.approx([-1, 0])
    assert found.converged.tolist() == [False, True]
    assert found.relative_error.tolist() == pytest.approx([1, 0])


def test_no_row_takes_more_steps_than_there_may_be():
    """A saw with more teeth than steps: it cannot converge, and it ends."""
    x = torch.ones(1, 1, dtype=torch.float64)
    found = integrated_gradients(lambda x: ((x[:, 0] * 30_011.3) % 1 - 0.5).abs(), x, 0 * x)
    assert not found.converged.any()
    assert int(found.steps) < 2 * MOST_STEPS + 64


def test_rows_are_measured_alone_and_keep_what_is_given_to_them():
    f = network(1, 3)
    x, b, factor = random_numbers(1, 400, 3), random_numbers(2, 400, 3), random_numbers(3, 400)
    together = integrated_gradients(lambda x, factor: f(x) * factor, x, b, given=(factor,))
    alone = integrated_gradients(lambda x: f(x) * factor[7], x[7], b[7])
    torch.testing.assert_close(together.value[7], alone.value)
    assert together.steps[7] == alone.steps
    assert len(together.steps.unique()) > 1


def test_sequences_are_rows_with_two_axes():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cell = nn.GRU(3, 5, batch_first=True).double()

    def f(x):
        return cell(x)[0][:, -1].sum(-1)

    x, b = random_numbers(0, 2, 4, 6, 3), random_numbers(1, 2, 4, 6, 3)
    found = integrated_gradients(f, x, b, axes=2)
    flat = integrated_gradients(lambda x: f(x.unflatten(-1, (6, 3))), x.flatten(-2), b.flatten(-2))
    assert found.value.shape == x.shape
    assert found.error.shape == found.steps.shape == (2, 4)
    torch.testing.assert_close(found.value.flatten(-2), flat.value)
    torch.testing.assert_close(found.value.sum((-1, -2)), found.f_x - found.f_baseline, rtol=1e-6, atol=1e-6)


def test_no_rows_are_no_mistake():
    found = integrated_gradients(lambda x: x.sum(-1), torch.zeros(0, 3), torch.zeros(0, 3))
    assert found.value.shape == (0, 3)


def test_parameters_get_no_gradient_and_no_grad_is_no_obstacle():
    f = network(0, 2)
    with torch.no_grad():
        integrated_gradients(f, random_numbers(0, 2), random_numbers(1, 2))
    assert all(weight.grad is None for weight in f.parameters())


X = torch.ones(2, 3)


@pytest.mark.parametrize(
    "f, options, message",
    [
        (lambda x: x.log().sum(-1), {}, "NaN or infinite somewhere between"),
        (lambda x: x, {}, r"returned shape \(\d+, 3\)"),
        (lambda x: x.sum(), {}, r"returned shape \(\)"),
        (lambda x: x.detach().sum(-1), {}, "without a gradient"),
        (lambda x: x.sum(-1), {"baseline": torch.zeros(3)}, r"baseline has shape \(3,\) and x \(2, 3\)"),
        (lambda x: x.sum(-1), {"baseline": torch.full((2, 3), math.nan)}, "holds NaN"),
        (lambda x: x.sum(-1), {"steps": 0}, "steps is 0"),
        (lambda x: x.sum(-1), {"axes": 3}, r"axes is 3, but x has shape \(2, 3\)"),
        (lambda x, g: x.sum(-1), {"given": (torch.zeros(3),)}, r"`given` holds shape \(3,\)"),
    ],
)
def test_what_cannot_be_attributed_is_refused(f, options, message):
    with pytest.raises(ValueError, match=message):
        integrated_gradients(f, X, **{"baseline": torch.zeros(2, 3), **options})


def test_groups_follow_from_names():
    names = {
        "food_0_row": "food_0", "food_0_level": "food_0", "food_1_row": "food_1", "food_1_level": "food_1",
        "own_row": "own", "own_level": "own", "velocity_x": "velocity", "velocity_y": "velocity",
        "agent_1_x": "agent_1", "agent_1_signal_0": "agent_1", "heads_up": "heads", "heads_left": "heads",
        "state_1": "state", "state_2A": "state", "cell_-1_+0_agent": "cell_-1_+0", "cell_-1_+0_requested_shelf": "cell_-1_+0",
        "prey 2 up 1 left": "prey", "prey here": "prey", "x": "x", "on_highway": "on_highway", "obs0": "obs0", "obs1": "obs1",
    }  # fmt: skip
    assert dict(zip(names, group_labels(tuple(names)), strict=True)) == names


def test_groups_may_be_named():
    names = ("food_0_row", "food_0_level", "own_row", "own_level")
    wanted = {"food_0_level": "levels", "own_level": "levels"}
    assert group_labels(names, wanted) == ("food_0_row", "levels", "own_row", "levels")  # alone in its group: its full name
    with pytest.raises(ValueError, match="no feature is called 'level'; there are: food_0_row"):
        group_labels(names, {"level": "levels"})


def test_a_group_gets_the_sum_of_its_features():
    names, sums = group(torch.tensor([[1.0, 2, 4], [8, 16, 32]]), ("b", "a", "b"))
    assert names == ("b", "a")
    assert sums.tolist() == [[5, 2], [40, 16]]
    with pytest.raises(ValueError, match="2 labels for 3 features"):
        group(torch.ones(3), ("a", "b"))


def test_the_mean_is_over_episodes_not_rows():
    """Episodes of 1 and 3 rows with means 2 and 6: 4, with the t quantile 12.706 of one degree of freedom, sd sqrt(8), n 2."""
    found = mean_over_episodes(torch.tensor([[2.0], [5], [6], [7]]), torch.tensor([4, 9, 9, 9]))
    assert float(found.mean) == 4
    assert float(found.high) == pytest.approx(4 + 12.7062 * 2, abs=1e-3)
    assert float(found.low) == pytest.approx(4 - 12.7062 * 2, abs=1e-3)
    single = mean_over_episodes(torch.tensor([[2.0]]), torch.tensor([4]))
    assert float(single.mean) == 2
    assert math.isnan(float(single.low))
    with pytest.raises(ValueError, match="no rows"):
        mean_over_episodes(torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64))
