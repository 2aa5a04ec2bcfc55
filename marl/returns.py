"""Returns from rewards and bootstrap values, backwards in time.

Every function takes, for each step t: `reward[t]` for the action at t; `next_value[t]`, the value of the view reached by
it (the last view of the episode where one ended); `terminated[t]`, the task ended there, so no value follows;
`done[t]`, an episode ended there for any reason, so rewards after it belong to another episode; `valid[t]`, the step is real.
A return never looks past a done step, past the last row, or into a step that is not valid: there it bootstraps.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def lambda_returns(
    reward: Float[Tensor, "time *batch"],
    next_value: Float[Tensor, "time *batch"],
    terminated: Bool[Tensor, "time *batch"],
    done: Bool[Tensor, "time *batch"],
    valid: Bool[Tensor, "time *batch"],
    *,
    gamma: float,
    td_lambda: float,
) -> Float[Tensor, "time *batch"]:
    """TD(lambda) returns (Sutton 1988), in units of discounted reward.

        G_t = r_t + gamma (1 - terminated_t) [(1 - lambda) V_{t+1} + lambda G_{t+1}]

    with G_{t+1} replaced by V_{t+1} where the episode, the rows or the real steps end after t.
    """
    bootstrap = gamma * next_value.masked_fill(terminated, 0.0)
    target = reward + bootstrap
    if td_lambda == 0 or len(reward) == 1:
        return target
    goes_on = ~done[:-1] & valid[1:]
    following = target[-1]
    out = [following]
    for t in range(len(reward) - 2, -1, -1):
        longer = target[t] + gamma * td_lambda * (following - next_value[t])
        following = torch.where(goes_on[t], longer, target[t])  # not a product: what must not count may be NaN
        out.append(following)
    return torch.stack(out[::-1])


def n_step_returns(
    reward: Float[Tensor, "time *batch"],
    next_value: Float[Tensor, "time *batch"],
    terminated: Bool[Tensor, "time *batch"],
    done: Bool[Tensor, "time *batch"],
    valid: Bool[Tensor, "time *batch"],
    *,
    gamma: float,
    n_step: int,
) -> Float[Tensor, "time *batch"]:
    """n-step returns: G_t = r_t + ... + gamma^{m-1} r_{t+m-1} + gamma^m (1 - terminated) V_{t+m}.

    m = n_step, or fewer where the episode, the rows or the real steps end before.
    """
    one_step = reward + gamma * next_value.masked_fill(terminated, 0.0)
    target = one_step
    for _ in range(n_step - 1):  # G^(k+1)_t = r_t + gamma G^(k)_{t+1} while the episode goes on
        longer = one_step.clone()
        goes_on = ~done[:-1] & valid[1:]
        longer[:-1] = torch.where(goes_on, reward[:-1] + gamma * target[1:], one_step[:-1])
        target = longer
    return target


def trace_returns(
    reward: Float[Tensor, "time *batch"],
    next_value: Float[Tensor, "time *batch"],
    taken: Float[Tensor, "time *batch"],
    trace: Float[Tensor, "time *batch"],
    terminated: Bool[Tensor, "time *batch"],
    done: Bool[Tensor, "time *batch"],
    valid: Bool[Tensor, "time *batch"],
    *,
    gamma: float,
) -> Float[Tensor, "time *batch"]:
    """Off-policy returns of the actions taken, corrected towards another policy pi (Munos et al., arXiv:1606.02647).

        G_t = r_t + gamma (1 - terminated_t) [E_pi Q_{t+1} + c_{t+1} (G_{t+1} - Q_{t+1})]

    with `next_value[t]` = E_pi Q of the view reached, `taken[t]` = Q of the action stored at t and `trace[t]` = c_t. The correction
    is left out where the episode, the rows or the real steps end after t. c_t = lambda min(1, pi/mu) is Retrace, lambda pi tree-backup,
    0 one-step; pi and mu are those of the *joint* action. The correction of a step uses that step's own action value: fed the exact Q
    of pi it gives back the exact Q of pi, whatever actions were taken (in expectation over what follows).
    """
    target = reward + gamma * next_value.masked_fill(terminated, 0.0)
    if len(reward) == 1:
        return target
    goes_on = ~done[:-1] & valid[1:]
    following = target[-1]
    out = [following]
    for t in range(len(reward) - 2, -1, -1):
        longer = target[t] + gamma * trace[t + 1] * (following - taken[t + 1])
        following = torch.where(goes_on[t], longer, target[t])  # not a product: what must not count may be NaN
        out.append(following)
    return torch.stack(out[::-1])
