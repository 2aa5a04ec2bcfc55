"""Our Shapley values over a mixer's inputs against captum's and shapiq's, where they are installed, and against numbers made by hand."""

import pytest
import torch
from teamcredit.credit.mixer_credit import mixer_integrated_gradients, mixer_shapley
from teamcredit.mixers.qmix import QMix, QMixAt

torch.set_num_threads(1)
WHY = 'pip install "teamcredit[parity]": {} is not installed'


def case(agents: int, states: int = 8) -> tuple[QMix, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(agents)
    mixer = QMix(agents, 6, 16, 16)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.mul_(2)
    return mixer, torch.randn(states, 6), torch.randn(states, agents), torch.randn(states, agents)


def test_a_mixer_made_by_hand():
    """One hidden unit, W1 = (1, 2), b1 = -2, w2 = 3, v = 1; q = (1, 2) against (0, 0).

    The unit's input is -2, -1, 2, 3 with nobody, the first, the second, both; v is 3 elu + 1, where elu(-2) = e^-2 - 1.
    """
    at = QMixAt(W1=torch.tensor([[1.0], [2.0]]), b1=torch.tensor([-2.0]), w2=torch.tensor([3.0]), v=torch.tensor(1.0))
    q, q_ref = torch.tensor([1.0, 2.0]), torch.zeros(2)
    nobody, first, second, both = 3 * (-0.86466472) + 1, 3 * (-0.63212056) + 1, 7.0, 10.0
    hand = [(first - nobody + both - second) / 2, (second - nobody + both - first) / 2]
    assert mixer_shapley(at, q, q_ref).tolist() == pytest.approx(hand, abs=1e-5)
    # Along the line the input is -2 + 5t: the mean slope of elu is (elu(3) - elu(-2)) / 5, times 3 and W1 (q - q_ref) = (1, 4).
    mean_slope = (3 + 0.86466472) / 5 * 3
    assert mixer_integrated_gradients(at, q, q_ref, steps=64).value.tolist() == pytest.approx([mean_slope, 4 * mean_slope], abs=1e-2)


@pytest.mark.parametrize("agents", [3, 5])
def test_captum_finds_the_same_shapley_values(agents):
    attr = pytest.importorskip("captum.attr", reason=WHY.format("captum"))
    mixer, state, q, q_ref = case(agents)
    with torch.no_grad():
        theirs = attr.ShapleyValues(mixer).attribute(q, baselines=q_ref, additional_forward_args=(state,), perturbations_per_eval=agents)
        ours = mixer_shapley(mixer.at(state), q, q_ref)
    assert theirs.abs().max() > 1
    torch.testing.assert_close(ours.float(), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("agents", [4, 10])
def test_shapiq_finds_the_same_shapley_values(agents):
    shapiq = pytest.importorskip("shapiq", reason=WHY.format("shapiq"))
    mixer, state, q, q_ref = case(agents, states=2)
    with torch.no_grad():
        ours = mixer_shapley(mixer.at(state), q, q_ref)
        for row in range(2):
            here = mixer.at(state[row])

            def game(coalitions, here=here, row=row):
                return here(torch.where(torch.as_tensor(coalitions, dtype=torch.bool), q[row], q_ref[row])).numpy()

            theirs = shapiq.ExactComputer(game, n_players=agents)("SV", order=1).get_n_order_values(1)
            torch.testing.assert_close(ours[row], torch.as_tensor(theirs).double(), atol=1e-5, rtol=1e-5)


def test_captum_finds_the_same_integrated_gradients():
    """captum.attr.IntegratedGradients with Gauss-Legendre nodes, as many as ours."""
    attr = pytest.importorskip("captum.attr", reason=WHY.format("captum"))
    mixer, state, q, q_ref = case(5)
    explainer = attr.IntegratedGradients(lambda q, state: mixer(q, state))
    theirs = explainer.attribute(q, baselines=q_ref, additional_forward_args=(state,), n_steps=32, method="gausslegendre")
    with torch.no_grad():
        ours = mixer_integrated_gradients(mixer.at(state), q, q_ref, steps=32).value
    torch.testing.assert_close(ours.float(), theirs.float(), atol=2e-5, rtol=2e-5)
