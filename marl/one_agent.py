"""One agent's utility network as a function of everything that enters it: its observation and, with shared weights, its id.

The team's network (agents.py) adds the id as a fixed row per agent. Here it is an ordinary input behind the observation,
so that a gradient can be taken with respect to it, and only this agent's share of the arithmetic is done. In float64, on
images already scaled to [0, 1].
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .agents import AgentNorm, FirstLayer, UtilityNetwork
from .config import NetworkConfig


class BesideId(nn.Module):
    """An image encoder that hands on the id behind its features."""

    def __init__(self, encoder: nn.Module, obs_dim: int):
        super().__init__()
        self.encoder, self.obs_dim = encoder, obs_dim

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.encoder(x[..., : self.obs_dim]), x[..., self.obs_dim :]], -1)


def one_agent(network: UtilityNetwork, agent: int, obs_dim: int) -> UtilityNetwork:
    """The same function for this agent alone, (*batch, 1, obs + id) to (*batch, 1, action); an id only where weights are shared."""
    share, agents = network.first.share, network.num_agents
    shape = None if network.encoder is None else network.encoder.shape
    config = NetworkConfig(
        kind="gru" if network.memory_dim else "mlp",
        hidden=network.head.weight.shape[-1],
        layers=len(network.layers) + 1,
        share=False,
        layer_norm=isinstance(network.norms[0], AgentNorm),
    )
    with torch.device("meta"):
        alone = UtilityNetwork(config, num_agents=1, obs_dim=obs_dim, num_actions=network.head.weight.shape[-2], obs_shape=shape)
        alone.first = FirstLayer(1, network.first.obs_dim + (agents if share else 0), config.hidden, share=False)
    wanted = alone.state_dict()
    parts = {name: values if share else values.chunk(agents)[agent] for name, values in network.state_dict().items()}
    alone.load_state_dict({name: part.detach().double().reshape(wanted[name].shape) for name, part in parts.items()}, assign=True)
    if share and alone.encoder is not None:
        alone.encoder = BesideId(alone.encoder, obs_dim)  # pyright: ignore[reportAttributeAccessIssue]
    return alone.requires_grad_(False)


def utilities(
    alone: UtilityNetwork,
    x: Float[Tensor, "row window input"],
    memory: Float[Tensor, "row memory"],
    present: Bool[Tensor, "row window"],
) -> Float[Tensor, "row action"]:
    """The agent's outputs at the last step of a window, from its memory before the window; steps not `present` leave the memory alone."""
    if alone.cell is None:
        return alone(x[:, -1:], x.new_zeros(len(x), 1, 0))[0].squeeze(1)
    going, out = memory.unsqueeze(1), x.new_zeros(0)
    for now, here in zip(x.unbind(1), present.unbind(1), strict=True):
        out, after = alone(now.unsqueeze(1), going)
        going = torch.where(here[:, None, None], after, going)
    return out.squeeze(1)
