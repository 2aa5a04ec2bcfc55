"""Credit read from a run's own mixer: what each agent's decisions are worth by the Q_tot the team learned.

    v(C) = Q_tot(q_i(o_i, u_i) for i in C, q_j(o_j, rho_j) else; s)              phi_i = Shapley_i(v)
    credit_i = mean over episodes of the mean of phi_i over the agent's decisions

The team plays without exploration; no agent is ever replaced, only asked what the reference's action would have been worth to it.
Against `random` the mixer's outputs are averaged over joint draws that all coalitions share. Values are in raw reward units: what
was learned in units of reward / scale is multiplied back. Agents that are dead or planted have no utility, as in training.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..credit.base import Credit
from ..credit.mixer_credit import (
    LARGEST_TEAM,
    MixedValue,
    draw_utilities,
    mixer_gradient,
    mixer_integrated_gradients,
    mixer_shapley,
    utility_gaps,
)
from ..envs.randomness import Clock
from ..mixers.base import Mixer
from .critic_credit import episode_means, mean_with_interval
from .errors import ConfigError
from .evaluate import CREDIT_SEEDS, copies_at_once, refuse_endless, seeds_from
from .exploration import greedy
from .policies import noop_policy, override
from .references import reference_probabilities
from .run import Run

How = Literal["shapley", "integrated-gradients", "gradient"]
DRAWS = 16
"""Joint draws of the reference's actions per step, where the reference draws them and the mixer is no sum."""
STEPS = 32
"""Places on the path of integrated gradients."""
_AT_ONCE = 2**22
"""Values of coalitions, or of places on the path, kept together."""
_REPLACED = "learned Q_tot lost when one decision of the agent is replaced by the reference"
_ESTIMAND: dict[How, str] = {
    "shapley": f"{_REPLACED}, averaged over all orders; by the run's own mixer",
    "integrated-gradients": f"{_REPLACED}, all agents' decisions giving way to it bit by bit; by the run's own mixer",
    "gradient": "slope of the learned Q_tot in the agent's utility: no credit, since it tells nothing of what the agent did and depends on "
    "how the utility is scaled",
}


@dataclass(frozen=True)
class MixerCredit(Credit):
    """Credit over a mixer's inputs: NaN for planted members, who have no utility in it."""

    draws: int
    """Joint draws of the reference's actions per step; 1 where nothing needs drawing."""
    sum_error: float
    """Largest |sum_i phi_i - (v(N) - v(empty))| of any step: rounding, or what the path of integrated gradients missed; NaN for slopes."""


@dataclass(frozen=True)
class Decisions:
    """The steps of the played episodes in which some agent decided something."""

    time: Int[Tensor, " step"]
    episode: Int[Tensor, " step"]
    state: Float[Tensor, "step state"]
    utilities: Float[Tensor, "step agent action"]
    """q_i(o_i, .), as learned."""
    available: Bool[Tensor, "step agent action"]
    action: Int[Tensor, "step agent"]
    decided: Bool[Tensor, "step agent"]
    """Living, learning agents."""
    env_steps: int

    @property
    def taken(self) -> Float[Tensor, "step agent"]:
        """q_i(o_i, u_i); 0 for an agent that decides nothing."""
        return self.utilities.gather(-1, self.action.unsqueeze(-1)).squeeze(-1).masked_fill(~self.decided, 0.0)


def measure_mixer_credit(
    run: Run, *, reference: str, episodes: int = 64, seed: int = 0, how: How = "shapley", draws: int = DRAWS
) -> MixerCredit:
    """What single decisions are worth by the run's mixer.

    Args:
        run: a run of vdn or qmix.
        reference: noop or random; ConfigError where a learning agent's no-op is masked at a decision.
        episodes: to play, greedily.
        seed: of the draws of a random reference.
        how: shapley (exact, at most 12 agents that learn), integrated-gradients, or gradient, which is a warning and no credit. Of a mixer
            that is a sum all credit is the same: the gap q_i(u_i) - E q_i(rho_i), exactly.
        draws: joint draws of a random reference per step. They are fresh at every step, so the interval over episodes holds their chance.

    Returns:
        Credit per decision of discounted team return as learned, with a t interval over episodes. `total`, the mean of v(N) - v(empty)
        over steps, is what the values add up to; NaN where agents die, whose means are then over different steps.
    """
    mixer, acting = mixer_of(run), run.team.learns(run.env.spec.num_agents)
    check_arguments(run, reference, episodes=episodes, how=how, draws=draws)
    played = record_decisions(run, seeds_from(CREDIT_SEEDS, episodes))
    common = {"episodes": episodes, "env_steps": played.env_steps, "approximate": True, "method": _method(mixer, run.config.algo, how)}
    resampled = f"{episodes} episodes; t, 95% approximate; the mixer's own error is not in it"
    if how == "gradient":
        value, low, high = _over_episodes(_slopes(mixer, played), played, episodes)
        unit = "learned Q_tot per unit of the agent's own utility"
        words = {"estimand": _ESTIMAND[how], "reference": "none", "unit": unit, "resampled": resampled}
        return MixerCredit(value, low, high, total=math.nan, evaluations=0, draws=0, sum_error=math.nan, **words, **common)
    rho = reference_probabilities(reference, run.env.spec, played.available, played.decided)
    draws = 1 if reference == "noop" or mixer.linear else draws
    phi, gained, sum_error = _of_steps(mixer, played, rho, how, draws, torch.Generator().manual_seed(seed))
    value, low, high = _over_episodes(phi * run.reward_scale, played, episodes)
    total = episode_means(*_by_time(gained.unsqueeze(-1), torch.ones(len(gained), 1, dtype=torch.bool), played, episodes)).nanmean()
    exact = how == "shapley" and not mixer.linear
    return MixerCredit(
        value=value,
        low=low,
        high=high,
        estimand=_ESTIMAND[how],
        reference=reference,
        unit="learned discounted team return per decision",
        total=float(total) * run.reward_scale if bool((played.decided == acting).all()) else math.nan,
        evaluations=len(phi) * draws * 2 ** int(acting.sum()) if exact else 0,
        resampled=resampled if draws == 1 else f"{resampled}; {draws} joint draws of the reference's actions a step are",
        draws=draws,
        sum_error=sum_error * run.reward_scale,
        **common,
    )


def mixer_of(run: Run) -> Mixer:
    """The run's mixer; ConfigError for a run that has none, or none of whose members learned."""
    mixer = dict(run.networks.items()).get("mixer")
    if not isinstance(mixer, Mixer) or mixer.per_agent:
        raise ConfigError(
            f"this run ({run.config.algo}) has no mixer, so no learned team value is made of its agents' utilities",
            remedy="train with --algo vdn or --algo qmix",
        )
    if not run.team.learns(run.env.spec.num_agents).any():
        raise ConfigError("every member of this run is planted: its mixer learned of nobody's decisions", remedy="--method difference")
    return mixer


def check_arguments(run: Run, reference: str, *, episodes: int, how: str = "shapley", draws: int = DRAWS) -> None:
    """ConfigError for what cannot be measured on this run, before anything is played."""
    mixer, spec = mixer_of(run), run.env.spec
    learns = run.team.learns(spec.num_agents)
    if how not in get_args(How):
        raise ConfigError(f'mixer credit has no way "{how}": use one of {", ".join(get_args(How))}')
    if reference not in ("noop", "random"):
        raise ConfigError(f'a mixer knows single actions, so its reference is noop or random, not "{reference}"')
    if episodes < 2:
        raise ConfigError(f"--episodes {episodes} gives no interval: use at least 2 (64 is a good start)")
    if draws < 1:
        raise ConfigError(f"draws is {draws}; a random reference needs at least 1 a step ({DRAWS} is a good start)")
    if how == "shapley" and not mixer.linear and learns.sum() > LARGEST_TEAM:
        raise ConfigError(
            f"{int(learns.sum())} agents learn in this run; all coalitions of a mixer's inputs are enumerated for at most {LARGEST_TEAM}",
            remedy="integrated gradients (--method mixer-ig) take any number",
        )
    if reference == "noop":
        try:
            noop_policy(spec, learns)
        except ValueError as error:
            raise ConfigError(str(error)) from error


@torch.no_grad()
def record_decisions(run: Run, seeds: Int[Tensor, " episode"]) -> Decisions:
    """One greedy episode per seed, planted members included; the steps in which a learning agent is alive."""
    size = copies_at_once(run.env)
    steps: dict[str, list[Tensor]] = {}
    env_steps = sum(_play_together(run, seeds[first : first + size], first, steps) for first in range(0, len(seeds), size))
    return Decisions(**{name: torch.cat(parts) for name, parts in steps.items()}, env_steps=env_steps)


def _play_together(run: Run, seeds: Tensor, first: int, steps: dict[str, list[Tensor]]) -> int:
    env, team = run.env, run.team
    learns = team.learns(env.spec.num_agents)
    state, view = env.reset(seeds)
    clock, memory = Clock.start(seeds), team.utility.initial_memory(len(seeds))
    running, time, env_steps = torch.ones(len(seeds), dtype=torch.bool), 0, 0
    while running.any():
        utilities, memory = team.utility(view.obs, memory)
        action = override(greedy(utilities, view.available), team.members, view, clock)
        decided = view.alive & learns
        rows = (running & decided.any(-1)).nonzero().squeeze(-1)
        of_step = {
            "time": torch.full_like(rows, time), "episode": first + rows, "state": view.state[rows], "utilities": utilities[rows],
            "available": view.available[rows], "action": action[rows], "decided": decided[rows],
        }  # fmt: skip
        for name, values in of_step.items():
            steps.setdefault(name, []).append(values)
        state, step, view = env.step(state, action, autoreset=False)
        env_steps += int(running.sum())
        running = running & ~(step.terminated | step.truncated)
        clock, time = clock.tick(), time + 1
        refuse_endless(env, running, clock)
    return env_steps


def _of_steps(
    mixer: Mixer, played: Decisions, rho: Tensor, how: How, draws: int, generator: torch.Generator
) -> tuple[Float[Tensor, "step agent"], Float[Tensor, " step"], float]:
    """phi of every step, v(N) - v(empty), and the largest difference between its sum and that; in learned units."""
    if mixer.linear:
        phi = utility_gaps(played.taken, (rho * played.utilities).sum(-1))
        return phi, phi.sum(-1), 0.0
    kept = 2 ** int(played.decided.any(0).sum()) if how == "shapley" else draws * STEPS
    found = []
    for rows in torch.arange(len(played.time)).split(max(1, _AT_ONCE // kept)):
        q_ref = draw_utilities(played.utilities[rows], rho[rows], draws, generator)
        q_ref = q_ref.masked_fill(~played.decided[rows].unsqueeze(-2), 0.0)
        found.append(_credit(_at(mixer, played, rows), played.taken[rows], q_ref, how))
    phi, gained = (torch.cat(parts) for parts in zip(*found, strict=True))
    return phi, gained, float((phi.sum(-1) - gained).abs().max())


def _at(mixer: Mixer, played: Decisions, rows: Tensor) -> MixedValue:
    with torch.no_grad():
        return mixer.at(played.state[rows])


@torch.no_grad()
def _credit(value: MixedValue, q: Tensor, q_ref: Tensor, how: How) -> tuple[Tensor, Tensor]:
    path = how == "integrated-gradients"
    phi = mixer_integrated_gradients(value, q, q_ref, steps=STEPS).value if path else mixer_shapley(value, q, q_ref)
    return phi, (value(q.unsqueeze(-2)).squeeze(-1) - value(q_ref).mean(-1)).to(torch.float64)


def _slopes(mixer: Mixer, played: Decisions) -> Float[Tensor, "step agent"]:
    """dQ_tot/dq_i at every decision."""
    everything = torch.arange(len(played.time))
    return mixer_gradient(_at(mixer, played, everything), played.taken.unsqueeze(-2)).squeeze(-2)


def _method(mixer: Mixer, name: str, how: How) -> str:
    if how == "gradient":
        return f"slopes of the {name} mixer: a warning, not credit"
    if mixer.linear:
        return f"gap between the agent's own utilities, which the {name} mixer adds up"
    if how == "shapley":
        return f"exact Shapley value over the inputs of the {name} mixer (all coalitions), averaged over decisions"
    return f"integrated gradients over the inputs of the {name} mixer ({STEPS} places), averaged over decisions"


def _over_episodes(
    values: Float[Tensor, "step agent"], played: Decisions, episodes: int
) -> tuple[Float[Tensor, " agent"], Float[Tensor, " agent"], Float[Tensor, " agent"]]:
    """Mean over episodes of the means over each agent's decisions, and the ends of its t interval."""
    means = episode_means(*_by_time(values, played.decided, played, episodes))
    value, low, high = (torch.tensor(part, dtype=torch.float64) for part in zip(*map(mean_with_interval, means.T), strict=True))
    return value, low, high


def _by_time(
    values: Float[Tensor, "step value"], counted: Bool[Tensor, "step value"], played: Decisions, episodes: int
) -> tuple[Float[Tensor, "time episode value"], Bool[Tensor, "time episode value"]]:
    """Values, and which of them count, on the grid of times and episodes."""
    shape = (int(played.time.max()) + 1, episodes, values.shape[-1])
    grid, counts = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.bool)
    grid[played.time, played.episode] = values.to(torch.float64)
    counts[played.time, played.episode] = counted
    return grid, counts
