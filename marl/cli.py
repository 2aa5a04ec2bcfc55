"""The command line `marl`: parse, call, print. Every command is a thin call of the library; nothing heavy is imported before it."""

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from .cli_bench import bench
from .cli_errors import OK, Reporter
from .cli_house import algos, config_app, doctor, envs
from .cli_inspect import credit, evaluate_run, lazy
from .cli_options import (
    NO_COMMON,
    RUN,
    CommonOptions,
    ConfigFile,
    Options,
    Output,
    Preset,
    TaskOptions,
    complete_flags,
    flags_layer,
    parse_numbers,
)
from .cli_output import Screen
from .cli_play import play
from .cli_whatif import whatif
from .errors import ConfigError


def _version() -> str:
    from importlib.metadata import version

    return version("teamcredit")


app = App(
    name="marl",
    help="Train cooperative teams, see which agent earned what, and catch the agents that do not pull their weight.",
    help_format="plaintext",
    help_epilogue="RUN is a run folder, a run's name, last, or one of these with @best or @ENV_STEPS. Start with: marl demo",
    version=_version,
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)
app.command(evaluate_run, name="eval")
for part in (play, credit, lazy, whatif, bench, envs, algos, config_app, doctor):
    app.command(part)


@app.command
def demo(
    *,
    out: Path | None = None,
    steps: str | None = None,
    seed: str | None = None,
    common: CommonOptions = NO_COMMON,
    screen: Output,
) -> int:
    """Train the default team, one of whom does nothing, then read its credit and find the idler.

    Parameters
    ----------
    out
        The run folder. Default: a new one under runs/.
    steps
        Env steps instead of the demo's own number.
    seed
        Seed of the run.
    """
    from .cli_train import set_threads
    from .demo import demonstrate

    set_threads(common.threads)
    options = {name: value for name, value in (("steps", steps), ("seed", seed)) if value is not None}
    screen.document(demonstrate(screen, options, out))
    return OK


@app.command
def train(
    task: str | None = None,
    /,
    *,
    options: Options = None,
    env: TaskOptions = None,
    seeds: Annotated[str | None, Parameter(group=RUN)] = None,
    jobs: Annotated[int, Parameter(group=RUN)] = 1,
    vectorize_seeds: Annotated[bool, Parameter(group=RUN)] = False,
    preset: Preset = None,
    config: ConfigFile = None,
    out: Annotated[Path | None, Parameter(group=RUN)] = None,
    common: CommonOptions = NO_COMMON,
    screen: Output,
) -> int:
    """Train a team on a task (marl envs list).

    Settings come from defaults, then the preset, then the file, then MARL_... variables, then flags; later ones win.
    Numbers may be written 400k, 3M, 1e-3.

    Parameters
    ----------
    task
        A task id or module:function; may be left out when the preset or the file names it.
    seeds
        Several seeds, one run each: 0-4 or 0,3,5.
    jobs
        Seeds trained side by side, each in a process of its own; with --vectorize-seeds the processes that share the seeds.
    vectorize_seeds
        All seeds at once, stacked into the same operations (native tasks; no counterfactual critic).
    preset
        Tried settings by name (marl config show --preset NAME prints them).
    config
        A YAML file of settings, as marl config show writes it.
    out
        The run folder (with several seeds: the folder of the run folders). Default: a new one under runs/.
    """
    from .cli_train import conclude, conclude_seeds, refuse_one_seed, run_processes, seed_commands, set_threads, watch

    flags = flags_layer(task, options, env)
    if seeds is not None and "seed" in flags:
        raise ConfigError(f"--seed {flags['seed']} and --seeds {seeds} exclude each other", remedy="leave one of them out")
    numbers = [None] if seeds is None else parse_numbers(seeds, "--seeds")
    if vectorize_seeds:
        refuse_one_seed(len(numbers))
    set_threads(common.threads)
    from .folder import seed_folder
    from .run import configure, start

    layers = [configure(preset=preset, file=config, options=flags | ({} if seed is None else {"seed": seed})) for seed in numbers]
    if jobs != 1 and len(numbers) > 1:
        given = flags | {"preset": preset, "config": config}
        asked = [seed for seed in numbers if seed is not None]
        return run_processes(screen, seed_commands(given, common, asked, out, together=jobs if vectorize_seeds else None), jobs=jobs)
    if vectorize_seeds:
        from .cli_seeds import train_together

        train_together(screen, layers, out)
        return OK
    finals = []
    for seed, resolved in zip(numbers, layers, strict=True):
        folder = out if seed is None else seed_folder(out, seed)
        if common.verbose:
            screen.say("\n".join(f"set by {source}: {key}" for key, source in resolved.sources.items()))
        run, final = watch(screen, lambda on_event, stop: start(resolved, out=folder, on_event=on_event, stop_signal=stop))  # noqa: B023
        conclude(screen, run, final)
        finals.append(final)
    if len(finals) > 1:
        conclude_seeds(screen, finals)
    return OK


@app.command
def resume(run: str, /, *, steps: str | None = None, workers: int | None = None, common: CommonOptions = NO_COMMON, screen: Output) -> int:
    """Go on with a run as if it had never stopped.

    From RUN@ENV_STEPS it goes on there, and the checkpoints after it are dropped. A new total of env steps stretches the
    schedules of epsilon and of the learning rate.

    Parameters
    ----------
    run
        Run folder, name, or last.
    steps
        A new total of env steps, or +200k more.
    workers
        Another number of worker processes; 0: step in this process. It changes no number.
    """
    from .cli_train import conclude, set_threads, watch

    set_threads(common.threads)
    from .run import load
    from .run import resume as go_on

    opened = load(run)
    finished, final = watch(screen, lambda on_event, stop: go_on(opened, steps=steps, workers=workers, on_event=on_event, stop_signal=stop))
    conclude(screen, finished, final)
    return OK


def main(tokens: Sequence[str] | None = None) -> int:
    """Runs one command; its exit code (cli_errors.py lists them)."""
    words = list(sys.argv[1:] if tokens is None else tokens)
    out = sys.stdout
    reporter = Reporter(out, json="--json" in words)
    with reporter:
        command, bound, unparsed = app.parse_args(complete_flags(words), exit_on_error=False, print_error=False)
        common = bound.arguments.get("common", NO_COMMON)
        reporter.screen = Screen(out, common)
        hidden = {"screen": reporter.screen} if "screen" in unparsed else {}
        with reporter.screen.keep_clean(), warnings.catch_warnings():
            if not common.verbose:
                warnings.simplefilter("ignore")
            os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
            reporter.code = command(*bound.args, **bound.kwargs, **hidden) or OK
        out.flush()
    return reporter.code


if __name__ == "__main__":
    raise SystemExit(main())
