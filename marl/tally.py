"""What a run in training counts: how far it is, how large its rewards are, and sums for the next line of metrics."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Counters:
    """How far the run is. All count from the run's start."""

    env_steps: int = 0
    """Joint actions applied, over all copies; never multiplied by agents."""
    episodes: int = 0
    rounds: int = 0
    iterations: int = 0
    epochs: int = 0
    owed: float = 0.0
    """Iterations owed to the replay ratio but not yet made (sampling uniform)."""


@dataclass
class RewardScale:
    """Running standard deviation of the rewards learned from (Welford's sums), which divides them while learning.

    Only the scale is taken out: subtracting a mean would change which policy is best where episodes differ in length.
    """

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def update(self, reward: Tensor) -> None:
        """Take in a fresh batch of real rewards (Chan's parallel update)."""
        values = reward.to(torch.float64)
        if not values.numel():  # no agent was alive and learning
            return
        number, mean = float(values.numel()), float(values.mean())
        squares = float((values - mean).square().sum())
        delta, total = mean - self.mean, self.count + number
        self.squares += squares + delta * delta * self.count * number / total
        self.mean += delta * number / total
        self.count = total

    @property
    def scale(self) -> float:
        """The standard deviation; 1 until rewards differ."""
        deviation = math.sqrt(self.squares / self.count) if self.count else 0.0
        return deviation if deviation > 1e-8 else 1.0


@dataclass
class Sums:
    """Running sums since the last line of metrics."""

    values: dict[str, float] = field(default_factory=dict)

    def add(self, **values: float | int) -> None:
        for name, value in values.items():
            self.values[name] = self.values.get(name, 0.0) + value

    def get(self, name: str) -> float:
        return self.values.get(name, 0.0)
