"""Task id -> TeamEnv: what there is, which id is meant, and how it is made.

Ids: `native/...` are the batched tasks of this package; `mpe/...`, `lbf/...` and `rware/...` wrap MPE2, lbforaging and
RWARE; PettingZoo's registry ids are taken as they are (`butterfly/pistonball-v6`); `module:function` names the user's
own. A bare name is accepted where only one task ends in it. Nothing heavy is imported before `make`.
"""

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .errors import UnknownTask, UnsupportedTask


@dataclass(frozen=True)
class TaskEntry:
    """One line of `marl envs list`."""

    id: str
    summary: str
    extra: str = ""
    """What pip must install for it, "" if nothing."""


@dataclass(frozen=True)
class NativeTask:
    """A batched task of this package: where its maker is, and the arguments the id stands for."""

    maker: str
    summary: str
    kwargs: dict[str, Any]


NATIVE: dict[str, NativeTask] = {
    "native/spread": NativeTask("spread:Spread", "3 agents cover 3 landmarks without bumping; native/spread-5: five of each", {}),
    "native/foraging-8x8-2p-3f": NativeTask("foraging:Foraging", "level-based foraging; any size: native/foraging-10x10-3p-3f", {}),
    "native/foraging-8x8-4p-3f": NativeTask("foraging:Foraging", "level-based foraging, 4 agents", {}),
    "native/foraging-8x8-2p-2f-coop": NativeTask("foraging:Foraging", "level-based foraging where every food needs both agents", {}),
    "native/switch2": NativeTask("switch:Switch", "2 agents change sides through a corridor that holds one", {"num_agents": 2}),
    "native/switch4": NativeTask("switch:Switch", "4 agents change sides through a corridor that holds one", {"num_agents": 4}),
    "native/predator-prey": NativeTask("predator_prey:PredatorPrey", "8 predators catch 8 prey in pairs; a lone catch costs 2", {}),
    "native/rware-tiny-2ag": NativeTask("warehouse:Warehouse", "2 robots fetch shelves; any size: native/rware-medium-6ag-hard", {}),
    "native/rware-small-4ag": NativeTask("warehouse:Warehouse", "4 robots in a larger warehouse", {}),
    "native/two-step": NativeTask("two_step:TwoStep", "two moves: a safe 7, or 8 for two agents who agree", {}),
    "native/plate-and-door": NativeTask("plate_and_door:PlateAndDoor", "credit known exactly: a guard on a plate, a walker, a dummy", {}),
    "native/delayed-chain": NativeTask("delayed_chain:DelayedChain", "credit known exactly: 8 steps earn, the last one pays", {}),
    "native/key-and-door": NativeTask("key_and_door:KeyAndDoor", "credit known exactly: a key taken early, a door opened late", {}),
    "native/uphill-3p": NativeTask("uphill:Uphill", "an exploration trap: pushes cost, only the top pays; any team: native/uphill-2p", {}),
    "native/matrix-climbing": NativeTask("matrix:MatrixGame", "one-shot game: 11 beside -30", {"game": "climbing"}),
    "native/matrix-penalty": NativeTask("matrix:MatrixGame", "one-shot game: two best pairs, mixing them costs", {"game": "penalty"}),
    "native/matrix-qtran": NativeTask("matrix:MatrixGame", "one-shot game: 8 beside -12, not monotone", {"game": "qtran"}),
    "native/coalition-airport-6": NativeTask(
        ".marl.coalition_tasks:coalition_task",
        "one-shot game of known credit: join or not; also majority-5-3, glove-1-2, vote-4-3-2-1-1",
        {},
    ),
    "native/coalition-either-or": NativeTask(
        ".marl.coalition_tasks:coalition_task", "known credit: a redundant pair and a worker; also harmful, unanimity-3-2, pairs-6-0", {}
    ),
}

PACKAGES = (
    TaskEntry("mpe/simple_spread", "MPE2: 3 agents cover 3 landmarks", "teamcredit[envs]"),
    TaskEntry("mpe/simple_speaker_listener", "MPE2: one speaks, one walks", "teamcredit[envs]"),
    TaskEntry("mpe/simple_reference", "MPE2: each tells the other where to go", "teamcredit[envs]"),
    TaskEntry("mpe/simple_line", "MPE2: 4 agents form a line", "teamcredit[envs]"),
    TaskEntry("mpe/simple_formation", "MPE2: 4 agents form a circle", "teamcredit[envs]"),
    TaskEntry("mpe/collect_treasure", "MPE2: 6 collectors bring treasures to 2 deposits", "teamcredit[envs]"),
    TaskEntry("lbf/8x8-2p-3f", "lbforaging, any size: lbf/2s-10x10-3p-3f-coop", "teamcredit[envs]"),
    TaskEntry("rware/tiny-2ag", "RWARE: 2 robots fetch shelves; any size: rware/medium-6ag-hard", "teamcredit[envs]"),
    TaskEntry("rware/small-4ag", "RWARE: 4 robots in a larger warehouse", "teamcredit[envs]"),
    TaskEntry("butterfly/pistonball-v6", "PettingZoo: 20 pistons push a ball, images", "teamcredit[envs]"),
    TaskEntry("butterfly/cooperative_pong-v6", "PettingZoo: two paddles keep a ball in play, images", "teamcredit[envs]"),
    TaskEntry("butterfly/knights_archers_zombies-v11", "PettingZoo: agents die on the way", "teamcredit[envs]"),
    TaskEntry("sisl/pursuit-v5", "PettingZoo: 8 pursuers surround evaders", "teamcredit[envs]"),
)

_PETTINGZOO = ("atari", "butterfly", "classic", "sisl")
_MPE_COMPETITIVE = ("simple", "simple_adversary", "simple_crypto", "simple_push", "simple_tag", "simple_world_comm")
_WAREHOUSE_SIZE = r"(?:tiny|small|medium|large)-(?:[1-9]|1\d)ag(?:-easy|-hard)?"
_COALITION = r"airport-\d+|(?:glove|majority|unanimity|additive|pairs)-\d+-\d+|vote(?:-\d+){2,}|either-or|harmful"
_FORAGING_SIZE = r"(?:\d+s-)?\d+x\d+-\d+p-\d+f(?:-coop)?(?:-ind)?(?:-pen)?"


def list_tasks() -> list[TaskEntry]:
    """Every task that has a name of its own, native ones first."""
    return [TaskEntry(task, entry.summary) for task, entry in NATIVE.items()] + list(PACKAGES)


def resolve(task: str) -> str:
    """The full id of `task`: "spread" -> "native/spread", "simple_spread_v3" -> "mpe/simple_spread".

    Raises:
        UnknownTask: no such task, or a bare name that several have; the closest is suggested.
    """
    if ":" in task:
        return task
    known = [entry.id for entry in list_tasks()]
    if task in known:
        return task
    space, _, name = task.rpartition("/")
    if not space:
        return _resolve_bare(task, known)
    if space == "native" and _native_pattern(name):
        return task
    if space == "native" and name.startswith("rware-"):
        rule = "sizes are rware-<tiny|small|medium|large>-<1 to 19>ag[-easy|-hard]"
        raise UnknownTask(task, known, reason=f'no environment "{task}": {rule}.')
    if space == "mpe":
        plain = f"mpe/{re.sub(r'_v[0-9]+$', '', name)}"
        if plain in known:
            return plain
        if plain.removeprefix("mpe/") in _MPE_COMPETITIVE:
            raise UnsupportedTask(f"{plain} is not a task of one team.", "Take a cooperative one (marl envs list).")
    if space == "lbf" and re.fullmatch(_FORAGING_SIZE, name):
        return task
    if space == "rware" and re.fullmatch(_WAREHOUSE_SIZE, name):
        return task
    if space in _PETTINGZOO:
        from .packages import find_pettingzoo

        return find_pettingzoo(task)
    raise UnknownTask(task, known)


def make(
    task: str | Callable[[], Any],
    /,
    *,
    team_reward: str | None = None,
    time_limit: int | None = None,
    render_mode: str | None = None,
    workers: int = 0,
    **options: Any,
) -> Any:
    """A `TeamEnv` from an id, or from a maker of ParallelEnvs (or of a TeamEnv).

    Args:
        task: see `resolve`; or a callable.
        team_reward: "shared", "sum" or "mean" of the agents' rewards; None: the task's own way.
        time_limit: cut each episode after this many env steps (ParallelEnvs only; native tasks have `episode_limit`).
        render_mode: handed to tasks that draw themselves, "rgb_array" for pictures without a display; the others ignore it.
        workers: processes that step the copies of a ParallelEnv (vector.py); 0: this one.
        options: handed to the task.

    Raises:
        UnknownTask, MissingPackage, UnsupportedTask, ContractBroken: see errors.py.
        ValueError: an option the task does not have; workers for a task that cannot be stepped in other processes.
    """
    from . import own, packages

    shared: dict[str, Any] = {"team_reward": team_reward, "time_limit": time_limit}
    if workers:
        from .vector import put_to_work

        return put_to_work(make(task, render_mode=render_mode, **shared, **options), task, {**shared, **options}, workers)
    if callable(task):
        return own.make_own(task, getattr(task, "__name__", type(task).__name__), render_mode=render_mode, **shared, **options)
    task = resolve(task)
    if ":" in task:
        return own.make_own(own.load_function(task), task, render_mode=render_mode, **shared, **options)
    space, _, name = task.partition("/")
    if space == "native":
        return _make_native(task, {**options, **{key: value for key, value in shared.items() if value is not None}})
    if space == "mpe":
        return packages.make_mpe(name, render_mode=render_mode, **shared, **options)
    if space == "lbf":
        return packages.make_lbf(name, **shared, **options)
    if space == "rware":
        return packages.make_rware(name, **shared, **options)
    return packages.make_pettingzoo(task, render_mode=render_mode, **shared, **options)


def _make_native(task: str, options: dict[str, Any]) -> Any:
    from .packages import check_options, options_of

    name = task.removeprefix("native/")
    maker = NATIVE[task].maker if task in NATIVE else _native_pattern(name)
    assert maker is not None
    module, function = maker.split(":")
    # A game's truth is known to credit/, which no module here may import: its maker is loaded by name, as a user's own would be.
    build = getattr(importlib.import_module(f".{module}", __package__), function)
    if name.startswith("foraging-"):
        from .foraging import parse_size

        kwargs = parse_size(name.removeprefix("foraging-"))
    elif name.startswith("rware-"):
        from .warehouse_layout import parse_size

        kwargs = parse_size(name)
    elif name.startswith("uphill-"):
        kwargs = {"num_agents": int(name.removeprefix("uphill-").removesuffix("p"))}
    elif name.startswith("coalition-"):
        kwargs = {"game": name.removeprefix("coalition-")}
    elif task in NATIVE:
        kwargs = NATIVE[task].kwargs
    else:
        kwargs = {"num_agents": int(name.removeprefix("spread-"))}
    check_options(task, options, options_of(build) or ())
    return build(**{**kwargs, **options})


def _native_pattern(name: str) -> str | None:
    """The maker of a native task whose id carries its size."""
    if re.fullmatch(f"foraging-{_FORAGING_SIZE}", name):
        return "foraging:Foraging"
    if re.fullmatch(f"rware-{_WAREHOUSE_SIZE}", name):
        return "warehouse:Warehouse"
    if re.fullmatch(f"coalition-(?:{_COALITION})", name):
        return ".marl.coalition_tasks:coalition_task"
    if re.fullmatch(r"uphill-([2-9]|[1-9]\d+)p", name):
        return "uphill:Uphill"
    return "spread:Spread" if re.fullmatch(r"spread-\d+", name) else None


def _resolve_bare(task: str, known: list[str]) -> str:
    plain = re.sub(r"[_-]v\d+$", "", task)
    ends = [entry for entry in known if re.sub(r"-v\d+$", "", entry.partition("/")[2]) == plain]
    if len(ends) == 1:
        return ends[0]
    if not ends and _native_pattern(plain):
        return f"native/{plain}"
    if len(ends) > 1:
        raise UnknownTask(task, reason=f'"{task}" may mean {" or ".join(ends)}; write the whole id.')
    raise UnknownTask(task, known)
