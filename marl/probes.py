"""Probe episodes: a share of training episodes in which a drawn coalition acts and everyone else is absent, for the whole episode.

Which credit a value mixer's utility gaps hold is decided by the coalitions in its data (credit/probes.py): all alike give the Banzhaf
value, nearly always everybody gives leave-one-out, the Shapley kernel gives the Shapley value. Here sizes of coalitions are drawn from
that kernel, with `ends` of the probes on the empty and the full team. In a one-step game and without other exploration, VDN's gaps
q_i(join) - q_i(reference) then differ between agents as Shapley values do, and `credit.probes.with_total` makes them those. In longer
episodes a gap is about one action at one moment, so it is an approximation there, and which one is not known.

A member acts greedily; where `active`, greedily among its actions other than the reference, so that an agent whose greedy action *is*
the reference still joins (with greedy members and a share of 1 it never would, and its gap would be noise). Who is absent follows the
reference: its no-op, or where it has none (or may not take it) a uniformly drawn available action. Planted members are no players:
they act as ever. Numbers are the copy's own, counted by episode.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..credit.probes import draw_members, draw_size, size_probabilities
from ..envs.base import TeamSpec, View
from ..envs.randomness import ABSENT, PROBE, Clock, split, uniform
from .config import ExplorationConfig
from .exploration import greedy, uniform_action


@dataclass(frozen=True)
class Probes:
    """Which coalitions are drawn, and how often."""

    share: float
    """Of episodes."""
    sizes: Float[Tensor, " size"]
    """P(|C| = s) among the players."""
    players: Bool[Tensor, " agent"]
    """The learning agents."""
    noop: Int[Tensor, " agent"]
    """As `noop_actions` gives it."""
    active: bool
    """Members leave out the reference action where they have another."""

    def coalition(self, clock: Clock) -> tuple[Bool[Tensor, " env"], Bool[Tensor, "env agent"]]:
        """Whether each copy's running episode is a probe, and who is in its coalition (always: who is no player)."""
        first = replace(clock, step=torch.zeros_like(clock.step))
        numbers = uniform(split(first.key(PROBE), 2 + len(self.players)))
        scores = numbers[:, 2:].masked_fill(~self.players, 2.0)  # behind every player
        members = draw_members(scores, draw_size(numbers[:, 1], self.sizes))
        return numbers[:, 0] < self.share, members | ~self.players

    def act(
        self,
        q: Float[Tensor, "env agent action"],
        action: Int[Tensor, "env agent"],
        behaviour: Float[Tensor, "env agent"],
        view: View,
        clock: Clock,
    ) -> tuple[Int[Tensor, "env agent"], Float[Tensor, "env agent"]]:
        """The joint action and each action's probability given the coalition; those handed in where the episode is no probe."""
        probing, members = self.coalition(clock)
        absent, chance = reference_action(self.noop, view.available, uniform(split(clock.key(ABSENT), len(self.players))))
        choices = view.available
        if self.active:
            others = choices.scatter(-1, self.noop.expand_as(action).unsqueeze(-1), False)
            choices = torch.where(others.any(-1, keepdim=True), others, choices)
        own = torch.where(members, greedy(q, choices), absent)
        likely = torch.where(members, 1.0, chance).to(behaviour.dtype)
        probing = probing.unsqueeze(-1)
        return torch.where(probing, own, action), torch.where(probing, likely, behaviour)


def noop_actions(spec: TeamSpec) -> Int[Tensor, " agent"]:
    """Each agent's no-op, -1 for an agent without one."""
    return torch.tensor([-1 if action is None else action for action in spec.noop or (None,) * spec.num_agents])


def reference_action(
    noop: Int[Tensor, " agent"], available: Bool[Tensor, "*batch agent action"], number: Float[Tensor, "*batch agent"]
) -> tuple[Int[Tensor, "*batch agent"], Float[Tensor, "*batch agent"]]:
    """What an absent agent does, and how likely that is: its no-op where that is available, else the action `number` in [0, 1) picks."""
    idle = noop.expand(number.shape)
    legal = available.gather(-1, idle.clamp_min(0).unsqueeze(-1)).squeeze(-1) & (idle >= 0)
    return torch.where(legal, idle, uniform_action(number, available)), torch.where(legal, 1.0, 1 / available.sum(-1))


def make_probes(config: ExplorationConfig, spec: TeamSpec, learns: Bool[Tensor, " agent"]) -> Probes | None:
    """The probes a configuration asks for; None without a share. ValueError where they make no sense."""
    if config.probe_share == 0:
        return None
    noop, active = noop_actions(spec), config.probe_members == "active"
    without = [name for name, action in zip(spec.agents, noop.tolist(), strict=True) if action < 0]
    if active and without:
        raise ValueError(
            f"exploration.probe_members active: {', '.join(without)} of {spec.name} has no action that does nothing; use greedy"
        )
    sizes = size_probabilities(int(learns.sum()), config.probe_ends)
    return Probes(share=config.probe_share, sizes=sizes, players=learns, noop=noop, active=active)
