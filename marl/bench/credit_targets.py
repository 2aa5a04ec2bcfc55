"""What our estimators must do in `marl bench credit`, and the words for what disqualifies the wrong ones.

Each target is a claim of an `Entry` on a score. Coverage is measured with error: it misses its bounds only beyond three of its standard
errors.
"""

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


def check(entry: Entry | StepsEntry, score: Score, noisy: bool) -> list[Check]:
    """The targets of an entry on one of its scores."""
    found: list[tuple[str, str, float | None, bool]] = []
    unit = score.scale
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
        slack, (least, most) = 3 * score.coverage_se, BOUNDS
        if "covers" in entry.claims and noisy:
            inside = least - slack <= score.coverage <= most + slack
            found.append(("coverage", f"{least:g} to {most:g} (within 3 standard errors)", score.coverage, inside))
        if "covers at least" in entry.claims and noisy or "covers" in entry.claims and score.family == "A5":
            found.append(("coverage", f"at least {least:g} (within 3 standard errors)", score.coverage, score.coverage + slack >= least))
    if entry.name == "Shapley, rings" and score.problem == "airport, 6 agents":
        wanted = f"<= {AIRPORT_RMSE:g} at 1,000 evaluations"
        found.append(("RMSE", wanted, score.rmse_1000, score.rmse_1000 <= AIRPORT_RMSE))
    return [Check(what, entry.name, score.family, score.problem, wanted, value, met) for what, wanted, value, met in found if value is not None]


def disqualified(score: Score) -> str | None:
    """What is wrong with an estimate of the Shapley value, the worst first; None where nothing telling is."""
    faults = []
    total = sum(score.truth)
    if score.null_error is not None and score.null_error >= _TELLING:
        faults.append((score.null_error, f"gives an agent that changes nothing {_of(score.null_error * score.scale, total)}"))
    missing = abs(sum(score.mean) - total) / score.scale
    if missing >= _TELLING and _sure(score):
        faults.append((missing, f"adds up to {_of(sum(score.mean), total)}"))
    off = [abs(mean - truth) for mean, truth in zip(score.mean, score.truth, strict=True)]
    agent = off.index(max(off))
    if off[agent] >= _TELLING * score.scale and _sure(score):
        which = f"agent {agent}" if len(off) == score.num_agents else f"agent {agent % score.num_agents} at step {agent // score.num_agents}"
        faults.append((off[agent] / score.scale, f"gives {which} {number(score.mean[agent])} for {number(score.truth[agent])}"))
    if not faults:
        return None
    words = [text for _, text in sorted(faults, key=lambda fault: -fault[0])]
    if score.spearman is not None and score.spearman < 0.9:
        words.append(f"rank correlation {number(score.spearman)}")
    return "; ".join(words)


def _sure(score: Score) -> bool:
    """The miss is no chance of few repetitions."""
    return score.bias_in_se is None or score.bias_in_se > SUSPECT


def _of(value: float, total: float) -> str:
    return f"{number(value)} where the team earns {number(total)}"


def worst(scores: Sequence[Score]) -> Score | None:
    """The score that disqualifies most: an agent that changes nothing first, then the sum, then the largest miss."""
    telling = [score for score in scores if disqualified(score) is not None]

    def weight(score: Score) -> tuple[float, float]:
        off = max(abs(mean - truth) for mean, truth in zip(score.mean, score.truth, strict=True))
        return (score.null_error or 0.0, max(off, score.sum_error) / score.scale)

    return max(telling, key=weight, default=None)
