"""Whom we are measured beside, and what to install for it. None of them is needed for anything else."""

from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class Peer:
    """A package that does the same work."""

    name: str
    modules: tuple[str, ...]
    """All must be importable."""
    install: str

    @property
    def is_installed(self) -> bool:
        return all(find_spec(module) is not None for module in self.modules)


PEERS = {
    peer.name: peer
    for peer in (
        Peer("MPE2", ("mpe2",), 'pip install "teamcredit[envs]"'),
        Peer("lbforaging", ("lbforaging",), 'pip install "teamcredit[envs]"'),
        Peer("rware", ("rware",), 'pip install "teamcredit[envs]"'),
        Peer("VMAS", ("vmas",), 'pip install "teamcredit[bench]"'),
        Peer("JaxMARL", ("jax", "jaxmarl"), 'pip install "teamcredit[bench]"'),
        Peer("cpprb", ("cpprb",), 'pip install "teamcredit[bench]"'),
        Peer("TorchRL", ("torchrl", "tensordict"), 'pip install "teamcredit[bench]"'),
    )
}
