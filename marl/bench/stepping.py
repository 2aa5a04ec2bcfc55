"""Raw env steps per CPU second: our batched tasks beside the packages they follow, and beside other batched simulators.

Every side plays random actions drawn beforehand (JaxMARL draws its own inside its compiled scan) and starts a new episode where one ended;
VMAS has no time limit here and starts none. One unit is one env step: one joint action of one copy.
"""

# pyright: reportMissingImports=false
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ...envs.base import View
from ...envs.randomness import POLICY, Clock, copy_seeds
from ...envs.registry import make
from ..exploration import uniform_policy
from ..graphs import compiled
from ..trees import owned, write_into
from .child import Child, SideFailed
from .clock import Pace, Side, Turn, cpu_seconds, steady
from .peers import PEERS
from .rows import Row, compare, missing

UNIT = "env steps per CPU second"
COPIES = (1, 64, 1_024, 4_096)
_POOL, _STRETCH = 16, 25


def stepper(task: str, copies: int, *, seed: int = 0, compiled: bool = False, **options: Any) -> Side:
    """Our own task under random actions drawn beforehand; where actions are masked, drawn step by step while the clock stands."""
    env = make(task, **options)
    generator = torch.Generator().manual_seed(seed)
    state, view = env.reset(copy_seeds(seed, copies))
    step: Callable[..., Any] = env.step
    if compiled:
        state = owned(state, order=torch.preserve_format)
        step = capture_step(env, state, torch.zeros(copies, env.spec.num_agents, dtype=torch.int64))
    if not bool(view.available.all()):
        return _masked_stepper(step, state, view, Clock.start(copy_seeds(seed, copies)))
    pool = [torch.randint(env.spec.num_actions, (copies, env.spec.num_agents), generator=generator) for _ in range(_POOL)]
    held = [state]

    def work() -> float:
        state = held[0]
        for number in range(_STRETCH):
            state, _, _ = step(state, pool[number % _POOL])
        held[0] = state
        return float(_STRETCH * copies)

    return steady(work)


def capture_step(env: Any, state: Any, action: Tensor) -> Callable[..., Any]:
    """`env.step` as one graph, compiled now, called as training calls it: the state, which lies where it is, is overwritten."""

    def once(state: Any, action: Tensor) -> Any:
        new, step, view = env.step(state, action)
        write_into(state, owned(new, order=torch.preserve_format))
        if env.spec.state_is_obs:
            # without the state, which is the observations under another name
            after, view = ({"obs": seen.obs, "available": seen.available, "alive": seen.alive} for seen in (step.after, view))
            return owned(((step.reward, step.agent_reward, step.terminated, step.truncated, after), view))
        return owned((step, view))

    with torch.no_grad():
        bound = compiled(once, state, action).bind(state)

    def call(same: Any, action: Tensor) -> Any:
        assert same is state
        return state, *bound(action)

    return call


def _masked_stepper(step: Callable[..., Any], state: Any, view: View, clock: Clock) -> Side:
    held: list[Any] = [state, view, clock]

    def turn(seconds: float) -> Turn:
        (state, view, clock), units, spent = held, 0.0, 0.0
        while spent < seconds:
            action = uniform_policy(view.available, clock.key(POLICY))
            began = cpu_seconds()
            state, _, view = step(state, action)
            spent += cpu_seconds() - began
            units, clock = units + len(view.alive), clock.tick()
        held[:] = state, view, clock
        return Turn(units, spent)

    return turn


def gymnasium_stepper(package: str, task: str) -> Side:
    """One copy of a package's own gymnasium environment, as it is registered there, without wrappers."""
    import gymnasium
    import numpy as np

    __import__(package)
    env: Any = gymnasium.make(task, disable_env_checker=True).unwrapped
    env.reset(seed=1)
    draws = np.random.default_rng(1).integers(0, [space.n for space in env.action_space], size=(256, len(env.action_space)))
    pool = [list(map(int, draw)) for draw in draws]

    def work() -> float:
        for action in pool:
            _, _, done, truncated, _ = env.step(action)
            if done or truncated:
                env.reset()
        return float(len(pool))

    return steady(work)


def mpe2_stepper() -> Side:
    """One copy of MPE2's simple_spread_v3 through PettingZoo's parallel API."""
    import numpy as np
    from mpe2 import simple_spread_v3

    env = simple_spread_v3.parallel_env()
    env.reset(seed=1)
    pool = [dict(zip(env.possible_agents, map(int, draw), strict=True)) for draw in np.random.default_rng(1).integers(0, 5, size=(250, 3))]

    def work() -> float:
        for action in pool:
            env.step(action)
            if not env.agents:
                env.reset()
        return float(len(pool))

    return steady(work)


def vmas_stepper(copies: int) -> Side:
    """VMAS' own simple_spread with discrete actions."""
    import vmas

    env = vmas.make_env("simple_spread", num_envs=copies, device="cpu", continuous_actions=False, seed=1)
    env.reset()
    generator = torch.Generator().manual_seed(1)
    pool = [[torch.randint(5, (copies,), generator=generator) for _ in range(3)] for _ in range(_POOL)]

    def work() -> float:
        for number in range(_STRETCH):
            env.step(pool[number % _POOL])
        return float(_STRETCH * copies)

    return steady(work)


ORIGINALS: Mapping[str, tuple[str, Callable[[], Side]]] = {
    "native/spread": ("MPE2", mpe2_stepper),
    "native/foraging-8x8-2p-3f": ("lbforaging", lambda: gymnasium_stepper("lbforaging", "Foraging-8x8-2p-3f-v3")),
    "native/rware-tiny-2ag": ("rware", lambda: gymnasium_stepper("rware", "rware-tiny-2ag-v2")),
}
"""Task -> the package it follows, and one copy of that."""
_NOTES = {
    "MPE2": "one copy of theirs, PettingZoo's parallel API",
    "lbforaging": "one copy of theirs",
    "rware": "one copy of theirs",
    "VMAS": "a simpler task (14 features, no reset)",
    "JaxMARL": "compiling apart; in a process of its own",
}


@contextmanager
def jaxmarl_stepper(copies: int) -> Iterator[Child]:
    """JaxMARL's spread in a process of its own."""
    child = Child(["-m", "teamcredit.marl.bench.stepping_jaxmarl", str(copies)], python=sys.executable)
    try:
        yield child
    finally:
        child.close()


def measure_original(task: str, copies: int, pace: Pace) -> list[Row]:
    """Our task in `copies` copies beside one copy of the package it follows."""
    what, (peer, make_side) = f"stepping {task}, {copies:,} {_copies(copies)}", ORIGINALS[task]
    if not PEERS[peer].is_installed:
        return [missing(what, peer, UNIT, PEERS[peer].install)]
    return compare(what, UNIT, stepper(task, copies, seed=pace.seed), {peer: make_side()}, pace=pace, notes=_NOTES)


def measure_batched(copies: int, pace: Pace, *, compiled: bool = False) -> list[Row]:
    """Our spread beside VMAS and JaxMARL with the same number of copies; compiled, it is measured beside itself too."""
    what = f"stepping native/spread, {copies:,} {_copies(copies)}{', compiled' if compiled else ''}"
    absent = [missing(what, name, UNIT, PEERS[name].install) for name in ("VMAS", "JaxMARL") if not PEERS[name].is_installed]
    sides: dict[str, Side] = {"ours, eager": stepper("native/spread", copies, seed=pace.seed)} if compiled else {}
    if PEERS["VMAS"].is_installed:
        sides["VMAS"] = vmas_stepper(copies)
    try:
        with jaxmarl_stepper(copies) if PEERS["JaxMARL"].is_installed else nullcontext() as theirs:
            sides |= {} if theirs is None else {"JaxMARL": theirs}
            ours = stepper("native/spread", copies, seed=pace.seed, compiled=compiled)
            return compare(what, UNIT, ours, sides, pace=pace, notes=_NOTES) + absent
    except SideFailed as error:
        return [*absent, Row(what=what, peer="JaxMARL", unit=UNIT, note=f"not measured: {error}")]


def _copies(count: int) -> str:
    return "copy" if count == 1 else "copies"
