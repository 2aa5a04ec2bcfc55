"""Commands that need no run: what tasks and algorithms there are, settings, and whether this machine is fit."""

import os
from pathlib import Path
from typing import Literal

from cyclopts import App

from .cli_errors import NO, OK
from .cli_options import NO_COMMON, CommonOptions, ConfigFile, Options, Output, Preset, TaskOptions, flags_layer, task_options
from .cli_output import table
from .errors import ConfigError

envs = App(name="envs", help="List the tasks, or check one of your own.")
algos = App(name="algos", help="List the algorithms.")
config_app = App(name="config", help="Show settings and where they come from.")


@envs.command(name="list")
def envs_list(*, common: CommonOptions = NO_COMMON, screen: Output) -> int:
    """Every task that has a name, and what to install for it."""
    from ..envs.registry import list_tasks
    from .doctor import missing_package

    entries = [(entry, missing_package(entry.id)) for entry in list_tasks()]
    rows = [(entry.id, entry.summary, f'pip install "{missing}"' if missing else "installed") for entry, missing in entries]
    screen.result(table(("task", "what it is", ""), rows))
    screen.say("your own: module:function, a function that gives a PettingZoo ParallelEnv or a TeamEnv")
    screen.document({"tasks": [{"id": e.id, "summary": e.summary, "installed": not m, "requires": e.extra or None} for e, m in entries]})
    return OK


@envs.command(name="check")
def envs_check(
    task: str,
    /,
    *,
    team_reward: Literal["shared", "sum", "mean"] | None = None,
    time_limit: int | None = None,
    env: TaskOptions = None,
    common: CommonOptions = NO_COMMON,
    screen: Output,
) -> int:
    """Play a task at random and name every rule of the contract that it breaks.

    Parameters
    ----------
    task
        A task id, or module:function for your own.
    team_reward
        How the one team reward is formed from the agents' rewards; unset: the task's own choice.
    time_limit
        Truncate episodes after this many env steps.
    """
    from ..envs.check import broken_rules
    from ..envs.registry import make
    from .config import refuse_run_options

    options = {name.removeprefix("env."): value for name, value in task_options(env).items()}
    refuse_run_options(options)
    made = make(task, team_reward=team_reward, time_limit=time_limit, **options)
    broken = broken_rules(made)
    for rule in broken:
        screen.result(f"{rule.rule}: {rule.sentence}")
    if not broken:
        count = made.spec.num_agents
        screen.result(f"{task} keeps every rule: {count} agent{'s' if count > 1 else ''}, {made.spec.num_actions} actions")
    screen.document({"task": task, "ok": not broken, "broken": [{"rule": rule.rule, "sentence": rule.sentence} for rule in broken]})
    return NO if broken else OK


@algos.command(name="list")
def algos_list(*, common: CommonOptions = NO_COMMON, screen: Output) -> int:
    """Every algorithm, in a line."""
    from .learners import ALGORITHMS

    screen.result(table(("algorithm", "what it is"), [(name, entry[-1]) for name, entry in ALGORITHMS.items()]))
    screen.document({"algorithms": [{"name": name, "summary": entry[-1]} for name, entry in ALGORITHMS.items()]})
    return OK


def doctor(*, common: CommonOptions = NO_COMMON, screen: Output) -> int:
    """Look whether this machine is fit; exit with 1 when something fails."""
    from .cli_train import set_threads

    set_threads(common.threads)
    from .doctor import examine, to_document, to_text

    checks = examine(Path(os.environ.get("MARL_RUNS", "runs")))
    document = to_document(checks)
    screen.result(to_text(checks))
    screen.document(document)
    return OK if document["ok"] else NO


@config_app.command(name="show")
def config_show(
    run: str | None = None,
    /,
    *,
    task: str | None = None,
    options: Options = None,
    env: TaskOptions = None,
    preset: Preset = None,
    config: ConfigFile = None,
    sources: bool = False,
    common: CommonOptions = NO_COMMON,
    screen: Output,
) -> int:
    """Print settings as YAML that --config reads back: those of a run, or those that marl train would use.

    Parameters
    ----------
    run
        Run folder, name, or last. Left out: what the options given here resolve to.
    task
        The task to resolve them for (a task brings a preset of its own).
    preset
        Tried settings by name.
    config
        A YAML file of settings.
    sources
        Say behind each value where it came from.
    """
    from .cli_config import of_options, of_run, to_text
    from .resolve import flatten_config

    flags = flags_layer(task, options, env)
    if run is not None and (flags or preset or config):
        raise ConfigError("config show takes a run, or options, not both", remedy="marl config show RUN")
    resolved = of_options(flags, preset, config) if run is None else of_run(run)
    screen.result(to_text(resolved, with_sources=sources))
    values = flatten_config(resolved.config)
    screen.document({"config": values, "sources": {key: resolved.sources.get(key, "default") for key in values}})
    return OK
