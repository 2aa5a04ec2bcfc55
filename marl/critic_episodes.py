"""Episodes as a run's critic sees them: played with the policy it evaluates, every decision with the critic's whole row.

A critic beside a value learner evaluates the greedy team; coma's evaluates the softmax policies with the epsilon of the
checkpoint. Values are in raw reward units: what was learned in units of reward / scale is multiplied back.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..envs.base import TeamEnv, View
from ..envs.native import NativeEnv, map_tensors
from ..envs.randomness import EXPLORE, Clock, fold
from .critic import CounterfactualCritic
from .errors import ConfigError
from .evaluate import copies_at_once, refuse_endless
from .exploration import Explore, epsilon_at, greedy_probabilities, softmax_epsilon, softmax_probabilities
from .learners.critic import Probabilities, mean_over
from .policies import Team, override
from .run import Run
from .trainer import make_learner


@dataclass(frozen=True)
class ValuedTeam:
    """A team, its critic, and the policy that critic is about."""

    env: TeamEnv
    team: Team
    critic: CounterfactualCritic
    explore: Explore
    """How actions are drawn."""
    probabilities: Probabilities
    """The policy's probabilities from the same outputs."""
    epsilon: float
    """Exploration of the policy the critic evaluates."""
    training_epsilon: float
    """Exploration while collecting, as of the checkpoint."""
    gamma: float
    scale: float
    """The critic's unit in raw reward."""

    @property
    def stochastic(self) -> bool:
        """Whether the policy the critic evaluates draws its actions."""
        return self.explore is softmax_epsilon

    @property
    def learns(self) -> Bool[Tensor, " agent"]:
        return self.team.learns(self.env.spec.num_agents)

    def act(self, view: View, memory: Tensor, clock: Clock) -> tuple[Tensor, Tensor, Tensor]:
        """The joint action, planted members included; the networks' outputs; the agents' memory."""
        out, memory = self.team.utility(view.obs, memory)
        action, _ = self.explore(out, view.available, self.epsilon, clock.key(EXPLORE))
        return override(action, self.team.members, view, clock), out, memory


def valued_team(run: Run) -> ValuedTeam:
    """The run's team with its critic; ConfigError for a run that trained none, or none of whose members learned."""
    config = run.config
    if config.own_critic.kind == "none":
        raise ConfigError("this run has no critic", remedy=f"train with --critic.kind mlp (beside {config.algo}) or --algo coma")
    if not run.team.learns(run.env.spec.num_agents).any():
        raise ConfigError("every member of this run is planted: its critic learned of nobody's decisions", remedy="--method difference")
    explore = make_learner(config, run.env).explore
    stochastic = explore is softmax_epsilon
    epsilon = epsilon_at(config.exploration, run.env_steps, config.steps)
    return ValuedTeam(
        env=run.env,
        team=run.team,
        critic=run.networks["critic"],
        explore=explore,
        probabilities=softmax_probabilities if stochastic else greedy_probabilities,
        epsilon=epsilon if stochastic else 0.0,
        training_epsilon=epsilon,
        gamma=config.learner.gamma,
        scale=run.reward_scale,
    )


@dataclass(frozen=True)
class Moment:
    """What it takes to play on from a step of some episodes: everything just before their joint action."""

    state: Any
    action: Int[Tensor, "env agent"]
    """As it was taken."""
    memory: Tensor
    """The agents', after acting."""
    clock: Clock


@dataclass(frozen=True)
class Record:
    """Played episodes. Time runs to the end of the longest; what lies after an episode's end is False, or means nothing."""

    rows: Float[Tensor, "time episode agent action"]
    """Q_i(s, u_-i, .), raw reward units."""
    weights: Float[Tensor, "time episode agent action"]
    """The policy that collects (training epsilon), against which COMA's advantage is taken."""
    available: Bool[Tensor, "time episode agent action"]
    action: Int[Tensor, "time episode agent"]
    decided: Bool[Tensor, "time episode agent"]
    """Decisions of living, learning agents in a running episode."""
    reward: Float[Tensor, "time episode"]
    length: Int[Tensor, " episode"]
    truncated: Bool[Tensor, " episode"]
    last_value: Float[Tensor, " episode"]
    """The critic's value of the last view under its policy; 0 where the episode terminated."""
    moments: tuple[tuple[Moment, ...], ...] = ()
    """Per chunk of `chunk` episodes, per time step; () where they were not kept."""
    chunk: int = 0

    @property
    def running(self) -> Bool[Tensor, "time episode"]:
        return torch.arange(len(self.reward)).unsqueeze(1) < self.length

    @property
    def env_steps(self) -> int:
        return int(self.length.sum())


@torch.no_grad()
def record(valued: ValuedTeam, seeds: Int[Tensor, " episode"], *, keep_moments: bool = False) -> Record:
    """One episode per seed, valued step by step."""
    size = copies_at_once(valued.env)
    parts = [_record_together(valued, seeds[start : start + size], keep_moments) for start in range(0, len(seeds), size)]
    longest = max(len(part.reward) for part in parts)
    timed = ("rows", "weights", "available", "action", "decided", "reward")
    joined: dict[str, Any] = {name: torch.cat([_padded(getattr(part, name), longest) for part in parts], 1) for name in timed}
    joined |= {name: torch.cat([getattr(part, name) for part in parts]) for name in ("length", "truncated", "last_value")}
    return Record(**joined, moments=tuple(moments for part in parts for moments in part.moments), chunk=size)


def _padded(values: Tensor, length: int) -> Tensor:
    return torch.cat([values, values.new_zeros(length - len(values), *values.shape[1:])])


def _record_together(valued: ValuedTeam, seeds: Tensor, keep_moments: bool) -> Record:
    env, team, critic = valued.env, valued.team, valued.critic
    count, learns = len(seeds), valued.learns
    state, view = env.reset(seeds)
    clock, memory = Clock.start(seeds), team.utility.initial_memory(count)
    past = torch.zeros(count, env.spec.num_agents, critic.memory_dim)
    running, truncated = torch.ones(count, dtype=torch.bool), torch.zeros(count, dtype=torch.bool)
    length, last_value = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.float64)
    steps: dict[str, list[Tensor]] = {}
    moments: list[Moment] = []
    ended = torch.zeros_like(running)
    while True:
        action, out, memory = valued.act(view, memory, clock)
        acting = view.alive & learns
        features = critic.step(view.state, view.obs, past)
        past = features if critic.memory_dim else past
        rows = critic.rows(features, action, acting).to(torch.float64) * valued.scale
        policy = valued.probabilities(out, view.available, valued.epsilon)
        value = mean_over((policy * rows).sum(-1), acting)
        last_value = torch.where(ended & truncated, value, last_value)  # the view just reached
        if not running.any():
            break
        if keep_moments:
            moments.append(Moment(state, action, memory, clock))
        state, step, after = env.step(state, action, autoreset=False)
        row = {
            "rows": rows, "weights": valued.probabilities(out, view.available, valued.training_epsilon), "available": view.available,
            "action": action, "decided": acting & running.unsqueeze(-1), "reward": step.reward.to(torch.float64) * running,
        }  # fmt: skip
        for name, values in row.items():
            steps.setdefault(name, []).append(values)
        length += running
        ended = running & (step.terminated | step.truncated)
        truncated = truncated | (ended & step.truncated)
        running, view, clock = running & ~ended, after, clock.tick()
        refuse_endless(env, running, clock)
    tensors: dict[str, Any] = {name: torch.stack(values) for name, values in steps.items()}
    return Record(
        **tensors, length=length, truncated=truncated, last_value=last_value, moments=(tuple(moments),) if keep_moments else ()
    )  # fmt: skip


@torch.no_grad()
def play_on(
    valued: ValuedTeam,
    played: Record,
    time: Int[Tensor, " fork"],
    episode: Int[Tensor, " fork"],
    agent: Int[Tensor, " fork"],
    replacement: Int[Tensor, " fork"],
    *,
    luck: int = 0,
) -> tuple[Float[Tensor, " fork"], int]:
    """Discounted return from each moment on, one agent's action there replaced, everything after as the team plays it; env steps.

    The random numbers are those of the episode as it was played, so a fork with the action that was taken is that episode;
    with another `luck` the team draws others (the task does not). ConfigError for a task that cannot be brought back to a moment.
    """
    chunk, row = episode // played.chunk, episode % played.chunk
    places, which = torch.stack([chunk, time], -1).unique(dim=0, return_inverse=True)
    groups = [(which == place).nonzero().squeeze(-1) for place in range(len(places))]
    starts = [_select(valued.env, played.moments[at][t], row[forks]) for (at, t), forks in zip(places.tolist(), groups, strict=True)]
    if isinstance(valued.env, NativeEnv):  # rows of tensors: forks of all moments are played side by side
        groups, starts = [torch.cat(groups)], [map_tensors(lambda *parts: torch.cat(parts), *starts)]
    total, env_steps = torch.zeros(len(time), dtype=torch.float64), 0
    for forks, start in zip(groups, starts, strict=True):
        changed = start.action.scatter(1, agent[forks].unsqueeze(1), replacement[forks].unsqueeze(1))
        clock = replace(start.clock, seed=fold(start.clock.seed, luck)) if luck else start.clock
        total[forks], steps = _play_to_the_end(valued, start.state, changed, start.memory, clock)
        env_steps += steps
    return total, env_steps


def _select(env: TeamEnv, moment: Moment, rows: Tensor) -> Moment:
    try:
        state = env.select(moment.state, rows)
    except ValueError as error:
        raise ConfigError(str(error), remedy="--forks 0") from error
    return Moment(state, moment.action[rows], moment.memory[rows], map_tensors(lambda value: value[rows], moment.clock))


def _play_to_the_end(valued: ValuedTeam, state: Any, action: Tensor, memory: Tensor, clock: Clock) -> tuple[Tensor, int]:
    total, discount, env_steps = torch.zeros(len(action), dtype=torch.float64), 1.0, 0
    running = torch.ones(len(action), dtype=torch.bool)
    while True:
        state, step, view = valued.env.step(state, action, autoreset=False)
        total += discount * step.reward * running
        env_steps += int(running.sum())
        running = running & ~(step.terminated | step.truncated)
        if not running.any():
            return total, env_steps
        discount, clock = discount * valued.gamma, clock.tick()
        refuse_endless(valued.env, running, clock)
        action, _, memory = valued.act(view, memory, clock)
