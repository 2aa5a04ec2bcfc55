"""Teaching a return model (return_models.py): the newest finished episodes, updates in proportion to them, state that can be saved.

Each finished episode is learned from `passes` times on average, in minibatches of whole episodes drawn with replacement. As long
as all returns are alike nothing is learned: a model would only learn to ignore what it sees.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..envs.base import TeamSpec
from ..envs.randomness import mix_seed
from .checkpoint import flatten, unflatten
from .config import RedistributionConfig
from .optimisers import dump_optimiser, restore_optimiser
from .return_models import EpisodeBatch, ReturnModel, make_return_model


@dataclass(frozen=True)
class Stored:
    """One finished episode."""

    state: Float[Tensor, "time state"]
    action: Int[Tensor, "time agent"]
    total: float
    """Its undiscounted return, raw reward units."""


def batch_of(episodes: Sequence[Stored]) -> EpisodeBatch:
    """Episodes side by side, padded with zeros."""
    number = torch.tensor([len(episode.action) for episode in episodes])
    return EpisodeBatch(
        state=pad_sequence([episode.state for episode in episodes]),
        action=pad_sequence([episode.action for episode in episodes]),
        valid=torch.arange(int(number.max())).unsqueeze(1) < number,
        returns=torch.tensor([episode.total for episode in episodes], dtype=torch.float64),
    )


class ReturnLearner:
    """A return model with its optimiser, its generator and the newest finished episodes."""

    def __init__(self, kind: Any, config: RedistributionConfig, spec: TeamSpec, *, seed: int):
        self.config = config
        self.model: ReturnModel = make_return_model(kind, spec, hidden=config.hidden, seed=mix_seed(seed, 5))
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=config.lr, fused=True)
        self.generator = torch.Generator().manual_seed(mix_seed(seed, 6))
        self.episodes: deque[Stored] = deque(maxlen=config.episodes)
        self.owed = 0.0

    def take_in(self, episodes: Sequence[Stored]) -> None:
        """Store finished episodes; updates become due for them."""
        self.episodes.extend(episodes)
        self.owed += self.config.passes * len(episodes) / self.config.minibatch_size
        returns = torch.tensor([episode.total for episode in self.episodes], dtype=torch.float64)
        self.model.set_units(returns, torch.tensor([len(episode.action) for episode in self.episodes]))

    def learn(self) -> list[tuple[float, float]]:
        """The updates that are due: (loss, norm of the gradient) of each. None as long as all returns are alike."""
        due, self.owed = math.floor(self.owed), self.owed % 1
        if all(episode.total == self.episodes[0].total for episode in self.episodes):
            return []
        return [self._update() for _ in range(due)]

    def _update(self) -> tuple[float, float]:
        rows = torch.randint(len(self.episodes), (self.config.minibatch_size,), generator=self.generator).tolist()
        losses = self.model.losses(batch_of([self.episodes[row] for row in rows]), subset=self.config.subset, generator=self.generator)
        self.optimiser.zero_grad(set_to_none=True)
        loss = losses.mean()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimiser.step()
        return float(loss.detach()), float(norm)

    def dump(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """What is learned (tensors), the episodes (tensors), and the rest (JSON)."""
        moments, meta = dump_optimiser(self.optimiser)
        learned = flatten("model", self.model.state_dict()) | flatten("optimiser", moments) | {"generator": self.generator.get_state()}
        stored = {}
        if self.episodes:
            stored = {
                "state": torch.cat([episode.state for episode in self.episodes]),
                "action": torch.cat([episode.action for episode in self.episodes]),
                "length": torch.tensor([len(episode.action) for episode in self.episodes]),
                "total": torch.tensor([episode.total for episode in self.episodes], dtype=torch.float64),
            }
        return learned, stored, {"owed": self.owed, "optimiser": meta}

    def restore(self, learned: dict[str, Tensor], stored: dict[str, Tensor], meta: dict[str, Any]) -> None:
        self.model.load_state_dict(unflatten(learned, "model"))
        restore_optimiser(self.optimiser, unflatten(learned, "optimiser"), meta["optimiser"])
        self.generator.set_state(learned["generator"])
        self.owed = meta["owed"]
        self.episodes.clear()
        if stored:
            lengths = stored["length"].tolist()
            parts = zip(stored["state"].split(lengths), stored["action"].split(lengths), stored["total"].tolist(), strict=True)
            self.episodes.extend(Stored(*part) for part in parts)
