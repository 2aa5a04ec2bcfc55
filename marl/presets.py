"""Settings that were tried, one word each: `--preset NAME`. A preset sets options; everything after it may override it, another
preset too: `--preset foraging,coma-stored`.

A task has a preset of its own (`own_preset`), which is used while the user names neither a preset nor a configuration file and
sets no `learner.*` or `replay.*` option to another value than it has there. Whoever does gets the plain defaults under these options:
128 steps of one copy, split into minibatches of 32. `--preset none` asks for the plain defaults outright.
"""

from collections.abc import Mapping
from typing import Any

from .errors import ConfigError, suggest

NO_PRESET = "none"
_SPLIT = {"sampling": "split", "rollout_steps": 16, "num_envs": 128, "minibatch_size": 512, "epochs": 2}
_DEEPER: dict[str, Any] = {"network": {"layers": 3}, "replay": _SPLIT | {"minibatch_size": 256}}
_PQN = {"target": "none", "optimiser": "radam", "lr_decay": "linear"}
_REPLAY = {"sampling": "uniform", "rollout_steps": 32, "num_envs": 8, "minibatch_size": 256, "window": 8, "replay_ratio": 8}
_SMALL: dict[str, Any] = {
    "learner": {"gamma": 0.99, "lr": 1e-3, "target": "hard", "target_every": 100},
    "network": {"hidden": 64, "layers": 1, "layer_norm": False},
    "mixer": {"embed_dim": 8, "hyper_dim": 32},
    "replay": {"sampling": "uniform", "minibatch_size": 64, "rollout_steps": 2, "num_envs": 32, "capacity": 1_024, "replay_ratio": 16},
}
# Each of the episodes is long: few of them, seldom.
_LONG_EPISODES = {"every": 25_000, "episodes": 4, "final_episodes": 8}
_IMAGES: dict[str, Any] = {
    "learner": {"gamma": 0.99, "target": "soft", "target_tau": 0.01, "td_lambda": 0.8, "lr": 5e-4},
    "exploration": {"end": 0.05, "fraction": 0.2},
    "replay": {
        "sampling": "uniform", "rollout_steps": 32, "num_envs": 1, "minibatch_size": 32, "window": 8, "replay_ratio": 1, "capacity": 5_000,
    },
    "mixer": {"embed_dim": 16, "hyper_dim": 32},
    "evaluation": {"every": 10_000, "episodes": 4, "final_episodes": 8},
}  # fmt: skip
_SMALLER = {"color_reduction": "full", "resize": "42x42"}
_COMA: dict[str, Any] = {
    "algo": "coma",
    "network": {"layers": 2},
    "learner": {"lr": 1e-3},
    "critic": {"target": "retrace", "trace_lambda": 0.8, "lr": 2e-3},
    "coma": {"entropy": 0.002},
    "exploration": {"start": 0.1, "end": 0.01, "fraction": 0.3},
}
_COMA_MATRIX = _COMA | {
    "network": {"layers": 1},
    "coma": {"entropy": 0.1},
    "critic": {"hidden": 64, "layer_norm": False, "lr": 2e-3},
    "exploration": {"start": 0.5, "end": 0.02},
}
_GAME_REPLAY = {"sampling": "uniform", "minibatch_size": 64, "replay_ratio": 2}
_FROM_REPLAY = {"sampling": "uniform", "window": 8, "minibatch_size": 512, "replay_ratio": 2}
_OFF_POLICY = {"target": "soft", "target_tau": 0.01, "td_lambda": 0.8, "lr": 5e-4, "lr_decay": "linear"}

_SPREAD: dict[str, Any] = {
    "steps": 2_000_000,
    "learner": _PQN | {"gamma": 0.9, "td_lambda": 0.9, "lr": 3e-3},
    "exploration": {"end": 0.01, "fraction": 0.1},
    **_DEEPER,
}
_FORAGING: dict[str, Any] = {
    "steps": 2_000_000,
    "learner": _PQN | {"gamma": 0.97, "td_lambda": 0.7, "lr": 2e-3},
    "exploration": {"end": 0.05, "fraction": 0.3},
    "env": {"relative_obs": True},
    **_DEEPER,
}

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
    "spread": ("pqn tuned on native spread", _SPREAD),
    "foraging": ("pqn tuned on native foraging 8x8-2p-3f", _FORAGING),
    "spread-vdn": (
        "spread, VDN, longer (docs/presets.md)",
        _SPREAD | {"task": "native/spread", "algo": "vdn", "steps": 3_500_000},
    ),
    "spread-qmix": (
        "spread, QMIX, longer (docs/presets.md)",
        _SPREAD | {"task": "native/spread", "algo": "qmix", "steps": 3_000_000},
    ),
    "foraging-vdn": (
        "foraging, VDN, no longer than it takes (docs/presets.md)",
        _FORAGING | {"task": "native/foraging-8x8-2p-3f", "algo": "vdn", "steps": 1_500_000},
    ),
    "foraging-qmix": (
        "foraging, QMIX, no longer than it takes (docs/presets.md)",
        _FORAGING | {"task": "native/foraging-8x8-2p-3f", "algo": "qmix"},
    ),
    "images": (
        "images: grey, 42x42, three convolutions, a replay of 5,000; for colour images of any ParallelEnv",
        _IMAGES | {"env": _SMALLER},
    ),
    "pistonball": (
        "images, with discrete actions, for pistonball",
        _IMAGES | {"env": {"continuous": False, **_SMALLER}, "evaluation": _IMAGES["evaluation"] | {"final_episodes": 4}},
    ),
    "pong": (
        "images, deciding on every fourth frame, for cooperative pong",
        _IMAGES | {"env": {**_SMALLER, "frame_skip": 4}},
    ),
    "kaz": (
        "replay for long episodes in which agents die: knights, archers, zombies",
        {
            "learner": _OFF_POLICY | {"gamma": 0.99},
            "exploration": {"end": 0.05, "fraction": 0.2},
            "replay": _REPLAY | {"num_envs": 4, "minibatch_size": 128, "replay_ratio": 4},
            "evaluation": _LONG_EPISODES,
        },
    ),
    "pursuit": (
        "replay for long episodes of eight pursuers",
        {
            "learner": _OFF_POLICY | {"gamma": 0.99},
            "exploration": {"end": 0.05, "fraction": 0.2},
            "replay": _REPLAY | {"num_envs": 4, "minibatch_size": 128, "replay_ratio": 4, "capacity": 50_000},
            "evaluation": _LONG_EPISODES,
        },
    ),
    "rware": (
        "replay for long episodes with rare rewards: warehouses",
        {
            "learner": _OFF_POLICY | {"gamma": 0.99, "standardise_rewards": True},
            "exploration": {"end": 0.05, "fraction": 0.5},
            "replay": _REPLAY | {"replay_ratio": 4},
            "evaluation": _LONG_EPISODES | {"final_episodes": 32},
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
    "coma": (
        "coma on fresh batches; lies over a task's preset: --preset spread,coma",
        _COMA | {"coma": _COMA["coma"] | {"actions": "stored"}, "replay": _SPLIT},
    ),
    "coma-resampled": (
        "coma from the replay, every action drawn afresh; lies over a task's preset: --preset spread,coma-resampled",
        _COMA | {"coma": _COMA["coma"] | {"actions": "resampled"}, "replay": _FROM_REPLAY},
    ),
    "coma-stored": (
        "coma from a short replay, stored actions with the joint ratio; lies over a task's preset: --preset spread,coma-stored",
        _COMA
        | {
            "learner": {"lr": 5e-4},
            "coma": _COMA["coma"] | {"actions": "stored"},
            "exploration": _COMA["exploration"] | {"end": 0.05},  # keeps the ratios bounded: no action taken was nearly impossible
            "replay": _FROM_REPLAY | {"capacity": 4_096},
        },
    ),
    "coma-matrix": (
        "coma for one-step and two-step games; lies over the preset matrix",
        _COMA_MATRIX | {"replay": {"sampling": "split", "minibatch_size": "full", "epochs": 2}},
    ),
    "coma-matrix-resampled": (
        "the same from the replay, every action drawn afresh",
        _COMA_MATRIX | {"coma": _COMA_MATRIX["coma"] | {"actions": "resampled"}, "replay": _GAME_REPLAY},
    ),
    "coma-matrix-stored": (
        "the same from a short replay, stored actions with the joint ratio",
        _COMA_MATRIX | {"coma": _COMA_MATRIX["coma"] | {"actions": "stored"}, "replay": _GAME_REPLAY | {"capacity": 256}},
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
    ("native/coalition", "matrix"),
    ("native/", "pqn"),
    ("mpe/", "mpe"),
    ("butterfly/pistonball", "pistonball"),
    ("butterfly/cooperative_pong", "pong"),
    ("butterfly/knights_archers_zombies", "kaz"),
    ("sisl/pursuit", "pursuit"),
    ("rware/", "rware"),
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


def own_presets(task: str, algo: str) -> str:
    """What a task brings under an algorithm, as `--preset` takes it: its own preset, and for coma one over it."""
    own = own_preset(task)
    if algo != "coma":
        return own
    over = "coma-matrix" if own == "matrix" else "coma" if task.startswith("native/") else "coma-resampled"
    return f"{own},{over}"


def preset_layers(names: str, note: str = "") -> list[tuple[str, Mapping[str, Any]]]:
    """One layer per preset of "A,B", the later over the earlier."""
    return [(f"preset {name}{note}", preset(name)) for name in names.split(",")]


def image_preset(task: str) -> str | None:
    """The task's own preset where that makes its images smaller, else None."""
    own = own_preset(task)
    return own if "resize" in PRESETS[own][1].get("env", {}) else None
