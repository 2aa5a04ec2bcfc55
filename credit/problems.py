"""Problems for credit estimators: games whose true credit is known, the ones of the textbooks and others of their kind drawn by a seed.

| family | game | what it catches |
|---|---|---|
| A1 | additive | scale, order |
| A2 | additive with agents that change nothing | credit for nothing |
| A3 | airport: the largest cost counts | averages over the wrong coalitions |
| A4 | gloves: pairs count | scarcity |
| A5 | k of n must agree | leave-one-out, which sees nobody |
| A6 | weighted vote | weights taken for power |
| A7 | all of some must agree, the others change nothing | gradients, counts |
| A8 | agents that stand in for each other, beside workers | leave-one-out, which sees none of them |
| A9 | workers and a saboteur | credit that is never below 0 |
| A10 | pairs interact | interactions left out |

Truths are closed forms (games.py). "A3" may also come with noise in v, new in every episode, for the coverage of intervals.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .base import all_coalitions
from .games import (
    TrueGame,
    additive,
    airport,
    either_or_with_worker,
    glove,
    harmful_agent,
    majority,
    random_two_additive,
    unanimity,
    weighted_vote,
)
from .shapley import agents_in

_SAME = 1e-9  # of the largest value: differences below it are rounding


@dataclass(frozen=True)
class Problem:
    """A game with the truth about it."""

    family: str
    """Such as A3."""
    name: str
    """Which one of the family, in words."""
    num_agents: int
    values: Float[Tensor, " coalition"]
    """v of every coalition, by mask (`all_coalitions`); of a noisy game its mean."""
    shapley: Float[Tensor, " agent"]
    leave_one_out: Float[Tensor, " agent"]
    banzhaf: Float[Tensor, " agent"]
    null: Bool[Tensor, " agent"]
    """True for agents that never change the value: their credit is 0."""
    alike: Int[Tensor, " agent"]
    """The same number for agents that could be exchanged for each other: their credit is equal."""
    noise: float = 0.0
    """Standard deviation of what every episode adds to v, each coalition on its own."""
    pool: Float[Tensor, "coalition episode"] | None = None
    """Team returns that were played; an episode is one of its columns, drawn at random. `values` are its means."""
    actions: Float[Tensor, " agent"] | None = None
    """How often each agent of the full team did something in play; None: once each (they join)."""
    reference: str = "absent: not in the coalition"
    """What absent agents do."""

    @property
    def total(self) -> float:
        """v(N) - v(empty)."""
        return float(self.values[-1] - self.values[0])

    @property
    def scale(self) -> float:
        """The unit of this problem's errors, for comparison with other problems: the range of v."""
        return float(self.values.max() - self.values.min()) or 1.0

    @property
    def is_noisy(self) -> bool:
        """Whether the same coalition has another value in another episode."""
        return self.noise > 0 or self.pool is not None


def shapley_by_orders(values: Float[Tensor, " coalition"]) -> Float[Tensor, " agent"]:
    """The Shapley value as it is defined: every order of joining played through. n! orders, so for few agents."""
    n = agents_in(values)
    table, credit, count = values.tolist(), [0.0] * n, 0
    for order in permutations(range(n)):
        mask = 0
        for agent in order:
            credit[agent] += table[mask | 1 << agent] - table[mask]
            mask |= 1 << agent
        count += 1
    return torch.tensor(credit, dtype=torch.float64) / count


def make_problem(
    family: str,
    name: str,
    values: Float[Tensor, " coalition"],
    shapley: "Float[Tensor, ' agent'] | None" = None,
    *,
    noise: float = 0.0,
    pool: "Float[Tensor, 'coalition episode'] | None" = None,
    actions: "Float[Tensor, ' agent'] | None" = None,
    reference: str = "absent: not in the coalition",
) -> Problem:
    """The problem of these coalition values. Its truths do not come from the estimators that it will test.

    Args:
        family: such as B2.
        name: in words.
        values: v by mask.
        shapley: the closed form; None: all orders are played through.
        noise: standard deviation of what an episode adds to v.
        pool: returns that were played, with `values` their means.
        actions: how often each agent did something; default: once each.
        reference: what absent agents do, in words.
    """
    values = values.to(torch.float64)
    n = agents_in(values)
    inside = all_coalitions(n)
    full = len(values) - 1
    rounding = _SAME * float(values.abs().max().clamp_min(1e-300))
    return Problem(
        family=family,
        name=name,
        num_agents=n,
        values=values,
        shapley=shapley_by_orders(values) if shapley is None else shapley.to(torch.float64),
        leave_one_out=torch.stack([values[full] - values[full ^ 1 << agent] for agent in range(n)]),
        banzhaf=torch.stack([values[inside[:, agent]].mean() - values[~inside[:, agent]].mean() for agent in range(n)]),
        null=torch.tensor([_changes_nothing(values, agent, rounding) for agent in range(n)]),
        alike=_alike(values, n, rounding),
        noise=noise,
        pool=pool,
        actions=actions,
        reference=reference,
    )


def _changes_nothing(values: Tensor, agent: int, rounding: float) -> bool:
    masks = torch.arange(len(values))
    return bool(((values[masks | 1 << agent] - values[masks & ~(1 << agent)]).abs() <= rounding).all())


def _alike(values: Tensor, num_agents: int, rounding: float) -> Int[Tensor, " agent"]:
    """Agents i and j are alike where v(C + i) = v(C + j) for every C without them."""
    masks = torch.arange(len(values))
    number = list(range(num_agents))
    for i in range(num_agents):
        for j in range(i):
            rest = masks[masks & (1 << i | 1 << j) == 0]
            if number[i] == i and bool(((values[rest | 1 << i] - values[rest | 1 << j]).abs() <= rounding).all()):
                number[i] = number[j]
    return torch.tensor(number)


def of_game(family: str, game: TrueGame, *, drawn: bool = False, noise: float = 0.0) -> Problem:
    """The problem of a game with a closed form."""
    agents = f"{game.num_agents} agents" + (", drawn by the seed" if drawn else "") + (f", noise {noise:g}" if noise else "")
    return make_problem(family, f"{game.name}, {agents}", game(all_coalitions(game.num_agents)), game.shapley, noise=noise)


def stand_ins(weight: float, count: int, workers: "Float[Tensor, ' worker']") -> TrueGame:
    """v(C) = weight [one of the first `count` in C] + the workers' weights: the first get weight / count each, workers theirs."""
    truth = torch.cat([torch.full((count,), weight / count, dtype=torch.float64), workers])
    return TrueGame("stand-ins and workers", len(truth), lambda c: weight * c[:, :count].amax(1) + c[:, count:] @ workers, truth)


def saboteur(num_workers: int, gain: float, harm: float) -> TrueGame:
    """v(C) = max(0, gain k - harm [the last agent in C]) with k workers in C.

    The saboteur is equally likely to find 0 to m workers: phi = -1/(m + 1) sum_k min(gain k, harm); the workers share the rest alike.
    """
    n = num_workers + 1
    own = -sum(min(gain * k, harm) for k in range(n)) / n
    each = (max(0.0, gain * num_workers - harm) - own) / num_workers
    truth = torch.tensor([each] * num_workers + [own], dtype=torch.float64)
    return TrueGame("workers and a saboteur", n, lambda c: (gain * c[:, :-1].sum(1) - harm * c[:, -1]).clamp_min(0), truth)


KNOWN: dict[str, Callable[[], TrueGame]] = {
    "A1": lambda: additive([3.0, -1.0, 0.5]),
    "A2": lambda: additive([2.0, 0.0, 1.0, 0.0]),
    "A3": lambda: airport([1, 2, 3, 4, 5, 6]),
    "A4": lambda: glove(2, 4),
    "A5": lambda: majority(5, 3),
    "A6": lambda: weighted_vote(4, [3, 2, 1, 1]),
    "A7": lambda: unanimity(3, [0, 1]),
    "A8": either_or_with_worker,
    "A9": harmful_agent,
    "A10": lambda: random_two_additive(6, torch.Generator().manual_seed(0)),
}
"""One game of each family that never changes."""


def draw_game(family: str, generator: torch.Generator) -> TrueGame:
    """A game of the family with 3 to 8 agents, drawn: none that an estimator could have been tuned on."""

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    def normal(count: int) -> Tensor:
        return torch.randn(count, generator=generator, dtype=torch.float64)

    n = whole(4, 8)
    if family == "A1":
        return additive(normal(n).tolist())
    if family == "A2":
        weights = normal(n)
        weights[torch.randperm(n, generator=generator)[: whole(1, n - 2)]] = 0
        return additive(weights.tolist())
    if family == "A3":
        return airport((normal(n).abs() * (torch.rand(n, generator=generator) < 0.8)).cumsum(0).tolist())
    if family == "A4":
        return glove(whole(1, 3), whole(2, 5))
    if family == "A5":
        return majority(n, whole(1, n))
    if family == "A6":
        weights = torch.randint(1, 7, (n,), generator=generator).tolist()
        return weighted_vote(whole(2, sum(weights) - 1), weights)
    if family == "A7":
        return unanimity(n, torch.randperm(n, generator=generator)[: whole(2, n - 1)].tolist())
    if family == "A8":
        return stand_ins(float(normal(1).abs()) + 0.5, whole(2, 4), normal(whole(1, 4)))
    if family == "A9":
        return saboteur(whole(2, 6), float(normal(1).abs()) + 0.5, float(normal(1).abs()) + 0.5)
    if family == "A10":
        return random_two_additive(n, generator)
    raise ValueError(f"no family {family!r}; there are {', '.join(KNOWN)}")


def coalition_problems(seed: int, drawn: int = 1) -> list[Problem]:
    """Families A1 to A10: the game that never changes, and `drawn` others by the seed."""
    generator = torch.Generator().manual_seed(seed)
    problems = []
    for family, known in KNOWN.items():
        problems.append(of_game(family, known()))
        problems += [of_game(family, draw_game(family, generator), drawn=True) for _ in range(drawn)]
    return problems


def noisy_problems(seed: int, noise: float = 0.5) -> list[Problem]:
    """Airport and a drawn 2-additive game with noise in v, and a vote without: for the coverage of intervals."""
    drawn = random_two_additive(6, torch.Generator().manual_seed(seed))
    return [of_game("A3", KNOWN["A3"](), noise=noise), of_game("A10", drawn, drawn=True, noise=noise)]
