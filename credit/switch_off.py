"""The switch-off credit matrix: which agent earned how much at which step, also where the reward comes late.

V_S(s) is the expected return from s on if the agents in S keep their policies and the others follow the reference from now on. Along an
episode s_0, s_1, ..., s_T with rewards r_t,

    delta_{S,t} = r_t + gamma V_S(s_{t+1}) - V_S(s_t)        what step t brought beyond what S alone was expected to bring
    g_t(S)      = delta_{empty,t} - delta_{S,t}              a coalition game at every step, with g_t(empty) = 0
    C[t, i]     = Shapley value of agent i in g_t

The sums telescope: sum_t gamma^t C[t, i] is agent i's Shapley value of the game V_.(s_0), as far as the episode went to its end, and the
discounted matrix adds up to V_N(s_0) - V_empty(s_0). An agent whose switching off changes no V on the way has zeros, exactly. What
chance does in a step is credited too, where it moves the values of some coalitions more than others'. After a termination every V is
0; after a truncation V_S of the last state is what the caller puts there.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from .shapley import shapley_from_values


def switch_off_matrix(
    rewards: Float[Tensor, "time *batch"], values: Float[Tensor, "coalition *moment_batch"], *, gamma: float = 1.0
) -> Float[Tensor, "time agent *batch"]:
    """C[t, i], in the unit of the rewards.

    Args:
        rewards: team reward of each of the T steps.
        values: V_S (coalition, moment, *batch) of the T + 1 moments for all 2^n coalitions, row m being those
            whose bits are set in m (`all_coalitions`).
        gamma: discount of the values.

    Raises:
        ValueError: another number of moments than T + 1, no power of two of coalitions, or NaN.
    """
    if values.dim() != rewards.dim() + 1 or values.shape[2:] != rewards.shape[1:]:
        raise ValueError(
            f"values of shape {tuple(values.shape)} for rewards of shape {tuple(rewards.shape)}: expected (coalition, moment, ...) "
            "and (time, ...) with the same further axes"
        )
    if values.shape[1] != len(rewards) + 1:
        raise ValueError(f"values of {values.shape[1]} moments for {len(rewards)} rewards: an episode of T steps has T + 1 moments")
    if not bool(values.isfinite().all() and rewards.isfinite().all()):
        raise ValueError("a reward or a value is NaN or infinite; credit needs finite ones")
    values = values.to(torch.float64)
    expected = gamma * values[:, 1:] - values[:, :-1]  # the reward of a step is the same for every coalition and drops out of g_t
    return shapley_from_values(expected[:1] - expected).movedim(0, 1)
