"""What people would try instead of the lazy test: hand arithmetic, and the faults each is known for."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from teamcredit.credit.baselines import (
    action_entropy,
    laies_index,
    mean_coma_advantage,
    mixer_gradient,
    noop_frequency,
    percentile_bootstrap,
    t_test,
)
from teamcredit.credit.intervals import t_quantile
from teamcredit.mixers.qmix import QMix


def test_no_op_frequency_calls_the_idle_lazy_and_so_a_guard_that_stands_still():
    said = noop_frequency(torch.tensor([1.0, 0.2, 0.95]))  # a guard, a worker, an idler
    assert said.lazy.tolist() == [True, False, True]
    torch.testing.assert_close(said.laziness, torch.tensor([1.0, 0.2, 0.95]).double())


def test_entropy_is_0_for_always_the_same_action_and_1_for_all_alike():
    said = action_entropy(torch.tensor([[8.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0], [4.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    torch.testing.assert_close(said.laziness, torch.tensor([0.0, -1.0, -0.5, 0.0]).double())
    assert said.lazy.tolist() == [True, False, False, True]


def test_a_linear_mixers_gradients_are_its_weights():
    weights = torch.tensor([1.0, 2.0, 0.0])
    said = mixer_gradient(lambda q: q @ weights, torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(said.laziness, torch.tensor([-1.0, -2.0, 0.0]).double())  # over their mean, which is 1
    assert said.lazy.tolist() == [False, False, True]


def test_a_mixers_gradient_changes_when_a_utility_is_written_in_another_unit():
    torch.manual_seed(0)
    mixer, q, state = QMix(3, 1, 4, 4), torch.randn(16, 3), torch.ones(16, 1)
    unit = torch.tensor([3.0, 1.0, 1.0])
    plain = mixer_gradient(lambda inputs: mixer(inputs, state), q).laziness
    scaled = mixer_gradient(lambda inputs: mixer(inputs / unit, state), q * unit).laziness  # the same Q_tot everywhere
    assert abs(float(scaled[0] - plain[0])) > 0.1


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 1000))
def test_comas_mean_advantage_over_its_own_policy_is_0_whatever_the_critic(seed):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(1, 2, 3, generator=generator, dtype=torch.float64)
    policy = torch.rand(1, 2, 3, generator=generator, dtype=torch.float64)
    policy /= policy.sum(-1, keepdim=True)
    mean = torch.zeros(2, dtype=torch.float64)
    for a in range(3):  # each agent's exact expectation, its teammates' actions held fixed in q
        said = mean_coma_advantage(q, policy, torch.full((1, 2), a))
        mean -= policy[0, :, a] * said.laziness
    torch.testing.assert_close(mean, torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)


def test_influence_is_the_root_mean_square_change_over_the_other_available_actions():
    external = torch.zeros(2, 1)
    counterfactual = torch.zeros(2, 2, 3, 1)
    counterfactual[:, 0, 1], counterfactual[:, 0, 2] = 3.0, 4.0  # agent 0's other actions move it by 3 and by 4
    counterfactual[:, 1, 2] = 100.0  # of agent 1, but never available
    available = torch.ones(2, 2, 3, dtype=torch.bool)
    available[:, 1, 2] = False
    said = laies_index(external, counterfactual, available, torch.zeros(2, 2, dtype=torch.int64))
    assert said.lazy.tolist() == [False, True]
    torch.testing.assert_close(said.laziness, torch.tensor([-2.0, 0.0]).double())  # sqrt(12.5) over the mean of sqrt(12.5) and 0


def test_moments_without_another_action_count_for_nothing():
    external, counterfactual = torch.zeros(2, 1), torch.ones(2, 1, 2, 1)
    available = torch.tensor([[[True, True]], [[True, False]]])
    said = laies_index(external, counterfactual, available, torch.zeros(2, 1, dtype=torch.int64))
    torch.testing.assert_close(said.laziness, torch.tensor([-1.0]).double())


def test_the_t_bound_by_hand_and_only_if_it_holds_under_every_reference():
    pairs = torch.tensor([0.0, 0.1, -0.1, 0.2, -0.2]).double()
    error = float(pairs.std()) / math.sqrt(5)
    upper = t_quantile(4, 0.9) * error
    differences = torch.stack([torch.stack([pairs, pairs]), torch.stack([pairs, pairs + 1])])
    delta = torch.tensor([upper + 1e-6, upper + 1e-6]).double()
    said = t_test(differences, delta)
    assert said.lazy.tolist() == [True, False]
    torch.testing.assert_close(said.laziness[0], torch.tensor((upper + 1e-6) / error).double())
    assert not t_test(differences, delta - 2e-6).lazy.any()


def test_the_t_bound_calls_a_rare_decisive_event_lazy_before_it_happens():
    differences = torch.zeros(1, 1, 20)
    assert t_test(differences, torch.tensor([0.05])).lazy.all()  # of D = 1 with probability 0.05 such are 36% of all samples


def test_one_pair_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        t_test(torch.zeros(1, 1, 1), torch.tensor([0.1]))


def test_the_bootstrap_is_as_sure_of_what_never_happened_and_has_its_generators_numbers():
    differences = torch.cat([torch.zeros(1, 1, 30), torch.ones(1, 1, 30) * torch.arange(30).remainder(2)])
    delta = torch.tensor([0.05])
    first, again = (percentile_bootstrap(differences, delta, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.lazy.tolist() == [True, False]
    assert first.laziness.tolist() == [1.0, 0.0]
    torch.testing.assert_close(first.laziness, again.laziness)
