"""Reward redistribution while training (`--reward-redistribution rrd|rudder`), from the run's own replay.

A step enters learning when its episode is over: until then it is not valid. Then the episode's return is known, the model
(return_models.py) learns from whole episodes, and the steps' rewards in the replay become

    r_t = r_hat_t + (R - sum_t r_hat_t) / T            so that every episode's rewards add up to its return R exactly

with the model as it is by then. Rewards of all whole episodes in the replay are renewed with the newest model each time an
eighth of what is stored is new (sampling split: every round). Only learning sees them: returns that are reported, and
evaluations, are of the task's own rewards, which stay beside them in the replay.
With sampling uniform every step is learned from sooner or later. A split batch would forget the episodes that its ends cut, so there
every episode must have the same length; one that has not is refused as soon as it is met.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..credit.temporal import spread_residual
from ..envs.base import TeamSpec
from .checkpoint import flatten, unflatten
from .config import Config
from .data import Rollout, replace_extras
from .errors import ConfigError
from .memory import human_bytes, machine_memory, time_slots
from .presets import own_presets, preset_layers
from .replay import Replay
from .resolve import merge
from .return_learner import ReturnLearner, Stored
from .return_models import EpisodeBatch

RAW = "raw_reward"
"""Among the extras of a stored step: the reward as the task paid it."""
_PREFIX = "redistribution"
_RENEWAL = 8
"""All rewards are renewed when this part of what is stored (one in so many steps) is new."""
_AT_ONCE = 1 << 16
"""Padded steps that go through the model together."""


@dataclass(frozen=True)
class Stretch:
    """Whole episodes in consecutive rows: steps first .. first + length - 1 of a copy."""

    first: Int[Tensor, " episode"]
    copy: Int[Tensor, " episode"]
    length: Int[Tensor, " episode"]

    def __len__(self) -> int:
        return len(self.first)

    def part(self, rows: Tensor | slice) -> "Stretch":
        return Stretch(self.first[rows], self.copy[rows], self.length[rows])

    def steps(self) -> tuple[Int[Tensor, "time episode"], Bool[Tensor, "time episode"]]:
        """The rows of each episode's steps, padded with its last, and which are real."""
        time = torch.arange(int(self.length.max())).unsqueeze(1)
        return self.first + torch.minimum(time, self.length - 1), time < self.length


def whole_episodes(start: Bool[Tensor, "time env"], done: Bool[Tensor, "time env"]) -> tuple[Stretch, Int[Tensor, " cut"]]:
    """The episodes that begin and end within the rows, by the time of their end; and the ends of those whose beginning is missing."""
    time = torch.arange(len(start)).unsqueeze(1)
    begun = torch.where(start, time, -1).cummax(0).values
    end, copy = done.nonzero().unbind(1)
    first = begun[end, copy]
    here = first >= 0
    return Stretch(first[here], copy[here], (end - first + 1)[here]), end[~here]


class Redistribution:
    """What a trainer asks: mark a fresh rollout (`enter`), then, when it is stored, put the rewards in (`settle`)."""

    def __init__(self, config: Config, spec: TeamSpec):
        refuse_rounds(config, spec)
        self.config, self.spec = config, spec
        self.learner = ReturnLearner(config.reward_redistribution, config.redistribution, spec, seed=config.seed)
        self.since_renewal = 0

    @property
    def knows_rewards(self) -> bool:
        """Whether a step with a redistributed reward was ever stored."""
        return len(self.learner.episodes) > 0

    def enter(self, rollout: Rollout) -> Rollout:
        """A fresh rollout as it is to be stored: no step counts yet, and the task's own rewards stay beside what will be learned from."""
        return replace_extras(replace(rollout, valid=torch.zeros_like(rollout.valid)), **{RAW: rollout.reward})

    def settle(self, replay: Replay) -> tuple[Float[Tensor, " step"], dict[str, float]]:
        """After `rollout_steps` were stored: learn from the episodes that ended, and put redistributed rewards into the replay.

        Returns the rewards of the steps that are new to learning, and sums for the metrics.
        ConfigError (sampling uniform) where an episode that ended no longer has its beginning in the replay.
        """
        rollout_steps = self.config.replay.rollout_steps
        start, terminated, truncated = (_in_order(replay, name) for name in ("episode_start", "terminated", "truncated"))
        stretch, cut = whole_episodes(start, terminated | truncated)
        fresh = replay.count - rollout_steps
        if self.config.replay.sampling == "uniform" and bool((cut >= fresh).any()):
            raise ConfigError(
                f"{self.spec.name}: an episode is longer than the replay remembers ({replay.slots} steps of each copy), so its rewards "
                "cannot be redistributed",
                remedy="raise replay.capacity, or cut episodes with --time-limit N",
            )
        limit = self.spec.episode_limit
        if self.config.replay.sampling == "split" and bool((stretch.length != limit).any()):
            raise ConfigError(
                f"--reward-redistribution with --sampling split: an episode of {self.spec.name} ended after "
                f"{int(stretch.length.min())} of {limit} env steps. A split batch keeps only what lies in it whole, so the longer an "
                "episode, the likelier it would be lost",
                remedy="--sampling uniform",
            )
        is_new = stretch.first + stretch.length > fresh
        ended, older = stretch.part(is_new), stretch.part(~is_new)
        sums: dict[str, float] = {}
        if len(ended):
            self.learner.take_in([episode for part in _chunks(ended) for episode in _apart(_gather(replay, part))])
            updates = self.learner.learn()
            losses = [loss for loss, _ in updates]
            sums |= {"updates": float(len(updates)), "loss": sum(losses, 0.0)}
        self.since_renewal += rollout_steps
        rewards = [self._put(replay, part, sums) for part in _chunks(ended)]
        if self.since_renewal * _RENEWAL >= replay.count:
            self.since_renewal = 0
            for part in _chunks(older):
                self._put(replay, part, {})
        sums["waiting"], sums["stored"] = float((~_in_order(replay, "valid")).sum()), float(replay.stored)
        return torch.cat([torch.zeros(0), *rewards]), {f"{_PREFIX}.{name}": value for name, value in sums.items()}

    @torch.no_grad()
    def _put(self, replay: Replay, stretch: Stretch, sums: dict[str, float]) -> Float[Tensor, " step"]:
        """Redistributed rewards of these episodes into the replay, whose steps are valid from now on; what the model missed into `sums`."""
        episodes = _gather(replay, stretch)
        rewards, residual = spread_residual(self.learner.model.rewards(episodes), episodes.returns, episodes.valid)
        steps, valid = stretch.steps()
        slots = (steps + replay.position - replay.count) % replay.slots
        rows = (slots * replay.num_envs + stretch.copy)[valid]
        ring = replay.floats.view(-1, replay.layout.float_width)
        ring[rows, replay.layout.column("reward")] = rewards[valid].to(torch.float32)
        ring[rows, replay.layout.column("valid")] = 1.0
        sums["residual"] = sums.get("residual", 0.0) + float(residual.abs().sum())
        sums["spread"] = sums.get("spread", 0.0) + float((episodes.returns - self.learner.model.mean).abs().sum())
        return rewards[valid].to(torch.float32)

    def dump(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """For a checkpoint's groups `training` and `replay`, and its meta."""
        learned, stored, meta = self.learner.dump()
        return flatten(_PREFIX, learned), flatten(_PREFIX, stored), meta | {"since_renewal": self.since_renewal}

    def restore(self, training: dict[str, Tensor], stored: dict[str, Tensor], meta: dict[str, Any]) -> None:
        self.learner.restore(unflatten(training, _PREFIX), unflatten(stored, _PREFIX), meta)
        self.since_renewal = meta["since_renewal"]


def redistribution_of(config: Config, spec: TeamSpec) -> Redistribution | None:
    """None where rewards are learned from as they are paid; ConfigError where a run's rounds cannot be redistributed."""
    return None if config.reward_redistribution == "none" else Redistribution(config, spec)


def with_raw_reward(example: Rollout) -> Rollout:
    """The example of a replay's layout, with a place for the task's own rewards."""
    return replace_extras(example, **{RAW: example.reward})


def report(sums: dict[str, float]) -> dict[str, float | None]:
    """A line of metrics from what `settle` summed up.

    loss: of the model, in variances of the return (1 is about what a constant gets; rudder counts early predictions too).
    residual: sum |R - sum r_hat| over sum |R - mean R| of the episodes that ended, with the model as of then: the share that was spread.
    waiting: part of the stored steps that is not learned from, since their episode is not over (or was cut).
    """
    pairs = {"loss": "updates", "residual": "spread", "waiting": "stored"}
    values = {name: (sums.get(f"{_PREFIX}.{name}", 0.0), sums.get(f"{_PREFIX}.{by}", 0.0)) for name, by in pairs.items()}
    return {f"{_PREFIX}.{name}": value / by if by else None for name, (value, by) in values.items()}


def refuse_rounds(config: Config, spec: TeamSpec) -> None:
    """ConfigError where episodes could not be whole (a split batch must hold whole ones, a uniform replay the longest) or not be kept."""
    replay, limit = config.replay, spec.episode_limit
    flag = f"--reward-redistribution {config.reward_redistribution}"
    _refuse_store(config, spec, flag)
    if replay.sampling == "split":
        if limit is None:
            raise ConfigError(
                f"{flag}: {spec.name} does not say how long its episodes can be, and a split batch must hold whole ones",
                remedy="--sampling uniform, or cut episodes with --time-limit N",
            )
        if replay.rollout_steps % limit:
            raise ConfigError(
                f"{flag}: replay.rollout_steps {replay.rollout_steps} is no multiple of the {limit} env steps of an episode of "
                f"{spec.name}: a split batch would cut episodes before their return is known",
                remedy=f"{_whole_rounds(config, limit)}, or --sampling uniform",
            )
    elif limit is not None and time_slots(replay) < limit + replay.rollout_steps:
        least = (limit + replay.rollout_steps) * replay.num_envs
        raise ConfigError(
            f"{flag}: replay.capacity {replay.capacity} remembers {time_slots(replay)} steps of each copy: too few for an episode of up to "
            f"{limit} and the {replay.rollout_steps} of a round",
            remedy=f"--capacity {least} or more",
        )


def _refuse_store(config: Config, spec: TeamSpec, flag: str) -> None:
    """ConfigError where the finished episodes would take more than a quarter of the memory (their states; images are large)."""
    longest = spec.episode_limit or time_slots(config.replay)
    bytes_per_episode, room = longest * 4 * (spec.state_dim + 2 * spec.num_agents), machine_memory() // 4
    kept = config.redistribution.episodes
    if kept * bytes_per_episode > room:
        raise ConfigError(
            f"{flag}: {kept:,} episodes of up to {longest:,} steps with states of {spec.state_dim:,} numbers would take "
            f"{human_bytes(kept * bytes_per_episode)}, more than a quarter of the memory here",
            remedy=f"--redistribution.episodes {max(room // bytes_per_episode, 1)}",
        )


def _whole_rounds(config: Config, limit: int) -> str:
    """Flags that make a round a whole number of episodes, as near as possible to what was asked for and allowed by the other options."""
    replay = config.replay
    own = own_presets(config.task, config.algo)
    brought, _ = merge(preset_layers(own))
    is_own = all(getattr(replay, item.name) == brought[f"replay.{item.name}"] for item in fields(replay))
    flags = f"--preset {own} " if is_own else ""  # a flag of the replay alone would take the task's own preset away
    for steps in sorted(range(limit, 65 * limit, limit), key=lambda steps: abs(steps - replay.rollout_steps)):
        try:
            replace(replay, rollout_steps=steps)
        except ValueError:
            continue
        return f"{flags}--rollout-steps {steps}"
    return f"{flags}--rollout-steps {max(round(replay.rollout_steps / limit), 1) * limit} --last-minibatch merge"


def _in_order(replay: Replay, name: str) -> Bool[Tensor, "time env"]:
    """A flag of all stored steps, the oldest first."""
    slots = (torch.arange(replay.count) + replay.position - replay.count) % replay.slots
    return replay.floats[..., replay.layout.column(name)][slots] != 0


def _chunks(stretch: Stretch) -> list[Stretch]:
    """Episodes in groups that go through a model together."""
    if not len(stretch):
        return []
    size = max(_AT_ONCE // int(stretch.length.max()), 1)
    return [stretch.part(slice(first, first + size)) for first in range(0, len(stretch), size)]


def _gather(replay: Replay, stretch: Stretch) -> EpisodeBatch:
    """The episodes out of the replay, with the returns that the task paid."""
    steps, valid = stretch.steps()
    windows = steps.flatten(), stretch.copy.expand_as(steps).flatten()
    stored = replay.layout.unpack(*replay.rows(windows, window=1))
    state, action, raw = (value[0].unflatten(0, steps.shape) for value in (stored.state, stored.action, stored.extras[RAW]))
    return EpisodeBatch(
        state=state.masked_fill(~valid.unsqueeze(-1), 0.0),
        action=action.masked_fill(~valid.unsqueeze(-1), 0),
        valid=valid,
        returns=raw.masked_fill(~valid, 0.0).to(torch.float64).sum(0),
    )


def _apart(episodes: EpisodeBatch) -> list[Stored]:
    """Each episode by itself, without padding, in memory of its own."""
    number, total = episodes.valid.sum(0).tolist(), episodes.returns.tolist()
    return [
        Stored(episodes.state[:length, row].clone(), episodes.action[:length, row].clone(), total[row]) for row, length in enumerate(number)
    ]
