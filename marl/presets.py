"""Settings that were tried, one word each: `--preset NAME`. A preset sets options; everything after it may override it.

A task has a preset of its own (`own_preset`), which is used while the user names neither a preset nor a configuration file and
sets no `learner.*` or `replay.*` option to another value than it has there. Whoever does gets the plain defaults under these options:
128 steps of one copy, split into minibatches of 32. `--preset none` asks for the plain defaults outright.
"""

from typing import Any

from .errors import ConfigError, suggest

NO_PRESET = "none"
_SPLIT = {"sampling": "split", "rollout_steps": 16, "num_envs": 128, "minibatch_size": 512, "epochs": 2}
_PQN = {"target": "none", "optimiser": "radam", "lr_decay": "linear"}
_REPLAY = {"sampling": "uniform", "rollout_steps": 32, "num_envs": 8, "minibatch_size": 256, "window": 8, "replay_ratio": 8}
_SMALL: dict[str, Any] = {
    "learner": {"gamma": 0.99, "lr": 1e-3, "target": "hard", "target_every": 100},
    "network": {"hidden": 64, "layers": 1, "layer_norm": False},
    "mixer": {"embed_dim": 8, "hyper_dim": 32},
    "replay": {"sampling": "uniform", "minibatch_size": 64, "rollout_steps": 2, "num_envs": 32, "capacity": 1_024, "replay_ratio": 16},
}
_OFF_POLICY = {"target": "soft", "target_tau": 0.01, "td_lambda": 0.8, "lr": 5e-4, "lr_decay": "linear"}

PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "replay": (
        "few env steps: uniform replay, every step learned from eight times, lambda returns inside windows of 8; for Python environments",
        {
            "learner": _OFF_POLICY | {"gamma": 0.95},
            "exploration": {"end": 0.05, "fraction": 0.2},
            "replay": _REPLAY,
        },
    ),
    "mpe": (
        "replay with a shorter horizon and less exploration, tuned on spread",
        {
            "learner": _OFF_POLICY | {"gamma": 0.9},
            "exploration": {"end": 0.02, "fraction": 0.1},
            "replay": _REPLAY,
        },
    ),
    "pqn": (
        "little time: fresh batches of 128 copies, lambda returns, no target network (arXiv:2407.04811); for native tasks",
        {
            "steps": 2_000_000,
            "learner": _PQN | {"gamma": 0.95, "td_lambda": 0.8, "lr": 1e-3},
            "replay": _SPLIT,
        },
    ),
    "spread": (
        "pqn tuned on native spread",
        {
            "steps": 2_000_000,
            "learner": _PQN | {"gamma": 0.9, "td_lambda": 0.9, "lr": 3e-3},
            "exploration": {"end": 0.02, "fraction": 0.1},
            "replay": _SPLIT,
        },
    ),
    "foraging": (
        "pqn tuned on native foraging 8x8-2p-3f",
        {
            "steps": 3_000_000,
            "learner": _PQN | {"gamma": 0.97, "td_lambda": 0.7, "lr": 1e-3},
            "exploration": {"end": 0.05, "fraction": 0.3},
            "env": {"relative_obs": True},
            "replay": _SPLIT,
        },
    ),
    "matrix": ("one-step and two-step games: small networks, one-step targets", _SMALL | {"steps": 20_000}),
    "two-step-paper": (
        "the QMIX paper's two-step game: epsilon fixed at 1, gamma .99, uniform replay (arXiv:1803.11485)",
        _SMALL
        | {
            "task": "native/two-step",
            "steps": 10_000,
            "learner": _SMALL["learner"] | {"lr": 5e-4},
            "exploration": {"start": 1.0, "end": 1.0},
            "replay": _SMALL["replay"] | {"replay_ratio": 32},
        },
    ),
    "demo": (
        "native foraging, four agents of whom one does nothing: what marl demo trains",
        {
            "task": "native/foraging-6x6-4p-2f",
            "algo": "vdn",
            "steps": 450_000,
            "members": ["agent_3=noop"],
            "learner": _PQN | {"gamma": 0.95, "td_lambda": 0.7, "lr": 2e-3},
            "env": {"relative_obs": True},
            "replay": _SPLIT | {"minibatch_size": 256},
        },
    ),
}
"""name -> (one line for people, options)."""

_OWN = (
    ("native/spread", "spread"),
    ("native/foraging", "foraging"),
    ("native/two-step", "matrix"),
    ("native/matrix", "matrix"),
    ("native/", "pqn"),
    ("mpe/", "mpe"),
    ("", "replay"),
)


def preset(name: str) -> dict[str, Any]:
    """The options of a preset; ConfigError with the nearest name."""
    if name == NO_PRESET:
        return {}
    if name in PRESETS:
        return PRESETS[name][1]
    raise ConfigError(f'no preset "{name}".{suggest(name, PRESETS)} There are: {", ".join([*PRESETS, NO_PRESET])}')


def own_preset(task: str) -> str:
    """The preset a task (full id) brings itself."""
    return next(name for start, name in _OWN if task.startswith(start))
