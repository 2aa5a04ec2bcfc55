"""Which steps of a run's episodes earned the return, by a model of the return, and what it claims of each agent's action there.

The team's episodes are played as it would be deployed. A return model (return_models.py) gives every step a reward, and what it
misses is spread evenly, so that the steps of an episode add up to its return exactly. Steps x agents:

    d_i(t) = r_hat_t - sum_a rho_i(a) r_hat_t with agent i's action replaced by a

which is the model's own claim about one replaced action, not what would have happened (`switch-off` plays that).
The model is the run's own where it was trained with --reward-redistribution; else one is fitted to fresh episodes of the team
with exploration, since a team that always acts alike shows nobody what its actions are worth. Either is judged by fresh exploring
episodes it has not seen.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..credit.temporal import residual_share, spread_residual
from ..envs.base import TeamEnv, TeamSpec
from ..envs.randomness import EXPLORE, Clock
from . import checkpoint as checkpoints
from .checkpoint import unflatten
from .errors import ConfigError
from .evaluate import CREDIT_SEEDS, copies_at_once, refuse_endless, seeds_from
from .exploration import Explore
from .policies import Team, override, team_action
from .return_learner import ReturnLearner, Stored
from .return_models import EpisodeBatch, Kind, ReturnModel, make_return_model
from .run import Run, open_run
from .trainer import make_learner

EXPLORATION = 0.25
"""Epsilon of the episodes that a model is fitted to and judged by."""
FIT_EPISODES, FRESH_EPISODES, FIT_PASSES = 2_000, 200, 30.0
"""Episodes a model is fitted to and judged by, and the times each is learned from."""
_FIT_SEEDS, _FRESH_SEEDS, _APART = CREDIT_SEEDS + 1_000_000, CREDIT_SEEDS + 5_000_000, 10_000


@dataclass(frozen=True)
class TemporalCredit:
    """Rewards of steps that add up to each episode's return, by a model; and the model's claims about agents."""

    model: str
    """rrd or rudder"""
    fitted: bool
    """The model was fitted to fresh episodes; False: it is the run's own."""
    explained_variance: float
    """Of the returns of fresh exploring episodes, by the model: 1 is perfect, 0 what their mean gets; NaN where they do not differ."""
    rewards: Float[Tensor, "time episode"]
    """Residual included; 0 after the episode's end."""
    agents: Float[Tensor, "time episode agent"]
    """d_i(t) against the reference, by the model alone; 0 for an agent that did not act. They need not add up to anything."""
    valid: Bool[Tensor, "time episode"]
    returns: Float[Tensor, " episode"]
    """Undiscounted team return."""
    residual: Float[Tensor, " episode"]
    """R - sum_t r_hat_t: how much of each return the model missed, spread evenly over the episode's steps."""
    residual_share: float
    """sum |residual| / sum |R - mean R| over these episodes; NaN where all returns are alike."""
    reference: str
    epsilon: float
    """Of the exploring episodes."""
    env_steps: int
    """Played for this reading."""

    def by_step(self) -> Float[Tensor, " time"]:
        """Mean reward of each step over the episodes that got that far."""
        return self.rewards.sum(1) / self.valid.sum(1)

    def by_step_and_agent(self) -> Float[Tensor, "time agent"]:
        """Mean of d_i(t) over the episodes that got that far."""
        return self.agents.sum(1) / self.valid.sum(1, keepdim=True)


@dataclass(frozen=True)
class Played:
    """Whole episodes with what could have been done in them."""

    episodes: EpisodeBatch
    available: Bool[Tensor, "time episode agent action"]
    acting: Bool[Tensor, "time episode agent"]
    """Alive in a running episode."""


def measure_temporal(
    run: Run | str,
    *,
    episodes: int = 16,
    seed: int = 0,
    model: str | None = None,
    reference: str | None = None,
    refit: bool = False,
    fit_episodes: int = FIT_EPISODES,
) -> TemporalCredit:
    """Redistributed rewards along `episodes` episodes of a run's team, and the model's claims about single actions.

    Args:
        run: a run, its folder or its name.
        episodes: to read, played as the team is deployed.
        seed: of the fit and its episodes.
        model: rrd or rudder; None: the run's own, or rudder where it has none. Another one than the run's own is fitted.
        reference: what an agent's action is replaced by, noop or random; None: noop where every agent has one.
        refit: fit a model even where the run has one. A run's own model knows the late, nearly greedy episodes best, in which there is
            little to tell actions apart by; a fitted one is nearer to the truth where that is known.
        fit_episodes: episodes with exploration that a model is fitted to, where one is.
    """
    run = open_run(run)
    if episodes < 2:
        raise ConfigError(f"--episodes {episodes} shows no difference between episodes: use at least 2 (16 is a good start)")
    if fit_episodes < 10:
        raise ConfigError(f"{fit_episodes} episodes are too few to fit a model to: use at least 10 ({FIT_EPISODES:,} is a good start)")
    if model is not None and model not in get_args(Kind):
        raise ConfigError(f'no return model "{model}": use one of {", ".join(get_args(Kind))}')
    spec, own = run.env.spec, run.config.reward_redistribution
    name = reference or ("noop" if spec.noop is not None and None not in spec.noop else "random")
    explore = make_learner(run.config, run.env).explore
    fresh = play_episodes(run.env, run.team, seeds_from(_FRESH_SEEDS + seed * _APART, FRESH_EPISODES), epsilon=EXPLORATION, explore=explore)
    kind = model or (own if own != "none" else "rudder")
    fitted = refit or own == "none" or model not in (None, own)
    env_steps = int(fresh.episodes.valid.sum())
    if fitted:
        seeds = seeds_from(_FIT_SEEDS + seed * _APART, fit_episodes)
        seen = play_episodes(run.env, run.team, seeds, epsilon=EXPLORATION, explore=explore)
        env_steps += int(seen.episodes.valid.sum())
        reader = fit(run, kind, seen.episodes, seed=seed)
    else:
        reader = own_model(run)
    played = play_episodes(run.env, run.team, seeds_from(CREDIT_SEEDS, episodes))
    rewards, residual, agents = read(reader, played, reference_rows(name, spec, played))
    return TemporalCredit(
        model=kind,
        fitted=fitted,
        explained_variance=explained_variance(reader, fresh.episodes),
        rewards=rewards,
        agents=agents,
        valid=played.episodes.valid,
        returns=played.episodes.returns,
        residual=residual,
        residual_share=residual_share(residual, played.episodes.returns),
        reference=name,
        epsilon=EXPLORATION,
        env_steps=env_steps + int(played.episodes.valid.sum()),
    )


@torch.no_grad()
def read(
    model: ReturnModel, played: Played, rho: Float[Tensor, "time episode agent action"]
) -> tuple[Float[Tensor, "time episode"], Float[Tensor, " episode"], Float[Tensor, "time episode agent"]]:
    """Rewards that add up to the returns, the residuals, and each agent's d_i(t)."""
    predicted, rows = model.rewards(played.episodes), model.replaced(played.episodes)
    rewards, residual = spread_residual(predicted, played.episodes.returns, played.episodes.valid)
    agents = torch.where(played.acting, predicted.unsqueeze(-1) - (rho * rows).sum(-1), 0.0)
    return rewards, residual, agents


@torch.no_grad()
def explained_variance(model: ReturnModel, episodes: EpisodeBatch) -> float:
    """1 - sum (R - sum r_hat)^2 / sum (R - mean R)^2; NaN where all returns are alike."""
    apart = (episodes.returns - episodes.returns.mean()).square().sum()
    missed = (episodes.returns - model.rewards(episodes).sum(0)).square().sum()
    return float(1 - missed / apart) if apart > 0 else math.nan


def own_model(run: Run) -> ReturnModel:
    """The model that a run redistributed its rewards with, as of its checkpoint."""
    config, kind = run.config, run.config.reward_redistribution
    assert kind != "none"
    model = make_return_model(kind, run.env.spec, hidden=config.redistribution.hidden, seed=0)
    training = checkpoints.read(run.checkpoint, ("training",)).groups["training"]
    model.load_state_dict(unflatten(training, "redistribution.model"))
    return model


def fit(run: Run, kind: Any, episodes: EpisodeBatch, *, seed: int) -> ReturnModel:
    """A fresh model, fitted to episodes; ConfigError where all their returns are alike."""
    if bool((episodes.returns == episodes.returns[0]).all()):
        raise ConfigError(
            f"{run.env.spec.name}: all {len(episodes.returns)} exploring episodes have the same return, so no step can have earned it",
            remedy="read an earlier checkpoint (RUN@STEPS), or play more episodes",
        )
    lengths = episodes.valid.sum(0).tolist()
    config = replace(run.config.redistribution, episodes=len(lengths), passes=FIT_PASSES)
    learner = ReturnLearner(kind, config, run.env.spec, seed=seed)
    learner.take_in(
        [
            Stored(episodes.state[:length, row], episodes.action[:length, row], float(episodes.returns[row]))
            for row, length in enumerate(lengths)
        ]
    )
    learner.learn()
    return learner.model


def reference_rows(name: str, spec: TeamSpec, played: Played) -> Float[Tensor, "time episode agent action"]:
    """rho_i at every step; ConfigError for a name there is not, and where a no-op is not there to be taken."""
    if name == "random":
        return played.available / played.available.sum(-1, keepdim=True).clamp(min=1).to(torch.float64)
    if name != "noop":
        raise ConfigError(f'no reference "{name}": use one of noop, random')
    missing = [agent for agent, action in zip(spec.agents, spec.noop or (None,) * spec.num_agents, strict=True) if action is None]
    if missing:
        raise ConfigError(f"{spec.name} has no action that does nothing for {', '.join(missing)}", remedy="use --reference random")
    noop = torch.tensor([action or 0 for action in spec.noop or ()])
    rho = torch.nn.functional.one_hot(noop, spec.num_actions).to(torch.float64).expand(played.available.shape)
    masked = ((rho > 0) & ~played.available).any(-1) & played.acting
    if masked.any():
        time, _, agent = masked.nonzero()[0].tolist()
        raise ConfigError(
            f"{spec.name}: the no-op of {spec.agents[agent]} is not available in step {time} of an episode", remedy="use --reference random"
        )
    return rho


def play_episodes(env: TeamEnv, team: Team, seeds: Tensor, *, epsilon: float | None = None, explore: Explore | None = None) -> Played:
    """One episode per seed: as the team is deployed, or, with `epsilon`, as it explores with `explore`."""
    size = copies_at_once(env)
    parts = [_play_together(env, team, seeds[first : first + size], epsilon, explore) for first in range(0, len(seeds), size)]
    longest = max(len(part["valid"]) for part in parts)
    joined: dict[str, Any] = {}
    for name in parts[0]:
        joined[name] = torch.cat([_lengthened(part[name], longest) for part in parts], 1)
    returns = joined["reward"].sum(0)
    episodes = EpisodeBatch(joined["state"], joined["action"], joined["valid"], returns)
    return Played(episodes, joined["available"], joined["acting"])


def _lengthened(values: Tensor, length: int) -> Tensor:
    return torch.cat([values, values.new_zeros(length - len(values), *values.shape[1:])])


@torch.no_grad()
def _play_together(env: TeamEnv, team: Team, seeds: Tensor, epsilon: float | None, explore: Explore | None) -> dict[str, Tensor]:
    state, view = env.reset(seeds)
    clock, memory = Clock.start(seeds), team.utility.initial_memory(len(seeds))
    running, steps = torch.ones(len(seeds), dtype=torch.bool), list[dict[str, Tensor]]()
    while running.any():
        if epsilon is None or explore is None:
            action, memory = team_action(team, view, memory, clock)
        else:
            out, memory = team.utility(view.obs, memory)
            action, _ = explore(out, view.available, epsilon, clock.key(EXPLORE))
            action = override(action, team.members, view, clock)
        seen, alive = view, running.unsqueeze(-1)
        state, step, view = env.step(state, action, autoreset=False)
        steps.append(
            {
                "state": seen.state.masked_fill(~alive, 0.0), "action": action.masked_fill(~alive, 0), "valid": running,
                "reward": step.reward.to(torch.float64) * running, "available": seen.available, "acting": seen.alive & alive,
            }
        )  # fmt: skip
        running, clock = running & ~(step.terminated | step.truncated), clock.tick()
        refuse_endless(env, running, clock)
    return {name: torch.stack([row[name] for row in steps]) for name in steps[0]}
