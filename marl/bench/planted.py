"""Teams with planted members: who is truly lazy is known, from effects over very many episodes.

| family | task | members |
|---|---|---|
| coalition | one-step games drawn by the seed: additive with a dummy, airport, majority, either-or, weighted vote | good, rare, noop |
| plate-and-door | guard, walker, dummy | good, half, random, noop |
| foraging | native, 8x8, 4 players, 3 foods, 25 steps | good, half, random, noop, shadow, saboteur |
| spread | native, 4 agents | good, half, random, noop |
| mpe | MPE2's simple_spread, 3 agents | the same |
| lbf | lbforaging, 8x8, 3 players, 3 foods | good, half, random, noop |

In coalition games a member that joins succeeds with some probability only, so that episodes differ. `roles` names members that a test
of laziness must leave alone though they earn little by leaving: guards, dummies, and members who can stand in for each other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...envs.base import TeamEnv
from ...envs.coalition import CoalitionTask
from ...envs.foraging import Foraging
from ...envs.matrix import MatrixTask
from ...envs.native import NativeEnv, Outcome
from ...envs.plate_and_door import PlateAndDoor
from ...envs.randomness import TASK, Clock, split, uniform
from ...envs.registry import make
from ...envs.spread import Spread
from ..policies import Policy, Team, half_policy, make_policy, noop_policy, random_policy
from ..references import Stand, default_references, reference_of
from .planted_members import forager_policy, joiner, mover_policy, plant, rare_joiner

GAMES = ("additive", "airport", "majority", "either-or", "vote")
FAMILIES: dict[str, str] = {
    "coalition": "one-step coalition games drawn by the seed, with luck",
    "plate-and-door": "a guard that stands still, a walker, a dummy",
    "foraging": "native level-based foraging, 4 agents",
    "spread": "native spread, 4 agents (no return range: approximate)",
    "mpe": "MPE2's simple_spread (slow)",
    "lbf": "Level-Based Foraging, the package lbforaging (slow)",
}
"""What `--families` takes."""
SLOW = ("mpe", "lbf")
_LUCK, _SURE = 0.9, 0.98


@dataclass(frozen=True)
class PlantedTeam:
    """One team."""

    family: str
    name: str
    env: TeamEnv
    team: Team
    members: tuple[str, ...]
    """The policy of each agent."""
    roles: tuple[str, ...]
    """guard, dummy or redundant; "" for the others."""
    good: Policy
    """What a good member would do in anybody's place."""
    external: Callable[[Tensor], Tensor] | None = None
    """From the state what is not the agents' own; None where there is no such thing."""

    @property
    def stands(self) -> list[Stand]:
        """The references a user gets by default."""
        return [reference_of(name, self.env, self.team) for name in default_references(self.env.spec)]


class LuckyCoalition(CoalitionTask):
    """A coalition game in which each agent that joins succeeds with probability `luck`, drawn for every agent in every episode."""

    def __init__(self, table: Tensor, luck: float, name: str):
        super().__init__(table, name=name)
        self.luck = luck

    def advance(self, task: MatrixTask, action: Int[Tensor, "env agent"], clock: Clock) -> tuple[MatrixTask, Outcome]:
        lucky = uniform(split(clock.key(TASK), self.spec.num_agents)) < self.luck
        return super().advance(task, torch.where(lucky, action, 0), clock)


def _all_coalitions(num_agents: int) -> Float[Tensor, "coalition agent"]:
    """Row m: the agents whose bits are set in m."""
    return ((torch.arange(2**num_agents).unsqueeze(1) >> torch.arange(num_agents)) & 1).to(torch.float64)


def draw_coalition(kind: str, generator: torch.Generator, *, lazy: str | None = None) -> PlantedTeam:
    """A game of this kind with its members; `lazy`: the policy of the one that does not pull its weight, else drawn."""
    n = 4 if kind in ("additive", "either-or") else 5
    weight = 0.5 + torch.rand(n, generator=generator, dtype=torch.float64)
    joined, coin = _all_coalitions(n), torch.rand(3, generator=generator).tolist()
    lazy = lazy or ("noop" if coin[0] < 0.5 else "rare")
    members, roles, luck = ["good"] * n, [""] * n, _SURE
    if kind == "additive":
        weight[n - 1], luck = 0.0, _LUCK
        table = joined @ weight
        members[0], roles[n - 1] = lazy, "dummy"
    elif kind == "airport":  # costs rise; where the last agent works, it alone decides
        table = (joined * weight.cumsum(0)).amax(1)
        roles[: n - 1] = ["redundant"] * (n - 1)
    elif kind == "majority":
        table = (joined.sum(1) >= 3).to(torch.float64)
        roles = ["redundant"] * n
    elif kind == "either-or":  # either of two does one job; two more have one each, of which one does not do it
        table = 2 * joined[:, :2].amax(1) + joined[:, 2:] @ weight[2:]
        roles[:2], members[3] = ["redundant"] * 2, lazy
    elif kind == "vote":  # enough without the heaviest, so without anybody
        votes = (1 + 3 * torch.rand(n, generator=generator)).floor().to(torch.float64)
        table = (joined @ votes >= votes.sum() - votes.max()).to(torch.float64)
        roles = ["redundant"] * n
    else:
        raise ValueError(f'no coalition game "{kind}"; there are: {", ".join(GAMES)}')
    order = torch.randperm(n, generator=generator).tolist()  # so that no detector can know by the place
    table = _shuffled(table, order)
    members, roles = ([values[k] for k in order] for values in (members, roles))
    env = LuckyCoalition(table, luck, f"coalition-{kind}")
    policies: dict[str, Policy] = {"good": joiner, "rare": rare_joiner, "noop": noop_policy(env.spec)}
    return _planted("coalition", kind, env, members, roles, policies)


def _shuffled(table: Float[Tensor, " coalition"], order: Sequence[int]) -> Float[Tensor, " coalition"]:
    """The same game with agent order[p] at place p."""
    joined = _all_coalitions(len(order)).to(torch.int64)
    return table[(joined << torch.tensor(order)).sum(1)]


def plate_team(members: Sequence[str]) -> PlantedTeam:
    """Guard, walker and dummy with these policies."""
    env = PlateAndDoor()
    trained = make_policy("trained", env.spec, env.scripted)
    roles = ["guard" if members[0] == "good" else "", "", "dummy"]
    return _planted("plate-and-door", ", ".join(members), env, members, roles, _usual(env, trained), external=lambda state: state[:, 3:7])


def foraging_team(members: Sequence[str]) -> PlantedTeam:
    """Four players, three foods."""
    foods, players = 3, len(members)
    env = Foraging(rows=8, cols=8, num_players=players, num_food=foods, episode_limit=25)
    policies = _usual(env, forager_policy(foods, players))
    for name in ("shadow", "saboteur"):
        policies[name] = make_policy(name, env.spec, env.scripted, torch.tensor([member == name for member in members]))
    name = ", ".join(members)
    return _planted("foraging", name, env, members, None, policies, external=lambda state: state[:, : 3 * foods])


def spread_team(members: Sequence[str], family: str = "spread") -> PlantedTeam:
    """Native or MPE2's."""
    env = Spread(num_agents=len(members)) if family == "spread" else make("mpe/simple_spread", team_reward="sum")
    return _planted(family, ", ".join(members), env, members, None, _usual(env, mover_policy(len(members))))


def lbf_team(members: Sequence[str]) -> PlantedTeam:
    """Real foraging."""
    env = make(f"lbf/8x8-{len(members)}p-3f", max_episode_steps=25)
    return _planted("lbf", ", ".join(members), env, members, None, _usual(env, forager_policy(3, len(members))))


def _usual(env: TeamEnv, good: Policy) -> dict[str, Policy]:
    return {"good": good, "half": half_policy(good), "random": random_policy, "noop": noop_policy(env.spec)}


def _planted(
    family: str,
    name: str,
    env: TeamEnv,
    members: Sequence[str],
    roles: Sequence[str] | None,
    policies: dict[str, Policy],
    external: Callable[[Tensor], Tensor] | None = None,
) -> PlantedTeam:
    used = {name: policies[name] for name in members}
    roles = [""] * len(members) if roles is None else roles
    return PlantedTeam(
        family=family,
        name=name,
        env=env,
        team=plant(env.spec, members, used),
        members=tuple(members),
        roles=tuple(roles),
        good=policies["good"],
        external=external,
    )


def drawn_members(num_agents: int, others: Sequence[str], generator: torch.Generator, num_others: int = 2) -> list[str]:
    """A good member, further ones who are good or half so, and `num_others` drawn from `others`, in any order."""
    pick = torch.randint(1 << 20, (num_agents,), generator=generator).tolist()
    able = ["good" if number % 3 else "half" for number in pick[num_others + 1 :]]
    members = ["good", *able, *(others[number % len(others)] for number in pick[:num_others])]
    return [members[k] for k in torch.randperm(num_agents, generator=generator).tolist()]


PLATE = (
    ("good", "good", "good"),
    ("good", "good", "random"),
    ("good", "good", "noop"),
    ("good", "half", "random"),
    ("good", "random", "good"),
    ("random", "good", "noop"),
)
"""Guard, walker, dummy."""


FIRST: dict[str, Sequence[Sequence[str]]] = {
    "foraging": (("good", "half", "noop", "shadow"), ("good", "random", "good", "saboteur")),
    "spread": (("good", "half", "good", "noop"), ("random", "good", "good", "good")),
    "mpe": (("good", "random", "good"),),
    "lbf": (("good", "noop", "half"),),
}
"""The first teams of a family, which are the same for every seed; further ones are drawn."""


def draw_team(family: str, index: int, generator: torch.Generator) -> PlantedTeam:
    """The index-th team of a family."""
    if family == "coalition":
        return draw_coalition(GAMES[index % len(GAMES)], generator)
    if family == "plate-and-door":
        return plate_team(PLATE[index % len(PLATE)])
    first = FIRST.get(family, ())
    if family == "foraging":
        drawn = drawn_members(4, ("random", "noop", "shadow", "saboteur"), generator)
        return foraging_team(first[index] if index < len(first) else drawn)
    if family in ("spread", "mpe"):
        drawn = drawn_members(4 if family == "spread" else 3, ("random", "noop", "half"), generator, 1)
        return spread_team(first[index] if index < len(first) else drawn, family)
    if family == "lbf":
        drawn = drawn_members(3, ("random", "noop"), generator, 1)
        return lbf_team(first[index] if index < len(first) else drawn)
    raise ValueError(f'no family "{family}"; there are: {", ".join(FAMILIES)}')


def is_native(planted: PlantedTeam) -> bool:
    """Whether thousands of episodes can be played at once."""
    return isinstance(planted.env, NativeEnv)
