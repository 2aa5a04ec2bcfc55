"""Tasks from other people's packages: MPE2, level-based foraging, PettingZoo's registry, and `module:function`.

Each function gives a `TeamEnv` and imports its package only when called. What a package leaves unsaid is said here: how
the agents' rewards form the team's, which action does nothing, what ends an episode.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from .errors import MissingPackage, UnknownTask, UnsupportedTask, did_you_mean
from .pettingzoo import PettingZooTeam, TeamReward

_MOVES = ("stay", "left", "right", "down", "up")

# Scenario -> (module, team reward). The usual random figures over 25 steps are sums over the agents: spread about -79
# (3 agents) and reference -57 (2), as here; for speaker_listener too, -79, which counts its one shared reward twice.
# Here it is counted once: about -39. `team_reward="sum"` gives the usual figure.
MPE_SCENARIOS: dict[str, tuple[str, TeamReward]] = {
    "simple_spread": ("simple_spread_v3", "sum"),
    "simple_speaker_listener": ("simple_speaker_listener_v4", "shared"),
    "simple_reference": ("simple_reference_v3", "sum"),
    "simple_line": ("simple_line_v1", "shared"),
    "simple_formation": ("simple_formation_v1", "shared"),
}

# PettingZoo's own tasks whose agents are paid differently though they are a team.
_PETTINGZOO_TEAM_REWARD: dict[str, TeamReward] = {"butterfly/knights_archers_zombies": "sum"}
# Its zombies' spawn timer goes on across resets, so an episode in a used environment is not the one its seed names.
_PETTINGZOO_REMEMBERS = ("butterfly/knights_archers_zombies",)
_PETTINGZOO_DISCRETE_REMEDY = {"butterfly/pistonball": "Use --env.continuous false, or wrap it."}


def check_options(task: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """ValueError naming the options of `task` when one that is `given` is not among them."""
    allowed = sorted(allowed)
    for name in given:
        if name not in allowed:
            hint = did_you_mean(name, allowed)
            raise ValueError(f'{task} has no option "{name}". {f"{hint} " if hint else ""}Options: {", ".join(allowed) or "none"}.')


def options_of(maker: Callable[..., Any]) -> list[str] | None:
    """The keyword arguments `maker` takes, or None where it takes any."""
    parameters = inspect.signature(maker).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL]


def make_mpe(scenario: str, *, team_reward: TeamReward | None = None, time_limit: int | None = None, **options: Any) -> PettingZooTeam:
    """A cooperative particle task; `options` go to MPE2 as they are (N, max_cycles, local_ratio, ...)."""
    if scenario not in MPE_SCENARIOS:
        raise UnknownTask(f"mpe/{scenario}", [f"mpe/{name}" for name in MPE_SCENARIOS])
    module_name, usual_reward = MPE_SCENARIOS[scenario]
    module = _import_extra(f"mpe2.{module_name}", "teamcredit[envs]")
    check_options(f"mpe/{scenario}", options, options_of(module.raw_env) or ())
    names, noop = _mpe_actions(scenario, options)
    return PettingZooTeam(
        lambda: module.parallel_env(**options),
        name=f"mpe/{scenario}",
        team_reward=team_reward or usual_reward,
        time_limit=time_limit,
        episode_limit=options.get("max_cycles", 25),
        noop=noop,
        action_names=names,
        # Where all agents observe equally much, state() is just their observations, computed a second time.
        state="env" if scenario == "simple_speaker_listener" else "observations",
        discrete_remedy="Use --env.continuous-actions false, or wrap it.",
    )


def _mpe_actions(scenario: str, options: dict[str, Any]) -> tuple[tuple[tuple[str, ...], ...], int | tuple[int | None, ...]]:
    """Action labels and the no-op. A speaker always says something; in reference, action 0 stays and says word 0."""
    if scenario == "simple_speaker_listener":
        return (tuple(f"say_{word}" for word in range(3)), _MOVES), (None, 0)
    if scenario == "simple_reference":
        return (tuple(f"{move}_say_{word}" for word in range(10) for move in _MOVES),) * 2, 0
    num_agents = options.get("N", 3 if scenario == "simple_spread" else 4)
    return (_MOVES,) * num_agents, 0


def make_lbf(
    size: str, *, team_reward: TeamReward | None = None, time_limit: int | None = None, relative_obs: bool = False, **options: Any
) -> PettingZooTeam:
    """Level-based foraging of the given size ("8x8-2p-3f", "2s-8x8-2p-2f-coop"), as the package registers it.

    `options` replace what the size says (penalty, sight, max_episode_steps, ...); `relative_obs` appends (row, col) of
    every food and other player as seen from the observing one.
    """
    foraging = _import_extra("lbforaging.foraging.environment", "teamcredit[envs]")
    from .foraging import parse_size

    board = parse_size(size)
    kwargs = {
        "players": board["num_players"],
        "min_player_level": 1,
        "max_player_level": 2,
        "min_food_level": 1,
        "max_food_level": board["max_food_level"],
        "field_size": (board["rows"], board["cols"]),
        "max_num_food": board["num_food"],
        "sight": board["sight"] or max(board["rows"], board["cols"]),  # pyright: ignore[reportArgumentType, reportCallIssue]
        "max_episode_steps": 50,
        "force_coop": board["force_coop"],
        "penalty": board["penalty"],
    }
    check_options(f"lbf/{size}", options, [*(options_of(foraging.ForagingEnv) or ()), "relative_obs"])
    kwargs.update(options)
    from .lbf import ACTION_NAMES, LBFParallel

    bounded = not kwargs["penalty"] and kwargs.get("normalize_reward", True)
    return PettingZooTeam(
        lambda: LBFParallel(foraging.ForagingEnv(**kwargs), relative_obs=relative_obs),
        name=f"lbf/{size}",
        team_reward=team_reward or "sum",
        time_limit=time_limit,
        episode_limit=kwargs["max_episode_steps"],
        noop=0,
        action_names=(ACTION_NAMES,) * int(kwargs["players"]),
        return_range=(0.0, 1.0) if bounded else None,
    )


def find_pettingzoo(task: str) -> str:
    """The registry's full id of a parallel task ("sisl/pursuit" -> "sisl/pursuit-v5").

    Raises:
        UnknownTask: not in the registry. UnsupportedTask: only as a turn-based (AEC) environment.
    """
    import pettingzoo
    from pettingzoo.env_registry.exceptions import NameNotFound, NamespaceNotFound, VersionNotFound

    try:
        return pettingzoo.spec("parallel", task).id
    except (NameNotFound, NamespaceNotFound, VersionNotFound):
        pass
    try:
        pettingzoo.spec("aec", task)
    except (NameNotFound, NamespaceNotFound, VersionNotFound):
        raise UnknownTask(task, list(pettingzoo.parallel_registry)) from None
    raise UnsupportedTask(f"{task} is turn-based (AEC only): its agents act one after another.", "Take a task with a parallel form.")


def make_pettingzoo(task: str, *, team_reward: TeamReward | None = None, time_limit: int | None = None, **options: Any) -> PettingZooTeam:
    """A task of PettingZoo's registry, by its id ("butterfly/pistonball-v6")."""
    import pettingzoo
    from pettingzoo.env_registry.exceptions import FailedToImport

    task = find_pettingzoo(task)
    entry = pettingzoo.spec("parallel", task).entry_point
    base = task.rsplit("-v", 1)[0]
    try:
        module = importlib.import_module(str(entry).split(":")[0])
    except ImportError as error:
        raise MissingPackage(f"pettingzoo[{task.split('/')[0]}]") from error
    if hasattr(module, "raw_env"):
        allowed = options_of(module.raw_env)
        if allowed is not None:
            check_options(task, options, allowed)
    try:
        return PettingZooTeam(
            lambda: pettingzoo.make("parallel", task, **options),
            name=task,
            team_reward=team_reward or _PETTINGZOO_TEAM_REWARD.get(base),
            time_limit=time_limit,
            episode_limit=options.get("max_cycles"),
            reuse=base not in _PETTINGZOO_REMEMBERS,
            discrete_remedy=_PETTINGZOO_DISCRETE_REMEDY.get(base, "Wrap it."),
        )
    except FailedToImport as error:
        raise MissingPackage(f"pettingzoo[{task.split('/')[0]}]") from error


def load_function(task: str) -> Callable[..., Any]:
    """What `module:function` names; the current directory is searched too, as `python -m` does.

    Raises:
        UnknownTask: no such module or function. MissingPackage: the module itself needs one that is not installed.
    """
    module_name, _, function_name = task.partition(":")
    if not module_name or not function_name:
        raise UnknownTask(task, reason=f'"{task}" names no {"function" if module_name else "module"}.')
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name == missing or module_name.startswith(f"{missing}."):
            raise UnknownTask(task, reason=f'no module "{missing}" here ({os.getcwd()}) or among the installed packages.') from error
        raise MissingPackage(missing) from error
    if not hasattr(module, function_name):
        public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise UnknownTask(function_name, public, reason=f'module "{module_name}" has no function "{function_name}".')
    function = getattr(module, function_name)
    if not callable(function):
        raise UnsupportedTask(
            f"{task} is a {type(function).__name__}, not a function.", "Name a function that gives a ParallelEnv or TeamEnv."
        )
    return function


def make_own(
    function: Callable[..., Any], name: str, *, team_reward: TeamReward | None = None, time_limit: int | None = None, **options: Any
) -> Any:
    """The TeamEnv that `function(**options)` gives, or one around the ParallelEnv it gives."""
    from .base import TeamEnv

    allowed = options_of(function)
    if allowed is not None:
        check_options(name, options, allowed)
    first = function(**options)
    if isinstance(first, TeamEnv):
        if team_reward is not None or time_limit is not None:
            raise ValueError(f"{name} gives a TeamEnv, which has its own team reward and limits; leave out team_reward and time_limit")
        return first
    if first is None:
        raise UnsupportedTask(f"{name} gave None.", "Return a ParallelEnv or TeamEnv.")
    made = [first]
    return PettingZooTeam(lambda: made.pop() if made else function(**options), name=name, team_reward=team_reward, time_limit=time_limit)


def _import_extra(module: str, requirement: str) -> Any:
    """The module; MissingPackage where the package it belongs to is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise
        raise MissingPackage(requirement) from error
