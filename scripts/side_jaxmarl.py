"""JaxMARL's own QMIX-GRU or VDN-GRU training script as a side of scripts/bench_peers.py.

    python scripts/side_jaxmarl.py CHECKOUT qmix|vdn ENV_STEPS

Its `make_train` is compiled ahead of time for N and for 2N env steps with the settings that its repository gives for MPE
(config/alg/ql_rnn_mpe.yaml), tests during training and logging off; one turn runs both, and their difference is N env steps of
training as it goes on, without start and without compiling. Needs jax, flax, optax, flashbax, distrax, gymnax, hydra-core, safetensors,
matplotlib; wandb is only imported there, so an empty module stands in where it is not installed.
"""

# pyright: reportMissingImports=false
import importlib
import sys
import time
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from teamcredit.marl.bench.child import serve
from teamcredit.marl.bench.clock import Side, Turn


def program(script: Any, settings: dict[str, Any], env_steps: int) -> Any:
    """Their training of that length, compiled; a function without arguments that runs it."""
    import jax

    config = {**settings, "TOTAL_TIMESTEPS": env_steps}
    env, _ = script.env_from_config(dict(config))
    keys = jax.random.split(jax.random.PRNGKey(0), 1)
    compiled: Any = jax.jit(jax.vmap(script.make_train(config, env))).lower(keys).compile()
    return lambda: jax.block_until_ready(compiled(keys))


def make(checkout: Path, algo: str, env_steps: int) -> tuple[Side, dict[str, Any]]:
    """The side, and the seconds of compiling."""
    folder = checkout / "baselines" / "QLearning"
    if find_spec("wandb") is None:
        sys.modules["wandb"] = types.ModuleType("wandb")
    sys.path[:0] = [str(checkout), str(folder)]
    script = importlib.import_module(f"{algo}_rnn")
    files = (folder / "config" / "config.yaml", folder / "config" / "alg" / "ql_rnn_mpe.yaml")
    settings = {key: value for file in files for key, value in yaml.safe_load(file.read_text()).items()}
    settings |= {"TEST_DURING_TRAINING": False, "WANDB_MODE": "disabled"}
    began = time.process_time()
    once, twice = program(script, settings, env_steps), program(script, settings, 2 * env_steps)
    compiling = time.process_time() - began

    def turn(seconds: float) -> Turn:
        began = time.process_time()
        once()
        middle = time.process_time()
        twice()
        ended = time.process_time()
        return Turn(float(env_steps), (ended - middle) - (middle - began))

    return turn, {"compile_seconds": compiling / 2}


if __name__ == "__main__":
    serve(lambda: make(Path(sys.argv[1]).resolve(), sys.argv[2], int(sys.argv[3])))
