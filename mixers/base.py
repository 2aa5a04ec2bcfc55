"""The promise every mixer keeps, so that learner, credit and tests treat them alike.

A mixer maps the agents' chosen utilities and the global state to the team's value. What the trainer relies on:
`monotone` (dQ_tot/dQ_i >= 0 everywhere, hence IGM: the agents' own greedy actions maximise Q_tot) and `per_agent`
(one value per agent instead of one for the team: independent learning).
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn


class Mixer(nn.Module):
    """Q_tot = f(Q_1, ..., Q_n; s)."""

    monotone: ClassVar[bool]
    """dQ_tot/dQ_i >= 0 for every agent, state and utility."""
    linear: ClassVar[bool]
    """Q_tot is a sum of the utilities: credit can be read off as a gap Q_i(a_i) - Q_i(reference)."""
    per_agent: ClassVar[bool] = False
    """True: the output keeps the agent axis, one value per agent."""

    @abstractmethod
    def forward(self, q: Float[Tensor, "*batch agent"], state: Float[Tensor, "*batch state"]) -> Tensor:
        """The team value (*batch,), or (*batch, agent) when `per_agent`. An agent that is not alive comes with q = 0."""

    def at(self, state: Float[Tensor, "*batch state"]) -> Callable[[Tensor], Tensor]:
        """f(.; s) at these states: many utilities of each, (*batch, sample, agent), to team values (*batch, sample).

        A mixer whose weights are made from the state makes them here, once. ValueError for `per_agent`: there is no team value.
        """
        if self.per_agent:
            raise ValueError("independent learners mix nothing: they have no team value; vdn and qmix have one")
        return lambda q: self(q, state.unsqueeze(-2).expand(*q.shape[:-1], -1))


def mix(
    mixer: Mixer, q: Float[Tensor, "*batch agent"], state: Float[Tensor, "*batch state"], alive: Tensor
) -> Float[Tensor, "*batch value"]:
    """The mixer's values with dead agents left out; the last axis is 1 (team) or one per agent."""
    value = mixer(q.masked_fill(~alive, 0.0), state)
    return value if mixer.per_agent else value.unsqueeze(-1)
