"""`marl bench credit`: estimators of agents' credit on problems whose credit is known, ours, the wrong ones, and the user's.

Families: A coalition games, B matrix games, C tasks with late rewards (also agents at steps), D foraging teams with planted members,
whose coalitions were all played. The same seed gives the same figures (but for the seconds), another seed other games.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...credit.benchmark import Estimate, Score, score_estimator
from ...credit.benchmark_steps import StepsProblem, score_steps, steps_problems
from ...credit.estimators import least_budget
from ...credit.problems import Problem, coalition_problems, noisy_problems
from ...envs.errors import UnknownTask, UnsupportedTask
from ...envs.own import load_function
from ..errors import ConfigError, suggest
from .credit_estimators import ENTRIES, STEPS, Entry, yours
from .credit_foraging import foraging_problems
from .credit_matrix import matrix_problems
from .credit_targets import Check, check, disqualified

FAMILIES: dict[str, str] = {
    "A": "coalition games with closed forms",
    "B": "matrix games",
    "C": "late rewards: plate and door, delayed chain, key and door; also agents at steps",
    "D": "foraging teams with planted members, all coalitions played",
}
"""What `--families` takes."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    budget: int
    """Values of v that an estimate may ask for."""
    drawn: int
    """Games of each family that the seed draws."""
    repetitions: int
    noisy_repetitions: int
    """Where v is noisy: it is the coverage that needs them."""
    slow_repetitions: int
    """Of fitted mixers, which are shown on games that are not drawn."""
    slow_families: str
    """Those on which they are shown."""
    episodes: int
    """In the pool of a foraging team."""


FULL = Sizes(budget=1000, drawn=2, repetitions=16, noisy_repetitions=150, slow_repetitions=2, slow_families="ABCD", episodes=2000)
QUICK = Sizes(budget=300, drawn=1, repetitions=6, noisy_repetitions=30, slow_repetitions=1, slow_families="A", episodes=200)


@dataclass(frozen=True)
class Line:
    """An estimator's score on a problem, and what is to be said of it."""

    kind: str
    score: Score
    disqualified: str | None

    def document(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {"kind": self.kind, **self.score.document(), "disqualified": self.disqualified}


@dataclass(frozen=True)
class CreditBench:
    """All of it."""

    seed: int
    budget: int
    families: str
    lines: tuple[Line, ...]
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether all of our estimators met all of their targets."""
        return all(check.met for check in self.checks)

    def document(self) -> dict[str, Any]:
        """As `--json` prints it (the schema's number is added there)."""
        return {
            "seed": self.seed,
            "budget": self.budget,
            "families": self.families,
            "ok": self.ok,
            "estimators": [line.document() for line in self.lines],
            "checks": [check.document() for check in self.checks],
        }


def bench_credit(
    estimate: "Estimate | str | None" = None,
    *,
    name: str = "",
    families: str = "ABCD",
    quick: bool = False,
    seed: int = 0,
    budget: int | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> CreditBench:
    """Scores of our estimators, of the known wrong ones, and of `estimate`, which `credit/benchmark.py` says how to write.

    Args:
        estimate: (game, num_agents, budget, seed) -> one value per agent, or a Credit with its intervals; or module:function.
        name: how it is called in the table; default: its own name.
        families: of A, B, C, D.
        quick: smaller, on other games if `seed` is another one.
        seed: of drawn games, planted teams, noise and estimators.
        budget: values of v that one estimate may ask for; default: 1,000, quick 300.
        on_progress: is told what comes next.
    """
    sizes = QUICK if quick else FULL
    sizes = sizes if budget is None else replace(sizes, budget=budget)
    wanted = parse_families(families)
    own = () if estimate is None else (_of_user(estimate, name),)
    say = on_progress or (lambda text: None)
    exact_problems, noisy, steps = _problems(wanted, sizes, seed, say)
    _refuse_small(sizes.budget, [*exact_problems, *noisy])
    lines, checks = [], []
    for entry in (*ENTRIES, *own):
        say(f"measuring  {entry.name}")
        for score in _scores(entry, exact_problems, noisy, sizes, seed):
            lines.append(_line(entry.kind, score))
            if entry.kind == "ours" and score.against == entry.against[0]:
                checks += check(entry, score)
    for entry in STEPS if steps else ():
        say(f"measuring  {entry.name}")
        repetitions = sizes.repetitions if entry.draws else 1
        for score in score_steps(entry.estimate, steps, name=entry.name, repetitions=repetitions, seed=seed):
            lines.append(_line(entry.kind, score))
            checks += check(entry, score) if entry.kind == "ours" else []
    checks += _warnings_seen(lines, wanted)
    return CreditBench(seed=seed, budget=sizes.budget, families=wanted, lines=tuple(lines), checks=tuple(checks))


def parse_families(text: str) -> str:
    """ "A,C" or "AC" as "AC"; ConfigError for a family that is not there."""
    parts = text.replace(",", " ").split()
    chosen = [letter for part in parts for letter in (part if set(part) <= {*FAMILIES} else [part])]
    for family in chosen:
        if family not in FAMILIES:
            close = suggest(family[:1].upper(), FAMILIES) if family else ""
            listed = ", ".join(f"{letter} ({words})" for letter, words in FAMILIES.items())
            raise ConfigError(
                f'--families: no family "{family}".{close} There are: {listed}', remedy="write --families A,B,C,D or some of them"
            )
    if not chosen:
        raise ConfigError("--families names none", remedy="write --families A,B,C,D or some of them")
    return "".join(letter for letter in FAMILIES if letter in chosen)


def load_estimator(text: str) -> Estimate:
    """What module:function names; ConfigError where there is no such function."""
    try:
        return load_function(text)
    except UnknownTask as error:
        raise ConfigError(
            f"--estimator: {error}", remedy="write --estimator module:function, a module that can be imported here"
        ) from error
    except UnsupportedTask as error:
        message = f"--estimator: {text} is no function"
        raise ConfigError(message, remedy="name a function (game, num_agents, budget, seed) -> one value per agent") from error


def _of_user(estimate: "Estimate | str", name: str) -> Entry:
    function = load_estimator(estimate) if isinstance(estimate, str) else estimate
    return yours(name or (estimate if isinstance(estimate, str) else getattr(estimate, "__name__", "yours")), function)


def _problems(
    families: str, sizes: Sizes, seed: int, say: Callable[[str], None]
) -> tuple[list[Problem], list[Problem], list[StepsProblem]]:
    """(without noise, with noise, agents at steps)"""
    exact: list[Problem] = []
    noisy: list[Problem] = []
    steps: list[StepsProblem] = []
    if "A" in families:
        exact += coalition_problems(seed, sizes.drawn)
        noisy += noisy_problems(seed)
    if "B" in families:
        exact += matrix_problems(seed, sizes.drawn)
    if "C" in families:
        steps = steps_problems(seed)
        exact += [problem.at_the_start() for problem in steps]
    if "D" in families:
        say("playing    foraging teams, all coalitions")
        noisy += foraging_problems(seed, sizes.episodes)
    return exact, noisy, steps


def _refuse_small(budget: int, problems: Sequence[Problem]) -> None:
    least, hungriest = max((least_budget(problem), problem.name) for problem in problems)
    if budget < least:
        raise ConfigError(
            f"--budget {budget} is too small: two draws of every way to sample {hungriest} need {least}", remedy=f"--budget {least}"
        )


def _scores(entry: Entry, exact: Sequence[Problem], noisy: Sequence[Problem], sizes: Sizes, seed: int) -> Iterator[Score]:
    """On every problem and against every truth."""
    if entry.slow:
        exact = [problem for problem in exact if "drawn" not in problem.name and problem.family[0] in sizes.slow_families]
        noisy = [problem for problem in noisy if problem.family[0] in sizes.slow_families]
    # Games with noise of ours are for intervals; on played episodes everyone is shown.
    noisy = [problem for problem in noisy if entry.intervals or problem.pool is not None]
    for problems, is_noisy in ((exact, False), (noisy, True)):
        repetitions = sizes.noisy_repetitions if is_noisy and entry.intervals else sizes.repetitions
        repetitions = sizes.slow_repetitions if entry.slow else repetitions if is_noisy or entry.draws else 1
        for against in entry.against:
            yield from score_estimator(
                entry.estimate, problems, name=entry.name, against=against, budget=sizes.budget, repetitions=repetitions, seed=seed,
                look_again=entry.kind == "yours" or (entry.kind == "ours" and against == entry.against[0]),
            )  # fmt: skip


def _line(kind: str, score: Score) -> Line:
    judged = score.against in ("shapley", "switch_off")
    return Line(kind, score, disqualified(score) if judged and kind != "ours" else None)


def _warnings_seen(lines: Sequence[Line], families: str) -> list[Check]:
    """A suite that could not tell a wrong estimator would be worth nothing: each must fail somewhere in A (C for agents at steps)."""
    seen: dict[tuple[str, str], int] = {}
    for line in lines:
        if line.kind == "warning":
            where = "C" if line.score.against == "switch_off" else "A"
            found = seen.setdefault((line.score.estimator, where), 0)
            seen[line.score.estimator, where] = found + (line.disqualified is not None and line.score.family.startswith(where))
    return [
        Check("disqualified", estimator, where, "all", "on at least 1 problem", float(count), count > 0)
        for (estimator, where), count in seen.items()
        if where in families
    ]
