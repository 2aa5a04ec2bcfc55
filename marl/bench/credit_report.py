"""`marl bench credit` for people: a line per estimator over all problems, what disqualifies the wrong ones, and the targets."""

import math
from collections.abc import Sequence

from ..cli_output import number, table
from .credit import FAMILIES, CreditBench, Line
from .credit_estimators import ENTRIES, STEPS
from .credit_targets import worst

_TRUTHS = {"shapley": "Shapley", "leave_one_out": "leave-one-out", "banzhaf": "Banzhaf", "switch_off": "agents at steps"}


def to_text(bench: CreditBench) -> str:
    """The whole report."""
    words = "; ".join(f"{letter} {FAMILIES[letter]}" for letter in bench.families)
    parts = [f"seed {bench.seed}, {bench.budget:,} evaluations an estimate; {words}", table(header(bench.families), rows(bench)), LEGEND]
    if wrong := warnings(bench):
        parts.append("What disqualifies them:\n" + "\n".join(wrong))
    return "\n\n".join([*parts, targets(bench)])


LEGEND = """\
rank: mean Spearman correlation with the truth, by family. Errors are shares of the range of v: sum, null (mean credit of agents that
change nothing), alike (gap between agents that are interchangeable) and bias are the worst of all problems, RMSE and cosine the mean;
at 1,000: RMSE scaled to 1,000 evaluations, over problems without bias. held: share of 95% intervals that hold the truth, lowest and
highest over problems with noise in v. calls: values of v asked for, known ones too. Leave-one-out and Banzhaf answer other questions:
beside Shapley they are shown, not judged."""


def header(families: str) -> tuple[str, ...]:
    """The columns."""
    ranks = tuple(f"rank {letter}" for letter in families)
    return ("", "estimator", "against", *ranks, "cosine", "sum", "null", "alike", "bias/SE", "RMSE", "at 1,000", "held", "calls", "ms")


def grouped(bench: CreditBench) -> dict[tuple[str, str, str], list[Line]]:
    """(kind, estimator, truth) -> its lines, in the table's order."""
    groups: dict[tuple[str, str, str], list[Line]] = {}
    for line in bench.lines:
        groups.setdefault((line.kind, line.score.estimator, line.score.against), []).append(line)
    return groups


def rows(bench: CreditBench) -> list[tuple[str, ...]]:
    """One for each estimator and truth."""
    found = []
    own = {entry.name: entry.against[0] for entry in ENTRIES}
    for (kind, estimator, against), lines in grouped(bench).items():
        scores = [line.score for line in lines]
        ranks = [_mean([s.spearman for s in scores if s.family.startswith(letter)]) for letter in bench.families]
        held = [s.coverage for s in scores if s.coverage is not None and s.noisy and against == own.get(estimator, against)]
        found.append(
            (
                "" if kind == "ours" else kind,
                estimator,
                _TRUTHS[against],
                *(_two(rank) for rank in ranks),
                _two(_mean([s.cosine for s in scores])),
                _short(_worst([s.sum_error / s.scale for s in scores])),
                _short(_worst([s.null_error for s in scores])),
                _short(_worst([None if s.symmetry_gap is None else s.symmetry_gap / s.scale for s in scores])),
                _large(_worst([s.bias_in_se for s in scores])),
                _short(_mean([s.rmse / s.scale for s in scores])),
                _short(_mean([None if s.rmse_1000 is None else s.rmse_1000 / s.scale for s in scores])),
                f"{min(held):.2f} to {max(held):.2f}" if held else "-",
                number(_mean([s.evaluations for s in scores])),
                number(1000 * sum(s.seconds for s in scores) / len(scores)),
            )
        )
    return found


def warnings(bench: CreditBench) -> list[str]:
    """A line for each estimator that is known to be wrong (and yours, if it is), with the score that says so."""
    notes = {entry.name: entry.note for entry in (*ENTRIES, *STEPS)}
    told = []
    for (kind, estimator, _), lines in grouped(bench).items():
        if kind == "ours":
            continue
        telling = worst([line.score for line in lines if line.disqualified])
        if telling is None:
            told += [f"  {estimator}: nothing in these families"] if kind == "warning" else []
            continue
        words = next(line.disqualified for line in lines if line.score is telling)
        note = f" ({notes[estimator]})" if estimator in notes else ""
        failed = sum(line.disqualified is not None for line in lines)
        told.append(f"  {estimator}{note}: {words}; on {telling.family} {telling.problem}. Wrong on {failed} of {len(lines)} problems.")
    return told


def targets(bench: CreditBench) -> str:
    """How many were met, and each that was not."""
    missed = [check for check in bench.checks if not check.met]
    lines = [f"targets met: {len(bench.checks) - len(missed)} of {len(bench.checks)}"]
    lines += [
        f"  missed: {check.estimator} on {check.family} ({check.problem}): {check.what} {number(check.found)}, wanted {check.wanted}"
        for check in missed
    ]
    return "\n".join(lines)


def _present(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float | None]) -> float | None:
    found = _present(values)
    return sum(found) / len(found) if found else None


def _worst(values: Sequence[float | None]) -> float | None:
    return max(_present(values), default=None)


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _short(value: float | None) -> str:
    """Rounding errors are 0."""
    if value is None:
        return "-"
    return "0" if value < 1e-9 else f"{value:.3f}" if value >= 0.0005 else f"{value:.0e}"


def _large(value: float | None) -> str:
    if value is None:
        return "-"
    return "always" if math.isinf(value) else f"{value:.1f}" if value < 1000 else ">1000"
