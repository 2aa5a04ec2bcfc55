"""Which steps of an episode earned its return: the losses and sums of return decomposition, and nothing that learns.

Two ways to give every step a reward r_hat_t, so that the steps of an episode add up to its return R.

    RRD (Ren et al., arXiv:2111.13485)        L(I) = (R - T / K sum_{t in I} r_hat_t)^2,   I: K of the T steps, drawn at random
    RUDDER (Arjona-Medina et al., 1806.07857) r_hat_t = g_t - g_{t-1},   g_t: the return predicted from steps 0 .. t

A model never hits R exactly. What it misses, the residual R - sum_t r_hat_t, is spread evenly over the episode's steps, and
shown: as a share of how far the returns lie apart (1 is what predicting their mean misses). Undiscounted sums throughout.
Axes: time, episode. `valid` marks an episode's steps, from row 0 on without a gap; the rest is padding, which gets and gives nothing.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def lengths(valid: Bool[Tensor, "time episode"]) -> Int[Tensor, " episode"]:
    """T of each episode; ValueError where an episode has no step, or a gap between its steps."""
    number = valid.sum(0)
    if not bool((number > 0).all()):
        raise ValueError("an episode without a single valid step has nothing to redistribute: leave it out")
    if bool((valid[1:] & ~valid[:-1]).any()):
        raise ValueError(
            "the steps of an episode lie at the first rows without a gap, and padding after them: valid is False before a True"
        )
    return number


def random_subset(valid: Bool[Tensor, "time episode"], size: int, *, generator: torch.Generator) -> Bool[Tensor, "time episode"]:
    """`size` of each episode's steps, drawn without replacement, every subset equally likely; all steps of a shorter episode."""
    if size < 1:
        raise ValueError(f"size {size} must be at least 1: a return cannot be estimated from no step")
    number = lengths(valid)
    score = torch.rand(valid.shape, generator=generator, dtype=torch.float64).masked_fill(~valid, -1.0)
    order = score.argsort(0, descending=True).argsort(0)
    return order < number.clamp(max=size)


def decomposition_loss(
    predicted: Float[Tensor, "time episode"],
    returns: Float[Tensor, " episode"],
    chosen: Bool[Tensor, "time episode"],
    valid: Bool[Tensor, "time episode"],
) -> Float[Tensor, " episode"]:
    """RRD's squared error of each episode from its `chosen` steps alone, in units of return squared.

        L(I) = (R - T / K sum_{t in I} r_hat_t)^2

    Over all subsets I of K steps its mean is the full least-squares error plus `subset_variance` of the predictions:
    E L(I) = (R - sum_t r_hat_t)^2 + Var. With K = T it is the full error itself.
    """
    weight = lengths(valid) / chosen.sum(0)
    return (returns - weight * torch.where(chosen, predicted, 0.0).sum(0)).square()


def subset_variance(predicted: Float[Tensor, "time episode"], valid: Bool[Tensor, "time episode"], size: int) -> Float[Tensor, " episode"]:
    """What drawing K = `size` of T steps adds to the error on average: RRD's penalty on predictions that differ between steps.

        Var(T / K sum_{t in I} r_hat_t) = T^2 / K (1 - K / T) S^2,    S^2 = sum_t (r_hat_t - mean)^2 / (T - 1)

    (sampling without replacement); 0 for episodes of at most `size` steps.
    """
    number = lengths(valid).to(predicted.dtype)
    drawn = number.clamp(max=size)
    mean = torch.where(valid, predicted, 0.0).sum(0) / number
    spread = torch.where(valid, predicted - mean, 0.0).square().sum(0) / (number - 1).clamp(min=1)
    return number.square() / drawn * (1 - drawn / number) * spread


def last_value(values: Float[Tensor, "time episode"], valid: Bool[Tensor, "time episode"]) -> Float[Tensor, " episode"]:
    """Each episode's value at its last valid step (not at the last row, which may be padding)."""
    return values.gather(0, (lengths(valid) - 1).unsqueeze(0)).squeeze(0)


def prediction_loss(
    predicted: Float[Tensor, "time episode"],
    returns: Float[Tensor, " episode"],
    valid: Bool[Tensor, "time episode"],
    *,
    early: float = 0.5,
) -> Float[Tensor, " episode"]:
    """RUDDER's squared error of each episode: of its last prediction, and, weighted by `early`, of all of them on average.

        L = (R - g_{T-1})^2 + early 1/T sum_t (R - g_t)^2

    The second term makes the return be told as soon as it can be, which is what moves reward to the steps that decided it.
    """
    errors = torch.where(valid, returns - predicted, 0.0).square()
    return last_value(errors, valid) + early * errors.sum(0) / lengths(valid)


def prediction_differences(
    predicted: Float[Tensor, "time episode"], valid: Bool[Tensor, "time episode"], before: Float[Tensor, " episode"]
) -> Float[Tensor, "time episode"]:
    """What each step changed in the predicted return, r_hat_t = g_t - g_{t-1} + g_{-1} / T; 0 in the padding.

    `before` is g_{-1}, what is predicted before anything is seen (the mean return). It is no step's doing, so all steps carry an equal
    part of it; with it their sum is the last prediction g_{T-1}.
    """
    previous = torch.cat([before.unsqueeze(0), predicted[:-1]])
    return torch.where(valid, predicted - previous + before / lengths(valid), 0.0)


def spread_residual(
    predicted: Float[Tensor, "time episode"], returns: Float[Tensor, " episode"], valid: Bool[Tensor, "time episode"]
) -> tuple[Float[Tensor, "time episode"], Float[Tensor, " episode"]]:
    """Rewards that add up to each episode's return, and the residual R - sum_t r_hat_t that had to be spread evenly for it.

    In float64, so that the sum is the return to its last digits; 0 in the padding.
    """
    exact, whole = torch.where(valid, predicted, 0.0).to(torch.float64), returns.to(torch.float64)
    residual = whole - exact.sum(0)
    return torch.where(valid, exact + residual / lengths(valid), 0.0), residual


def residual_share(residual: Float[Tensor, " episode"], returns: Float[Tensor, " episode"]) -> float:
    """sum |residual| / sum |R - mean R|: 0 is a perfect model, 1 what predicting the mean return gets; NaN where returns do not differ."""
    apart = (returns - returns.mean()).abs().sum()
    return float(residual.abs().sum() / apart) if apart > 0 else float("nan")
