"""How small a contribution counts as small: a fraction of an equal share of what the team gains over its reference.

    delta_rho = m G_rho / n,    G_rho = J(pi) - J(rho, ..., rho)

G_rho is measured first, on episodes of its own, then frozen, so that no agent's own data sets its margin. Verdicts speak of this delta. A
gain that can barely be told from 0 is shown more often when it comes out too large, and then the margin is too large too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .intervals import mean_interval


@dataclass(frozen=True)
class Margin:
    """How small is small: frozen before any agent is judged."""

    fraction: float
    """m: the part of an equal share below which an agent does not pull its weight."""
    num_agents: int
    references: tuple[str, ...]
    """What absent agents do, by name."""
    gain: Float[Tensor, " reference"]
    """G_rho: team return minus the return when everybody follows the reference."""
    gain_low: Float[Tensor, " reference"]
    """Lower end of its 95% interval, over all looks at it."""
    gain_high: Float[Tensor, " reference"]
    """Upper end."""
    bound: float
    """R: width of one episode's possible team return; unknown: the span of returns seen."""
    approximate: bool
    """True where the range is unknown: every verdict is then approximate."""
    episodes: int
    """Episodes the gain was measured on; they are not used again."""

    @property
    def delta(self) -> Float[Tensor, " reference"]:
        """m G_rho / n, in team return."""
        return self.fraction * self.gain / self.num_agents

    @property
    def problem(self) -> str | None:
        """Why no agent can be judged, or None."""
        for k, name in enumerate(self.references):
            if self.gain_low[k] <= 0:
                return (
                    f'this team has not learned to beat its reference "{name}": its gain is {self.gain[k]:.3g} (interval '
                    f"{self.gain_low[k]:.3g} to {self.gain_high[k]:.3g}, of {self.episodes} episodes); train longer, or measure it on more "
                    "(--margin-episodes)"
                )
        return None


def measure_margin(
    team: Float[Tensor, " episode"],
    references: Float[Tensor, "reference episode"],
    *,
    num_agents: int,
    names: Sequence[str],
    fraction: float = 0.25,
    return_range: tuple[float, float] | None = None,
    looks: int = 1,
) -> Margin:
    """The margin from team returns and, on the same episodes, the returns when *all* agents follow each reference.

    Args:
        team: R_k(pi).
        references: R_k(rho, ..., rho).
        names: one per reference.
        fraction: m in (0, 1).
        return_range: (lowest, highest) possible return of an episode; None makes every verdict approximate.
        looks: how often one may look and play more episodes: the intervals of so many looks hold together (Bonferroni).
    """
    if looks < 1:
        raise ValueError(f"looks is {looks}; at least 1")
    if not 0 < fraction < 1:
        raise ValueError(f"margin is {fraction}; it is a fraction of an equal share, between 0 and 1 (0.25: a quarter of an equal share)")
    if len(names) != len(references):
        raise ValueError(f"{len(names)} reference names for {len(references)} references")
    everything = torch.cat([team.unsqueeze(0), references]).to(torch.float64)
    bound = float(everything.max() - everything.min()) if return_range is None else return_range[1] - return_range[0]
    if not bound > 0:
        raise ValueError("team returns have no width (return_range or every return seen is one number): there is no credit to share")
    differences = everything[0] - everything[1:]
    known = None if return_range is None else bound
    low, high, _ = mean_interval(differences, bound=known, worst=bound, confidence=1 - 0.05 / looks)
    return Margin(fraction, num_agents, tuple(names), differences.mean(-1), low, high, bound, return_range is None, len(team))
