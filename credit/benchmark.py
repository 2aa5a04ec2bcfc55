"""Any library's credit estimator, scored where the truth is known. One function is to be written:

    def my_estimator(game, num_agents, budget, seed):
        everyone = torch.ones(num_agents, num_agents, dtype=torch.bool)
        without = everyone & ~torch.eye(num_agents, dtype=torch.bool)   # row i: everyone but agent i
        return game(everyone) - game(without)                           # one value per agent

    score_estimator(my_estimator, coalition_problems(seed=0))

`game(coalitions)` takes bool rows (m, n), as a tensor, an array or lists, and gives (m,) values. Every row costs one evaluation, also one
that was asked before; `budget` is how many there are. Where the game is noisy every row is a new episode; estimators that compare
coalitions on the same episode ask `game.play(coalitions, episodes)` for (m, e) values. One with intervals returns a `Credit`, or
anything with `value`, `low` and `high`.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .problems import Problem
from .scores import cosine, coverage, kendall, rmse, spearman, sum_error
from .trial import Trial

Estimate = Callable[[Any, int, int, int], Any]
"""(game, num_agents, budget, seed) -> one value per agent, or a Credit."""
Truth = Literal["shapley", "leave_one_out", "banzhaf"]
_ROUND = 1e-9  # of the problem's scale: what differs by less has the same rank
_TINY = 1e-12
SUSPECT = 3.0
"""Standard errors of bias beyond which an estimator is looked at again."""


@dataclass(frozen=True)
class Score:
    """How an estimator did on a problem; None where there is nothing to score (see each)."""

    estimator: str
    family: str
    problem: str
    num_agents: int
    against: str
    """Which truth: shapley, leave_one_out, banzhaf."""
    spearman: float | None
    """Mean rank correlation over repetitions; 0 where the estimate ranks all agents alike; None where the truth does."""
    kendall: float | None
    """The same by pairs (tau-b)."""
    cosine: float | None
    """Mean; 0 for an estimate of nothing but zeros, None for such a truth."""
    sum_error: float
    """Mean |sum of the credit - sum of the truth|."""
    null_error: float | None
    """Largest mean |credit| of an agent that changes nothing, in shares of `scale`; None without such an agent."""
    null_rate: float | None
    """Share of (repetition, such agent) with credit beyond 1e-9 of `scale`."""
    symmetry_gap: float | None
    """Largest difference between the mean credits of agents that are alike; None without such agents."""
    rmse: float
    """Over agents and repetitions, in the unit of v."""
    rmse_1000: float | None
    """rmse sqrt(evaluations / 1000), what 1,000 evaluations bring; None where bias was found, which more of them would not mend."""
    error: float
    """Largest |credit - truth| of all agents and repetitions."""
    bias: float
    """Largest |mean credit - truth|."""
    bias_in_se: float | None
    """The same in standard errors of that mean; infinite where all repetitions miss alike, None for one repetition."""
    coverage: float | None
    """Share of intervals that hold the truth; None without intervals."""
    coverage_se: float | None
    """Its standard error (the agents of a repetition count as one)."""
    width: float | None
    """Mean width of the intervals."""
    evaluations: float
    """Values asked for, known ones too; mean over repetitions."""
    seconds: float
    """Per estimate."""
    repetitions: int
    scale: float
    """The range of v."""
    noisy: bool
    """Whether v had noise."""
    mean: tuple[float, ...]
    """The mean estimate."""
    standard_error: tuple[float, ...] | None
    """Of that mean; None for one repetition."""
    truth: tuple[float, ...]

    def document(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {"name": self.estimator, **{key: value for key, value in vars(self).items() if key != "estimator"}}


@dataclass(frozen=True)
class Known:
    """What an estimate is compared with. Entries are agents, or agents at steps."""

    family: str
    problem: str
    num_agents: int
    against: str
    credit: Float[Tensor, " entry"]
    null: Bool[Tensor, " entry"]
    alike: Int[Tensor, " entry"]
    scale: float
    noisy: bool = False


@dataclass(frozen=True)
class Sample:
    """What the repetitions gave."""

    values: Float[Tensor, "repetition entry"]
    low: Float[Tensor, "repetition entry"] | None
    high: Float[Tensor, "repetition entry"] | None
    evaluations: float
    seconds: float


def score_estimator(
    estimate: Estimate,
    problems: Sequence[Problem],
    *,
    name: str = "estimator",
    against: Truth = "shapley",
    budget: int = 1000,
    repetitions: int = 100,
    seed: int = 0,
    look_again: bool = True,
) -> tuple[Score, ...]:
    """One `Score` for each problem.

    Args:
        estimate: (game, num_agents, budget, seed) -> n values, or a Credit; the file's first lines have an example.
        problems: of problems.py, or of your own (`make_problem`).
        name: for messages and tables.
        against: the truth to be compared with.
        budget: values of v that one estimate may ask for.
        repetitions: estimates per problem, each with a seed of its own.
        seed: of all of them; the same seed gives the same scores (but for the seconds).
        look_again: an agent's bias beyond 3 standard errors is measured again on fresh seeds with four times the repetitions, and that
            counts: among hundreds of agents and problems some are beyond 3 by chance, but hardly twice.

    Raises:
        ValueError: the estimator returns another shape, NaN, or asks for more than its budget: named with the problem.
    """
    if budget < 2:
        raise ValueError(f"budget is {budget}; an estimator needs at least 2 values of v")
    if repetitions < 1:
        raise ValueError(f"repetitions is {repetitions}; at least 1 is needed")
    scores = []
    for number, problem in enumerate(problems):
        known = Known(
            family=problem.family,
            problem=problem.name,
            num_agents=problem.num_agents,
            against=against,
            credit=getattr(problem, against),
            null=problem.null,
            alike=problem.alike,
            scale=problem.scale,
            noisy=problem.is_noisy,
        )
        sample = _repeat(estimate, problem, name, budget, range(repetitions), seed + number)
        score = score_sample(sample, known, name)
        if look_again and score.bias_in_se is not None and score.bias_in_se > SUSPECT:
            fresh = _repeat(estimate, problem, name, budget, range(repetitions, 5 * repetitions), seed + number)
            score = with_bias(score, confirmed_bias(sample, fresh, known))
        scores.append(score)
    return tuple(scores)


def _repeat(estimate: Estimate, problem: Problem, name: str, budget: int, repetitions: range, seed: int) -> Sample:
    found, ends, asked, seconds = [], [], 0, 0.0
    where = f'estimator "{name}" on {problem.family} ({problem.name})'
    for repetition in repetitions:
        own_seed = seed * 100_003 + repetition
        trial = Trial(problem, budget, own_seed, asked_by=where)
        began = time.perf_counter()
        result = estimate(trial, problem.num_agents, budget, own_seed)
        seconds += time.perf_counter() - began
        asked += trial.evaluations
        found.append(_vector(getattr(result, "value", result), problem.num_agents, where))
        low, high = getattr(result, "low", None), getattr(result, "high", None)
        if low is not None and high is not None:
            ends.append(torch.stack([_vector(low, problem.num_agents, where), _vector(high, problem.num_agents, where)]))
    low, high = torch.stack(ends, 1) if len(ends) == len(found) else (None, None)
    return Sample(torch.stack(found), low, high, asked / len(found), seconds / len(found))


def _vector(values: Any, num_agents: int, where: str) -> Float[Tensor, " agent"]:
    try:
        vector = torch.as_tensor(values).detach().to(torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        message = f"{where} returned a {type(values).__name__}; expected one number for each of {num_agents} agents, or a Credit"
        raise ValueError(message) from error
    if tuple(vector.shape) != (num_agents,):
        raise ValueError(f"{where} returned shape {tuple(vector.shape)}; expected ({num_agents},): one value for each agent")
    if not bool(vector.isfinite().all()):
        raise ValueError(f"{where} returned NaN or infinity: {[round(value, 4) for value in vector.tolist()]}; credit is a finite number")
    return vector


def score_sample(sample: Sample, known: Known, name: str) -> Score:
    """All scores of what the repetitions gave."""
    truth, values, scale = known.credit, sample.values, known.scale
    mean, off = values.mean(0), values - truth
    alike = [mean[known.alike == number] for number in known.alike.unique().tolist()]
    gaps = [float(group.max() - group.min()) for group in alike if len(group) > 1]
    idle = values[:, known.null].abs() / scale
    held = None if sample.low is None or sample.high is None else _held(sample.low, sample.high, truth)
    score = Score(
        estimator=name,
        family=known.family,
        problem=known.problem,
        num_agents=known.num_agents,
        against=known.against,
        spearman=_mean_correlation(spearman, values, truth, _ROUND * scale),
        kendall=_mean_correlation(kendall, values, truth, _ROUND * scale),
        cosine=_mean_correlation(cosine, values, truth, 0.0),
        sum_error=sum(sum_error(row, float(truth.sum())) for row in values) / len(values),
        null_error=float((mean[known.null].abs() / scale).max()) if idle.numel() else None,
        null_rate=float((idle > _ROUND).double().mean()) if idle.numel() else None,
        symmetry_gap=max(gaps) if gaps else None,
        rmse=rmse(values, truth),
        rmse_1000=None,
        error=float(off.abs().max()),
        bias=float(off.mean(0).abs().max()),
        bias_in_se=None,
        coverage=None if held is None else float(held.mean()),
        coverage_se=None if held is None or len(held) < 2 else float(held.std()) / math.sqrt(len(held)),
        width=None if sample.low is None or sample.high is None else float((sample.high - sample.low).mean()),
        evaluations=sample.evaluations,
        seconds=sample.seconds,
        repetitions=len(values),
        scale=scale,
        noisy=known.noisy,
        mean=tuple(mean.tolist()),
        standard_error=tuple((values.std(0) / math.sqrt(len(values))).tolist()) if len(values) > 1 else None,
        truth=tuple(truth.tolist()),
    )
    return with_bias(score, float(_bias_in_errors(off, scale).abs().max()) if len(off) > 1 else None)


def with_bias(score: Score, bias_in_se: float | None) -> Score:
    """The score with this bias, and with what 1,000 evaluations bring where there is none."""
    biased = score.error > _ROUND * score.scale if bias_in_se is None else bias_in_se > SUSPECT
    expected = None if biased else score.rmse * math.sqrt(score.evaluations / 1000)
    return replace(score, bias_in_se=bias_in_se, rmse_1000=expected)


def _held(low: Tensor, high: Tensor, truth: Tensor) -> Float[Tensor, " repetition"]:
    """The share of each repetition's intervals that hold the truth."""
    return torch.tensor([coverage(a, b, truth) for a, b in zip(low, high, strict=True)], dtype=torch.float64)


def _bias_in_errors(off: Float[Tensor, "repetition entry"], scale: float) -> Float[Tensor, " entry"]:
    """Mean deviation in standard errors, signed; infinite where every repetition misses by the same."""
    bias, error = off.mean(0), off.std(0) / math.sqrt(len(off))
    bias = torch.where(bias.abs() <= _ROUND * scale, 0.0, bias)
    error = torch.where(error <= _TINY * scale, 0.0, error)
    return torch.where(bias == 0, 0.0, bias / error)


def confirmed_bias(first: Sample, fresh: Sample, known: Known) -> float:
    """The largest deviation in standard errors; of entries beyond `SUSPECT` what the fresh ones say, 0 where they say the opposite."""
    before, after = (_bias_in_errors(sample.values - known.credit, known.scale) for sample in (first, fresh))
    confirmed = torch.where(before.sign() == after.sign(), after.abs(), 0.0)
    return float(torch.where(before.abs() > SUSPECT, confirmed, before.abs()).max())


def _mean_correlation(measure: Callable[[Tensor, Tensor], float], values: Tensor, truth: Tensor, step: float) -> float | None:
    """Averaged over repetitions; values that differ by less than `step` are equal. None where the truth has no order or direction."""
    rounded, exact = ((values / step).round(), (truth / step).round()) if step else (values, truth)
    if math.isnan(measure(exact, exact)):
        return None
    found = [measure(row, exact) for row in rounded]
    return sum(0.0 if math.isnan(value) else min(1.0, max(-1.0, value)) for value in found) / len(found)
