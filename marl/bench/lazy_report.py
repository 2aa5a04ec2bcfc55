"""`marl bench lazy` for people: our detector by family, the baselines beside it, stress, drift, and the targets."""

from collections.abc import Sequence

from ..cli_output import number, table
from .lazy import OURS, LazyBench, Line
from .lazy_drift import Drift
from .lazy_stress import Stress
from .planted import FAMILIES
from .planted_score import SPECIAL


def to_text(bench: LazyBench) -> str:
    """The whole report."""
    words = "; ".join(f"{name}: {FAMILIES[name]}" for name in bench.families)
    parts = [f"seed {bench.seed}; {words}"] if bench.families else []
    for margin in bench.margins:
        lines = [line for line in bench.lines if line.margin == margin]
        if lines:
            ours, others = ([line for line in lines if (line.name == OURS) is own] for own in (True, False))
            parts.append(f"margin {margin:g} of an equal share\n" + table(_OURS, [own_row(line) for line in ours]))
            parts.append(
                "baselines, all families they can be asked on\n"
                + table(_OTHERS, [other_row(line) for line in others if line.family == "all"])
            )
    if bench.lines:
        parts.append(LEGEND)
    if bench.stress:
        parts.append("rare events that decide; a look after every pair\n" + table(_STRESS, [stress_row(row) for row in bench.stress]))
    if bench.drift:
        parts.append("drift: an agent turns into one that does nothing\n" + table(_DRIFT, [drift_row(row) for row in bench.drift]))
    return "\n\n".join([*parts, targets(bench)])


LEGEND = """\
false lazy: members called lazy of those that must not be (effect above twice the margin, guards, dummies, redundant, not needed); recall:
of the truly lazy, within 512 pairs; above: called lazy with a true effect above the margin; x floor: pairs to a true lazy verdict over the
fewest possible; attainable: the recall of a test that knew each standard deviation and looked once, at 512 pairs; AUC at 16 pairs, again:
over 32 draws of 16 pairs, within tasks: comparing members of one family only, of means: by the plain mean of the same pairs; cannot tell:
undecided, of the lazy and the negative. A baseline's false-lazy rate is at its pairs."""
_OURS = ("family", "teams", "lazy", "recall", "attainable", "precision", "false lazy", "rate", "above", "AUC", "AUC again",
         "within tasks", "AUC of means", "cannot tell", "harmful", "pairs", "x floor", *SPECIAL, "near", "steps a verdict")  # fmt: skip
_OTHERS = ("baseline", "pairs", "lazy", "recall", "precision", "false lazy", "rate", "above", "AUC", "negative", *SPECIAL)
_STRESS = ("agent", "margin/range", "simulations", "looks", "called lazy", "95%", "median pairs", "floor", "t, any look", "t, 64 pairs")
_DRIFT = ("task", "trials", "found", "median delay", "longest", "false alarms", "overhead")


def own_row(line: Line) -> tuple[str, ...]:
    """Our detector in a family."""
    own = line.rates
    harmful = f"{_percent(own.harmful_found)} of {own.harmful}" if own.harmful else "-"
    return (
        line.family,
        str(own.teams),
        str(own.lazy),
        _percent(own.recall),
        _percent(own.attainable),
        _percent(own.precision),
        f"{own.false_lazy} of {own.innocent}",
        _percent(own.false_lazy_rate),
        str(own.wrong_below),
        _three(own.auc),
        _three(own.auc_again),
        _three(own.auc_within),
        _three(own.auc_of_means),
        _percent(own.cannot_tell),
        harmful,
        number(own.median_pairs),
        number(own.over_floor),
        *(_called(line, role) for role in (*SPECIAL, "near")),
        number(own.env_steps_per_verdict),
    )


def other_row(line: Line) -> tuple[str, ...]:
    """A baseline over all families."""
    own = line.rates
    return (
        line.name,
        "-" if line.pairs is None else str(line.pairs),
        str(own.lazy),
        _percent(own.recall),
        _percent(own.precision),
        f"{own.false_lazy} of {own.innocent}",
        _percent(own.false_lazy_rate),
        str(own.wrong_below),
        _three(own.auc),
        *(_called(line, role) for role in ("negative", *SPECIAL)),
    )


def stress_row(row: Stress) -> tuple[str, ...]:
    """Boundary or power."""
    agent = f"D = 1 with p = {row.p:g}: not lazy" if row.kind == "boundary" else f"D {row.kind}: lazy"
    return (
        agent,
        f"{row.delta:g}",
        f"{row.simulations:,}",
        f"{row.looks:,}",
        f"{row.lazy:.4f}",
        f"{row.low:.4f} to {row.high:.4f}" if row.simulations > 1 else "exact",
        number(row.median_pairs),
        str(row.floor),
        f"{row.t_any_look:.3f}",
        f"{row.t_once:.3f}",
    )


def drift_row(row: Drift) -> tuple[str, ...]:
    """A task's."""
    longest = "-" if row.longest_delay is None else str(row.longest_delay)
    return (
        row.task,
        str(row.trials),
        str(row.found),
        number(row.median_delay),
        longest,
        str(row.false_alarms),
        _percent(row.overhead),
    )


def targets(bench: LazyBench) -> str:
    """How many were met, and each that was not."""
    missed = [check for check in bench.checks if not check.met]
    lines = [f"targets met: {len(bench.checks) - len(missed)} of {len(bench.checks)}"]
    for check in missed:
        at = "" if check.margin is None else f" at margin {check.margin:g}"
        lines.append(f"  missed: {check.what}{at}: {number(check.found)}, wanted {check.wanted}")
    return "\n".join(lines)


def to_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows))


def markdown(bench: LazyBench) -> str:
    """The tables for docs/bench_lazy.md."""
    parts = []
    for margin in bench.margins:
        lines = [line for line in bench.lines if line.margin == margin]
        ours, others = ([line for line in lines if (line.name == OURS) is own] for own in (True, False))
        parts.append(f"Margin {margin:g}:\n\n" + to_markdown(_OURS, [own_row(line) for line in ours]))
        parts.append(to_markdown(_OTHERS, [other_row(line) for line in others if line.family == "all"]))
    if bench.stress:
        parts.append(to_markdown(_STRESS, [stress_row(row) for row in bench.stress]))
    if bench.drift:
        parts.append(to_markdown(_DRIFT, [drift_row(row) for row in bench.drift]))
    return "\n\n".join(parts)


def _called(line: Line, row: str) -> str:
    if row not in line.rates.rows:
        return "-"
    members, called = line.rates.rows[row]
    return f"{called} of {members}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%" if 0 < value < 1 else f"{100 * value:.0f}%"


def _three(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
