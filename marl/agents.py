"""Decentralized utility networks: agent i's action values q_i(o_i, .) from its own observation alone.

With shared weights the agents are told apart by their id: the first layer sees the observation with a one-hot id
appended (computed as a bias per agent, which is the same arithmetic). Recurrent networks carry a memory per agent.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..envs.base import TeamSpec
from ..envs.tracing import in_one_graph
from .config import NetworkConfig
from .encoders import ImageEncoder, image_shape
from .recurrence import unroll


def linear(x: Float[Tensor, "*batch inputs"], weight: Tensor, bias: Tensor | None = None) -> Float[Tensor, "*batch outputs"]:
    """x W^T + b as one matrix product whatever the strides of `x` (a view into packed rows would become a product per row)."""
    if bias is not None and in_one_graph():  # a compiler adds it on the way; within the product it would cost a copy
        return linear(x, weight) + bias
    return F.linear(x.reshape(-1, x.shape[-1]), weight, bias).unflatten(0, x.shape[:-1])


def layer_norm(x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
    """(x - mean) / sqrt(var + 1e-5) over the features, spelled out: a compiler turns the fused one into slow running means."""
    apart = x - x.mean(-1, keepdim=True)
    return apart * (apart.square().mean(-1, keepdim=True) + 1e-5).rsqrt()


class AgentLinear(nn.Module):
    """One linear layer applied along the agent axis: the same weights for all, or one set per agent."""

    def __init__(self, num_agents: int, inputs: int, outputs: int, *, share: bool):
        super().__init__()
        self.share = share
        lead = () if share else (num_agents,)
        bound = 1 / math.sqrt(inputs)  # torch.nn.Linear's own initialisation
        self.weight = nn.Parameter(torch.empty(*lead, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(*lead, outputs).uniform_(-bound, bound))

    def forward(self, x: Float[Tensor, "*batch agent inputs"]) -> Float[Tensor, "*batch agent outputs"]:
        if self.share:
            return linear(x, self.weight, self.bias)
        rows = x.flatten(0, -3).transpose(0, 1)  # agent, batch, inputs
        out = torch.baddbmm(self.bias.unsqueeze(1), rows, self.weight.transpose(1, 2))
        return out.transpose(0, 1).unflatten(0, x.shape[:-2])


class FirstLayer(nn.Module):
    """Observation (and agent id, where weights are shared) to hidden features."""

    def __init__(self, num_agents: int, obs_dim: int, hidden: int, *, share: bool):
        super().__init__()
        self.linear = AgentLinear(num_agents, obs_dim + (num_agents if share else 0), hidden, share=share)
        self.obs_dim, self.share = obs_dim, share

    def forward(self, obs: Tensor) -> Tensor:
        if not self.share:
            return self.linear(obs)
        weight, of_id = self.linear.weight.split([self.obs_dim, self.linear.weight.shape[1] - self.obs_dim], dim=1)
        ids = torch.eye(of_id.shape[1], dtype=of_id.dtype, device=of_id.device)
        return linear(obs, weight) + F.linear(ids, of_id, self.linear.bias)


class AgentNorm(nn.Module):
    """Layer normalisation of each agent's features (arXiv:1607.06450): one scale and shift for all, or one per agent."""

    def __init__(self, num_agents: int, features: int, *, share: bool):
        super().__init__()
        shape = (features,) if share else (num_agents, features)
        self.weight, self.bias = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))

    def forward(self, x: Float[Tensor, "*batch agent features"]) -> Float[Tensor, "*batch agent features"]:
        width = self.weight.shape[-1:]
        if in_one_graph():
            return layer_norm(x) * self.weight + self.bias
        if self.weight.dim() == 1:
            return F.layer_norm(x, width, self.weight, self.bias)
        return F.layer_norm(x, width) * self.weight + self.bias


class GRUCell(nn.Module):
    """Gated recurrent unit (arXiv:1406.1078), the equations of `torch.nn.GRUCell`, along the agent axis."""

    def __init__(self, num_agents: int, inputs: int, hidden: int, *, share: bool):
        super().__init__()
        self.of_input = AgentLinear(num_agents, inputs, 3 * hidden, share=share)
        self.of_memory = AgentLinear(num_agents, hidden, 3 * hidden, share=share)
        self.fast = False
        """Windows by the C++ loops (recurrence.py) instead of torch's operations; the captured loop sets it."""

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """One update."""
        in_reset, in_update, in_new = self.of_input(x).chunk(3, -1)
        of_reset, of_update, of_new = self.of_memory(memory).chunk(3, -1)
        reset, update = torch.sigmoid(in_reset + of_reset), torch.sigmoid(in_update + of_update)
        new = torch.tanh(in_new + reset * of_new)
        return new + update * (memory - new)

    def unroll(
        self,
        x: Float[Tensor, "time env agent input"],
        keep: Bool[Tensor, "time env"],
        memory: Float[Tensor, "env agent hidden"],
    ) -> Float[Tensor, "time env agent hidden"]:
        """The memory after each step of a window; before a step that does not `keep` it, it is set to zero."""
        weights = self.of_input.weight, self.of_memory.weight, self.of_input.bias, self.of_memory.bias
        agents, kept = x.shape[2], keep.to(x.dtype)
        if self.of_memory.share:
            rows, kept = x.flatten(1, 2).unsqueeze(0), kept.repeat_interleave(agents, 1)[None, ..., None]
            one_set = (memory.flatten(0, 1).unsqueeze(0), *(weight.unsqueeze(0) for weight in weights))
            return unroll(rows, kept, *one_set, fast=self.fast)[0].unflatten(1, (-1, agents))
        kept = kept[None, ..., None].expand(agents, -1, -1, -1)
        return unroll(x.permute(2, 0, 1, 3), kept, memory.transpose(0, 1), *weights, fast=self.fast).permute(1, 2, 0, 3)


class UtilityNetwork(nn.Module):
    """q_i(o_i, .) for all agents at once; agent i's row depends on agent i's observation and memory only."""

    def __init__(self, config: NetworkConfig, *, num_agents: int, obs_dim: int, num_actions: int, obs_shape: tuple[int, ...] | None = None):
        """`obs_shape` (height, width, channels): the observations are images and go through a convolutional encoder first."""
        super().__init__()
        hidden, share = config.hidden, config.share
        self.num_agents = num_agents
        self.memory_dim = hidden if config.kind == "gru" else 0
        self.encoder = None if obs_shape is None else ImageEncoder(num_agents, obs_shape, share=share)
        self.first = FirstLayer(num_agents, obs_dim if self.encoder is None else self.encoder.features, hidden, share=share)
        depth = config.layers if config.kind == "mlp" else 1
        self.layers = nn.ModuleList(AgentLinear(num_agents, hidden, hidden, share=share) for _ in range(depth - 1))
        norms = (AgentNorm(num_agents, hidden, share=share) if config.layer_norm else nn.Identity() for _ in range(depth))
        self.norms = nn.ModuleList(norms)
        self.cell = GRUCell(num_agents, hidden, hidden, share=share) if self.memory_dim else None
        self.head = AgentLinear(num_agents, hidden, num_actions, share=share)

    def features(self, obs: Tensor) -> Tensor:
        """What one observation says, before any memory."""
        x = obs.to(torch.float32) / 255 if obs.dtype == torch.uint8 else obs
        if self.encoder is not None:
            x = self.encoder(x)
        x = F.relu(self.norms[0](self.first(x)))
        for layer, norm in zip(self.layers, self.norms[1:], strict=True):
            x = F.relu(norm(layer(x)))
        return x

    def forward(
        self, obs: Tensor, memory: Float[Tensor, "*batch agent memory"]
    ) -> tuple[Float[Tensor, "*batch agent action"], Float[Tensor, "*batch agent memory"]]:
        """Utilities now and the memory to carry on (of width 0 for an mlp)."""
        x = self.features(obs)
        if self.cell is not None:
            x = memory = self.cell(x, memory)
        return self.head(x), memory

    def initial_memory(self, num_envs: int, device: torch.device | None = None) -> Float[Tensor, "env agent memory"]:
        """The memory at an episode's start: zeros."""
        return torch.zeros(num_envs, self.num_agents, self.memory_dim, device=device)

    def unroll(self, obs: Tensor, episode_start: Bool[Tensor, "time env"], *, burn_in: int = 0) -> tuple[Tensor, Tensor]:
        """Utilities and memories over a window: (time - burn_in, env, agent, action) and (..., memory).

        The memory starts at zero, is rebuilt over the first `burn_in` steps without a gradient, and is reset to zero
        before every step that starts an episode.
        """
        if self.cell is None:
            x = self.features(obs[burn_in:])
            return self.head(x), x[..., :0]
        memory = self.initial_memory(obs.shape[1], obs.device)
        if burn_in:
            with torch.no_grad():
                memory = self._remember(obs[:burn_in], episode_start[:burn_in], memory)[-1]
        memories = self._remember(obs[burn_in:], episode_start[burn_in:], memory)
        return self.head(memories), memories

    def _remember(self, obs: Tensor, episode_start: Tensor, memory: Tensor) -> Tensor:
        assert self.cell is not None
        return self.cell.unroll(self.features(obs), ~episode_start, memory)


def utility_network(config: NetworkConfig, spec: TeamSpec) -> UtilityNetwork:
    """The network for a task: as wide as its observations and actions, with an encoder where its observations are images."""
    return UtilityNetwork(
        config, num_agents=spec.num_agents, obs_dim=spec.obs_dim, num_actions=spec.num_actions, obs_shape=image_shape(config, spec)
    )
