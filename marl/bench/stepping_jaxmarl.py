"""JaxMARL's spread, stepped at random inside one compiled scan: the child that `stepping.py` starts.

    python -m teamcredit.marl.bench.stepping_jaxmarl COPIES

Uniform actions are drawn inside the scan; observations, rewards and ends of every step leave it, as a learner needs them. Its
`step` resets a copy that ended by itself. Compiling is over before the first turn.
"""

# pyright: reportMissingImports=false
import sys
import time
from typing import Any

from .child import serve
from .clock import Side, steady

ENV_STEPS = 65_536
"""About how many env steps one call of the compiled program makes."""


def make(copies: int) -> tuple[Side, dict[str, Any]]:
    """The side, and what it took to compile."""
    import jax
    import jaxmarl

    env: Any = jaxmarl.make("MPE_simple_spread_v3")
    length = min(max(ENV_STEPS // copies, 16), 2_000)

    def play(key: Any) -> Any:
        first, key = jax.random.split(key)
        _, state = jax.vmap(env.reset)(jax.random.split(first, copies))

        def step(carry: Any, _: None) -> Any:
            state, key = carry
            key, act, world = jax.random.split(key, 3)
            draws = jax.random.randint(act, (len(env.agents), copies), 0, 5)
            action = dict(zip(env.agents, draws, strict=True))
            obs, state, reward, done, _ = jax.vmap(env.step)(jax.random.split(world, copies), state, action)
            return (state, key), (obs, reward, done)

        return jax.lax.scan(step, (state, key), None, length)[1]

    began = time.process_time()
    program: Any = jax.jit(play).lower(jax.random.key(0)).compile()
    compiling = time.process_time() - began
    keys = iter(range(1, sys.maxsize))

    def work() -> float:
        jax.block_until_ready(program(jax.random.key(next(keys))))
        return float(copies * length)

    return steady(work), {"compile_seconds": compiling}


if __name__ == "__main__":
    serve(lambda: make(int(sys.argv[1])))
