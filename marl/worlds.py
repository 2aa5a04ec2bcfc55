"""Episodes of a team side by side with those in which somebody is replaced: what verdicts about agents are made of.

    D_k = R_k(pi) - R_k(rho_i, pi_-i)

k is an episode seed: both worlds begin alike and draw the same random numbers (pairs). Where a task does not begin alike for the same
seed, D_k is a difference of two independent episodes: the same mean and the same range, only more variance.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..envs.base import TeamEnv, TeamSpec
from .errors import ConfigError
from .evaluate import Episodes, play
from .policies import Override, Policy, StandIn, Team

CONTRACT_EPISODES = 4
"""Episodes played twice to see whether a seed settles them."""


class Worlds:
    """Plays worlds in which agents are replaced, and counts the env steps."""

    def __init__(
        self, env: TeamEnv, team: Team, policies: Sequence[Policy], *, return_range: tuple[float, float] | None = None, stated: bool = False
    ):
        """`return_range`: what every episode's return must lie in, if known; `stated`: by the user, not the task."""
        self.env, self.team, self.policies = env, team, policies
        self.return_range, self.stated = return_range, stated
        self.env_steps = 0

    def play(self, seeds: Int[Tensor, " episode"], overrides: Sequence[Override]) -> Episodes:
        """ConfigError where a return lies outside the range."""
        played = play(self.env, self.team, seeds, overrides)
        self.env_steps += played.env_steps
        self._refuse_outside(played.returns)
        return played

    def _refuse_outside(self, returns: Float[Tensor, " episode"]) -> None:
        if self.return_range is None or not len(returns):
            return
        low, high = self.return_range
        slack = 1e-6 * (high - low)
        least, most = float(returns.min()), float(returns.max())
        if least >= low - slack and most <= high + slack:
            return
        seen = f"an episode's team return was {least if least < low - slack else most:g}"
        if self.stated:
            raise ConfigError(
                f"--return-range {low:g},{high:g} does not hold: {seen}", remedy="state the lowest and highest that is possible"
            )
        raise ConfigError(
            f"{self.env.spec.name} declares return_range ({low:g}, {high:g}), but {seen}",
            remedy="correct the task's return_range, or state one with --return-range LO,HI",
        )

    def repeats(self, seeds: Int[Tensor, " episode"]) -> bool:
        """Whether the same seeds give the same episodes; played twice."""
        first, again = (self.play(seeds, []) for _ in range(2))
        return all(torch.equal(getattr(first, name), getattr(again, name)) for name in ("returns", "choices", "taken"))

    def all_replaced(self, seeds: Int[Tensor, " episode"]) -> Float[Tensor, "reference episode"]:
        """Returns when everybody follows each reference."""
        everyone = torch.ones(self.env.spec.num_agents, dtype=torch.bool)
        return torch.stack([self.play(seeds, [Override(policy, everyone)]).returns for policy in self.policies])

    def gains(self, seeds: Int[Tensor, " episode"]) -> Float[Tensor, "reference episode"]:
        """R_k(pi) - R_k(rho, ..., rho)."""
        return self.play(seeds, []).returns - self.all_replaced(seeds)

    def differences(self, agents: Sequence[int], seeds: Int[Tensor, " episode"]) -> Float[Tensor, "agent reference episode"]:
        """R_k(pi) - R_k(rho_i, pi_-i) for each chosen agent, reference and episode, all worlds played side by side."""
        pairs = [(agent, which) for agent in agents for which in range(len(self.policies))]
        returns = self.side_by_side(pairs, seeds).returns.view(-1, len(seeds))
        return (returns[0] - returns[1:]).view(len(agents), len(self.policies), len(seeds))

    def side_by_side(self, pairs: Sequence[tuple[int, int]], seeds: Int[Tensor, " episode"]) -> Episodes:
        """The team itself, then a world for each (agent, policy's number), which replaces that agent alone; each on all seeds."""
        number, num_agents = len(seeds), self.env.spec.num_agents
        masks = torch.zeros(len(self.policies), len(pairs) + 1, num_agents, dtype=torch.bool)
        for row, (agent, which) in enumerate(pairs, start=1):  # row 0 is the team itself
            masks[which, row, agent] = True
        overrides = [
            Override(policy, mask.repeat_interleave(number, 0))
            for policy, mask in zip(self.policies, masks, strict=True)
            if bool(mask.any())  # one that replaces nobody costs a forward pass and changes nothing
        ]
        return self.play(seeds.repeat(len(pairs) + 1), overrides)


def measure_effort(episodes: Episodes, spec: TeamSpec) -> list[float | None]:
    """Per agent, P(an action other than its no-op | it was alive and had a choice); None without a no-op or a choice."""
    totals = episodes.choices.sum(0)
    effort = ((episodes.effort * episodes.choices).sum(0) / totals.clamp(min=1)).tolist()
    noop = spec.noop or (None,) * spec.num_agents
    return [value if action is not None and total > 0 else None for value, action, total in zip(effort, noop, totals, strict=True)]


def measure_choice(episodes: Episodes) -> list[float]:
    """Per agent, the share of env steps on which it was alive and had a choice."""
    return (episodes.choices.sum(0) / max(episodes.env_steps, 1)).tolist()


def identical_to_reference(
    team: Team, spec: TeamSpec, references: Sequence[str], effort: Sequence[float | None], policies: Sequence[Policy] = ()
) -> Bool[Tensor, "agent reference"]:
    """True where an agent acts as the reference does: planted with that very policy, seen to do nothing at all, or the same network.

    `policies`: the references' own, in their order; without them networks are not compared.
    """
    same = [[team.planted.get(agent) == name or (name == "noop" and did == 0) for name in references]
            for agent, did in zip(spec.agents, effort, strict=True)]  # fmt: skip
    found = torch.tensor(same, dtype=torch.bool).view(spec.num_agents, len(references))
    for which, policy in enumerate(policies):
        found[:, which] |= _acts_alike(team, spec, policy)
    return found


def _acts_alike(team: Team, spec: TeamSpec, policy: Policy) -> Bool[Tensor, " agent"]:
    """The agents that the policy has do what they do themselves: by the same network, or planted with the same policy."""
    learns = team.learns(spec.num_agents)
    if not isinstance(policy, StandIn):
        return torch.zeros_like(learns)
    mine, theirs = (one.utility.state_dict() for one in (team, policy.team))
    same = policy.team.sampled == team.sampled and mine.keys() == theirs.keys()
    same = same and all(torch.equal(mine[name], theirs[name]) for name in mine)
    if policy.peer is not None:
        return learns & same & (torch.arange(len(learns)) == policy.peer)
    there = policy.team.planted
    planted = torch.tensor([name in there and there[name] == team.planted.get(name) for name in spec.agents])
    return planted | (learns & same & policy.team.learns(len(learns)))
