"""Which inputs drive an agent's decisions: integrated gradients of its own network at the decisions of played episodes.

    target(o) = q_i(o, u) - q_i(o, runner-up)      or q_i(o, action);      attribution_g = sum over the features k of group g of IG_k

(credit/attribution.py). A decision is a step at which a living agent has two or more available actions. The runner-up is the best other
available action; it is fixed at the decision, so that the target is one smooth function along the path. The agent's id, an input of
networks with shared weights, is attributed like any other, against the mean id of the agents that learned: no agent in particular.
Of recurrent agents the last `window` observations are attributed; the memory before them is held fixed as it was.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..credit.attribution import Attribution, group, mean_over_episodes
from .attribution_question import Question
from .errors import ConfigError
from .run import Run, open_run

MOST_DECISIONS = 256
"""Decisions per agent that are attributed; of more, as many are drawn. Half as many where each takes a whole window."""


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
        """Of each group in the sum of sizes; NaN where no input moved the target."""
        return self.size / self.size.sum()

    @property
    def lag_share(self) -> Float[Tensor, " lag"]:
        """Of each step of the window; NaN where no input moved the target."""
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
    target: str | None = None,
    action: str | int | None = None,
    baseline: str = "mean",
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
        seed: of the draw of the decisions that are attributed, where an agent has more than MOST_DECISIONS.

    Raises:
        ConfigError: an unknown agent or action, a planted agent, or an action that is unavailable at every decision.
    """
    task = Question(open_run(run), target, action, baseline, episodes, window)
    wanted = task.names if agent is None else (agent,)
    agents, refused = {}, {}
    for name in wanted:
        try:
            agents[name] = _of_agent(task, name, seed)
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
    target: str | None = None,
    baseline: str = "mean",
    episodes: int = 16,
    window: int = 8,
) -> DecisionInputs:
    """What one agent's inputs do at one step of one of the episodes `measure_inputs` plays; arguments as there.

    Raises:
        ConfigError: no such decision, or an action that is not available there.
    """
    task = Question(open_run(run), target, action, baseline, episodes, window)
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
        raise ConfigError(f"refused: {', '.join(available)} is {agent}'s only available action there, so there is no gap to another one")
    found, second = task.attribute(index, places, explained)
    groups, by_lag = group(found.value, task.labels(index))
    return DecisionInputs(
        agent=agent, episode=episode, step=step, action=task.action_name(index, int(explained)),
        against=task.action_name(index, int(second)) if task.target == "gap" else "", available=available,
        groups=groups, value=by_lag[0].sum(0), by_lag=by_lag[0].flip(0), at_decision=float(found.f_x), at_baseline=float(found.f_baseline),
        error=float(found.error), steps=int(found.steps), converged=bool(found.converged), target=task.target_words, unit=task.unit,
        baseline=task.baseline_words, memory=task.memory_words,
    )  # fmt: skip


def _of_agent(task: Question, name: str, seed: int) -> AgentInputs:
    index = task.index(name)
    decided = task.lived.living[..., index] & (task.lived.available[..., index, :].sum(-1) > 1)
    places = decided.nonzero()
    if not len(places):
        raise ConfigError(f"{name} never had two available actions to decide between in {task.episodes} episodes")
    explained = task.explained(index, places)
    legal = task.lived.available[places[:, 0], places[:, 1], index]
    open_to = legal.gather(1, explained.unsqueeze(1)).squeeze(1)
    if not open_to.any():
        others = ", ".join(task.action_name(index, number) for number in legal.any(0).nonzero().squeeze(-1).tolist())
        what = task.action_name(index, int(explained[0]))
        raise ConfigError(f"refused: action {what} is not available at any of {name}'s {len(places)} decisions; available: {others}")
    most = MOST_DECISIONS if task.window == 1 else MOST_DECISIONS // 2
    drawn = torch.randperm(int(open_to.sum()), generator=torch.Generator().manual_seed(seed))[:most].sort().values
    places, explained = places[open_to][drawn], explained[open_to][drawn]
    found, _ = task.attribute(index, places, explained)
    return _summary(task, index, found, places[:, 1], int(open_to.sum()))


def _summary(task: Question, index: int, found: Attribution, episode: Tensor, seen: int) -> AgentInputs:
    labels = task.labels(index)
    groups, by_lag = group(found.value, labels)
    value, size = (mean_over_episodes(each, episode) for each in (by_lag.sum(1), by_lag.sum(1).abs()))
    lags = mean_over_episodes(by_lag.abs().flip(1).flatten(1), episode).mean.unflatten(0, (task.window, -1))
    ends = mean_over_episodes(torch.stack([found.f_x, found.f_baseline], 1), episode).mean.tolist()
    error, relative = found.error.abs(), found.relative_error
    names = task.names_of_inputs(index)
    members = {label: [] for label in groups}
    for name, label in zip(names, labels, strict=True):
        members[label].append(name)
    return AgentInputs(
        groups=groups, features=tuple(tuple(members[label]) for label in groups), value=value.mean, low=value.low, high=value.high,
        size=size.mean, size_low=size.low.clamp(min=0), size_high=size.high, by_lag=lags, at_decision=ends[0], at_baseline=ends[1],
        error_mean=float(error.mean()), error_max=float(error.max()), relative_error_mean=float(relative.mean()),
        relative_error_max=float(relative.max()), steps_mean=float(found.steps.double().mean()), steps_max=int(found.steps.max()),
        not_converged=int((~found.converged).sum()), decisions=len(episode), decisions_seen=seen, episodes=len(episode.unique()),
    )  # fmt: skip
