"""One-step matrix games: n agents act once, the team is paid an entry of the payoff tensor, and the episode ends.

    reward = payoff[u_1, ..., u_n]

Every agent sees the constant 1, so a utility is a table of its own actions. The named games are those on which
value decomposition is known to go wrong: the best entry is guarded by bad ones (relative overgeneralisation).
"""

import difflib
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .base import TeamSpec, View
from .native import NativeEnv, Outcome
from .randomness import Clock

GAMES: dict[str, list] = {
    "climbing": [[11, -30, 0], [-30, 7, 0], [0, 6, 5]],  # uoe-agents/matrix-games, as EPyMARL plays it
    "climbing-credit": [[11, -30, 0], [-30, 7, 6], [0, 0, 5]],  # Claus & Boutilier 1998: the same with the agents swapped
    "climbing-3p": [  # uoe-agents/matrix-games
        [[11, -30, 0], [-30, 0, 0], [0, 0, 0]],
        [[-30, 0, 0], [0, 7, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0], [0, 6, 5]],
    ],
    "qtran": [[8, -12, -12], [-12, 0, 0], [-12, 0, 0]],  # arXiv:1905.05408
    "qplex-1": [[10.4, 0, 10], [0, 10, 10], [10, 10, 10]],  # arXiv:2008.01062, its code's matrix_game_1
    "qplex-3": [[8, -12, -12], [-12, 6, 0], [-12, 0, 6]],  # likewise, matrix_game_3
    "pymarl2": [[12, -0.1, -0.1], [-0.1, 0, 0], [-0.1, 0, 0]],  # hijkzzz/pymarl2's default: monotone mixing can solve it
}
"""Payoffs by name; `penalty` is made from its k."""


def penalty_game(k: float) -> list[list[float]]:
    """Two good corners, each beside a penalty of k for missing each other, and a safe centre that pays 2."""
    return [[-k, 0.0, 10.0], [0.0, 2.0, 0.0], [10.0, 0.0, -k]]


@dataclass(frozen=True)
class MatrixTask:
    """One moment: nothing but the constant that is seen."""

    seen: Float[Tensor, "env 1"]


class MatrixGame(NativeEnv[MatrixTask]):
    """B copies of a one-step game.

    Args:
        game: a name in `GAMES`, "penalty", or the payoff itself: one axis per agent (unequal lengths are allowed).
        k: the penalty of the game "penalty".
    """

    def __init__(self, game: "str | list | Tensor" = "climbing", *, k: float = 100.0):
        if isinstance(game, str):
            self.payoff = torch.tensor(_named_payoff(game, k), dtype=torch.float32)
            name = f"matrix-{game}" if game != "penalty" else f"matrix-penalty-{k:g}"
        else:
            self.payoff, name = torch.as_tensor(game, dtype=torch.float32), "matrix"
        sizes = tuple(self.payoff.shape)
        if len(sizes) < 2 or 0 in sizes:
            raise ValueError(
                f"a payoff of shape {sizes} is no team game: give one axis per agent (at least 2), each with at least 1 action"
            )
        if not self.payoff.isfinite().all():
            raise ValueError("the payoff holds NaN or infinity; every joint action needs a finite payoff")
        self._allowed = torch.arange(max(sizes)) < torch.tensor(sizes).unsqueeze(1)
        self.spec = TeamSpec(
            name=name,
            agents=tuple(f"agent_{i}" for i in range(len(sizes))),
            num_actions=max(sizes),
            obs_dim=1,
            state_dim=1,
            episode_limit=1,
            action_names=tuple(tuple(str(a) for a in range(size)) for size in sizes),
            obs_names=(("one",),) * len(sizes),
            noop=None,
            return_range=(float(self.payoff.min()), float(self.payoff.max())),
            team_reward="shared",
        )

    def begin(self, clock: Clock) -> MatrixTask:
        return MatrixTask(torch.ones(len(clock.seed), 1, device=clock.seed.device))

    def advance(self, task: MatrixTask, action: Int[Tensor, "env agent"], clock: Clock) -> tuple[MatrixTask, Outcome]:
        ended = torch.ones_like(clock.seed, dtype=torch.bool)
        reward = self.payoff.to(action.device)[action.unbind(1)]
        return task, Outcome(reward=reward, agent_reward=None, terminated=ended, truncated=~ended)

    def observe(self, task: MatrixTask) -> View:
        batch, n = len(task.seen), self.spec.num_agents
        return View(
            obs=task.seen.unsqueeze(1).expand(-1, n, -1),
            state=task.seen,
            available=self._allowed.to(task.seen.device).expand(batch, -1, -1),
            alive=torch.ones(batch, n, dtype=torch.bool, device=task.seen.device),
        )


def _named_payoff(game: str, k: float) -> list:
    if game == "penalty":
        return penalty_game(k)
    if game not in GAMES:
        names = sorted([*GAMES, "penalty"])
        close = difflib.get_close_matches(game, names, n=1)
        raise ValueError(
            f"no matrix game is called {game!r}{f'; did you mean {close[0]!r}?' if close else ''} There are: {', '.join(names)}"
        )
    return GAMES[game]
