"""Which inputs drive an agent's decisions: integrated gradients of its own network at the decisions of played episodes.

    target(o) = q_i(o, u) - q_i(o, runner-up)      or q_i(o, action);      attribution_g = sum over the features k of group g of IG_k

(credit/attribution.py). A decision is a step at which a living agent has two or more available actions. The runner-up is the best other
available action; it is fixed at the decision, so that the target is one smooth function along the path. The agent's id, an input of
networks with shared weights, is attributed like any other, against the mean id of the agents that learned: no agent in particular.
Of recurrent agents the last `window` observations are attributed; the memory before them is held fixed as it was.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..credit.attribution import Attribution, group, group_labels, integrated_gradients, mean_over_episodes
from .decisions import Lived, live
from .errors import ConfigError, suggest
from .evaluate import CREDIT_SEEDS, seeds_from
from .one_agent import one_agent, utilities
from .policies import agent_index
from .run import Run, open_run

Target = Literal["gap", "utility"]
Baseline = Literal["mean", "zero"]
MOST_DECISIONS = 256
"""Decisions per agent that are attributed; of more, as many are drawn."""
STEPS = 32
"""Gradients per decision to begin with."""
AGENT_ID, IMAGE, PADDING = "agent id", "image", "padding"
"""Groups of inputs that have no names of their own."""
_FROM = {"mean": "the mean of the agent's own observations in these episodes", "zero": "an observation of zeros"}


@dataclass(frozen=True)
class AgentInputs:
    """What one agent's inputs did to the target, over its decisions. Intervals: 95%, t over episodes (approximate), NaN for one episode."""

    groups: tuple[str, ...]
    features: tuple[tuple[str, ...], ...]
    """The features in each group."""
    value: Float[Tensor, " group"]
    """Mean attribution; with their signs they add up to `at_decision - at_baseline`, but for the completeness error."""
    low: Float[Tensor, " group"]
    high: Float[Tensor, " group"]
    size: Float[Tensor, " group"]
    """Mean |attribution|: a group that pushes one way here and another way there has a size and may have no mean."""
    size_low: Float[Tensor, " group"]
    size_high: Float[Tensor, " group"]
    by_lag: Float[Tensor, "lag group"]
    """Mean |attribution| of each step of the window; lag 0 is the decision's own observation. One row for agents without a memory."""
    at_decision: float
    """Mean of the target."""
    at_baseline: float
    error_mean: float
    """|completeness error|, mean over decisions, in the unit of the target."""
    error_max: float
    relative_error_mean: float
    """The same as a part of a decision's sum of |attribution| over single inputs."""
    relative_error_max: float
    steps_mean: float
    """Gradients behind a decision."""
    steps_max: int
    not_converged: int
    """Decisions whose error stayed above the tolerance after all halvings."""
    decisions: int
    """Attributed."""
    decisions_seen: int
    """From which those were drawn."""
    episodes: int
    """That had one of them."""

    @property
    def share(self) -> Float[Tensor, " group"]:
        """Of each group in the sum of sizes."""
        return self.size / self.size.sum()

    @property
    def lag_share(self) -> Float[Tensor, " lag"]:
        """Of each step of the window."""
        return self.by_lag.sum(1) / self.by_lag.sum()


@dataclass(frozen=True)
class InputAttribution:
    """Input attribution of a team's agents."""

    agents: dict[str, AgentInputs]
    not_attributed: dict[str, str]
    """agent -> why not."""
    target: str
    """What is attributed, in words."""
    unit: str
    baseline: str
    """What it is attributed against, in words."""
    memory: str
    """What of the past is attributed, in words; "" for agents without a memory."""
    window: int
    """Observations per decision."""
    episodes: int
    env_steps: int
    """Played for this."""


@dataclass(frozen=True)
class DecisionInputs:
    """Input attribution of a single decision."""

    agent: str
    episode: int
    step: int
    action: str
    """The action explained."""
    against: str
    """The runner-up; "" where the target is a utility."""
    available: tuple[str, ...]
    groups: tuple[str, ...]
    value: Float[Tensor, " group"]
    by_lag: Float[Tensor, "lag group"]
    """With signs; they add up to `value` over lags."""
    at_decision: float
    at_baseline: float
    error: float
    """The completeness error: what the values' sum is above `at_decision - at_baseline`."""
    steps: int
    converged: bool
    target: str
    unit: str
    baseline: str
    memory: str


def measure_inputs(
    run: Run | str,
    *,
    agent: str | None = None,
    target: Target | None = None,
    action: str | int | None = None,
    baseline: Baseline = "mean",
    episodes: int = 16,
    window: int = 8,
    seed: int = 0,
) -> InputAttribution:
    """What each agent's inputs do to its decisions, over the decisions of some episodes of the team as it is deployed.

    Args:
        run: a run, its folder or its name.
        agent: only this one; default: every agent that learned.
        target: gap: the utility (coma: logit) of the action less that of the best other available one; utility: of the action alone.
            Default: gap for the chosen action, utility for an `action` asked for.
        action: explain this action (name or number) instead of the chosen one, where it is available.
        baseline: mean (of the agent's own observations) or zero.
        episodes: to play.
        window: observations of a recurrent agent that are attributed.
        seed: of the draw of MOST_DECISIONS decisions per agent.

    Raises:
        ConfigError: an unknown agent or action, a planted agent, or an action that is unavailable at every decision.
    """
    task = _Task(open_run(run), target, action, baseline, episodes, window)
    wanted = task.names if agent is None else (agent,)
    agents, refused = {}, {}
    for name in wanted:
        try:
            agents[name] = task.of_agent(name, seed)
        except ConfigError as error:
            if agent is not None:
                raise
            refused[name] = str(error)
    if not agents:
        raise ConfigError(next(iter(dict.fromkeys(refused.values()))))
    return InputAttribution(
        agents=agents, not_attributed=refused, target=task.target_words, unit=task.unit, baseline=task.baseline_words,
        memory=task.memory_words, window=task.window, episodes=episodes, env_steps=task.lived.env_steps,
    )  # fmt: skip


def explain_decision(
    run: Run | str,
    *,
    episode: int,
    step: int,
    agent: str,
    action: str | int | None = None,
    target: Target | None = None,
    baseline: Baseline = "mean",
    episodes: int = 16,
    window: int = 8,
) -> DecisionInputs:
    """What one agent's inputs do at one step of one of the episodes `measure_inputs` plays; arguments as there.

    Raises:
        ConfigError: no such decision, or an action that is not available there.
    """
    task = _Task(open_run(run), target, action, baseline, episodes, window)
    index = task.index(agent)
    if not 0 <= episode < episodes:
        raise ConfigError(f"episode {episode} is not one of the {episodes} played, 0 to {episodes - 1}", remedy=f"--episodes {episode + 1}")
    length = int(task.lived.living[:, episode].any(-1).sum())
    if not 0 <= step < length:
        raise ConfigError(f"episode {episode} has steps 0 to {length - 1}, no step {step}")
    if not task.lived.living[step, episode, index]:
        raise ConfigError(f"{agent} is not alive at step {step} of episode {episode}")
    places = torch.tensor([[step, episode]])
    legal = task.lived.available[step, episode, index]
    available = tuple(task.action_name(index, number) for number in legal.nonzero().squeeze(-1).tolist())
    explained = task.explained(index, places)
    if not legal[explained].all():
        what = task.action_name(index, int(explained))
        raise ConfigError(f"refused: action {what} is not available there; available: {', '.join(available)}")
    if task.target == "gap" and len(available) < 2:
        raise ConfigError(f"refused: {available[0]} is {agent}'s only available action there, so there is no gap to another one")
    found, second = task.attribute(index, places, explained)
    groups, by_lag = group(found.value, task.labels(index))
    return DecisionInputs(
        agent=agent, episode=episode, step=step, action=task.action_name(index, int(explained)),
        against=task.action_name(index, int(second)) if task.target == "gap" else "", available=available,
        groups=groups, value=by_lag[0].sum(0), by_lag=by_lag[0].flip(0), at_decision=float(found.f_x), at_baseline=float(found.f_baseline),
        error=float(found.error), steps=int(found.steps), converged=bool(found.converged), target=task.target_words, unit=task.unit,
        baseline=task.baseline_words, memory=task.memory_words,
    )  # fmt: skip


class _Task:
    """What is asked, checked; and the episodes, played when first needed."""

    def __init__(self, run: Run, target: Target | None, action: str | int | None, baseline: Baseline, episodes: int, window: int):
        if target not in (None, "gap", "utility"):
            raise ConfigError(f'no target "{target}": use gap or utility')
        if baseline not in _FROM:
            raise ConfigError(f'no baseline "{baseline}": use {" or ".join(_FROM)}')
        if episodes < 2:
            raise ConfigError(f"--episodes {episodes} gives no interval: use at least 2 (16 is a good start)")
        if window < 1:
            raise ConfigError(f"--window {window} must be at least 1: the decision's own observation")
        self.run, self.spec, self.network = run, run.env.spec, run.team.utility
        self.target: Target = target or ("gap" if action is None else "utility")
        self.action, self.baseline, self.episodes = action, baseline, episodes
        self.window = window if self.network.memory_dim else 1
        self.logits = run.config.algo == "coma"
        self.scale = 1.0 if self.logits else run.reward_scale
        self.learns = run.team.learns(self.spec.num_agents)

    @property
    def names(self) -> tuple[str, ...]:
        return self.spec.agents

    @cached_property
    def lived(self) -> Lived:
        return live(self.run, seeds_from(CREDIT_SEEDS, self.episodes))

    @property
    def unit(self) -> str:
        return "logit" if self.logits else "raw reward"

    @property
    def target_words(self) -> str:
        what = "logit" if self.logits else "utility"
        action = "the action the agent chose" if self.action is None else f"the action {self.action}, wherever it was available"
        if self.target == "utility":
            return f"{what} of {action}"
        return f"{what} of {action}, less that of the best other available action (fixed at the decision)"

    @property
    def baseline_words(self) -> str:
        ids = "; and the mean id of the agents that learned, for no agent in particular" if self.network.first.share else ""
        return _FROM[self.baseline] + (", at every step of the window" if self.window > 1 else "") + ids

    @property
    def memory_words(self) -> str:
        if not self.network.memory_dim:
            return ""
        return (
            f"the last {self.window} observations up to the decision (fewer at an episode's start); "
            "the memory before them is held fixed as it was"
        )

    def index(self, name: str) -> int:
        """Of an agent that learned."""
        try:
            index = agent_index(name, self.spec)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if not self.learns[index]:
            policy = self.run.team.planted.get(name, "a policy of its own")
            raise ConfigError(f"{name} is planted ({policy}): no network of its own decides, so nothing can be attributed")
        return index

    def action_name(self, index: int, action: int) -> str:
        names = self.spec.action_names[index] if self.spec.action_names else ()
        return names[action] if action < len(names) else str(action)

    def explained(self, index: int, places: Int[Tensor, "row 2"]) -> Int[Tensor, " row"]:
        """The action explained at each place: the one taken, or the one asked for."""
        if self.action is None:
            return self.lived.action[places[:, 0], places[:, 1], index]
        names = self.spec.action_names[index] if self.spec.action_names else ()
        names = names or tuple(str(number) for number in range(self.spec.num_actions))
        text = str(self.action)
        if text not in names and not (text.isdigit() and int(text) < len(names)):
            raise ConfigError(f'{self.spec.agents[index]} has no action "{text}".{suggest(text, names)} Actions: {", ".join(names)}')
        return torch.full((len(places),), names.index(text) if text in names else int(text))

    def names_of_inputs(self, index: int) -> tuple[str, ...]:
        """A name per input: the task's own names, obs0, obs1, ... where it has none; and the id's entries."""
        names = self.spec.obs_names[index] if self.spec.obs_names else ()
        names = names or tuple(f"obs{number}" for number in range(self.spec.obs_dim))
        names += (PADDING,) * (self.spec.obs_dim - len(names))
        return names + tuple(f"id of {name}" for name in self.spec.agents if self.network.first.share)

    def labels(self, index: int) -> tuple[str, ...]:
        """The group of every input."""
        names = self.names_of_inputs(index)
        observed, ids = names[: self.spec.obs_dim], names[self.spec.obs_dim :]
        if self.spec.obs_shape is not None:
            return (IMAGE,) * len(observed) + (AGENT_ID,) * len(ids)
        own: Mapping[str, str] = {PADDING: PADDING} if PADDING in observed else {}
        return group_labels(observed, own) + (AGENT_ID,) * len(ids)

    def of_agent(self, name: str, seed: int) -> AgentInputs:
        index = self.index(name)
        decided = self.lived.living[..., index] & (self.lived.available[..., index, :].sum(-1) > 1)
        places = decided.nonzero()
        if not len(places):
            raise ConfigError(f"{name} never had two available actions to decide between in {self.episodes} episodes")
        explained = self.explained(index, places)
        legal = self.lived.available[places[:, 0], places[:, 1], index]
        open_to = legal.gather(1, explained.unsqueeze(1)).squeeze(1)
        if not open_to.any():
            others = ", ".join(self.action_name(index, number) for number in legal.any(0).nonzero().squeeze(-1).tolist())
            what = self.action_name(index, int(explained[0]))
            raise ConfigError(f"refused: action {what} is not available at any of {name}'s {len(places)} decisions; available: {others}")
        drawn = torch.randperm(int(open_to.sum()), generator=torch.Generator().manual_seed(seed))[:MOST_DECISIONS].sort().values
        places, explained = places[open_to][drawn], explained[open_to][drawn]
        found, _ = self.attribute(index, places, explained)
        return self._summary(index, found, places[:, 1], int(open_to.sum()))

    def _summary(self, index: int, found: Attribution, episode: Tensor, seen: int) -> AgentInputs:
        labels = self.labels(index)
        groups, by_lag = group(found.value, labels)
        value, size = (mean_over_episodes(each, episode) for each in (by_lag.sum(1), by_lag.sum(1).abs()))
        lags = mean_over_episodes(by_lag.abs().flip(1).flatten(1), episode).mean.unflatten(0, (self.window, -1))
        ends = mean_over_episodes(torch.stack([found.f_x, found.f_baseline], 1), episode).mean.tolist()
        error, relative = found.error.abs(), found.relative_error
        names = self.names_of_inputs(index)
        members = {label: [] for label in groups}
        for name, label in zip(names, labels, strict=True):
            members[label].append(name)
        return AgentInputs(
            groups=groups, features=tuple(tuple(members[label]) for label in groups), value=value.mean, low=value.low, high=value.high,
            size=size.mean, size_low=size.low, size_high=size.high, by_lag=lags, at_decision=ends[0], at_baseline=ends[1],
            error_mean=float(error.mean()), error_max=float(error.max()), relative_error_mean=float(relative.mean()),
            relative_error_max=float(relative.max()), steps_mean=float(found.steps.double().mean()), steps_max=int(found.steps.max()),
            not_converged=int((~found.converged).sum()), decisions=len(episode), decisions_seen=seen, episodes=len(episode.unique()),
        )  # fmt: skip

    def attribute(self, index: int, places: Int[Tensor, "row 2"], explained: Int[Tensor, " row"]) -> tuple[Attribution, Tensor]:
        """Integrated gradients (row, window, input) at some (time, episode) places, and the runners-up there."""
        alone = one_agent(self.network, index, self.spec.obs_dim)
        x, memory, present = self._windows(index, places)
        legal = self.lived.available[places[:, 0], places[:, 1], index]
        with torch.no_grad():
            out = utilities(alone, x, memory, present)
        taken = torch.nn.functional.one_hot(explained, self.spec.num_actions)
        second = out.masked_fill(~legal | (taken > 0), -math.inf).argmax(-1)
        weight = taken.double()
        if self.target == "gap":
            weight = weight - torch.nn.functional.one_hot(second, self.spec.num_actions)

        def target(x: Tensor, weight: Tensor, memory: Tensor, present: Tensor) -> Tensor:
            return (utilities(alone, x, memory, present) * weight).sum(-1) * self.scale

        start = torch.where(present.unsqueeze(-1), self._baseline(index), x)
        return integrated_gradients(target, x, start, steps=STEPS, given=(weight, memory, present), axes=2), second

    def _windows(self, index: int, places: Tensor) -> tuple[Float[Tensor, "row window input"], Tensor, Bool[Tensor, "row window"]]:
        """Inputs of the steps up to each place, the memory before them, and which of them lie within the episode."""
        time = places[:, :1] + torch.arange(1 - self.window, 1)
        present, time = time >= 0, time.clamp(min=0)
        x = self._scaled(self.lived.obs[time, places[:, 1:], index])
        if self.network.first.share:
            identity = torch.zeros(self.spec.num_agents, dtype=torch.float64)
            identity[index] = 1
            x = torch.cat([x, identity.expand(*x.shape[:2], -1)], -1)
        return x, self.lived.memory[time[:, 0], places[:, 1], index].double(), present

    def _baseline(self, index: int) -> Float[Tensor, " input"]:
        observed = self._scaled(self.lived.obs[:, :, index][self.lived.living[..., index]])
        start = observed.mean(0) if self.baseline == "mean" else torch.zeros_like(observed[0])
        return torch.cat([start, self.learns.double() / self.learns.sum()]) if self.network.first.share else start

    @staticmethod
    def _scaled(obs: Tensor) -> Tensor:
        return obs.double() / 255 if obs.dtype == torch.uint8 else obs.double()
