"""What a critic Q(s, u) says about single agents: COMA's advantage, and credit against a reference.

    A_i = Q(s, u) - sum_a pi_i(a) Q(s, (u_-i, a))               (COMA, arXiv:1705.08926)
    D_i = Q(s, u) - sum_a rho_i(a) Q(s, (u_-i, a))              (rho_i: what agent i would do instead)

A_i has mean 0 under pi_i for *every* agent, so it is a weight for a gradient and can rank nobody. D_i, against a
reference that does not depend on what the agent did, is credit: what one decision of the agent is worth to the team.
"""

from jaxtyping import Float, Int
from torch import Tensor

from .difference import aristocrat_utility


def counterfactual_advantage(
    q: Float[Tensor, "*batch agent action"], policy: Float[Tensor, "*batch agent action"], action: Int[Tensor, "*batch agent"]
) -> Float[Tensor, "*batch agent"]:
    """A_i = Q_i(u_i) - sum_a pi_i(a) Q_i(a): aristocrat utility on Q. Unit of `q`; a gradient weight, not credit.

    Args:
        q: `q[..., i, a]` is the team's value had agent i played a and its teammates their actual actions.
        policy: pi_i; sums to 1 over actions.
        action: the joint action.
    """
    return aristocrat_utility(q, policy, action)


def reference_advantage(
    q: Float[Tensor, "*batch agent action"], reference: Float[Tensor, "*batch agent action"], action: Int[Tensor, "*batch agent"]
) -> Float[Tensor, "*batch agent"]:
    """D_i = Q_i(u_i) - sum_a rho_i(a) Q_i(a), in the unit of `q`; `reference` is rho_i and sums to 1 over actions."""
    return aristocrat_utility(q, reference, action)


def expected_gradient_weight(
    q: Float[Tensor, "*batch agent action"], policy: Float[Tensor, "*batch agent action"]
) -> Float[Tensor, "*batch agent"]:
    """E|A_i| = sum_a pi_i(a) |Q_i(a) - sum_b pi_i(b) Q_i(b)|, in the unit of `q`: how strongly COMA's gradient may pull at agent i.

    Not credit: it is large wherever actions differ much, whether the agent chooses well or badly.
    """
    mean = (policy * q).sum(-1, keepdim=True)
    return (policy * (q - mean).abs()).sum(-1)
