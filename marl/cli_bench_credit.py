"""`marl bench credit`: credit estimators where the truth is known."""

from pathlib import Path

from .cli_errors import NO, OK
from .cli_options import NO_COMMON, CommonOptions, Output


def credit(
    *,
    quick: bool = False,
    seed: int = 0,
    families: str = "A,B,C,D",
    estimator: str | None = None,
    budget: int | None = None,
    check: bool = False,
    out: Path | None = None,
    common: CommonOptions = NO_COMMON,
    screen: Output,
) -> int:
    """Score credit estimators where the true credit is known: ours, those known to be wrong, and yours.

    Families: A coalition games, B matrix games, C late rewards (also agents at steps), D foraging teams with planted members.
    Yours is a function (game, num_agents, budget, seed) that gives one value per agent; docs/bench_credit.md has an example.

    Parameters
    ----------
    quick
        Smaller, under a minute; with another --seed on other games.
    seed
        Of the drawn games, planted teams, noise and estimators; the same seed gives the same figures.
    families
        Some of A,B,C,D.
    estimator
        module:function of your own, to stand in the table.
    budget
        Coalition values that one estimate may ask for. Default: 1,000, quick 300.
    check
        Exit with 1 when one of our estimators misses a target.
    out
        A file that takes the JSON document too.
    """
    from .cli_train import set_threads

    set_threads(common.threads)
    from .bench.credit import bench_credit
    from .bench.credit_report import to_text
    from .cli_output import to_json
    from .errors import ConfigError

    if out is not None and not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}")
    found = bench_credit(estimator, families=families, quick=quick, seed=seed, budget=budget, on_progress=screen.say)
    document = found.document()
    if out is not None:
        out.write_text(to_json(document) + "\n")
    screen.result(to_text(found))
    screen.document(document)
    return NO if check and not found.ok else OK
