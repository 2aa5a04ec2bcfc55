"""References by name: what an absent agent does instead of its own policy.

    noop             the action that does nothing
    random           uniform over the available actions
    average          the agent's own average policy: how often it takes each action, whatever it sees
    peer:AGENT       the policy of that teammate, from the absent agent's own observations
    RUN@ENV_STEPS    another checkpoint's team (of this run: @ENV_STEPS)

No reference is neutral. A guard that stands still loses nothing against noop and much against random; against random and noop the
teammates see what they never met in training, against a peer or an early checkpoint they do not. So every figure names its reference,
and `Reference.digest` tells whether two figures mean the same one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from safetensors.torch import save
from torch import Tensor

from ..credit.base import Reference
from ..envs.base import TeamEnv, TeamSpec, View
from ..envs.randomness import POLICY, Clock, split, uniform
from .errors import ConfigError, suggest
from .evaluate import REFERENCE_SEEDS, play, seeds_from
from .exploration import draw
from .policies import Policy, StandIn, Team, agent_index, make_policy
from .run import Run, load

REFERENCES: dict[str, str] = {
    "noop": "the action that does nothing",
    "random": "uniform over the available actions",
    "average": "the agent's own average policy: its actions as often as it takes them, whatever it sees",
    "peer:AGENT": "a teammate's policy, from the absent agent's own observations",
    "RUN@ENV_STEPS": "the team of another checkpoint",
}
"""Every reference, one line each."""
AVERAGE_EPISODES = 64
"""Episodes in which the frequencies of `average` are counted."""


@dataclass(frozen=True)
class Stand:
    """A reference with the policy that acts it out."""

    reference: Reference
    policy: Policy


def default_references(spec: TeamSpec) -> tuple[str, ...]:
    """No-op, where every agent has one, and random."""
    has_noop = spec.noop is not None and all(action is not None for action in spec.noop)
    return ("noop", "random") if has_noop else ("random",)


def check_reference(name: str, spec: TeamSpec, agents: Bool[Tensor, " agent"] | None = None) -> None:
    """ConfigError for a name that is no reference, or one that this task (for `agents`; default all) does not have; nothing is played."""
    if name in ("noop", "random"):
        reference_policy(name, spec, agents)
    elif name.startswith("peer:"):
        try:
            agent_index(name.removeprefix("peer:"), spec)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    elif name != "average" and "@" not in name:
        raise ConfigError(f'no reference "{name}".{suggest(name, REFERENCES)} There are: {", ".join(REFERENCES)}')


def reference_policy(name: str, spec: TeamSpec, agents: Bool[Tensor, " agent"] | None = None) -> Policy:
    """noop or random, for `agents` (default: all); ConfigError where the task has no such thing."""
    if name not in ("noop", "random"):
        raise ConfigError(f'no reference "{name}" without a trained team: use noop or random')
    try:
        return make_policy(name, spec, {}, agents)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def reference_probabilities(
    name: str, spec: TeamSpec, available: Bool[Tensor, "*step agent action"], decided: Bool[Tensor, "*step agent"]
) -> Float[Tensor, "*step agent action"]:
    """rho_i(action) at every decision (noop or random), zeros elsewhere; ConfigError where a no-op is masked at a decision."""
    allowed = (available & decided.unsqueeze(-1)).to(torch.float64)
    if name == "random":
        return allowed / allowed.sum(-1, keepdim=True).clamp(min=1)
    noop = torch.tensor([0 if action is None else action for action in spec.noop or (None,) * spec.num_agents])
    rho = torch.nn.functional.one_hot(noop, spec.num_actions) * decided.unsqueeze(-1).to(torch.float64)
    masked = ((rho > 0) & ~available).any(-1).flatten(0, -2).sum(0)
    if masked.any():
        agent = int((masked > 0).to(torch.int64).argmax())
        total = int(decided.flatten(0, -2).sum(0)[agent])
        raise ConfigError(
            f"{spec.name}: the no-op of {spec.agents[agent]} is not available at {int(masked[agent])} of its {total} decisions",
            remedy="use --reference random",
        )
    return rho


def make_reference(name: str, run: Run, agents: Bool[Tensor, " agent"] | None = None) -> Stand:
    """A reference of a run's agents (default: all) by name (see the module's text); ConfigError says what is wrong with the name."""
    return reference_of(name, run.env, run.team, run, agents)


def reference_of(name: str, env: TeamEnv, team: Team, run: Run | None = None, agents: Bool[Tensor, " agent"] | None = None) -> Stand:
    """The same for a team that need not come from a run; then other checkpoints are named with their run."""
    spec = env.spec
    check_reference(name, spec, agents)
    if name in ("noop", "random"):
        content = f"noop {spec.noop}" if name == "noop" else "uniform over the available actions"
        return Stand(Reference(name, REFERENCES[name], content.encode()), reference_policy(name, spec, agents))
    if name == "average":
        frequencies = average_policy(env, team)
        content = frequencies.to(torch.float32).numpy().tobytes()
        return Stand(Reference(name, REFERENCES[name], content), drawn_from(frequencies))
    if name.startswith("peer:"):
        return _peer(name, spec, team)
    return _checkpoint(name, spec, run)


def average_policy(env: TeamEnv, team: Team) -> Float[Tensor, "agent action"]:
    """How often each agent takes each action when it has a choice, over AVERAGE_EPISODES episodes; zeros for one that never has."""
    taken = play(env, team, seeds_from(REFERENCE_SEEDS, AVERAGE_EPISODES)).taken
    return taken / taken.sum(-1, keepdim=True).clamp(min=1)


def drawn_from(frequencies: Float[Tensor, "agent action"]) -> Policy:
    """Actions drawn with these frequencies, restricted to the available ones; uniform where none of those was ever taken."""

    def act(view: View, clock: Clock) -> Tensor:
        weights = frequencies * view.available
        weights = torch.where(weights.sum(-1, keepdim=True) > 0, weights, view.available.to(weights.dtype))
        return draw(weights, uniform(split(clock.key(POLICY), weights.shape[1])))

    return act


def _peer(name: str, spec: TeamSpec, team: Team) -> Stand:
    agent = name.removeprefix("peer:")
    if agent in team.planted:
        raise ConfigError(f"{agent} is planted ({team.planted[agent]}) and has learned no policy", remedy="name a teammate that learned")
    content = f"peer {agent} {team.sampled} ".encode() + _weights(team)
    words = f"the policy of {agent}, from the absent agent's own observations"
    return Stand(Reference(name, words, content), StandIn(team, agent_index(agent, spec)))


def _checkpoint(name: str, spec: TeamSpec, run: Run | None) -> Stand:
    if name.startswith("@"):
        if run is None:
            raise ConfigError(f'reference "{name}" names no run: write RUN{name}')
        name = f"{run.folder}{name}"
    other = load(name)
    theirs = other.env.spec
    for part in ("agents", "num_actions", "obs_dim"):
        mine, there = getattr(spec, part), getattr(theirs, part)
        if mine != there:
            raise ConfigError(f"{other.name} cannot stand in for this team: its {part} is {there}, here it is {mine}")
    content = f"team {sorted(other.team.planted.items())} {other.team.sampled} ".encode() + _weights(other.team)
    words = f"the team of {other.name} at {other.env_steps:,} env steps"
    return Stand(Reference(f"{other.name}@{other.env_steps}", words, content), StandIn(other.team))


def _weights(team: Team) -> bytes:
    return save({name: value.detach().contiguous() for name, value in team.utility.state_dict().items()})


def names_of(stands: Sequence[Stand]) -> tuple[str, ...]:
    """The references' names."""
    return tuple(stand.reference.name for stand in stands)
