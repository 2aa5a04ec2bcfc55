"""The commands that measure this package: `marl bench ...`."""

from cyclopts import App

from .cli_bench_credit import credit
from .cli_bench_lazy import lazy
from .cli_errors import OK
from .cli_options import NO_COMMON, CommonOptions, Output

bench = App(name="bench", help="Measure: speed beside other packages, credit estimators and laziness verdicts beside the truth.")
bench.command(credit)
bench.command(lazy)


@bench.command
def speed(*, quick: bool = False, seed: int = 0, common: CommonOptions = NO_COMMON, screen: Output) -> int:
    """Measure stepping, replay, updates and training, ours beside whatever of the others is installed.

    All sides take turns in one run, on one core where the system allows it; speeds are units per CPU second, a ratio is ours
    over theirs, the median over the turns with its lowest and highest. Packages to compare with: pip install "teamcredit[bench]".
    Training beside other trainers: scripts/bench_peers.py in the repository.

    Parameters
    ----------
    quick
        Fewer and shorter measurements, under a minute.
    seed
        Seed of the tasks, actions and networks that are measured.
    """
    from .cli_train import set_threads

    set_threads(common.threads)
    from .bench.clock import one_core
    from .bench.machine import describe
    from .bench.report import to_document, to_text
    from .bench.suite import FULL, QUICK, measurements

    rows = []
    with one_core(pin=common.threads == 1) as core:
        for what, measure in measurements(QUICK if quick else FULL, seed):
            screen.say(f"measuring  {what}")
            rows += measure()
        header = describe(core)
    screen.result(to_text(header, rows))
    screen.document(to_document(seed, header, rows))
    return OK
