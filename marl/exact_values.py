"""The switch-off matrix without sampling: V_S by enumerating whatever the reference may do, in tasks with few states.

    V_S(s) = sum over the joint actions u that the reference may play outside S of P(u) (r(s, u) + gamma V_S(s'))

over all states that can be reached from those of one real episode, step by step; states that are equal bit for bit are one. It takes a
native task that draws nothing of its own once an episode has begun, and a team that draws nothing. Both are checked at every state
met, by acting and stepping twice with different random numbers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..credit.base import all_coalitions
from ..credit.switch_off import switch_off_matrix
from ..envs.base import Step, TeamEnv, TeamSpec
from ..envs.native import NativeEnv, map_tensors, name_tensors
from ..envs.randomness import Clock, fold
from .errors import ConfigError
from .evaluate import CREDIT_SEEDS, refuse_endless
from .policies import Policy, Team, team_action
from .situations import Situation
from .switch_off import LARGEST_EXACT

_OTHER_LUCK = 1
"""What the second of two tries folds into its random numbers."""
_REMEDY = "measure it by simulation (switch_off.measure_switch_off)"


@dataclass(frozen=True)
class ExactValues:
    """The truth along one episode, as `credit.plate_and_door` has it for its task; here from the task's own code."""

    rewards: Float[Tensor, " time"]
    values: Float[Tensor, "coalition moment"]
    """V_S at each moment, coalitions as in `all_coalitions`; 0 at the last."""
    matrix: Float[Tensor, "time agent"]
    """The switch-off matrix."""
    states: int
    """Different states met, summed over coalitions."""


@torch.no_grad()
def enumerate_values(
    env: TeamEnv, team: Team, reference: str, *, seed: int = CREDIT_SEEDS, gamma: float = 1.0, limit: int = 200_000
) -> ExactValues:
    """Exact V_S and switch-off matrix of the episode that begins from `seed`.

    Args:
        env: a native task without chance after an episode's start.
        team: greedy, with planted members that draw nothing.
        reference: random (every available action enumerated), or a policy that draws nothing, such as noop.
        seed: of the episode.
        gamma: discount.
        limit: joint actions looked at in one step of one coalition; more are refused.

    Raises:
        ConfigError: chance in the task or the team, too many agents or too many states.
    """
    from .references import reference_policy

    spec = env.spec
    if not isinstance(env, NativeEnv):
        raise ConfigError(f"{spec.name} is no native task: its states cannot be compared", remedy=_REMEDY)
    if spec.num_agents > LARGEST_EXACT:
        raise ConfigError(f"{spec.num_agents} agents have {2**spec.num_agents:,} coalitions: too many to enumerate", remedy=_REMEDY)
    policy = None if reference == "random" else reference_policy(reference, spec)
    rewards, moments = _walk(env, team, seed)
    coalitions = all_coalitions(spec.num_agents)
    values, states = torch.zeros(len(coalitions), len(rewards) + 1, dtype=torch.float64), 0
    for mask, inside in enumerate(coalitions):
        values[mask, :-1], met = _values_along(env, team, policy, moments, inside, gamma, limit)
        states += met
    return ExactValues(rewards, values, switch_off_matrix(rewards, values, gamma=gamma), states)


def _walk(env: NativeEnv, team: Team, seed: int) -> tuple[Float[Tensor, " time"], list[Situation]]:
    """The episode as the team plays it."""
    seeds = torch.tensor([seed])
    state, view = env.reset(seeds)
    at = Situation(state, view, team.utility.initial_memory(1), Clock.start(seeds))
    moments, rewards, running = [], [], torch.ones(1, dtype=torch.bool)
    while running.any():
        moments.append(at)
        action, memory = _decide(team, at, env.spec)
        step, at = _advance(env, at, action, memory)
        rewards.append(step.reward.to(torch.float64))
        running = ~(step.terminated | step.truncated)
        refuse_endless(env, running, at.clock)
    return torch.cat(rewards), moments


def _values_along(
    env: NativeEnv, team: Team, policy: Policy | None, moments: list[Situation], inside: Bool[Tensor, " agent"], gamma: float, limit: int
) -> tuple[Float[Tensor, " time"], int]:
    """V_S at each moment, all states that follow any of them going forward side by side, and back; and how many there were."""
    edges: list[_Edges] = []
    reached: Situation | None = None
    while reached is not None or len(edges) < len(moments):
        step = len(edges)
        parts = [part for part in (moments[step] if step < len(moments) else None, reached) if part is not None]
        nodes, place = _merged(map_tensors(lambda *rows: torch.cat(rows), *parts))
        layer, reached = _expand(env, team, policy, nodes, inside, limit)
        # The real moment is the first row before merging, the states reached one step earlier the others.
        real = int(place[0]) if step < len(moments) else None
        edges.append(replace(layer, real=real, arrivals=place[1:] if real is not None else place))
    value, real = torch.zeros(0, dtype=torch.float64), []
    for layer in reversed(edges):
        onward = torch.zeros(len(layer.parent), dtype=torch.float64)
        onward[layer.goes_on] = value
        expected = torch.zeros(layer.nodes, dtype=torch.float64)
        expected.index_add_(0, layer.parent, layer.probability * (layer.reward + gamma * onward))
        if layer.real is not None:
            real.append(expected[layer.real])
        value = expected[layer.arrivals]
    return torch.stack(real[::-1]), sum(layer.nodes for layer in edges)


@dataclass(frozen=True)
class _Edges:
    """Every joint action that may be played in the states of one step."""

    nodes: int
    parent: Int[Tensor, " edge"]
    probability: Float[Tensor, " edge"]
    reward: Float[Tensor, " edge"]
    goes_on: Bool[Tensor, " edge"]
    """Where the episode has not ended."""
    arrivals: Int[Tensor, " earlier"]
    """The node to which each edge of the step before that goes on leads."""
    real: int | None
    """The node that the real episode is in."""


def _expand(
    env: NativeEnv, team: Team, policy: Policy | None, nodes: Situation, inside: Bool[Tensor, " agent"], limit: int
) -> tuple[_Edges, Situation | None]:
    """One step from every node under every joint action the reference may choose outside the coalition."""
    own, memory = _decide(team, nodes, env.spec)
    parent, action, probability = _joint_actions(nodes, own, policy, inside, env.spec, limit)
    start = _rows(replace(nodes, memory=memory), parent)
    step, after = _advance(env, start, action, start.memory)
    goes_on = ~(step.terminated | step.truncated)
    layer = _Edges(
        nodes=len(own), parent=parent, probability=probability, reward=step.reward.to(torch.float64), goes_on=goes_on,
        arrivals=parent[:0], real=None,
    )  # fmt: skip
    return layer, _rows(after, goes_on.nonzero().squeeze(-1)) if goes_on.any() else None


def _joint_actions(
    nodes: Situation, own: Int[Tensor, "node agent"], policy: Policy | None, inside: Bool[Tensor, " agent"], spec: TeamSpec, limit: int
) -> tuple[Int[Tensor, " edge"], Int[Tensor, "edge agent"], Float[Tensor, " edge"]]:
    """(node, joint action, its probability) where those outside follow the reference."""
    count = len(own)
    if policy is not None:
        replaced = _twice(lambda clock: policy(nodes.view, clock), nodes.clock, f"the reference of {spec.name} draws its actions")
        return torch.arange(count), torch.where(inside, own, replaced), torch.ones(count, dtype=torch.float64)
    absent = (~inside).nonzero().squeeze(-1).tolist()
    edges = count * spec.num_actions ** len(absent)
    if edges > limit:
        raise ConfigError(
            f"{spec.name}: {count:,} states with {spec.num_actions}^{len(absent)} joint actions each are more than the {limit:,} looked at "
            "in one step",
            remedy=_REMEDY,
        )
    joint = torch.cartesian_prod(*[torch.arange(spec.num_actions)] * len(absent)).view(-1, len(absent)) if absent else own.new_zeros(1, 0)
    available = nodes.view.available[:, absent]  # (node, absent, action)
    legal = torch.ones(count, len(joint), dtype=torch.bool)
    for which in range(len(absent)):
        legal &= available[:, which][:, joint[:, which]]
    parent, chosen = legal.nonzero().unbind(1)
    action = own[parent].clone()
    action[:, absent] = joint[chosen]
    return parent, action, 1 / available.sum(-1).to(torch.float64).prod(-1)[parent]


def _decide(team: Team, at: Situation, spec: TeamSpec) -> tuple[Int[Tensor, "node agent"], Tensor]:
    """The team's joint action and its memory after; ConfigError if it draws."""
    if team.sampled:
        raise ConfigError(f"this team draws its actions on {spec.name}", remedy=_REMEDY)
    _, memory = team_action(team, at.view, at.memory, at.clock)
    action = _twice(
        lambda clock: team_action(team, at.view, at.memory, clock)[0], at.clock, f"a planted member draws its actions on {spec.name}"
    )
    return action, memory


def _twice(act: Callable[[Clock], Tensor], clock: Clock, complaint: str) -> Int[Tensor, "node agent"]:
    """The same action from two different random numbers, or ConfigError."""
    action = act(clock)
    if not torch.equal(action, act(_elsewhere(clock))):
        raise ConfigError(complaint, remedy=_REMEDY)
    return action


def _elsewhere(clock: Clock) -> Clock:
    return replace(clock, seed=fold(clock.seed, _OTHER_LUCK))


def _advance(env: NativeEnv, at: Situation, action: Int[Tensor, "node agent"], memory: Tensor) -> tuple[Step, Situation]:
    """One step of every row; ConfigError where other random numbers lead elsewhere."""
    state, step, view = env.step(at.state, action, autoreset=False)
    other, step_there, _ = env.step(replace(at.state, clock=_elsewhere(at.state.clock)), action, autoreset=False)
    here, there = (name_tensors(task) | {"reward": said.reward} for task, said in ((state.task, step), (other.task, step_there)))
    moved = [name for name in here if not torch.equal(here[name], there[name])]
    if moved:
        raise ConfigError(f"{env.spec.name} draws on chance within an episode ({', '.join(moved)})", remedy=_REMEDY)
    return step, Situation(state, view, memory, at.clock.tick())


def _rows(at: Situation, rows: Int[Tensor, " row"]) -> Situation:
    return map_tensors(lambda value: value[rows], at)


def _merged(at: Situation) -> tuple[Situation, Int[Tensor, " row"]]:
    """The different ones among some states with their agents' memories, and which of them each row is."""
    tensors = [*name_tensors(at.state).values(), at.memory]
    raw = [np.ascontiguousarray(value.reshape(len(value), math.prod(value.shape[1:])).numpy()) for value in tensors]
    flat = np.concatenate([value.view(np.uint8).reshape(len(value), -1) for value in raw if value.size], 1)
    _, first, place = np.unique(flat.view(np.dtype((np.void, flat.shape[1]))).ravel(), return_index=True, return_inverse=True)
    return _rows(at, torch.from_numpy(first)), torch.from_numpy(place)
