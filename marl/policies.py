"""Who acts: the learned agents, planted members, and references that stand in for an absent agent.

A `Policy` maps what all agents see to all agents' actions; agent i's action depends on agent i's own observation only.
A team is the learned policy with some agents' actions overridden. Every policy draws its numbers in its own stream
at every step, overridden or not, so worlds with different overrides stay paired.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..envs.base import TeamSpec, View
from ..envs.randomness import EXPLORE, POLICY, Clock, split, uniform
from .agents import UtilityNetwork
from .errors import suggest
from .exploration import greedy, softmax_epsilon, uniform_policy

Policy = Callable[[View, Clock], Int[Tensor, "env agent"]]
"""A memoryless policy of all agents at once."""
Scripted = Callable[[Tensor, Tensor], Tensor]
"""A task's scripted policy: (obs, available) -> action, along any batch axes before the agent axis."""


def random_policy(view: View, clock: Clock) -> Int[Tensor, "env agent"]:
    """Uniform over the available actions."""
    return uniform_policy(view.available, clock.key(POLICY))


def noop_policy(spec: TeamSpec, agents: Bool[Tensor, " agent"] | None = None) -> Policy:
    """The action that does nothing, for `agents` (default: all); ValueError names those of them that have none."""
    acting = torch.ones(spec.num_agents, dtype=torch.bool) if agents is None else agents
    noop = spec.noop or (None,) * spec.num_agents
    without = [name for name, action, acts in zip(spec.agents, noop, acting.tolist(), strict=True) if acts and action is None]
    if without:
        raise ValueError(f"{spec.name} has no action that does nothing for {', '.join(without)}: use the reference random")
    actions = torch.tensor([0 if action is None else action for action in noop])

    def act(view: View, clock: Clock) -> Int[Tensor, "env agent"]:
        legal = view.available.gather(-1, actions.expand(len(view.available), -1).unsqueeze(-1)).squeeze(-1)
        masked = ~legal & view.alive & acting
        if masked.any():
            row, agent = masked.nonzero()[0].tolist()
            raise ValueError(f"{spec.name}: the no-op of {spec.agents[agent]} is not available in copy {row}; use the reference random")
        return torch.where(legal, actions.expand_as(view.alive), view.available.to(torch.int8).argmax(-1))

    return act


def half_policy(policy: Policy) -> Policy:
    """Each agent at each step: `policy` with probability 1/2, else uniform over its available actions. A stand-in for half-trained.

    Its coin and its random action are the two numbers an agent has at every step, so it is paired with the reference random.
    """

    def act(view: View, clock: Clock) -> Int[Tensor, "env agent"]:
        agents = view.available.shape[1]
        coin = uniform(split(clock.key(POLICY), 2 * agents)).unflatten(-1, (agents, 2))[..., 0]
        return torch.where(coin < 0.5, policy(view, clock), random_policy(view, clock))

    return act


def _scripted_policy(script: Scripted, agents: Bool[Tensor, " agent"] | None) -> Policy:
    """The script asked only for the agents it acts for (the others' entries are 0): scripts may be slow."""
    if agents is None or agents.all():
        return lambda view, clock: script(view.obs, view.available)
    rows = agents.nonzero().squeeze(-1)

    def act(view: View, clock: Clock) -> Int[Tensor, "env agent"]:
        action = torch.zeros(view.alive.shape, dtype=torch.int64)
        return action.index_copy(1, rows, script(view.obs[:, rows], view.available[:, rows]))

    return act


def make_policy(name: str, spec: TeamSpec, scripted: dict[str, Scripted], agents: Bool[Tensor, " agent"] | None = None) -> Policy:
    """`noop`, `random`, one of the task's scripted policies, or `half-` and one of these; `agents`: those it acts for (default: any)."""
    if name == "noop":
        return noop_policy(spec, agents)
    if name == "random":
        return random_policy
    if name in scripted:
        return _scripted_policy(scripted[name], agents)
    if name.startswith("half-"):
        return half_policy(make_policy(name.removeprefix("half-"), spec, scripted, agents))
    names = ["noop", "random", *scripted]
    raise ValueError(f'no policy "{name}" for {spec.name}.{suggest(name, names)} There are: {", ".join(names)}, and half- before any')


@dataclass(frozen=True)
class Override:
    """A policy that acts for the agents (and copies) its mask names."""

    policy: Policy
    mask: Bool[Tensor, "*env agent"]
    """(agent,) or (env, agent): True where `policy` acts."""


@dataclass(frozen=True)
class Team:
    """The learned agents and the planted members of a run."""

    utility: UtilityNetwork
    members: tuple[Override, ...] = ()
    """Planted members, by (agent,) masks."""
    planted: dict[str, str] = field(default_factory=dict)
    """agent name -> policy name, for people."""
    sampled: bool = False
    """True: the agents' outputs are logits and their policies are drawn from; False: utilities, of which the best is taken."""

    def learns(self, num_agents: int) -> Bool[Tensor, " agent"]:
        """True for the agents whose utility acts."""
        learning = torch.ones(num_agents, dtype=torch.bool)
        for member in self.members:
            learning &= ~member.mask
        return learning


def override(action: Int[Tensor, "env agent"], overrides: Sequence[Override], view: View, clock: Clock) -> Int[Tensor, "env agent"]:
    """The joint action after each override in turn; dead agents keep action 0."""
    for item in overrides:
        action = torch.where(item.mask, item.policy(view, clock), action)
    return action


def team_action(team: Team, view: View, memory: Tensor, clock: Clock) -> tuple[Int[Tensor, "env agent"], Tensor]:
    """The joint action of the team as it is deployed, without exploration, planted members included, and the memory to carry on."""
    with torch.no_grad():
        out, memory = team.utility(view.obs, memory)
    action = softmax_epsilon(out, view.available, 0.0, clock.key(EXPLORE))[0] if team.sampled else greedy(out, view.available)
    return override(action, team.members, view, clock), memory


def parse_members(members: Sequence[str], spec: TeamSpec, scripted: dict[str, Scripted]) -> tuple[tuple[Override, ...], dict[str, str]]:
    """NAME=POLICY texts as one override per policy, and agent name -> policy name; ValueError for an unknown agent or policy."""
    planted: dict[str, str] = {}
    for text in members:
        name, _, policy = text.partition("=")
        if not policy:
            raise ValueError(f'planted member "{text}": write NAME=POLICY, for example {spec.agents[-1]}=noop')
        agent_index(name, spec)
        planted[name] = policy
    overrides = []
    for policy in dict.fromkeys(planted.values()):
        mask = torch.tensor([planted.get(agent) == policy for agent in spec.agents])
        overrides.append(Override(make_policy(policy, spec, scripted, mask), mask))
    return tuple(overrides), planted


def agent_index(name: str, spec: TeamSpec) -> int:
    """Where an agent stands on the agent axis; ValueError with the nearest name."""
    if name in spec.agents:
        return spec.agents.index(name)
    raise ValueError(f'no agent "{name}" in this run.{suggest(name, spec.agents)} Agents: {", ".join(spec.agents)}.')
