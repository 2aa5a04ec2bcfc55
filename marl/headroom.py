"""Would somebody else in an agent's place do better? What tells a lazy agent from one that the task does not need.

    H_i(kappa) = J(kappa_i, pi_-i) - J(pi)

A race of candidates kappa on paired episodes. Per candidate two e-processes (credit/evidence.py) compare H_i with the margin delta, the
largest over the references. With alpha' = alpha / (agents looked at) and K candidates for the agent:

    shown       some candidate's evidence above delta reaches K / alpha'
    excluded    every candidate's evidence below delta has reached 1 / alpha'
    open        neither, after all pairs

A candidate that is excluded leaves the race, an agent that is decided too. "excluded" speaks of those tried, not of every policy there is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..credit.evidence import begin, log_e_above, log_e_below, update
from ..credit.intervals import t_interval
from ..credit.margin import Margin
from ..envs.base import TeamEnv
from .evaluate import seeds_from
from .policies import Policy, StandIn, Team, make_policy, random_policy
from .trainer import scripted_policies
from .worlds import Worlds, identical_to_reference


@dataclass(frozen=True)
class Headroom:
    """What the race found for one agent."""

    room: Literal["shown", "excluded", "open"]
    gain: float | None
    """The best candidate's mean gain, in team return; None without candidates."""
    stand_in: str
    pairs: int
    costs_itself: bool
    """The best candidate, room being shown, earns less of the agent's *own* reward than the agent does as it is."""


def default_candidates(env: TeamEnv, team: Team) -> dict[str, Policy]:
    """By name: the network of every agent that learned, every planted policy but doing nothing, and random."""
    spec, scripted = env.spec, scripted_policies(env)
    found: dict[str, Policy] = {}
    for agent, learned in enumerate(team.learns(spec.num_agents).tolist()):
        if learned:
            found[f"the policy of {spec.agents[agent]}"] = StandIn(team, agent)
    for member in team.members:
        names = {team.planted.get(spec.agents[agent]) for agent in member.mask.nonzero().flatten().tolist()}
        for name in sorted(name for name in names if name not in (None, "noop", "random")):
            found[name] = make_policy(name, spec, scripted) if name in scripted else member.policy
    return {**found, "random": random_policy}


def measure_headroom(
    env: TeamEnv,
    team: Team,
    agents: Sequence[int],
    candidates: Mapping[str, Policy],
    margin: Margin,
    *,
    own: Mapping[int, tuple[str, Policy]] | None = None,
    alpha: float = 0.05,
    max_pairs: int = 512,
    batch: int = 32,
    first_seed: int,
    return_range: tuple[float, float] | None = None,
    stated: bool = False,
) -> tuple[list[Headroom], int]:
    """A `Headroom` per agent, in their order, and the env steps played.

    Args:
        candidates: tried in the place of every agent but those whose policy they are.
        own: further ones, tried in one agent's place only (a best response).
        return_range, stated: as `Worlds`.
    """
    names, policies = list(candidates), list(candidates.values())
    is_own = identical_to_reference(team, env.spec, names, [None] * env.spec.num_agents, policies)
    claims = [(agent, which) for agent in agents for which in range(len(names)) if not is_own[agent, which]]
    for agent, (name, policy) in (own or {}).items():
        claims.append((agent, len(names)))
        names.append(name)
        policies.append(policy)
    worlds = Worlds(env, team, policies, return_range=return_range, stated=stated)
    race = _Race(worlds, claims, margin, alpha / max(len(agents), 1))
    for start in range(0, max_pairs, batch):
        if not race.on():
            break
        race.play(seeds_from(first_seed + start, min(batch, max_pairs - start)))
    return [race.result(agent, names) for agent in agents], race.worlds.env_steps


class _Race:
    """Evidence about each claim, an (agent, candidate's number)."""

    def __init__(self, worlds: Worlds, claims: Sequence[tuple[int, int]], margin: Margin, alpha: float):
        self.worlds, self.claims, self.alpha = worlds, list(claims), alpha
        delta = torch.full((len(self.claims),), float(margin.delta.max()), dtype=torch.float64)
        self.evidence = begin(delta, margin.bound, approximate=margin.approximate)
        self.above, self.below = torch.zeros_like(delta), torch.zeros_like(delta)
        self.saved: dict[int, list[Tensor]] = {}

    def rivals(self, agent: int) -> list[int]:
        return [number for number, claim in enumerate(self.claims) if claim[0] == agent]

    def room(self, agent: int) -> Literal["shown", "excluded", "open"]:
        rivals = self.rivals(agent)
        if rivals and bool((self.above[rivals] >= math.log(len(rivals) / self.alpha)).any()):
            return "shown"
        return "excluded" if rivals and bool(self._excluded()[rivals].all()) else "open"

    def _excluded(self) -> Tensor:
        return self.below >= math.log(1 / self.alpha)

    def on(self) -> list[int]:
        """The claims that are still open."""
        excluded = self._excluded().tolist()
        return [k for k, (agent, _) in enumerate(self.claims) if not excluded[k] and self.room(agent) == "open"]

    def play(self, seeds: Tensor) -> None:
        chosen = self.on()
        episodes = self.worlds.side_by_side([self.claims[k] for k in chosen], seeds)
        returns = episodes.returns.view(-1, len(seeds))
        gains = torch.zeros(len(self.claims), len(seeds), dtype=torch.float64)
        gains[chosen] = returns[1:] - returns[0]
        playing = torch.zeros(len(self.claims), dtype=torch.bool)
        playing[chosen] = True
        self.evidence = update(self.evidence, gains, playing)
        self.above = torch.maximum(self.above, log_e_above(self.evidence))
        self.below = torch.maximum(self.below, log_e_below(self.evidence))
        if episodes.agent_returns is None:
            return
        own = episodes.agent_returns.view(-1, len(seeds), self.worlds.env.spec.num_agents)
        for row, k in enumerate(chosen, start=1):
            agent = self.claims[k][0]
            self.saved.setdefault(k, []).append(own[0, :, agent] - own[row, :, agent])

    def result(self, agent: int, names: Sequence[str]) -> Headroom:
        rivals, room = self.rivals(agent), self.room(agent)
        if not rivals:
            return Headroom("open", None, "", 0, costs_itself=False)
        mean = self.evidence.total / self.evidence.count.clamp(min=1)
        score = self.above if room == "shown" else mean
        best = max(rivals, key=lambda k: float(score[k]))
        saved = torch.cat(self.saved[best]) if best in self.saved else None
        costs = room == "shown" and saved is not None and _above_zero(saved)
        return Headroom(room, float(mean[best]), names[self.claims[best][1]], int(self.evidence.count[rivals].max()), costs_itself=costs)


def _above_zero(samples: Float[Tensor, " episode"]) -> bool:
    return bool(t_interval(samples)[0] > 0)
