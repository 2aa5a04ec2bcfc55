"""Evaluation: one episode per seed, the team as it would be deployed, without exploration.

Two calls with the same seeds are paired: the same initial states and the same random numbers, whoever acts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..envs.base import TeamEnv
from ..envs.native import NativeEnv
from ..envs.randomness import Clock
from .errors import ConfigError
from .policies import Override, Team, override_with_memory, recall, team_action
from .stats import Estimate, bootstrap_mean

if TYPE_CHECKING:
    from .run import Run

EVALUATION_SEEDS, CREDIT_SEEDS, MARGIN_SEEDS, LAZY_SEEDS, PROGRESS_SEEDS, REFERENCE_SEEDS = (use * 10_000_000 for use in range(1, 7))
LOOK_SEEDS = 70_000_000
"""Where each use's episode seeds begin, so that no episode serves two purposes. PROGRESS_SEEDS are of the evaluations a run logs:
a checkpoint picked by these (RUN@best) is not flattered when `evaluate` plays it."""

LONGEST_EPISODE = 20_000
"""Env steps after which an episode under evaluation is taken for one that never ends."""


@dataclass(frozen=True)
class Episodes:
    """One finished episode per seed."""

    returns: Float[Tensor, " episode"]
    """Undiscounted team return, raw reward units."""
    agent_returns: Float[Tensor, "episode agent"] | None
    """The agents' own returns for the record, None where the task has none."""
    effort: Float[Tensor, "episode agent"]
    """Steps on which the agent did something, of the steps on which it was alive and had a choice besides its no-op."""
    choices: Float[Tensor, "episode agent"]
    """Those steps, in number."""
    taken: Float[Tensor, "agent action"]
    """How often each agent took each action at those steps, all episodes together."""
    env_steps: int
    """Env steps played, all episodes together."""


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` says of a team."""

    mean: float
    interval: tuple[float, float] | None
    """95%, resampling episodes."""
    returns: tuple[float, ...]
    """One per episode, in order of the seeds."""
    agent_return: dict[str, float] | None
    """Mean own return per agent, where the task keeps them."""
    env_steps: int


def copies_at_once(env: TeamEnv) -> int:
    """Episodes to play side by side: native copies are rows of a tensor, the others live environments."""
    return 4096 if isinstance(env, NativeEnv) else 16


@torch.no_grad()
def play(env: TeamEnv, team: Team, seeds: Int[Tensor, " episode"], overrides: Sequence[Override] = ()) -> Episodes:
    """One episode per seed without exploration; `overrides` stand in for agents (their masks: (agent,) or (episode, agent))."""
    size = copies_at_once(env)
    parts = []
    for start in range(0, len(seeds), size):
        rows = slice(start, start + size)
        chunk = [replace(item, mask=item.mask[rows]) if item.mask.dim() == 2 else item for item in overrides]
        parts.append(_play_together(env, team, seeds[rows], chunk))
    agent_returns = [part.agent_returns for part in parts if part.agent_returns is not None]
    return Episodes(
        returns=torch.cat([part.returns for part in parts]),
        agent_returns=torch.cat(agent_returns) if agent_returns else None,
        effort=torch.cat([part.effort for part in parts]),
        choices=torch.cat([part.choices for part in parts]),
        taken=torch.stack([part.taken for part in parts]).sum(0),
        env_steps=sum(part.env_steps for part in parts),
    )


def _play_together(env: TeamEnv, team: Team, seeds: Tensor, overrides: Sequence[Override]) -> Episodes:
    spec = env.spec
    noop = torch.tensor([-1 if action is None else action for action in spec.noop or (None,) * spec.num_agents])
    state, view = env.reset(seeds)
    clock, memory = Clock.start(seeds), team.utility.initial_memory(len(seeds))
    returns = torch.zeros(len(seeds), dtype=torch.float64)
    agent_returns, active, choices = (torch.zeros(len(seeds), spec.num_agents, dtype=torch.float64) for _ in range(3))
    taken, memories = torch.zeros(spec.num_agents, spec.num_actions, dtype=torch.float64), recall(overrides, len(seeds))
    running, env_steps, per_agent = torch.ones(len(seeds), dtype=torch.bool), 0, False
    while running.any():
        action, memory = team_action(team, view, memory, clock)
        action, memories = override_with_memory(action, overrides, memories, view, clock)
        has_choice = (view.available.sum(-1) > 1) & view.alive & running.unsqueeze(-1)
        choices += has_choice
        active += has_choice & (action != noop)
        taken.scatter_add_(1, action.T, has_choice.T.to(torch.float64))
        state, step, view = env.step(state, action, autoreset=False)
        returns += step.reward * running
        if step.agent_reward is not None:
            agent_returns += step.agent_reward * running.unsqueeze(-1)
            per_agent = True
        env_steps += int(running.sum())
        running = running & ~(step.terminated | step.truncated)
        clock = clock.tick()
        refuse_endless(env, running, clock)
    return Episodes(returns, agent_returns if per_agent else None, active / choices.clamp(min=1), choices, taken, env_steps)


def refuse_endless(env: TeamEnv, running: Bool[Tensor, " episode"], clock: Clock) -> None:
    """ConfigError where an episode seems never to end."""
    if bool(running.any()) and int(clock.step.max()) >= LONGEST_EPISODE:
        raise ConfigError(
            f"{env.spec.name}: an episode did not end within {LONGEST_EPISODE:,} env steps, so its return cannot be measured",
            remedy="cut episodes with --time-limit N",
        )


def seeds_from(first: int, count: int) -> Int[Tensor, " episode"]:
    """`count` consecutive episode seeds."""
    return torch.arange(first, first + count)


def summarise(episodes: Episodes, agents: Sequence[str]) -> Evaluation:
    """Means and interval of played episodes."""
    estimate: Estimate = bootstrap_mean(episodes.returns)
    own = episodes.agent_returns
    return Evaluation(
        mean=estimate.mean,
        interval=estimate.interval,
        returns=tuple(episodes.returns.tolist()),
        agent_return=None if own is None else dict(zip(agents, own.mean(0).tolist(), strict=True)),
        env_steps=episodes.env_steps,
    )


def evaluate(run: "Run | str", *, episodes: int = 100, seeds: Sequence[int] | None = None, on: str | None = None) -> Evaluation:
    """Play `episodes` episodes of a run's team (or one per seed given) and summarise them.

    `on` names another task to play on, with the run's own task options: a team trained on native/foraging-8x8-2p-3f
    can be played on lbf/8x8-2p-3f. Raises ConfigError when observations, actions or agents do not fit.
    """
    from .run import make_env, open_run

    if episodes < 1:
        raise ConfigError(f"--episodes {episodes} must be at least 1")
    run = open_run(run)
    env = run.env if on is None else make_env(replace(run.config, task=on, workers=0))
    for name in ("agents", "num_actions", "obs_dim"):
        mine, there = getattr(run.env.spec, name), getattr(env.spec, name)
        if mine != there:
            raise ConfigError(f"this team cannot play {on}: {name} is {there} there and {mine} in the run's own task {run.config.task}")
    chosen = seeds_from(EVALUATION_SEEDS, episodes) if seeds is None else torch.tensor(list(seeds), dtype=torch.int64)
    return summarise(play(env, run.team, chosen), env.spec.agents)
