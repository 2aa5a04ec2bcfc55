"""The default team from end to end: trained, evaluated, its credit read, its planted idler found."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cli_findings import credit_text, estimate_document, evaluation_document, evaluation_text, keep
from .cli_lazy import lazy_document, lazy_text
from .cli_output import Screen
from .cli_train import watch

if TYPE_CHECKING:
    from .run import Run

METHODS = ("shapley", "difference")


def demonstrate(screen: Screen, options: dict[str, str], out: Path | None) -> dict[str, Any]:
    """Everything `marl demo` does; what it found, as one JSON document."""
    from .run import configure, start

    resolved = configure(preset="demo", options=options)
    config = resolved.config
    planted = "; ".join(member.replace("=", " always plays ") for member in config.members)
    screen.say(f"demo: {config.task}, {config.algo}, {config.steps:,} env steps. One member is planted: {planted}.")
    run, _ = watch(screen, lambda on_event, stop: start(resolved, out=out, on_event=on_event, stop_signal=stop), emit=False)
    found = inspect(screen, run)
    screen.result(_where(run))
    return found


def inspect(screen: Screen, run: "Run") -> dict[str, Any]:
    """Evaluate, read credit, judge; printed and stored on the way."""
    from .evaluate import evaluate
    from .inspection import measure_credit
    from .laziness import find_lazy

    evaluation = evaluation_document(run, evaluate(run))
    screen.result(f"\n{evaluation_text(evaluation)}\n")
    estimates = []
    for method in METHODS:
        estimates.append(estimate_document(run, method, measure_credit(run, method=method)))
        keep(run, f"{method}-{estimates[-1]['reference']}", estimates[-1])
    screen.result(credit_text(run, estimates) + "\n")
    lazy = lazy_document(run, find_lazy(run))
    keep(run, "lazy", lazy)
    screen.result(lazy_text(run, lazy) + "\n")
    return {**evaluation, "estimates": estimates, "lazy": lazy}


def _where(run: "Run") -> str:
    folder = run.folder
    return "\n".join(
        [
            f"everything lies in {folder}",
            "  config.yaml    every setting, sources.yaml where it came from",
            "  metrics.jsonl  one line per record of training",
            f"  checkpoints/   the newest is {run.checkpoint.name}",
            "  credit/        the figures above as JSON",
            f"next: marl lazy {folder} --margin 0.5, marl resume {folder} --steps +200k, marl train native/spread --algo vdn",
        ]
    )
