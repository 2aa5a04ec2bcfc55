"""Whether a run's loop is captured by a compiler (`--compile auto|on|off`), and what cannot be.

An env step in every copy, a batch's targets and an iteration become one graph each (marl/graphs.py); of environments that are stepped
in Python the learning alone. That takes a C++ compiler and some tens of seconds once per machine and configuration (the result is kept
on disk), so `auto` captures long runs only.
"""

from dataclasses import dataclass

from ..envs.base import TeamEnv
from ..envs.native import NativeEnv
from .config import Config
from .errors import ConfigError
from .kernels import find_compiler

COMPILED, LEARNING, EAGER = "compiled", "learning compiled", "eager"
NO_COMPILER = "there is no C++ compiler here (g++ or clang++) to capture the loop with"
_SAVED_PER_STEP, _SAVED_PER_ITERATION, _COMPILING = 1e-3, 2.5e-3, 30.0
"""Seconds: what a captured env step of all copies saves, what a captured iteration saves, what compiling costs."""


@dataclass(frozen=True)
class Choice:
    """How a run goes through its loop."""

    engine: str
    """compiled, learning compiled, or eager"""
    reason: str
    """For people."""


def decide(config: Config, env: TeamEnv) -> Choice:
    """The engine of a new run; ConfigError where `--compile on` asks for what cannot be captured."""
    if config.compile == "off":
        return Choice(EAGER, "--compile off")
    obstacle = what_prevents_learning(config)
    if obstacle is not None:
        if config.compile == "on":
            raise ConfigError(f"--compile on: {obstacle}", remedy="use --compile auto, which runs what cannot be captured as it is")
        return Choice(EAGER, obstacle)
    outside = what_prevents_collecting(config, env)
    saved, cost = seconds_saved(config, collecting=outside is None)
    if config.compile == "auto" and saved < cost:
        return Choice(EAGER, f"too short to pay for compiling: about {saved:.0f} s saved, {cost:.0f} s spent")
    if find_compiler() is None:
        return Choice(EAGER, NO_COMPILER)
    reason = "--compile on" if config.compile == "on" else f"saves about {saved:.0f} s"
    return Choice(COMPILED, reason) if outside is None else Choice(LEARNING, f"{reason}; {outside}")


def what_prevents_learning(config: Config) -> str | None:
    """What in a run's learning a compiler cannot capture, in words."""
    if config.algo == "coma" or config.own_critic.kind != "none":
        return "a counterfactual critic draws fresh actions from a generator, which is not captured"
    if config.watch.on_lazy == "intervene":
        return "--on-lazy intervene may change weights, exploration and rewards on the way, which is not captured"
    return None


def what_prevents_collecting(config: Config, env: TeamEnv) -> str | None:
    """What in a run's collecting a compiler cannot capture, in words."""
    if not isinstance(env, NativeEnv):
        return f"{env.spec.name} is stepped in Python"
    if config.reward_redistribution != "none":
        return "episodes are redistributed between collecting and learning, in Python"
    return "planted members are asked in Python" if config.members else None


def seconds_saved(config: Config, *, collecting: bool = True) -> tuple[float, float]:
    """Roughly what capturing saves over the run and what it costs, in seconds."""
    replay = config.replay
    per_round = replay.rollout_steps * collecting * _SAVED_PER_STEP + iterations_per_round(config) * _SAVED_PER_ITERATION
    return config.steps / replay.batch * per_round, _COMPILING


def iterations_per_round(config: Config) -> float:
    replay = config.replay
    if replay.minibatch_size == "full":
        return float(replay.epochs)
    looks = replay.epochs if replay.sampling == "split" else replay.replay_ratio
    return looks * replay.batch / replay.minibatch_size
