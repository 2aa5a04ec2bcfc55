"""Utility networks: decentralised, shared or separate, with a memory that forgets at episode starts."""

import itertools

import pytest
import torch
from teamcredit.envs.two_step import TwoStep
from teamcredit.marl.agents import AgentLinear, GRUCell, UtilityNetwork
from teamcredit.marl.config import Config, NetworkConfig, ReplayConfig
from teamcredit.marl.learners.value import ValueLearner

AGENTS, OBS, ACTIONS = 3, 5, 4
KINDS = list(itertools.product(("mlp", "gru"), (True, False), (True, False)))
every_network = pytest.mark.parametrize(
    "config",
    [
        NetworkConfig(kind=kind, hidden=8, share=share, layer_norm=norm)
        for kind in ("mlp", "gru")
        for share in (True, False)
        for norm in (True, False)
    ],
    ids=lambda c: f"{c.kind}-{'shared' if c.share else 'own'}-{'norm' if c.layer_norm else 'plain'}",
)


def network(config: NetworkConfig, seed: int = 0) -> UtilityNetwork:
    torch.manual_seed(seed)
    return UtilityNetwork(config, num_agents=AGENTS, obs_dim=OBS, num_actions=ACTIONS)


def memory_of(net: UtilityNetwork, count: int) -> torch.Tensor:
    return torch.randn_like(net.initial_memory(count))


@every_network
def test_agent_is_utilities_depend_on_agent_is_observation_and_memory_alone(config):
    net = network(config)
    obs, memory = torch.randn(2, AGENTS, OBS, requires_grad=True), memory_of(net, 2).requires_grad_()
    q, _ = net(obs, memory)
    for agent in range(AGENTS):
        gradients = torch.autograd.grad(q[:, agent].square().sum(), [obs, memory], retain_graph=True, allow_unused=True)
        for gradient in [g for g in gradients if g is not None and g.numel()]:
            moved = gradient.abs().sum((0, 2)) > 0
            assert moved.tolist() == [other == agent for other in range(AGENTS)]


def test_shared_weights_see_the_observation_with_a_one_hot_id_appended():
    net = network(NetworkConfig(hidden=8, layers=2, layer_norm=False))
    obs = torch.randn(6, AGENTS, OBS)
    x = torch.cat([obs, torch.eye(AGENTS).expand(6, -1, -1)], -1)
    for layer in (net.first.linear, net.layers[0]):
        x = torch.relu(x @ layer.weight.T + layer.bias)
    expected = x @ net.head.weight.T + net.head.bias
    torch.testing.assert_close(net(obs, net.initial_memory(6))[0], expected)


def test_agents_with_shared_weights_differ_by_their_id():
    net = network(NetworkConfig(hidden=8))
    q, _ = net(torch.randn(1, 1, OBS).expand(1, AGENTS, -1), net.initial_memory(1))
    assert not torch.allclose(q[:, 0], q[:, 1])


@pytest.mark.parametrize("kind", ["mlp", "gru"])
def test_own_weights_are_separate_in_every_parameter(kind):
    """Layer norms included: nothing agent 0 learns may move agent 1."""
    net = network(NetworkConfig(kind=kind, hidden=8, share=False, layer_norm=True))
    q, _ = net(torch.randn(4, AGENTS, OBS), memory_of(net, 4))
    q[:, 0].square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.shape[0] == AGENTS, name
        assert parameter.grad[0].abs().sum() > 0, name
        assert (parameter.grad[1:] == 0).all(), name


def test_own_weights_are_one_linear_layer_per_agent():
    torch.manual_seed(0)
    layer, x = AgentLinear(AGENTS, 4, 2, share=False), torch.randn(5, 6, AGENTS, 4)
    for agent in range(AGENTS):
        expected = x[:, :, agent] @ layer.weight[agent].T + layer.bias[agent]
        torch.testing.assert_close(layer(x)[:, :, agent], expected)


@pytest.mark.parametrize("share", [True, False])
def test_the_gru_cell_is_torchs(share):
    torch.manual_seed(0)
    ours, theirs = GRUCell(AGENTS, 4, 6, share=share), torch.nn.GRUCell(4, 6)
    x, memory = torch.randn(5, AGENTS, 4), torch.randn(5, AGENTS, 6)
    found = ours(x, memory)
    for agent in range(AGENTS):
        own = {name: value if share else value[agent] for name, value in ours.state_dict().items()}
        theirs.load_state_dict(
            {"weight_ih": own["of_input.weight"], "bias_ih": own["of_input.bias"],
             "weight_hh": own["of_memory.weight"], "bias_hh": own["of_memory.bias"]}
        )  # fmt: skip
        torch.testing.assert_close(found[:, agent], theirs(x[:, agent], memory[:, agent]))


@every_network
def test_unrolling_a_window_is_stepping_through_it_with_resets_at_episode_starts(config):
    net = network(config)
    obs, starts = torch.randn(7, 3, AGENTS, OBS), torch.rand(7, 3) < 0.3
    memory, stepped = net.initial_memory(3), []
    for t in range(7):
        memory = memory * (~starts[t]).float()[:, None, None]
        q, memory = net(obs[t], memory)
        stepped.append(q)
    q, memories = net.unroll(obs, starts)
    torch.testing.assert_close(q, torch.stack(stepped))
    torch.testing.assert_close(memories[-1], memory)
    torch.testing.assert_close(net.unroll(obs, starts, burn_in=4)[0], torch.stack(stepped[4:]))


def test_no_gradient_flows_into_the_burn_in():
    net = network(NetworkConfig(kind="gru", hidden=8))
    obs = torch.randn(5, 2, AGENTS, OBS, requires_grad=True)
    net.unroll(obs, torch.zeros(5, 2, dtype=torch.bool), burn_in=3)[0].sum().backward()
    assert (obs.grad[:3] == 0).all()
    assert (obs.grad[3:] != 0).any()


@every_network
def test_bytes_are_scaled_to_one(config):
    net = network(config)
    raw = torch.randint(0, 256, (2, AGENTS, OBS), dtype=torch.uint8)
    memory = memory_of(net, 2)
    torch.testing.assert_close(net(raw, memory)[0], net(raw.float() / 255, memory)[0])


@pytest.mark.parametrize("kind", ["mlp", "gru"])
def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone(kind):
    config = Config("native/two-step", network=NetworkConfig(kind=kind, hidden=8), replay=ReplayConfig(window=2 if kind == "gru" else 1))
    learner = ValueLearner(config, TwoStep().spec, "qmix")
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, second, other = (learner.make_networks(seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["utility.head.weight"], other["utility.head.weight"])
    torch.manual_seed(8)
    assert all(torch.equal(first[name], value) for name, value in learner.make_networks(5).state_dict().items())
