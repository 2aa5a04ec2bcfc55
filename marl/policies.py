"""Who acts: the learned agents, planted members, and references that stand in for an absent agent.

A `Policy` maps what all agents see to all agents' actions; agent i's action depends on agent i's own observation only.
A team is the learned policy with some agents' actions overridden. Every policy draws its numbers in its own stream
at every step, overridden or not, so worlds with different overrides stay paired.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..envs.base import TeamEnv, TeamSpec, View
from ..envs.randomness import EXPLORE, POLICY, Clock, split, uniform
from .agents import UtilityNetwork
from .errors import suggest
from .exploration import greedy, softmax_epsilon, uniform_policy
from .probes import Probes

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
    if name.startswith("half-") and not name.startswith("half-half-"):
        return half_policy(make_policy(name.removeprefix("half-"), spec, scripted, agents))
    names = ["noop", "random", *scripted]
    raise ValueError(
        f'no policy "{name}" for {spec.name}.{suggest(name, names)} There are: {", ".join(names)}, and half- before one of these'
    )


@dataclass(frozen=True)
class Override:
    """A policy that acts for the agents (and copies) its mask names."""

    policy: Policy
    mask: Bool[Tensor, "*env agent"]
    """(agent,) or (env, agent): True where `policy` acts."""
    since: int = 0
    """Step of the episode from which on it acts."""


Pay = Callable[[TeamEnv, Any, View, Tensor, Tensor, Clock], Tensor]
"""(env, state before the step, view, joint action, team reward, clock) -> what each agent is paid (env, agent)."""


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
    probes: Probes | None = None
    """Episodes of training in which only a drawn coalition acts."""
    pay: Pay | None = None
    """What each agent is paid while learning; None: the team's reward."""
    bonus: Pay | None = None
    """What is learned from instead of the team's reward, as the sum over agents of what this gives beyond it; None: nothing."""

    def learns(self, num_agents: int) -> Bool[Tensor, " agent"]:
        """True for the agents whose utility acts."""
        learning = torch.ones(num_agents, dtype=torch.bool)
        for member in self.members:
            learning &= ~member.mask
        return learning


def override(action: Int[Tensor, "env agent"], overrides: Sequence[Override], view: View, clock: Clock) -> Int[Tensor, "env agent"]:
    """The joint action after each override in turn; dead agents keep action 0."""
    for item in overrides:
        action = torch.where(_acts(item, clock), item.policy(view, clock), action)
    return action


def _acts(item: Override, clock: Clock) -> Bool[Tensor, "*env agent"]:
    return item.mask & (clock.step >= item.since).unsqueeze(-1) if item.since else item.mask


def team_action(team: Team, view: View, memory: Tensor, clock: Clock) -> tuple[Int[Tensor, "env agent"], Tensor]:
    """The joint action of the team as it is deployed, without exploration, planted members included, and the memory to carry on."""
    with torch.no_grad():
        out, memory = team.utility(view.obs, memory)
    action = softmax_epsilon(out, view.available, 0.0, clock.key(EXPLORE))[0] if team.sampled else greedy(out, view.available)
    return override(action, team.members, view, clock), memory


@dataclass(frozen=True)
class StandIn:
    """Another team, or one agent of it, acting in agents' places; recurrent networks keep a memory of what they see there."""

    team: Team
    peer: int | None = None
    """Whose network acts for everybody; None: each agent's own."""

    def __call__(self, view: View, clock: Clock) -> Int[Tensor, "env agent"]:
        """Actions without a memory; ValueError for recurrent networks, which only whole episodes can be played with."""
        memory = self.initial_memory(len(view.alive))
        if memory.shape[-1]:
            raise ValueError("a recurrent stand-in needs its memory: it can be a reference for whole episodes only (shapley, difference)")
        return self.act(view, memory, clock)[0]

    def initial_memory(self, num_envs: int) -> Tensor:
        return self.team.utility.initial_memory(num_envs)

    def act(self, view: View, memory: Tensor, clock: Clock) -> tuple[Int[Tensor, "env agent"], Tensor]:
        """The actions this team would take, and its memory to carry on; random numbers are those of the agents it stands for."""
        if self.peer is None:
            return team_action(self.team, view, memory, clock)
        count, num_agents = view.alive.shape
        out, memory = self.team.utility(self._in_its_place(view.obs), self._in_its_place(memory))
        out, memory = (values[:, self.peer].unflatten(0, (count, num_agents)) for values in (out, memory))
        if self.team.sampled:
            return softmax_epsilon(out, view.available, 0.0, clock.key(EXPLORE))[0], memory
        return greedy(out, view.available), memory

    def _in_its_place(self, values: Float[Tensor, "env agent feature"]) -> Tensor:
        """(env x agent, agent, feature): each agent's values where the peer's own would stand (elsewhere too, and unread)."""
        return values.flatten(0, 1).unsqueeze(1).expand(-1, values.shape[1], -1)


def recall(overrides: Sequence[Override], num_envs: int) -> list[Tensor | None]:
    """The memories of the overrides that have one, at an episode's start."""
    return [item.policy.initial_memory(num_envs) if isinstance(item.policy, StandIn) else None for item in overrides]


def override_with_memory(
    action: Int[Tensor, "env agent"], overrides: Sequence[Override], memories: Sequence[Tensor | None], view: View, clock: Clock
) -> tuple[Int[Tensor, "env agent"], list[Tensor | None]]:
    """`override`, with the memories of those that have one carried on; they see every step, also before they act."""
    carried: list[Tensor | None] = []
    for item, memory in zip(overrides, memories, strict=True):
        if isinstance(item.policy, StandIn) and memory is not None:
            chosen, memory = item.policy.act(view, memory, clock)
        else:
            chosen = item.policy(view, clock)
        action = torch.where(_acts(item, clock), chosen, action)
        carried.append(memory)
    return action, carried


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
