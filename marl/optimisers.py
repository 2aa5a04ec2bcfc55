"""The optimisers by name, and their state as named tensors."""

from typing import Any

import torch
from torch import Tensor, nn

from .config import LearnerConfig


def make_optimiser(config: LearnerConfig, parameters: list[nn.Parameter], *, lr: float) -> torch.optim.Optimizer:
    """Adam (fused: the fastest on a CPU) or rectified Adam (arXiv:1908.03265); each group remembers its `initial_lr`."""
    groups = [{"params": parameters, "initial_lr": lr}]
    if config.optimiser == "radam":
        return torch.optim.RAdam(groups, lr=lr, foreach=True)
    return torch.optim.Adam(groups, lr=lr, fused=True)


def dump_optimiser(optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Moments by parameter number and name, and how many parameters have them."""
    state = optimiser.state_dict()["state"]
    return {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}, {"entries": len(state)}


def restore_optimiser(optimiser: torch.optim.Optimizer, moments: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Back to dumped moments."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in moments.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    assert len(state) == meta["entries"]
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
