"""Tasks from other people's packages: MPE2, level-based foraging, RWARE, PettingZoo's registry.

Each function gives a `TeamEnv` and imports its package only when called. What a package leaves unsaid is said here: how
the agents' rewards form the team's, which action does nothing, what ends an episode.
"""

import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from .errors import MissingPackage, UnknownTask, UnsupportedTask, did_you_mean
from .images import IMAGE_OPTIONS, split_image_options
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
    "collect_treasure": ("collect_treasure_v1", "sum"),
}
# Where all agents observe equally much, state() is just their observations, computed a second time.
_MPE_UNEQUAL = ("simple_speaker_listener", "collect_treasure")

# PettingZoo's own tasks whose agents are paid differently though they are a team.
_PETTINGZOO_TEAM_REWARD: dict[str, TeamReward] = {"butterfly/knights_archers_zombies": "sum"}
# Its zombies' spawn timer goes on across resets, so an episode in a used environment is not the one its seed names.
_PETTINGZOO_REMEMBERS = ("butterfly/knights_archers_zombies",)
# Its observations are cut from a screen that it draws only when it is told to draw; else they stay black.
_PETTINGZOO_UNDRAWN = ("butterfly/cooperative_pong",)
# Only discrete actions can be learned here, and its own default is the other kind.
_PETTINGZOO_OPTIONS = {"butterfly/pistonball": {"continuous": False}}
# Labels of the actions, and which of them does nothing.
_PETTINGZOO_ACTIONS: dict[str, tuple[tuple[str, ...], int]] = {
    "butterfly/knights_archers_zombies": (("forward", "backward", "turn_left", "turn_right", "attack", "wait"), 5),
    "butterfly/cooperative_pong": (("stay", "up", "down"), 0),
    "butterfly/pistonball": (("down", "stay", "up"), 1),
    "sisl/pursuit": (("left", "right", "up", "down", "stay"), 4),
}
_PETTINGZOO_DISCRETE_REMEDY = {"butterfly/pistonball": "Use --env.continuous false, or wrap it."}


def check_options(task: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """ValueError naming the options of `task` when one that is `given` is not among them."""
    allowed = sorted(allowed)
    for name in given:
        if name not in allowed:
            hint = did_you_mean(name, allowed)
            raise ValueError(f'{task} has no option "{name}". {f"{hint} " if hint else ""}Options: {", ".join(allowed) or "none"}.')


def named_parameters(maker: Callable[..., Any]) -> list[str]:
    """The arguments that `maker` takes by a name."""
    parameters = inspect.signature(maker).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)]


def options_of(maker: Callable[..., Any]) -> list[str] | None:
    """The keyword arguments `maker` takes, or None where it takes any."""
    parameters = inspect.signature(maker).parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return None if takes_any else named_parameters(maker)


def make_mpe(
    scenario: str,
    /,
    *,
    team_reward: TeamReward | None = None,
    time_limit: int | None = None,
    render_mode: str | None = None,
    **options: Any,
) -> PettingZooTeam:
    """A cooperative particle task; `options` go to MPE2 as they are (N, max_cycles, local_ratio, ...)."""
    if scenario not in MPE_SCENARIOS:
        raise UnknownTask(f"mpe/{scenario}", [f"mpe/{name}" for name in MPE_SCENARIOS])
    module_name, usual_reward = MPE_SCENARIOS[scenario]
    module = _import_extra(f"mpe2.{module_name}", "teamcredit[envs]")
    check_options(f"mpe/{scenario}", options, options_of(module.raw_env) or ())
    names, noop = _mpe_actions(scenario, options)
    return PettingZooTeam(
        lambda: module.parallel_env(render_mode=render_mode, **options),
        name=f"mpe/{scenario}",
        team_reward=team_reward or usual_reward,
        time_limit=time_limit,
        episode_limit=options.get("max_cycles", 25),
        noop=noop,
        action_names=names,
        state="env" if scenario in _MPE_UNEQUAL else "observations",
        discrete_remedy="Use --env.continuous-actions false, or wrap it.",
    )


def _mpe_actions(scenario: str, options: dict[str, Any]) -> tuple[tuple[tuple[str, ...], ...], int | tuple[int | None, ...]]:
    """Action labels and the no-op. A speaker always says something; in reference, action 0 stays and says word 0."""
    if scenario == "simple_speaker_listener":
        return (tuple(f"say_{word}" for word in range(3)), _MOVES), (None, 0)
    if scenario == "simple_reference":
        return (tuple(f"{move}_say_{word}" for word in range(10) for move in _MOVES),) * 2, 0
    if scenario == "collect_treasure":
        return (_MOVES,) * (options.get("num_collectors", 6) + options.get("num_deposits", 2)), 0
    num_agents = options.get("N", 3 if scenario == "simple_spread" else 4)
    return (_MOVES,) * num_agents, 0


def make_lbf(
    size: str, /, *, team_reward: TeamReward | None = None, time_limit: int | None = None, relative_obs: bool = False, **options: Any
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


def make_rware(size: str, /, *, team_reward: TeamReward | None = None, time_limit: int | None = None, **options: Any) -> PettingZooTeam:
    """A robotic warehouse of the given size ("tiny-2ag", "small-4ag-hard"), as the package registers it.

    `options` replace what the size says (max_steps, sensor_range, reward_type individual, global or two_stage, ...).
    """
    warehouse = _import_extra("rware.warehouse", "teamcredit[envs]")
    from .rware import ACTION_NAMES, RWAREParallel, choose, size_options

    check_options(f"rware/{size}", options, [name for name in options_of(warehouse.Warehouse) or () if name != "render_mode"])
    kwargs = {**size_options(size), "observation_type": "flattened", **options}
    kwargs["reward_type"] = choose("reward_type", kwargs["reward_type"], warehouse.RewardType)
    kwargs["observation_type"] = choose("observation_type", kwargs["observation_type"], warehouse.ObservationType)
    return PettingZooTeam(
        lambda: RWAREParallel(warehouse.Warehouse(**kwargs)),
        name=f"rware/{size}",
        team_reward=team_reward or ("shared" if kwargs["reward_type"] is warehouse.RewardType.GLOBAL else "sum"),
        time_limit=time_limit,
        episode_limit=kwargs["max_steps"],
        noop=0,
        action_names=() if kwargs["msg_bits"] else (ACTION_NAMES,) * int(kwargs["n_agents"]),
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


def make_pettingzoo(
    task: str, /, *, team_reward: TeamReward | None = None, time_limit: int | None = None, render_mode: str | None = None, **options: Any
) -> PettingZooTeam:
    """A task of PettingZoo's registry, by its id ("butterfly/pistonball-v6"); image options as in images.py."""
    import pettingzoo
    from pettingzoo.env_registry.exceptions import FailedToImport

    task = find_pettingzoo(task)
    entry = pettingzoo.spec("parallel", task).entry_point
    base = task.rsplit("-v", 1)[0]
    try:
        module = importlib.import_module(str(entry).split(":")[0])
    except ImportError as error:
        raise MissingPackage(_extra_of(task)) from error
    images, options = split_image_options({**_PETTINGZOO_OPTIONS.get(base, {}), **options})
    if hasattr(module, "raw_env"):
        allowed = options_of(module.raw_env)
        if allowed is not None:
            check_options(task, options, [*allowed, *IMAGE_OPTIONS])
    if base in _PETTINGZOO_UNDRAWN:
        render_mode = render_mode or "rgb_array"
    names, noop = _PETTINGZOO_ACTIONS.get(base, ((), None))
    try:
        team = PettingZooTeam(
            lambda: images.wrap(pettingzoo.make("parallel", task, render_mode=render_mode, **options), task),
            name=task,
            team_reward=team_reward or _PETTINGZOO_TEAM_REWARD.get(base),
            time_limit=time_limit,
            episode_limit=images.env_steps(options.get("max_cycles")),
            noop=noop,
            reuse=base not in _PETTINGZOO_REMEMBERS,
            state="observations" if images.reduces else None,
            discrete_remedy=_PETTINGZOO_DISCRETE_REMEDY.get(base, "Wrap it."),
        )
    except FailedToImport as error:
        raise MissingPackage(_extra_of(task)) from error
    if names:  # how many agents there are is known only now
        team.spec = replace(team.spec, action_names=(names,) * team.spec.num_agents)
    return team


def _extra_of(task: str) -> str:
    """What pip installs for a task of PettingZoo's registry."""
    family = task.split("/")[0]
    return "teamcredit[envs]" if family in ("butterfly", "sisl") else f"pettingzoo[{family}]"


def _import_extra(module: str, requirement: str) -> Any:
    """The module; MissingPackage where the package it belongs to is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise
        raise MissingPackage(requirement) from error
