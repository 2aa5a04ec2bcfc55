"""What our estimators must do in `marl bench credit`, and the words for what disqualifies the wrong ones.

Each target is a claim of an `Entry` on a score. Coverage is measured with error: it misses its bounds only beyond three of its standard
errors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...credit.benchmark import SUSPECT, Score
from ..cli_output import number
from .credit_estimators import Entry, StepsEntry

EXACT = 1e-9
BOUNDS = (0.93, 0.97)
AIRPORT_RMSE = 0.065
"""Of rings, airport with six agents, at 1,000 evaluations."""
_TELLING = 0.01
"""Of the range of v: an error that disqualifies is at least so large."""


@dataclass(frozen=True)
class Check:
    """A target."""

    what: str
    estimator: str
    family: str
    problem: str
    wanted: str
    found: float
    met: bool

    def document(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return dict(vars(self))


def check(entry: Entry | StepsEntry, score: Score) -> list[Check]:
    """The targets of an entry on one of its scores."""
    found: list[tuple[str, str, float | None, bool]] = []
    unit, noisy = score.scale, score.noisy
    share = score.error / unit
    if "exact" in entry.claims and not noisy:
        found.append(("error", f"<= {EXACT:g} of the range of v", share, share <= EXACT))
        if score.null_rate is not None:
            found.append(("credit of agents that change nothing", "0", score.null_error, score.null_error == 0))
    if "null" in entry.claims and not noisy and score.null_error is not None:
        found.append(("credit of agents that change nothing", "0", score.null_error, score.null_error == 0))
    if "efficient" in entry.claims and not noisy:
        found.append(("sum error", f"<= {EXACT:g} of the range of v", score.sum_error / unit, score.sum_error <= EXACT * unit))
    if "unbiased" in entry.claims and score.bias_in_se is not None:
        found.append(("bias", f"< {SUSPECT:g} standard errors", score.bias_in_se, score.bias_in_se <= SUSPECT))
    if score.coverage is not None and score.coverage_se is not None:
        least_error = math.sqrt(0.95 * 0.05 / (score.repetitions * score.num_agents))  # few repetitions may all hold, and know no error
        slack, (least, most) = 3 * max(score.coverage_se, least_error), BOUNDS
        if "covers" in entry.claims and noisy:
            inside = least - slack <= score.coverage <= most + slack
            found.append(("coverage", f"{least:g} to {most:g} (within 3 standard errors)", score.coverage, inside))
        if ("covers at least" in entry.claims and noisy) or ("covers" in entry.claims and score.family == "A5"):
            found.append(("coverage", f"at least {least:g} (within 3 standard errors)", score.coverage, score.coverage + slack >= least))
    elif noisy and {"covers", "covers at least"} & {*entry.claims}:
        found.append(("coverage", "intervals", 0.0, False))
    if entry.name == "Shapley, rings" and score.problem == "airport, 6 agents" and score.rmse_1000 is not None:
        wanted = f"<= {AIRPORT_RMSE:g} at 1,000 evaluations"
        found.append(("RMSE", wanted, score.rmse_1000, score.rmse_1000 <= AIRPORT_RMSE))
    return [
        Check(what, entry.name, score.family, score.problem, wanted, value, met) for what, wanted, value, met in found if value is not None
    ]


def disqualified(score: Score) -> str | None:
    """What is wrong with an estimate of the Shapley value (or of C[t, i]), the worst first; None where nothing telling is.

    A fault is at least a hundredth of the range of v and three standard errors.
    """
    faults = [(size, words) for size, words in (_gift(score), _sum(score), _miss(score)) if size >= _TELLING]
    if not faults:
        return None
    words = [text for _, text in sorted(faults, key=lambda fault: -fault[0])]
    if score.spearman is not None and score.spearman < 0.9:
        words.append(f"rank correlation {number(score.spearman)}")
    return "; ".join(words)


def _errors(score: Score) -> tuple[float, ...]:
    """Three standard errors of each entry's mean; 0 where there was one repetition (nothing was drawn)."""
    return tuple(SUSPECT * error for error in score.standard_error or (0.0,) * len(score.mean))


def _gift(score: Score) -> tuple[float, str]:
    """Credit of an entry whose truth is 0 because nothing depends on it."""
    if score.null_error is None:
        return 0.0, ""
    found = [
        abs(mean) for mean, truth, error in zip(score.mean, score.truth, _errors(score), strict=True) if truth == 0 and abs(mean) > error
    ]
    gift = min(max(found, default=0.0), score.null_error * score.scale)
    return gift / score.scale, f"gives an agent that changes nothing {_of(gift, score)}"


def _sum(score: Score) -> tuple[float, str]:
    missing = abs(sum(score.mean) - sum(score.truth))
    return (missing / score.scale if missing > sum(_errors(score)) else 0.0), f"adds up to {_of(sum(score.mean), score)}"


def _miss(score: Score) -> tuple[float, str]:
    """The largest miss of an entry that does earn something."""
    off = [
        abs(mean - truth) if truth != 0 and abs(mean - truth) > error else 0.0
        for mean, truth, error in zip(score.mean, score.truth, _errors(score), strict=True)
    ]
    worst_off = off.index(max(off))
    step, agent = divmod(worst_off, score.num_agents)
    which = f"agent {agent}" + (f" at step {step}" if len(off) > score.num_agents else "")
    given, due = (_number(values[worst_off], score) for values in (score.mean, score.truth))
    return off[worst_off] / score.scale, f"gives {which} {given} for {due}"


def _of(value: float, score: Score) -> str:
    return f"{_number(value, score)} where the team earns {_number(sum(score.truth), score)}"


def _number(value: float, score: Score) -> str:
    """Rounding errors are 0."""
    return number(0.0 if abs(value) <= EXACT * score.scale else value)


def worst(scores: Sequence[Score]) -> Score | None:
    """The score that disqualifies most: agents that change nothing first, games that never change before drawn ones, then by size."""

    def weight(score: Score) -> tuple[bool, bool, float]:
        return _gift(score)[0] >= _TELLING, "drawn" not in score.problem, max(_sum(score)[0], _miss(score)[0])

    return max((score for score in scores if disqualified(score) is not None), key=weight, default=None)
