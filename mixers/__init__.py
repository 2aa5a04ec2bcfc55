"""Mixers: from the agents' utilities to the team's value. Adding one is one file and one line in `MIXERS`."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Mixer

MIXERS: dict[str, tuple[str, str]] = {
    "none": ("none:Independent", "independent learners: each agent learns its own value of the team reward"),
    "vdn": ("vdn:VDN", "value decomposition: Q_tot is the sum of the utilities (arXiv:1706.05296)"),
    "qmix": ("qmix:QMix", "monotone mixing network made from the global state (arXiv:1803.11485)"),
}
"""name -> (module:class, one line for people)."""


def make_mixer(name: str, *, num_agents: int, state_dim: int, embed_dim: int, hyper_dim: int) -> "Mixer":
    """The mixer of that name; ValueError lists the names there are."""
    if name not in MIXERS:
        raise ValueError(f'no mixer "{name}": use one of {", ".join(MIXERS)}')
    module, cls = MIXERS[name][0].split(":")
    return getattr(import_module(f".{module}", __package__), cls)(num_agents, state_dim, embed_dim, hyper_dim)
