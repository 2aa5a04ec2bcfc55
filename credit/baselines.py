"""What people would try in order to find lazy agents, each as a function of its own, to be compared with the real test.

| name | laziness is | what it overlooks |
|---|---|---|
| no-op frequency | doing nothing often | guards; busy agents that achieve nothing |
| action entropy | acting always alike | whoever is good always alike; agents that act at random |
| mixer gradient | a small dQ_tot / dQ_i | it has no unit, and is no credit (`known_wrong.py`) |
| mean COMA advantage | a small E[A_i] | it is 0 for everybody, by construction |
| LAIES index | little influence on what is external to the agent | influence need not help |
| t-test | an upper t bound of the effect below the margin | rare pivotal episodes: far more false claims than stated |
| percentile bootstrap | an upper bootstrap bound below the margin | the same |

Every function gives a laziness per agent, larger for lazier; those with a rule of their own also say who is called lazy.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .counterfactual import counterfactual_advantage
from .intervals import t_quantile

IDLE = 0.9
"""An agent with more of its choices spent on no-op is called lazy by its no-op frequency."""
ALIKE = 0.1
"""An agent with less of the largest possible entropy is called lazy by its entropy."""
LITTLE = 0.25
"""An agent with less than this part of the team's mean (gradient, influence) is called lazy by it: a quarter of an equal share."""


@dataclass(frozen=True)
class Suspicion:
    """What a baseline says of each agent."""

    laziness: Float[Tensor, " agent"]
    """Larger for lazier; comparable between agents, not between baselines."""
    lazy: Bool[Tensor, " agent"]
    """Whom it calls lazy."""


def noop_frequency(noops: Float[Tensor, " agent"], *, above: float = IDLE) -> Suspicion:
    """P(no-op | the agent had a choice). 0 for agents without a no-op: give them 0."""
    frequency = noops.to(torch.float64)
    return Suspicion(frequency, frequency > above)


def action_entropy(taken: Float[Tensor, "agent action"], *, below: float = ALIKE) -> Suspicion:
    """Minus the entropy of an agent's actions over all that it saw, as a part of ln(actions).

        H_i = -sum_a f_i(a) ln f_i(a) / ln A,    f_i(a) = taken_i(a) / sum_b taken_i(b)

    Args:
        taken: how often each agent took each action; an agent that never had a choice counts as always alike.
    """
    frequency = taken.to(torch.float64) / taken.sum(-1, keepdim=True).clamp_min(1)
    entropy = -torch.special.xlogy(frequency, frequency).sum(-1) / math.log(max(taken.shape[-1], 2))
    return Suspicion(-entropy, entropy < below)


def mixer_gradient(q_tot: Callable[[Tensor], Tensor], q: Float[Tensor, "sample agent"], *, below: float = LITTLE) -> Suspicion:
    """Minus the mean |dQ_tot / dQ_i| where the team acts, as a part of the agents' mean.

    Args:
        q_tot: the mixer: utilities (sample, agent) -> Q_tot (sample,).
        q: the utilities of the actions taken.
    """
    inputs = q.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(q_tot(inputs).sum(), inputs)
    return _little(slope.abs().mean(0), below)


def mean_coma_advantage(
    q: Float[Tensor, "sample agent action"],
    policy: Float[Tensor, "sample agent action"],
    action: Int[Tensor, "sample agent"],
) -> Suspicion:
    """Minus the mean of A_i = Q_i(u_i) - sum_a pi_i(a) Q_i(a) over the team's own actions: an estimate of 0, for every agent.

    Whoever's mean advantage is not above 0 is called lazy. Arguments as in `counterfactual_advantage`.
    """
    mean = counterfactual_advantage(q, policy, action).to(torch.float64).mean(0)
    return Suspicion(-mean, mean <= 0)


def laies_index(
    external: Float[Tensor, "sample feature"],
    counterfactual: Float[Tensor, "sample agent action feature"],
    available: Bool[Tensor, "sample agent action"],
    action: Int[Tensor, "sample agent"],
    *,
    below: float = LITTLE,
) -> Suspicion:
    """Minus an agent's influence on the external state: how much what comes next changes with another action of this agent alone.

        I_i = mean over samples of  sqrt( mean over available a != u_i of  ||e(s, (u_-i, a)) - e(s, u)||^2 )

    The individual influence of LAIES (Liu et al., ICML 2023), per agent and with real counterfactual actions (the published code sums it
    over agents, and forms the team's with an action vector of zeros). Moments at which an agent has no other action are left out.

    Args:
        external: e(s, u): what comes next, without what is the agents' own; in whatever scale the features have.
        counterfactual: `[k, i, a]`: the same had agent i played a and the others what they did.
        available: actions the agent could have taken.
        action: what was done.
    """
    other = available & (torch.arange(available.shape[-1]) != action.unsqueeze(-1))
    change = (counterfactual - external[:, None, None]).to(torch.float64).square().sum(-1)
    count = other.sum(-1)
    influence = ((change * other).sum(-1) / count.clamp_min(1)).sqrt()
    return _little(influence.sum(0) / (count > 0).sum(0).clamp_min(1), below)


def t_test(differences: Float[Tensor, "agent reference pair"], delta: Float[Tensor, " reference"], *, alpha: float = 0.05) -> Suspicion:
    """Lazy where mean + t_{1 - alpha} sd / sqrt(pairs) < delta under every reference: a one-sided bound for one look at fixed pairs.

    Laziness is the smallest (delta - mean) / standard error over references; differences that are all alike have none, and count as
    infinitely far. Wrong where a rare event decides: twenty pairs in which it did not happen have sd 0.
    """
    samples = differences.to(torch.float64)
    pairs = samples.shape[-1]
    if pairs < 2:
        raise ValueError(f"{pairs} pairs have no standard deviation; a t-test needs at least 2")
    room = delta.to(torch.float64) - samples.mean(-1)
    error = samples.std(-1) / pairs**0.5
    far = torch.where(error > 0, room / error.clamp_min(1e-300), torch.sign(room) * math.inf).nan_to_num(0.0, math.inf, -math.inf)
    return Suspicion(far.amin(-1), (far > t_quantile(pairs - 1, 1 - 2 * alpha)).all(-1))


def percentile_bootstrap(
    differences: Float[Tensor, "agent reference pair"],
    delta: Float[Tensor, " reference"],
    *,
    generator: torch.Generator,
    alpha: float = 0.05,
    resamples: int = 500,
) -> Suspicion:
    """Lazy where the (1 - alpha) quantile of the resampled means lies below delta under every reference.

    Laziness is the smallest share of resampled means below delta. Pairs are resampled together for all agents and references.
    """
    samples = differences.to(torch.float64)
    pairs = samples.shape[-1]
    drawn = torch.randint(pairs, (resamples, pairs), generator=generator)
    weight = torch.zeros(resamples, pairs, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=torch.float64))
    means = samples @ weight.T / pairs  # (agent, reference, resample)
    share = (means < delta.to(torch.float64).unsqueeze(-1)).to(torch.float64).mean(-1)
    upper = means.quantile(1 - alpha, -1)
    return Suspicion(share.amin(-1), (upper < delta).all(-1))


def _little(value: Tensor, below: float) -> Suspicion:
    """Lazy where the value is less than `below` of the agents' mean."""
    part = value.to(torch.float64) / value.to(torch.float64).mean().clamp_min(1e-300)
    return Suspicion(-part, part < below)
