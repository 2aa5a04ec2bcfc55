"""A problem as an estimator meets it: v of coalitions, counted before any cache, until the budget ends.

Of a noisy game an episode is a function of the seed and its number, so that coalitions can be compared on the same one.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .base import EpisodeGame, coalition_masks
from .problems import Problem

_BLOCK = 256  # episodes whose chance is drawn at once


class Trial(EpisodeGame):
    """A problem as an estimator meets it: every value asked for is counted, nothing is remembered, and the budget ends."""

    def __init__(self, problem: Problem, budget: int, seed: int, *, asked_by: str = "the estimator"):
        """`asked_by`: whose mistakes they are, in messages."""
        super().__init__(self.returns, problem.num_agents)
        self.problem, self.budget, self.seed, self.asked_by = problem, budget, seed, asked_by
        self._next_episode = 0
        self._chance: dict[int, Tensor] = {}

    @property
    def actions(self) -> Float[Tensor, " agent"]:
        """How often each agent did something while the full team played."""
        n = self.problem.num_agents
        return torch.ones(n, dtype=torch.float64) if self.problem.actions is None else self.problem.actions

    def __call__(self, coalitions: Any) -> Float[Tensor, " coalition"]:
        """v of each row; where the game is noisy each row has an episode of its own."""
        asked = self._rows(coalitions)
        self._charge(len(asked))
        masks = coalition_masks(asked)
        if not self.problem.is_noisy:
            return self.problem.values[masks]
        episodes = torch.arange(self._next_episode, self._next_episode + len(asked))
        self._next_episode += len(asked)
        return self._seen(
            torch.stack([self._column(episode)[mask] for episode, mask in zip(episodes.tolist(), masks.tolist(), strict=True)])
        )

    def play(self, coalitions: Any, episodes: Any) -> Float[Tensor, "coalition episode"]:
        """v of each row on each episode; the same number means the same episode."""
        asked, numbers = self._rows(coalitions), torch.as_tensor(episodes, dtype=torch.int64)
        self._charge(len(asked) * len(numbers))
        return self._seen(self.returns(asked, numbers)[0])

    def returns(
        self, coalitions: Bool[Tensor, "coalition agent"], episodes: Int[Tensor, " episode"], /
    ) -> tuple[Float[Tensor, "coalition episode"], int]:
        """What is played, uncounted; no env steps."""
        masks = coalition_masks(coalitions)
        if not self.problem.is_noisy:
            return self.problem.values[masks].unsqueeze(1).expand(-1, len(episodes)), 0
        return torch.stack([self._column(episode)[masks] for episode in episodes.tolist()], 1), 0

    def _column(self, episode: int) -> Float[Tensor, " coalition"]:
        """The values of all coalitions in an episode: a function of the seed and its number."""
        problem, (block, row) = self.problem, divmod(episode, _BLOCK)
        if block not in self._chance:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + block)
            if problem.pool is None:
                shape = (_BLOCK, len(problem.values))
                self._chance[block] = problem.values + problem.noise * torch.randn(shape, generator=generator, dtype=torch.float64)
            else:
                self._chance[block] = problem.pool[:, torch.randint(problem.pool.shape[1], (_BLOCK,), generator=generator)].T
        return self._chance[block][row]

    def _rows(self, coalitions: Any) -> Bool[Tensor, "coalition agent"]:
        rows, n = torch.as_tensor(coalitions), self.problem.num_agents
        if rows.dim() != 2 or rows.shape[1] != n:
            raise ValueError(
                f"{self.asked_by} asked for coalitions of shape {tuple(rows.shape)}; expected (m, {n}): a row of {n} booleans a coalition"
            )
        return rows.bool()

    def _charge(self, count: int) -> None:
        self.evaluations += count
        if self.evaluations > self.budget:
            raise ValueError(
                f"{self.asked_by} asked for {self.evaluations:,} values of a budget of {self.budget:,}; every row counts, known ones too"
            )

    def _seen(self, returns: Tensor) -> Tensor:
        self.lowest, self.highest = min(self.lowest, float(returns.min())), max(self.highest, float(returns.max()))
        return returns
