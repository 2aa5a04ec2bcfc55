"""A run: made, gone on with, opened again (folder.py knows how it lies on disk)."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..envs.base import TeamEnv
from ..envs.delayed_reward import delay_reward
from ..envs.randomness import Clock
from ..envs.registry import make
from ..envs.registry import resolve as resolve_task
from ..envs.vector import name_of
from . import checkpoint as checkpoints
from .checkpoint import Content
from .config import Config
from .errors import CheckpointIncompatible, ConfigError
from .folder import Event, Logbook, find_checkpoint, find_folder, new_folder, read_config, write_config
from .policies import Team, parse_members, random_policy
from .presets import own_presets, preset_layers
from .resolve import Resolved, convert, merge, read_environment, read_file, resolve
from .rounds import Rounds
from .tally import RewardScale
from .trainer import Trainer, load_networks, make_learner, mix_seed, scripted_policies
from .watching import make_watcher


@dataclass(frozen=True)
class Run:
    """An open run folder at one of its checkpoints."""

    folder: Path
    config: Config
    checkpoint: Path

    @cached_property
    def env(self) -> TeamEnv:
        """The run's task."""
        return make_env(self.config)

    @cached_property
    def networks(self) -> Any:
        """The networks as of the checkpoint, by name: utility, and mixer or critic where the run has one."""
        networks = make_learner(self.config, self.env).make_networks(mix_seed(self.config.seed, 1))
        content = checkpoints.read(self.checkpoint, ("networks",))
        checkpoints.check_agents(content.meta["trainer"]["agents"], self.env.spec.agents, self.env.spec.name)
        load_networks(networks, content)
        return networks

    @cached_property
    def team(self) -> Team:
        """The team as of the checkpoint."""
        members, planted = parse_members(self.config.members, self.env.spec, scripted_policies(self.env))
        return Team(utility=self.networks["utility"], members=members, planted=planted, sampled=self.config.acts == "sampled")

    @cached_property
    def reward_scale(self) -> float:
        """What rewards were divided by while learning: the unit of the networks' values, in raw reward."""
        if not self.config.learner.standardise_rewards:
            return 1.0
        return RewardScale(**checkpoints.read(self.checkpoint, ()).meta["trainer"]["reward_scale"]).scale

    @property
    def env_steps(self) -> int:
        return checkpoints.step_of(self.checkpoint)

    @property
    def name(self) -> str:
        return self.folder.name


def make_env(config: Config) -> TeamEnv:
    """The task a configuration names, with its options."""
    options = {name: value for name, value in (("team_reward", config.team_reward), ("time_limit", config.time_limit)) if value is not None}
    env = make(config.task, workers=config.workers, **options, **config.env)
    return delay_reward(env) if config.delay_reward else env


def configure(
    *, preset: str | None = None, file: Path | None = None, options: Mapping[str, Any], environ: Mapping[str, str] | None = None
) -> Resolved:
    """The layers of a run's configuration, resolved in their order of precedence (presets.py says when a task's own preset is used)."""
    environment = read_environment() if environ is None else read_environment(environ)
    layers: list[tuple[str, Mapping[str, Any]]] = [("environment", environment), ("flag", options)]
    if file is not None:
        layers.insert(0, (file.name, read_file(file)))
    if preset is not None:
        layers = [*preset_layers(preset), *layers]
    values, sources = merge(layers)
    if preset is None and file is None and values["task"]:
        brought = preset_layers(own_presets(resolve_task(values["task"]), values["algo"]), " (this task's own)")
        there, _ = merge(brought)
        if all(values[key] == there[key] for key in sources if key.startswith(("learner.", "replay."))):
            layers = [*brought, *layers]
    resolved = resolve(layers)
    return Resolved(replace(resolved.config, task=resolve_task(resolved.config.task)), resolved.sources)


def train(
    task: str | Callable[[], Any] | None = None,
    *,
    algo: str | None = None,
    steps: int | str | None = None,
    seed: int | None = None,
    preset: str | None = None,
    file: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    on_event: Event | None = None,
    stop_signal: Callable[[], int | None] = lambda: None,
) -> Run:
    """Train a team and return its run.

    `task` is a task id, or a function of a module that makes the environment (its module:function is what the run remembers).
    `options` are dotted keys ({"mixer.embed_dim": 64}); `out` is the run folder (default: runs/<task>-<algo>-s<seed>).
    Raises ConfigError for a bad option before anything is written; Interrupted, after saving, when `stop_signal` gives a signal.
    """
    named = {"task": task_name(task) if callable(task) else task, "algo": algo, "steps": steps, "seed": seed}
    flags = {**(options or {}), **{name: value for name, value in named.items() if value is not None}}
    resolved = configure(preset=preset, file=None if file is None else Path(file), options=flags)
    return start(resolved, out=None if out is None else Path(out), on_event=on_event, stop_signal=stop_signal)


def task_name(maker: Callable[[], Any]) -> str:
    """module:function of a maker, by which another process finds it; ConfigError for one that has no such name."""
    try:
        return name_of(maker)
    except ValueError as error:
        raise ConfigError(str(error), remedy='put the maker into a module and pass it, or "module:function"') from error


def start(
    resolved: Resolved, *, out: Path | None = None, on_event: Event | None = None, stop_signal: Callable[[], int | None] = lambda: None
) -> Run:
    """Train from a resolved configuration; the environment and networks are built before the folder is made."""
    config = resolved.config
    env = make_env(config)
    probe(env)
    say = _teller(on_event)
    trainer = Trainer(config, env, announce=say)
    make_watcher(config, env)  # refuses what cannot be watched before anything is written
    say(settings_line(resolved))
    if config.workers > config.replay.num_envs:
        copies = f"{config.replay.num_envs} cop{'y is' if config.replay.num_envs == 1 else 'ies are'} stepped while collecting"
        say(f"workers     {config.workers}, though {copies}: only evaluation uses them all (--num-envs {config.workers} or more)")
    folder = new_folder(resolved, out)
    return _go_on(folder, trainer, on_event or (lambda event: None), stop_signal)


def settings_line(resolved: Resolved) -> str:
    """Which preset lies under the user's own options, for people."""
    presets = [source for source in dict.fromkeys(resolved.sources.values()) if source.startswith("preset ")]
    return f"settings    {' under '.join(presets) if presets else 'plain defaults, no preset'}; marl config show RUN --sources lists them"


def _teller(on_event: Event | None) -> Callable[[str], None]:
    """Sends lines for people as events."""
    return lambda text: on_event({"event": "note", "text": text}) if on_event is not None else None


def probe(env: TeamEnv, *, steps: int = 200) -> None:
    """Play one copy at random, so that a task that cannot be trained on says so before anything is written."""
    seeds = torch.zeros(1, dtype=torch.int64)
    state, view = env.reset(seeds)
    clock = Clock.start(seeds)
    for _ in range(steps):
        state, step, view = env.step(state, random_policy(view, clock), autoreset=False)
        if bool(step.terminated | step.truncated):
            return
        clock = clock.tick()


def resume(
    run: "Run | str",
    *,
    steps: int | str | None = None,
    workers: int | None = None,
    on_event: Event | None = None,
    stop_signal: Callable[[], int | None] = lambda: None,
) -> Run:
    """Go on from a run's newest checkpoint as if nothing had happened; `steps` is a new total, or "+N" more.

    `workers` is another number of worker processes than the run had: it changes no number.
    """
    run = open_run(run)
    config = run.config
    content = checkpoints.read(run.checkpoint, ("networks", "training", "replay"))
    done = content.meta["trainer"]["counters"]["env_steps"]  # a run ends with a whole round, so this may exceed its steps
    if steps is not None:
        added = str(steps).startswith("+")
        number = convert(str(steps).removeprefix("+"), int, "--steps")
        config = replace(config, steps=max(config.steps, done) + number if added else number)
    if workers is not None:
        config = replace(config, workers=workers)
    if steps is not None and config.steps < done:
        raise ConfigError(f"--steps {config.steps} is less than the {done} env steps already done", remedy="--steps +N adds N env steps")
    trainer = Trainer(config, make_env(config), announce=_teller(on_event))
    trainer.restore(Content(content.meta["trainer"], content.groups))
    metrics, length = run.folder / "metrics.jsonl", content.meta["metrics_bytes"]
    if not metrics.is_file() or metrics.stat().st_size < length:
        raise CheckpointIncompatible(
            f"{metrics} does not reach up to checkpoint {run.checkpoint.name}", remedy="restore the file, or train again"
        )
    if config != run.config:
        changed = {key for key in ("steps", "workers") if getattr(config, key) != getattr(run.config, key)}
        sources = read_file(run.folder / "sources.yaml") | dict.fromkeys(sorted(changed), "resume")
        write_config(run.folder, Resolved(config, sources))
    with open(metrics, "r+b") as file:
        file.truncate(length)
    checkpoints.drop_after(run.folder / "checkpoints", done)
    return _go_on(run.folder, trainer, on_event or (lambda event: None), stop_signal, content.meta)


def load(name: "str | Path | Run") -> Run:
    """Open a run: a folder, a run's name, `last`, or any of these with @best or @<env steps>."""
    if isinstance(name, Run):
        return name
    text, _, wanted = str(name).partition("@")
    folder = find_folder(text)
    config = read_config(folder)
    return Run(folder=folder, config=config, checkpoint=find_checkpoint(folder, wanted))


open_run = load


def _go_on(
    folder: Path, trainer: Trainer, on_event: Event, stop_signal: Callable[[], int | None], meta: dict[str, Any] | None = None
) -> Run:
    """Rounds until the run is finished."""
    with Logbook(folder / "metrics.jsonl", on_event, seconds=(meta or {}).get("seconds", 0.0)) as logbook:
        Rounds(folder, trainer, logbook, on_event=on_event, stop_signal=stop_signal, meta=meta).finish()
        on_event({"event": "done", "schema": 1, "run": str(folder), **json.loads((folder / "result.json").read_text())})
        return Run(folder=folder, config=trainer.config, checkpoint=checkpoints.latest(folder / "checkpoints"))
