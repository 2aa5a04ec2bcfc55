"""Tasks of the user's own: a function, given as such or as `module:function`, that makes a ParallelEnv or a TeamEnv."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from .base import TeamEnv
from .errors import MissingPackage, UnknownTask, UnsupportedTask
from .images import IMAGE_OPTIONS, ImageOptions, split_image_options
from .packages import check_options, named_parameters, options_of
from .pettingzoo import PettingZooTeam, TeamReward


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
    function: Callable[..., Any],
    name: str,
    /,
    *,
    team_reward: TeamReward | None = None,
    time_limit: int | None = None,
    render_mode: str | None = None,
    **options: Any,
) -> Any:
    """The TeamEnv that `function(**options)` gives, or one around the ParallelEnv it gives.

    The image options (images.py) apply to its ParallelEnv; a parameter of `function` with such a name goes before them.
    """
    allowed = options_of(function)
    images, options = split_image_options(options, own=named_parameters(function))
    if allowed is not None:
        check_options(name, options, [*allowed, *IMAGE_OPTIONS])
    if render_mode is not None and (allowed is None or "render_mode" in allowed):
        options["render_mode"] = render_mode
    first = function(**options)
    if isinstance(first, TeamEnv):
        if team_reward is not None or time_limit is not None:
            raise ValueError(f"{name} gives a TeamEnv, which has its own team reward and limits; leave out team_reward and time_limit")
        if images != ImageOptions():
            raise ValueError(f"{name} gives a TeamEnv; {', '.join(IMAGE_OPTIONS)} are for ParallelEnvs: make its images smaller in {name}")
        return first
    if first is None:
        raise UnsupportedTask(f"{name} gave None.", "Return a ParallelEnv or TeamEnv.")
    made = [first]
    return PettingZooTeam(
        lambda: images.wrap(made.pop() if made else function(**options), name),
        name=name,
        team_reward=team_reward,
        time_limit=time_limit,
        state="observations" if images.reduces else None,
    )
