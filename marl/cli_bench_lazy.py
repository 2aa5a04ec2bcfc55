"""`marl bench lazy`: laziness verdicts where it is known who is lazy."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .cli_errors import NO, OK
from .cli_options import NO_COMMON, CommonOptions, Output


def lazy(
    *,
    quick: bool = False,
    seed: int = 0,
    teams: int | None = None,
    families: str | None = None,
    margin: Annotated[tuple[float, ...], Parameter(consume_multiple=True)] = (0.1, 0.25),
    stress: bool = False,
    check: bool = False,
    out: Path | None = None,
    common: CommonOptions = NO_COMMON,
    screen: Output,
) -> int:
    """Count how often a laziness verdict is right, on teams with planted members; ours and what people would try instead.

    Families: coalition, plate-and-door, foraging, spread; slow ones on real packages: mpe, lbf. docs/bench_lazy.md says what is counted.

    Parameters
    ----------
    quick
        Fewer teams, under a minute, without the slow families unless they are named.
    seed
        Of the drawn teams and all episodes; the same seed gives the same figures.
    teams
        At most so many different teams of each family.
    families
        Some of coalition,plate-and-door,foraging,spread,mpe,lbf. Default: all, and stress and drift too.
    margin
        Fractions of an equal share: --margin 0.1 0.25.
    stress
        The stress test alone (rare events that decide, a look after every pair), or beside the families that are named.
    check
        Exit with 1 when a target is missed.
    out
        A file that takes the JSON document too.
    """
    from .cli_train import set_threads

    set_threads(common.threads)
    from .bench.lazy import bench_lazy
    from .bench.lazy_report import to_text
    from .cli_output import to_json
    from .errors import ConfigError

    if out is not None and not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}")
    only_stress = stress and families is None
    found = bench_lazy(
        quick=quick,
        seed=seed,
        teams=teams,
        families=() if only_stress else families,
        margins=margin,
        stress=stress or None,
        on_progress=screen.say,
    )
    document = found.document()
    if out is not None:
        out.write_text(to_json(document) + "\n")
    screen.result(to_text(found))
    screen.document(document)
    return NO if check and not found.ok else OK
