"""One optimiser step as a pure function equals torch.optim's, step for step; clipping equals torch's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from teamcredit.marl.config import LearnerConfig
from teamcredit.marl.functional import Moments, clip, descend, factors
from teamcredit.marl.optimisers import make_optimiser
from torch import Tensor, nn

STEPS, LIMIT, LR = 50, 1.5, 3e-2


def problem(seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Two weights and inputs; the gradient of `error` changes from step to step and is longer than LIMIT in the first ones."""
    generator = torch.Generator().manual_seed(seed)
    weights = {"matrix": torch.randn(4, 3, generator=generator), "bias": torch.randn(4, generator=generator)}
    return weights, torch.randn(STEPS, 8, 3, generator=generator)


def error(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    return (x @ weights["matrix"].T + weights["bias"] - x.sum(-1, keepdim=True)).square().mean()


def by_torch(config: LearnerConfig) -> tuple[list[dict[str, Tensor]], list[float]]:
    """Weights after each step and norms before clipping, by torch.optim and clip_grad_norm_."""
    start, inputs = problem(0)
    weights = {name: nn.Parameter(value.clone()) for name, value in start.items()}
    optimiser = make_optimiser(config, list(weights.values()), lr=LR)
    seen, norms = [], []
    for step, x in enumerate(inputs):
        optimiser.param_groups[0]["lr"] = LR * (1 - step / STEPS)
        optimiser.zero_grad()
        error(weights, x).backward()
        norms.append(float(nn.utils.clip_grad_norm_(list(weights.values()), LIMIT)))
        optimiser.step()
        seen.append({name: value.detach().clone() for name, value in weights.items()})
    return seen, norms


def by_hand(config: LearnerConfig) -> tuple[list[dict[str, Tensor]], list[float]]:
    """The same by our functions."""
    weights, inputs = problem(0)
    moments = Moments(*({name: torch.zeros_like(value) for name, value in weights.items()} for _ in range(2)))
    seen, norms = [], []
    for step, x in enumerate(inputs):
        gradients = torch.func.grad(error)(weights, x)
        gradients, norm = clip(gradients, LIMIT)
        numbers = torch.tensor(factors(config, step + 1, LR * (1 - step / STEPS)), dtype=torch.float64)
        weights, moments = descend(config, weights, gradients, moments, numbers)
        seen.append(weights)
        norms.append(float(norm))
    return seen, norms


@pytest.mark.parametrize("optimiser", ["adam", "radam"])
def test_fifty_steps_with_clipping_and_a_falling_rate_equal_torchs(optimiser: str):
    config = LearnerConfig(optimiser=optimiser)  # pyright: ignore[reportArgumentType]
    (ours, our_norms), (theirs, their_norms) = by_hand(config), by_torch(config)
    assert max(their_norms) > LIMIT > min(their_norms), "some gradients are clipped and some are not"
    torch.testing.assert_close(our_norms, their_norms, rtol=1e-5, atol=1e-6)
    for step, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-6, msg=lambda text, at=step: f"step {at}: {text}")
    assert not torch.allclose(ours[-1]["matrix"], problem(0)[0]["matrix"], atol=0.1), "the weights have moved"


def test_rectified_adam_starts_with_plain_steps():
    config = LearnerConfig(optimiser="radam")
    kinds = [factors(config, step, 1.0)[0] > 0 for step in range(1, 10)]
    assert kinds == [True] * 5 + [False] * 4  # rho_5 = 4.99, rho_6 = 5.99 with beta_2 = .999: tractable from 5 on
    assert factors(config, 1, 0.1)[0] == pytest.approx(0.1 / (1 - 0.9))


def test_the_factors_of_adam_by_hand():
    constant, size, root = factors(LearnerConfig(optimiser="adam"), 2, 0.1)
    assert constant == 0
    assert size == pytest.approx(0.1 / (1 - 0.81))
    assert root == pytest.approx((1 - 0.998001) ** 0.5)


gradients = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=6).map(lambda values: torch.tensor(values, dtype=torch.float32))


@given(gradients, gradients, st.floats(1e-2, 1e2))
def test_a_clipped_gradient_is_no_longer_than_the_limit_and_points_where_it_did(one: Tensor, other: Tensor, limit: float):
    clipped, norm = clip({"one": one, "other": other}, limit)
    whole, left = torch.cat((one, other)), torch.cat((clipped["one"], clipped["other"]))
    torch.testing.assert_close(norm, whole.norm(), rtol=1e-5, atol=1e-30)
    assert left.norm() <= limit * (1 + 1e-5)
    torch.testing.assert_close(left, whole * min(1.0, limit / (float(norm) + 1e-6)), rtol=1e-5, atol=1e-12)


@given(gradients, st.floats(1e-2, 1e2))
def test_clipping_equals_torchs(values: Tensor, limit: float):
    parameter = nn.Parameter(torch.zeros_like(values))
    parameter.grad = values.clone()
    norm = nn.utils.clip_grad_norm_([parameter], limit)
    clipped, ours = clip({"one": values}, limit)
    torch.testing.assert_close(clipped["one"], parameter.grad, rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(ours, norm, rtol=1e-5, atol=1e-30)
