"""Models of an episode's return as a sum over its steps, from the global state and the joint action (never used to act).

    rrd      r_hat_t = f(s_t, u_t), an MLP; trained on random subsets of steps
    rudder   r_hat_t = g_t - g_{t-1}, g_t = G(s_0, u_0, ..., s_t, u_t), a GRU; trained to predict the return

Both predict in units of the returns' standard deviation around their mean, which is told to them, and start at that mean
spread evenly. Losses are in the same units: 1 is about what a constant gets.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..credit.temporal import decomposition_loss, lengths, prediction_differences, prediction_loss, random_subset
from ..envs.base import TeamSpec

Kind = Literal["rrd", "rudder"]


@dataclass(frozen=True)
class EpisodeBatch:
    """Whole episodes side by side, padded to the longest."""

    state: Float[Tensor, "time episode state"]
    action: Int[Tensor, "time episode agent"]
    valid: Bool[Tensor, "time episode"]
    """From row 0 on without a gap."""
    returns: Float[Tensor, " episode"]
    """Undiscounted team return, raw reward units."""


class ReturnModel(nn.Module):
    """r_hat of every step; the part that both kinds share."""

    def __init__(self, spec: TeamSpec, hidden: int):
        super().__init__()
        self.num_actions = spec.num_actions
        self.first = nn.Linear(spec.state_dim + spec.num_agents * spec.num_actions, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, 1)
        nn.init.zeros_(self.head.weight)  # before anything is learned every step is worth the same
        nn.init.zeros_(self.head.bias)
        self.mean: Tensor
        self.scale: Tensor
        self.length: Tensor
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("length", torch.zeros((), dtype=torch.float64))  # 0: nothing was told yet

    @torch.no_grad()
    def set_units(self, returns: Float[Tensor, " episode"], lengths: Tensor) -> None:
        """Mean and standard deviation of the returns, and the mean length, of the episodes that are learned from.

        What was learned stays: the head is changed so that every prediction is what it was in raw reward (PopArt, arXiv:1602.07714).
        """
        before, unit = self._offset().clone() if self.length > 0 else None, self.scale.clone()
        self.mean.copy_(returns.mean())
        self.length.copy_(lengths.to(torch.float64).mean())
        deviation = returns.std(correction=0)
        if deviation > 1e-6 * (1 + self.mean.abs()):  # else rounding would be taken for a difference
            self.scale.copy_(deviation)
        if before is not None:
            self.head.weight.mul_(unit / self.scale)
            self.head.bias.copy_((unit * self.head.bias + before - self._offset()) / self.scale)

    @abstractmethod
    def _offset(self) -> Float[Tensor, ""]:
        """What a head of zeros predicts, raw reward units."""

    def features(self, state: Tensor, action: Tensor) -> Float[Tensor, "*batch hidden"]:
        """One step's state and joint action."""
        taken = F.one_hot(action, self.num_actions).flatten(-2).to(state.dtype)
        return F.relu(self.norm(self.first(torch.cat([state, taken], -1))))

    @abstractmethod
    def rewards(self, episodes: EpisodeBatch) -> Float[Tensor, "time episode"]:
        """r_hat of each step, raw reward units, float64; 0 in the padding."""

    @abstractmethod
    def replaced(self, episodes: EpisodeBatch) -> Float[Tensor, "time episode agent action"]:
        """r_hat of each step had that agent taken that action there, all else as it was; raw reward units; 0 in the padding."""

    @abstractmethod
    def losses(self, episodes: EpisodeBatch, *, subset: int, generator: torch.Generator) -> Float[Tensor, " episode"]:
        """Each episode's loss, in units of the returns' variance."""

    def _each_replaced(self, action: Tensor) -> list[tuple[int, int, Tensor]]:
        """(agent, action, the joint actions with that agent's replaced by it)."""
        variants = []
        for agent in range(action.shape[-1]):
            for other in range(self.num_actions):
                changed = action.clone()
                changed[..., agent] = other
                variants.append((agent, other, changed))
        return variants


class StepModel(ReturnModel):
    """f(s_t, u_t): each step for itself (RRD)."""

    def __init__(self, spec: TeamSpec, hidden: int):
        super().__init__(spec, hidden)
        self.second = nn.Linear(hidden, hidden)

    def _numbers(self, state: Tensor, action: Tensor) -> Float[Tensor, "*batch"]:
        """r_hat less its constant part, in units of the scale."""
        return self.head(F.relu(self.second(self.features(state, action)))).squeeze(-1)

    def _offset(self) -> Float[Tensor, ""]:
        return self.mean / self.length

    def _raw(self, numbers: Tensor) -> Tensor:
        return self._offset() + self.scale * numbers.to(torch.float64)

    def rewards(self, episodes: EpisodeBatch) -> Float[Tensor, "time episode"]:
        return torch.where(episodes.valid, self._raw(self._numbers(episodes.state, episodes.action)), 0.0)

    def replaced(self, episodes: EpisodeBatch) -> Float[Tensor, "time episode agent action"]:
        rows = episodes.state.new_zeros(*episodes.action.shape, self.num_actions, dtype=torch.float64)
        for agent, other, action in self._each_replaced(episodes.action):
            rows[..., agent, other] = torch.where(episodes.valid, self._raw(self._numbers(episodes.state, action)), 0.0)
        return rows

    def losses(self, episodes: EpisodeBatch, *, subset: int, generator: torch.Generator) -> Float[Tensor, " episode"]:
        chosen = random_subset(episodes.valid, subset, generator=generator)
        wanted = (episodes.returns - self._offset() * lengths(episodes.valid)) / self.scale
        return decomposition_loss(self._numbers(episodes.state, episodes.action), wanted.to(torch.float32), chosen, episodes.valid)


class PrefixModel(ReturnModel):
    """G(s_0, u_0, ..., s_t, u_t): the return foreseen after each step (RUDDER); sees no later step."""

    def __init__(self, spec: TeamSpec, hidden: int):
        super().__init__(spec, hidden)
        self.cell = nn.GRU(hidden, hidden)

    def _remember(self, episodes: EpisodeBatch) -> Float[Tensor, "time episode hidden"]:
        memories, _ = self.cell(self.features(episodes.state, episodes.action))
        return memories

    def _offset(self) -> Float[Tensor, ""]:
        return self.mean

    def _raw(self, memories: Tensor) -> Tensor:
        return self._offset() + self.scale * self.head(memories).squeeze(-1).to(torch.float64)

    def foreseen(self, episodes: EpisodeBatch) -> Float[Tensor, "time episode"]:
        """g_t, raw reward units; meaningless in the padding."""
        return self._raw(self._remember(episodes))

    def rewards(self, episodes: EpisodeBatch) -> Float[Tensor, "time episode"]:
        return prediction_differences(self.foreseen(episodes), episodes.valid, self.mean.expand(episodes.returns.shape))

    def replaced(self, episodes: EpisodeBatch) -> Float[Tensor, "time episode agent action"]:
        memories = self._remember(episodes)
        taken, own = self._raw(memories), self.rewards(episodes)
        before = torch.cat([torch.zeros_like(memories[:1]), memories[:-1]]).flatten(0, 1).unsqueeze(0)
        rows = episodes.state.new_zeros(*episodes.action.shape, self.num_actions, dtype=torch.float64)
        for agent, other, action in self._each_replaced(episodes.action):
            x = self.features(episodes.state, action).flatten(0, 1).unsqueeze(0)
            memory, _ = self.cell(x, before)  # one step from what was remembered before it
            rows[..., agent, other] = torch.where(episodes.valid, own + self._raw(memory).view_as(taken) - taken, 0.0)
        return rows

    def losses(self, episodes: EpisodeBatch, *, subset: int, generator: torch.Generator) -> Float[Tensor, " episode"]:
        wanted = ((episodes.returns - self._offset()) / self.scale).to(torch.float32)
        return prediction_loss(self.head(self._remember(episodes)).squeeze(-1), wanted, episodes.valid)


def make_return_model(kind: Kind, spec: TeamSpec, *, hidden: int, seed: int) -> ReturnModel:
    """A fresh model; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return StepModel(spec, hidden) if kind == "rrd" else PrefixModel(spec, hidden)
