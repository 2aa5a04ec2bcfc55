"""Our integrated gradients against captum's, where captum is installed."""

import pytest
import torch
from teamcredit.credit.attribution import integrated_gradients
from torch import nn

attr = pytest.importorskip("captum.attr", reason="captum is not installed")


def network(activation: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(6, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, 1), nn.Flatten(0)).double()


@pytest.mark.parametrize(
    "activation, method, steps, error", [(nn.Tanh, "gausslegendre", 64, 1e-8), (nn.ReLU, "riemann_middle", 4000, 1e-3)]
)
def test_every_attribution_is_captums(activation, method, steps, error):
    f = network(activation)
    x, b = torch.randn(2, 20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs, delta = attr.IntegratedGradients(f).attribute(x, b, n_steps=steps, method=method, return_convergence_delta=True)
    ours = integrated_gradients(f, x, b, tolerance=1e-5)
    size = ours.value.abs().sum(-1, keepdim=True)
    torch.testing.assert_close(ours.value / size, theirs / size, rtol=0, atol=error)
    torch.testing.assert_close(ours.error, delta, rtol=0, atol=error)


def test_every_attribution_through_a_gru_is_captums():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        cell = nn.GRU(4, 8, batch_first=True).double()

    def f(x):
        return cell(x)[0][:, -1].square().sum(-1)

    x, b = torch.randn(2, 5, 8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = attr.IntegratedGradients(f).attribute(x, b, n_steps=64, method="gausslegendre")
    torch.testing.assert_close(integrated_gradients(f, x, b, axes=2).value, theirs, rtol=0, atol=1e-8)
