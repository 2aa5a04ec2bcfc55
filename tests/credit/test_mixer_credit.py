"""Credit over a mixer's inputs: axioms, exact truths, invariance to how utilities are scaled, and why slopes are no credit."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from teamcredit.credit.base import all_coalitions
from teamcredit.credit.mixer_credit import (
    draw_utilities,
    mixed_coalitions,
    mixer_gradient,
    mixer_integrated_gradients,
    mixer_shapley,
    utility_gaps,
)
from teamcredit.credit.shapley import shapley_from_values
from teamcredit.mixers.qmix import QMix, QMixAt
from teamcredit.mixers.vdn import VDN

torch.set_num_threads(1)
seeds, agents_of = st.integers(0, 2**31), st.integers(1, 5)
examples = settings(deadline=None, derandomize=True, max_examples=30)


def random_qmix(agents: int, seed: int, *batch: int) -> tuple[QMixAt, torch.Tensor, torch.Tensor]:
    """A mixer at random states, far from linear and in float64, with utilities and reference utilities."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn((*batch, *shape), generator=generator, dtype=torch.float64)

    at = QMixAt(W1=normal(agents, 6).abs(), b1=normal(6), w2=normal(6).abs(), v=normal())
    return at, 2 * normal(agents), 2 * normal(agents)


def one_by_one(value, q: torch.Tensor, q_ref: torch.Tensor) -> torch.Tensor:
    """Every coalition's utilities written out, and the Shapley values of what the mixer says of them; for a single state."""
    coalitions = all_coalitions(len(q))
    return shapley_from_values(torch.stack([value(torch.where(row, q, q_ref).unsqueeze(0))[0] for row in coalitions]))


def exact_path(at: QMixAt, q: torch.Tensor, q_ref: torch.Tensor) -> torch.Tensor:
    """Integrated gradients of QMIX in closed form: on the line h = a + b t, and the integral of elu'(h) is (elu(h_1) - elu(h_0)) / b."""
    gap = q - q_ref
    start = (q_ref.unsqueeze(-2) @ at.W1).squeeze(-2) + at.b1
    rise = (gap.unsqueeze(-2) @ at.W1).squeeze(-2)
    mean_slope = (torch.nn.functional.elu(start + rise) - torch.nn.functional.elu(start)) / rise
    return gap * (at.W1 * (at.w2 * mean_slope).unsqueeze(-2)).sum(-1)


class Plain:
    """A mixer without a way of its own to all coalitions."""

    def __init__(self, value):
        self.value = value

    def __call__(self, q: torch.Tensor) -> torch.Tensor:
        return self.value(q)


def product(q: torch.Tensor) -> torch.Tensor:
    return q.prod(-1)


def test_two_agents_whose_utilities_are_multiplied_by_hand():
    """f = q_0 q_1 from (1, 2) to (4, 6): v is 2, 8, 6, 24. On the line IG_0 = 3 integral(2 + 4t) = 12, IG_1 = 4 integral(1 + 3t) = 10."""
    q, q_ref = torch.tensor([4.0, 6.0]), torch.tensor([1.0, 2.0])
    assert mixed_coalitions(product, q, q_ref.unsqueeze(0), (0, 1)).tolist() == [2, 8, 6, 24]
    assert mixer_shapley(product, q, q_ref).tolist() == [((8 - 2) + (24 - 6)) / 2, ((6 - 2) + (24 - 8)) / 2]
    path = mixer_integrated_gradients(product, q, q_ref, steps=1)  # one node is exact for a linear integrand
    torch.testing.assert_close(path.value, torch.tensor([12.0, 10.0], dtype=torch.float64))
    assert mixer_gradient(product, q.unsqueeze(0)).tolist() == [[6, 4]]


@given(agents=agents_of, seed=seeds)
@examples
def test_credit_adds_up_to_what_the_team_gains_over_the_reference(agents, seed):
    at, q, q_ref = random_qmix(agents, seed, 3)
    gained = (at(q.unsqueeze(-2)) - at(q_ref.unsqueeze(-2))).squeeze(-1)
    torch.testing.assert_close(mixer_shapley(at, q, q_ref).sum(-1), gained, atol=1e-10, rtol=1e-10)
    path = mixer_integrated_gradients(at, q, q_ref, steps=64)
    torch.testing.assert_close(path.value.sum(-1) - path.completeness_error, gained, atol=1e-10, rtol=1e-10)
    assert (path.completeness_error.abs() <= 0.01 * path.value.abs().sum(-1)).all()


@given(agents=st.integers(2, 5), seed=seeds)
@examples
def test_an_agent_the_mixer_does_not_look_at_earns_exactly_nothing(agents, seed):
    at, q, q_ref = random_qmix(agents, seed, 3)
    at.W1[:, 1] = 0
    phi = mixer_shapley(at, q, q_ref)
    assert phi[:, 1].abs().max() == 0
    assert (phi[:, 0] != 0).all()
    assert mixer_shapley(Plain(at), q, q_ref)[:, 1].abs().max() < 1e-12  # a matrix product may round two rows differently
    assert mixer_integrated_gradients(at, q, q_ref).value[:, 1].abs().max() == 0


@given(seed=seeds)
@examples
def test_an_agent_that_does_not_act_earns_exactly_nothing_and_changes_nobodys_credit(seed):
    """A dead agent's utility is 0 on both sides; with it or without it the others play the same game."""
    at, q, q_ref = random_qmix(4, seed, 3)
    q[:, 2] = q_ref[:, 2] = 0
    others = [0, 1, 3]
    without = QMixAt(at.W1[:, others], at.b1, at.w2, at.v)
    for value, smaller in ((at, without), (Plain(at), Plain(without))):
        phi = mixer_shapley(value, q, q_ref)
        assert phi[:, 2].abs().max() == 0
        torch.testing.assert_close(phi[:, others], mixer_shapley(smaller, q[:, others], q_ref[:, others]))


def test_an_agent_dead_in_one_state_only_earns_nothing_there_and_something_elsewhere():
    at, q, q_ref = random_qmix(3, 0, 2)
    q[1, 0] = q_ref[1, 0] = 0
    phi = mixer_shapley(at, q, q_ref)
    assert phi[1, 0] == 0
    assert phi[0, 0] != 0


@given(agents=agents_of, seed=seeds)
@examples
def test_in_a_monotone_mixer_nobody_who_does_better_than_the_reference_earns_less_than_nothing(agents, seed):
    at, q, q_ref = random_qmix(agents, seed, 3)
    better = torch.maximum(q, q_ref)
    assert (mixer_shapley(at, better, q_ref) >= 0).all()
    assert (mixer_integrated_gradients(at, better, q_ref).value >= 0).all()


@given(agents=agents_of, seed=seeds, draws=st.integers(1, 3))
@examples
def test_the_doublings_of_qmix_agree_with_every_coalition_asked_for_by_itself(agents, seed, draws):
    at, q, _ = random_qmix(agents, seed, 2)
    q_ref = torch.randn(2, draws, agents, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    truth = [
        torch.stack([one_by_one(QMixAt(at.W1[b], at.b1[b], at.w2[b], at.v[b]), q[b], of_draw) for of_draw in q_ref[b]]).mean(0)
        for b in (0, 1)
    ]
    for value in (at, Plain(at)):
        torch.testing.assert_close(mixer_shapley(value, q, q_ref), torch.stack(truth), atol=1e-10, rtol=1e-10)


def test_ten_agents_in_float32_agree_to_five_digits_however_many_are_mixed_together(monkeypatch):
    torch.manual_seed(0)
    mixer, state = QMix(10, 20, 32, 64), torch.randn(5, 20)
    q, q_ref = torch.randn(5, 10), torch.randn(5, 10)
    with torch.no_grad():
        at, precise = mixer.at(state), mixer.double().at(state.double())
    truth = torch.stack(
        [one_by_one(QMixAt(precise.W1[b], precise.b1[b], precise.w2[b], precise.v[b]), q[b].double(), q_ref[b].double()) for b in range(5)]
    )
    found = mixer_shapley(at, q, q_ref)
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixer_shapley(Plain(at), q, q_ref), truth, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr("teamcredit.mixers.qmix._AT_ONCE", 2 * 2**10 * 32)  # two states at a time, the last one alone
    monkeypatch.setattr("teamcredit.credit.mixer_credit._AT_ONCE", 5 * 100)  # a hundred coalitions at a time
    torch.testing.assert_close(mixer_shapley(at, q, q_ref), found, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(mixer_shapley(Plain(at), q, q_ref), found, atol=1e-5, rtol=1e-5)


@given(agents=agents_of, seed=seeds)
@examples
def test_integrated_gradients_are_the_closed_form(agents, seed):
    at, q, q_ref = random_qmix(agents, seed, 3)
    path = mixer_integrated_gradients(at, q, q_ref, steps=200)
    torch.testing.assert_close(path.value, exact_path(at, q, q_ref), atol=2e-3, rtol=2e-3)


def test_more_places_on_the_path_leave_less_unaccounted_for():
    at, q, q_ref = random_qmix(4, 1, 200)
    left = [float(mixer_integrated_gradients(at, q, q_ref, steps=steps).completeness_error.abs().mean()) for steps in (2, 8, 32, 128)]
    assert left[0] > 4 * left[1] > 16 * left[2] > 64 * left[3] > 0


@given(
    agents=st.integers(2, 5),
    agent=st.integers(0, 1),
    factor=st.floats(0.2, 5).filter(lambda factor: abs(math.log(factor)) > 0.2),
    seed=seeds,
)
@examples
def test_rescaling_a_utility_with_compensation_changes_its_slope_and_nobodys_credit(agents, agent, factor, seed):
    """Q_i -> factor Q_i while the mixer's row is divided by it: Q_tot is the same function of what agents do."""
    at, q, q_ref = random_qmix(agents, seed, 3)
    scaled = QMixAt(at.W1.clone(), at.b1, at.w2, at.v)
    scaled.W1[:, agent] /= factor
    unit = torch.ones(agents, dtype=torch.float64)
    unit[agent] = factor
    torch.testing.assert_close(mixer_shapley(scaled, q * unit, q_ref * unit), mixer_shapley(at, q, q_ref))
    before, after = (mixer_integrated_gradients(*arguments).value for arguments in ((at, q, q_ref), (scaled, q * unit, q_ref * unit)))
    torch.testing.assert_close(after, before)
    slope, other = mixer_gradient(at, q.unsqueeze(-2)), mixer_gradient(scaled, (q * unit).unsqueeze(-2))
    torch.testing.assert_close(other * unit, slope)
    assert ((other - slope).abs()[..., agent] > 0.1 * slope[..., agent].abs().clamp(max=1)).all()


@given(agents=agents_of, seed=seeds)
@examples
def test_the_credit_of_a_sum_is_the_gap_between_utilities(agents, seed):
    _, q, q_ref = random_qmix(agents, seed, 3)
    sums = VDN(agents, 2).at(torch.zeros(3, 2))
    assert torch.equal(utility_gaps(q, q_ref), q - q_ref)
    torch.testing.assert_close(mixer_shapley(sums, q, q_ref), q - q_ref)
    torch.testing.assert_close(mixer_integrated_gradients(sums, q, q_ref, steps=1).value, q - q_ref)
    torch.testing.assert_close(utility_gaps(q, torch.stack([q_ref, q], -2)), (q - q_ref) / 2)


def fit_qmix(payoff: torch.Tensor, agents: int, seed: int) -> tuple[QMixAt, torch.Tensor, float]:
    """A QMIX fitted to a one-step game in which action 1 is to join: the mixer, utilities (agent, action), largest error."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        mixer, utilities = QMix(agents, 1, 8, 16), torch.randn(agents, 2, requires_grad=True)
    joint, state = all_coalitions(agents), torch.ones(2**agents, 1)
    optimiser = torch.optim.Adam([*mixer.parameters(), utilities], lr=0.03)
    for step in range(500):
        if step == 350:
            optimiser.param_groups[0]["lr"] = 0.003
        wrong = mixer(torch.where(joint, utilities[:, 1], utilities[:, 0]), state) - payoff
        optimiser.zero_grad()
        wrong.square().mean().backward()
        optimiser.step()
    with torch.no_grad():
        return mixer.at(torch.ones(1)), utilities.detach(), float(wrong.detach().abs().max())


def test_a_dummys_slope_is_luck_and_may_be_a_workers_while_its_credit_is_nothing():
    """Two workers that bring 2 each and 1 more together, and an agent that changes nothing: two fits with the same values."""
    member = all_coalitions(3).float()
    slopes = []
    for seed in (0, 2):
        at, utilities, error = fit_qmix(2 * member[:, 0] + 2 * member[:, 1] + member[:, 0] * member[:, 1], 3, seed)
        assert error < 0.02
        joined, absent = utilities[:, 1], utilities[:, 0]
        for credit in (mixer_shapley(at, joined, absent), mixer_integrated_gradients(at, joined, absent, steps=64).value):
            torch.testing.assert_close(credit, torch.tensor([2.5, 2.5, 0.0], dtype=torch.float64), atol=0.15, rtol=0)
        slopes.append(mixer_gradient(at, joined.unsqueeze(0))[0])
    large, small = slopes
    assert large[2] > 0.6 * large[:2].min()
    assert small[2] < 0.1 * small[:2].min()


def test_a_harmful_agent_has_a_slope_above_and_credit_below_nothing():
    """v(C) = max(0, 2 |C without 2| - [2 in C]): Shapley values 1.8333, 1.8333, -0.6667."""
    member = all_coalitions(3).float()
    at, utilities, error = fit_qmix((2 * member[:, 0] + 2 * member[:, 1] - member[:, 2]).clamp(min=0), 3, 0)
    assert error < 0.15
    joined, absent = utilities[:, 1], utilities[:, 0]
    slope = mixer_gradient(at, joined.unsqueeze(0))[0]
    assert slope[2] > 0.5 * slope.max()
    torch.testing.assert_close(
        mixer_shapley(at, joined, absent), torch.tensor([11 / 6, 11 / 6, -2 / 3], dtype=torch.float64), atol=0.1, rtol=0
    )
    assert mixer_integrated_gradients(at, joined, absent).value[2] < -0.3


def test_draws_of_a_reference_have_its_frequencies_and_never_what_it_never_does():
    utilities = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 10.0, 20.0, 30.0], [5.0, 6.0, 7.0, 8.0]])
    reference = torch.tensor([[0.0, 0.5, 0.5, 0.0], [0.25, 0.0, 0.75, 0.0], [0.0, 0.0, 0.0, 0.0]])
    drawn = draw_utilities(utilities.expand(50, 3, 4), reference.expand(50, 3, 4), 8, torch.Generator().manual_seed(0))
    assert drawn.shape == (50, 8, 3)
    # Eight draws of a Latin hypercube hit quarters exactly, in every batch entry.
    assert drawn[..., 0].sort(1).values.tolist() == [[1.0] * 4 + [2.0] * 4] * 50
    assert drawn[..., 1].sort(1).values.tolist() == [[0.0] * 2 + [20.0] * 6] * 50
    both = ((drawn[..., 0] == 1) & (drawn[..., 1] == 0)).float().mean()
    assert 0.09 < both < 0.16  # independent agents: 1/8
    again = draw_utilities(utilities.expand(50, 3, 4), reference.expand(50, 3, 4), 8, torch.Generator().manual_seed(0))
    assert torch.equal(again, drawn)


def test_outputs_are_averaged_not_inputs_and_draws_find_the_exact_expectation():
    """f = q_0^2: against actions worth 1 and 3 the expectation is (1 + 9) / 2, where the mean utility would give 4."""
    q, utilities = torch.tensor([[2.0]]), torch.tensor([[[1.0, 3.0]]])
    drawn = draw_utilities(utilities, torch.full((1, 1, 2), 0.5), 4, torch.Generator().manual_seed(0))
    assert mixer_shapley(lambda q: q.square().sum(-1), q, drawn).tolist() == [[4 - (1 + 9) / 2]]


def test_draws_are_an_unbiased_estimate_of_the_product_of_all_reference_actions():
    at, q, _ = random_qmix(3, 5)
    utilities = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    every = torch.stack([utilities[torch.arange(3), list(actions)] for actions in itertools.product(range(3), repeat=3)])
    truth = mixer_shapley(at, q, every)
    batch = 400
    drawn = draw_utilities(utilities.expand(batch, 3, 3), torch.full((batch, 3, 3), 1 / 3), 4, torch.Generator().manual_seed(0))
    many = QMixAt(*(part.expand(batch, *part.shape) for part in (at.W1, at.b1, at.w2, at.v)))
    estimates = mixer_shapley(many, q.expand(batch, 3), drawn)
    error = estimates.std(0) / math.sqrt(batch)
    assert (error > 0).all()
    assert ((estimates.mean(0) - truth).abs() < 3 * error).all()


@pytest.mark.parametrize(
    "value, q, q_ref, sentence",
    [
        (lambda q: q.sum(-1) * torch.nan, torch.ones(2, 3), torch.zeros(2, 3), "NaN or infinity"),
        (lambda q: q, torch.ones(2, 3), torch.zeros(2, 3), r"shape \(2, 8, 3\) where \(2, 8\)"),
        (product, torch.ones(2, 3), torch.zeros(3), r"\(2, 3\) and q_ref of shape \(3,\)"),
        (product, torch.ones(2, 3), torch.zeros(3, 5, 3), "axis of draws"),
        (product, torch.ones(2, 3), torch.zeros(2, 0, 3), "no draws"),
        (product, torch.ones(13), torch.zeros(13), "13 agents have something at stake"),
    ],
)
def test_what_cannot_be_credited_is_named(value, q, q_ref, sentence):
    with pytest.raises(ValueError, match=sentence):
        mixer_shapley(value, q, q_ref)


def test_a_nan_in_the_fast_way_and_on_the_path_is_named_too():
    at, q, q_ref = random_qmix(3, 0, 2)
    q[0, 1] = torch.nan
    for credit in (mixer_shapley, mixer_integrated_gradients):
        with pytest.raises(ValueError, match="NaN or infinity"):
            credit(at, q, q_ref)


@pytest.mark.parametrize("call", [lambda at, q: mixer_integrated_gradients(at, q, 0 * q, steps=0),
                                  lambda at, q: draw_utilities(q.unsqueeze(-1), q.unsqueeze(-1), 0, torch.Generator())])  # fmt: skip
def test_a_count_below_one_is_refused(call):
    at, q, _ = random_qmix(3, 0, 2)
    with pytest.raises(ValueError, match="at least 1"):
        call(at, q)


def test_twelve_agents_with_something_at_stake_may_be_more_agents_than_that():
    q = torch.arange(14.0)
    q_ref = q.clone()
    q_ref[:12] = 0
    phi = mixer_shapley(lambda q: q.sum(-1), q, q_ref)
    torch.testing.assert_close(phi, (q - q_ref).to(torch.float64))
    assert phi[12:].tolist() == [0, 0]
    assert not mixer_shapley(lambda q: q.sum(-1), q, q).any()
