"""teamcredit: train cooperative teams, see which agent earned what, catch the agents that do not pull their weight.

    import teamcredit as tc
    run = tc.train("native/spread", algo="vdn", steps=20_000, seed=0)
    tc.evaluate(run, episodes=100)
    tc.measure_credit(run)
    tc.find_lazy(run)

Nothing else is promised to stay. Names are loaded when they are first used (PEP 562), so that `marl --help`
answers without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import credit as credit
    from .envs.check import check_team_env as check_team_env
    from .envs.registry import make as make
    from .marl.bench.credit import bench_credit as bench_credit
    from .marl.evaluate import evaluate as evaluate
    from .marl.inspection import measure_credit as measure_credit
    from .marl.laziness import find_lazy as find_lazy
    from .marl.play import play as play
    from .marl.run import Run as Run
    from .marl.run import load as load
    from .marl.run import resume as resume
    from .marl.run import train as train

__version__ = "0.1.0"

# name -> module:attribute; a sub-package has no attribute.
_PUBLIC = {
    "Run": ".marl.run:Run",
    "bench_credit": ".marl.bench.credit:bench_credit",
    "check_team_env": ".envs.check:check_team_env",
    "credit": ".credit",
    "evaluate": ".marl.evaluate:evaluate",
    "find_lazy": ".marl.laziness:find_lazy",
    "load": ".marl.run:load",
    "make": ".envs.registry:make",
    "measure_credit": ".marl.inspection:measure_credit",
    "play": ".marl.play:play",
    "resume": ".marl.run:resume",
    "train": ".marl.run:train",
}

__all__ = [
    "Run",
    "__version__",
    "bench_credit",
    "check_team_env",
    "credit",
    "evaluate",
    "find_lazy",
    "load",
    "make",
    "measure_credit",
    "play",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    module, _, attribute = _PUBLIC[name].partition(":")
    value = import_module(module, __name__)
    value = getattr(value, attribute) if attribute else value
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
