"""Credit of agents at steps, scored where the matrix is known: plate and door, the delayed chain, key and door (family C).

What is compared is C[t, i] along the trained team's one episode, T x n entries; entries that are truly 0 must get nothing. The
switch-off matrix (switch_off.py) is given the true V_S, or V_S as playouts would give it: the truth plus noise of standard deviation
`playout_noise` (of the range of v) / sqrt(playouts). Beside it stand two ways of sharing what is known otherwise over the steps.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .benchmark import SUSPECT, Known, Sample, Score, confirmed_bias, score_sample, with_bias
from .chains import LateCredit, delayed_chain, key_and_door
from .plate_and_door import plate_and_door
from .problems import Problem, make_problem, shapley_by_orders
from .switch_off import switch_off_matrix

PLAYOUTS, PLAYOUT_NOISE = 64, 0.5
_TINY = 1e-12


@dataclass(frozen=True)
class StepsProblem:
    """An episode whose C[t, i] is known."""

    family: str
    name: str
    rewards: Float[Tensor, " time"]
    values: Float[Tensor, "coalition moment"]
    matrix: Float[Tensor, "time agent"]
    reference: str

    @property
    def scale(self) -> float:
        """The range of v at the first moment."""
        return float(self.values[:, 0].max() - self.values[:, 0].min()) or 1.0

    def at_the_start(self) -> Problem:
        """The coalition game of the whole episode: its Shapley values are the columns' sums."""
        name = f"{self.name}, reference {self.reference}"
        return make_problem(self.family, name, self.values[:, 0], self.matrix.sum(0), reference=self.reference)


def matrix_by_orders(rewards: Float[Tensor, " time"], values: Float[Tensor, "coalition moment"]) -> Float[Tensor, "time agent"]:
    """C[t, i] by its definition: in every step's game g_t(S) = delta_{empty,t} - delta_{S,t} all orders are played through."""
    step = rewards + values[:, 1:] - values[:, :-1]
    return torch.stack([shapley_by_orders(column[0] - column) for column in step.T])


def steps_problems(seed: int) -> list[StepsProblem]:
    """C1 to C3 under both references, and a delayed chain with weights drawn by the seed."""
    problems = []
    for reference in ("random", "noop"):
        plate = plate_and_door(reference)
        truth = matrix_by_orders(plate.rewards, plate.values)
        problems.append(StepsProblem("C1", "plate and door", plate.rewards, plate.values, truth, reference))
        problems.append(_late("C3", "key and door", key_and_door(reference), reference))
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    weights[:, 3] = 0  # nothing that the last agent does is paid
    hits = torch.rand(5, 4, generator=generator) < 0.7
    chain = delayed_chain(weights, hits, num_actions=3, reference="random")
    return [*problems, _late("C2", "delayed chain, drawn by the seed", chain, "random")]


def _late(family: str, name: str, late: LateCredit, reference: str) -> StepsProblem:
    return StepsProblem(family, name, late.rewards, late.values, late.matrix, reference)


def exact_matrix(problem: StepsProblem, generator: torch.Generator) -> Tensor:
    """The switch-off matrix of the true values."""
    return switch_off_matrix(problem.rewards, problem.values)


def played_matrix(problem: StepsProblem, generator: torch.Generator) -> Tensor:
    """The switch-off matrix of values as playouts give them; after the end every value is known to be 0."""
    noise = torch.randn(problem.values.shape, generator=generator, dtype=torch.float64) * PLAYOUT_NOISE * problem.scale / PLAYOUTS**0.5
    noise[:, -1] = 0
    return switch_off_matrix(problem.rewards, problem.values + noise)


def reward_shared(problem: StepsProblem, generator: torch.Generator) -> Tensor:
    """Each step's reward in equal parts, as a shared reward is often read."""
    n = problem.matrix.shape[1]
    return problem.rewards.unsqueeze(1).expand(-1, n) / n


def spread_evenly(problem: StepsProblem, generator: torch.Generator) -> Tensor:
    """Each agent's true Shapley value in equal parts over the steps."""
    return problem.matrix.mean(0).expand_as(problem.matrix)


StepsEstimate = Callable[[StepsProblem, torch.Generator], Tensor]


def score_steps(
    estimate: StepsEstimate, problems: Sequence[StepsProblem], *, name: str, repetitions: int = 100, seed: int = 0
) -> tuple[Score, ...]:
    """One `Score` a problem, over the T x n entries of C."""
    return tuple(_score_one(estimate, problem, name, repetitions, seed + number) for number, problem in enumerate(problems))


def _score_one(estimate: StepsEstimate, problem: StepsProblem, name: str, repetitions: int, seed: int) -> Score:
    n, entries = problem.matrix.shape[1], problem.matrix.flatten()
    known = Known(
        family=problem.family,
        problem=f"{problem.name}, reference {problem.reference}, steps x agents",
        num_agents=n,
        against="switch_off",
        credit=entries,
        null=entries.abs() <= _TINY * problem.scale,
        alike=torch.arange(len(entries)),
        scale=problem.scale,
    )

    def repeat(repetitions: range) -> Sample:
        found, began = [], time.perf_counter()
        for repetition in repetitions:
            found.append(estimate(problem, torch.Generator().manual_seed(seed * 100_003 + repetition)).flatten())
        seconds = (time.perf_counter() - began) / len(found)
        return Sample(torch.stack(found), None, None, float(problem.values.numel()), seconds)

    sample = repeat(range(repetitions))
    score = score_sample(sample, known, name)
    if score.bias_in_se is not None and score.bias_in_se > SUSPECT:
        score = with_bias(score, confirmed_bias(sample, repeat(range(repetitions, 5 * repetitions)), known))
    return score
