"""What is asked about a team's inputs, checked, and answered for any set of decisions (attribution.py turns answers into results)."""

import math
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from ..credit.attribution import Attribution, group_labels, integrated_gradients
from .decisions import Lived, live
from .errors import ConfigError, suggest
from .evaluate import CREDIT_SEEDS, seeds_from
from .one_agent import one_agent, utilities
from .policies import agent_index
from .run import Run

STEPS = 16
"""Gradients per decision to begin with."""
AGENT_ID, IMAGE, PADDING = "agent id", "image", "padding"
"""Groups of inputs that have no names of their own."""
_FROM = {"mean": "the mean of the agent's own observations in these episodes", "zero": "an observation of zeros"}


class Question:
    """What is asked, checked; and the episodes, played when first needed."""

    def __init__(self, run: Run, target: str | None, action: str | int | None, baseline: str, episodes: int, window: int):
        if target not in (None, "gap", "utility"):
            raise ConfigError(f'no target "{target}": use gap or utility')
        if baseline not in _FROM:
            raise ConfigError(f'no baseline "{baseline}": use {" or ".join(_FROM)}')
        if episodes < 2:
            raise ConfigError(f"--episodes {episodes} gives no interval: use at least 2 (16 is a good start)")
        if window < 1:
            raise ConfigError(f"--window {window} must be at least 1: the decision's own observation")
        self.run, self.spec, self.network = run, run.env.spec, run.team.utility
        self.target = target or ("gap" if action is None else "utility")
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
        return group_labels(observed) + (AGENT_ID,) * len(ids)

    def attribute(self, index: int, places: Int[Tensor, "row 2"], explained: Int[Tensor, " row"]) -> tuple[Attribution, Tensor]:
        """Integrated gradients (row, window, input) at some (time, episode) places, and the runners-up there."""
        alone = one_agent(self.network, index, self.spec.obs_dim)
        x, memory, present = self._windows(index, places)
        legal = self.lived.available[places[:, 0], places[:, 1], index]
        with torch.no_grad():
            out = utilities(alone, x, memory, present)
        taken = one_hot(explained, self.spec.num_actions)
        second = out.masked_fill(~legal | (taken > 0), -math.inf).argmax(-1)
        weight = taken.double()
        if self.target == "gap":
            weight = weight - one_hot(second, self.spec.num_actions)

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
