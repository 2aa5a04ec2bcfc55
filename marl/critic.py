"""The counterfactual critic: Q_i(s, u_-i, .), the team's value for every action of agent i, its teammates' actions being given.

    x_i = relu(norm(W_s s + W_o o_i + b_i))          (gru: x_i also goes through a recurrent cell)
    z_i = relu(norm(W x_i + sum_{j != i} E[j, u_j]))
    Q_i(s, u_-i, .) = head(z_i)

Agent i's own action never enters its row, so one pass gives the whole counterfactual row of COMA (arXiv:1705.08926,
section 4): all n rows are estimates of the same Q(s, u), each at its own agent's action. Actions of agents that are
dead or planted enter nowhere: for the critic they belong to the environment.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .agents import AgentLinear, AgentNorm, FirstLayer, GRUCell
from .config import CriticConfig


class CounterfactualCritic(nn.Module):
    """Q_i(s, u_-i, .) for all agents at once; weights are shared, agents are told apart by their id."""

    def __init__(self, config: CriticConfig, *, num_agents: int, obs_dim: int, state_dim: int, num_actions: int):
        super().__init__()
        hidden = config.hidden
        self.num_agents = num_agents
        self.memory_dim = hidden if config.kind == "gru" else 0
        self.of_state = nn.Linear(state_dim, hidden, bias=False)
        self.of_obs = FirstLayer(num_agents, obs_dim, hidden, share=True)
        self.cell = GRUCell(num_agents, hidden, hidden, share=True) if self.memory_dim else None
        self.of_features = AgentLinear(num_agents, hidden, hidden, share=True)
        self.of_action = nn.Parameter(torch.empty(num_agents, num_actions, hidden).normal_(std=num_agents**-0.5))
        self.layers = nn.ModuleList(AgentLinear(num_agents, hidden, hidden, share=True) for _ in range(config.layers - 1))
        norms = (AgentNorm(num_agents, hidden, share=True) if config.layer_norm else nn.Identity() for _ in range(config.layers + 1))
        self.norms = nn.ModuleList(norms)
        self.head = AgentLinear(num_agents, hidden, num_actions, share=True)
        self.register_buffer("others", 1 - torch.eye(num_agents), persistent=False)

    def features(self, state: Float[Tensor, "*batch state"], obs: Tensor) -> Float[Tensor, "*batch agent hidden"]:
        """What state and own observation say, before any memory and any action."""
        obs = obs.to(torch.float32) / 255 if obs.dtype == torch.uint8 else obs
        return F.relu(self.norms[0](self.of_state(state).unsqueeze(-2) + self.of_obs(obs)))

    def step(
        self, state: Float[Tensor, "*batch state"], obs: Tensor, memory: Float[Tensor, "*batch agent memory"]
    ) -> Float[Tensor, "*batch agent hidden"]:
        """Features of views, each with the memory left by the step before (of width 0 for an mlp)."""
        x = self.features(state, obs)
        return x if self.cell is None else self.cell(x, memory)

    def unroll(
        self, state: Float[Tensor, "time env state"], obs: Tensor, episode_start: Bool[Tensor, "time env"], *, burn_in: int = 0
    ) -> Float[Tensor, "_ env agent hidden"]:
        """Features over a window without its first `burn_in` steps; a gru's features are its memories, reset where an episode starts."""
        if self.cell is None:
            return self.features(state[burn_in:], obs[burn_in:])
        memory = torch.zeros(obs.shape[1], self.num_agents, self.memory_dim, device=obs.device)
        keep = ~episode_start
        if burn_in:
            with torch.no_grad():
                memory = self.cell.unroll(self.features(state[:burn_in], obs[:burn_in]), keep[:burn_in], memory)[-1]
        return self.cell.unroll(self.features(state[burn_in:], obs[burn_in:]), keep[burn_in:], memory)

    def rows(
        self, features: Float[Tensor, "*batch agent hidden"], action: Int[Tensor, "*batch agent"], acting: Bool[Tensor, "*batch agent"]
    ) -> Float[Tensor, "*batch agent action"]:
        """Q_i(s, u_-i, .) of each agent; teammates that are not `acting` enter no row."""
        chosen = self.of_action[torch.arange(self.num_agents, device=action.device), action] * acting.unsqueeze(-1)
        # 0 times an agent's own embedding is exactly 0: its action cannot reach its row even by rounding.
        x = F.relu(self.norms[1](self.of_features(features) + torch.einsum("ij,...jh->...ih", self.others, chosen)))
        for layer, norm in zip(self.layers, self.norms[2:], strict=True):
            x = F.relu(norm(layer(x)))
        return self.head(x)
