"""COMA's advantage and credit against a reference: what has mean 0 for every agent, what has not, what no teammate can shift."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from teamcredit.credit.counterfactual import counterfactual_advantage, reference_advantage
from torch import Tensor

examples = settings(deadline=None, derandomize=True, max_examples=60)
sizes = st.integers(1, 5)
seeds = st.integers(0, 2**31)


def policies(generator: torch.Generator, available: Tensor, sharpness: float) -> Tensor:
    """Softmax policies that are 0 on unavailable actions."""
    logits = sharpness * torch.randn(available.shape, generator=generator, dtype=torch.float64)
    return torch.softmax(logits.masked_fill(~available, -torch.inf), -1)


def some_available(generator: torch.Generator, *shape: int) -> Tensor:
    available = torch.rand(shape, generator=generator) < 0.6
    available[..., 0] |= ~available.any(-1)
    return available


def every_action(q: Tensor) -> Tensor:
    """(action, *batch, agent): every agent plays action a, for each a; the row of the agent is looked up at its own action only."""
    *batch, _, num_actions = q.shape
    return torch.arange(num_actions).view(-1, *[1] * (len(batch) + 1)).expand(num_actions, *q.shape[:-1])


@given(batch=sizes, agents=sizes, actions=sizes, sharpness=st.sampled_from([0.0, 1.0, 20.0]), seed=seeds)
@examples
def test_comas_advantage_has_mean_0_under_each_agents_own_policy(batch, agents, actions, sharpness, seed):
    generator = torch.Generator().manual_seed(seed)
    available = some_available(generator, batch, agents, actions)
    q = 10 * torch.randn(batch, agents, actions, generator=generator, dtype=torch.float64)
    policy = policies(generator, available, sharpness)
    advantage = torch.stack([counterfactual_advantage(q, policy, action) for action in every_action(q)], -1)
    assert advantage.shape == q.shape
    assert ((policy * advantage).sum(-1).abs() < 1e-6).all()


def test_credit_against_a_reference_has_no_mean_0_so_it_can_rank():
    """Two agents: the first's action is worth 4, the second's nothing; both always play action 1, the reference action 0."""
    q = torch.tensor([[0.0, 4.0], [4.0, 4.0]])
    always_1, always_0 = torch.tensor([[0.0, 1.0]] * 2), torch.tensor([[1.0, 0.0]] * 2)
    action = torch.tensor([1, 1])
    assert reference_advantage(q, always_0, action).tolist() == [4.0, 0.0]
    assert counterfactual_advantage(q, always_1, action).tolist() == [0.0, 0.0]


def test_the_advantages_by_hand():
    q = torch.tensor([[1.0, 2.0, 4.0], [3.0, 2.0, -1.0]])
    policy = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    expected = [2 - (0.5 * 1 + 0.25 * 2 + 0.25 * 4), -1 - (0.1 * 3 + 0.2 * 2 - 0.7 * 1)]
    for advantage in (counterfactual_advantage, reference_advantage):
        torch.testing.assert_close(advantage(q, policy, torch.tensor([1, 2])), torch.tensor(expected))


@given(batch=sizes, agents=sizes, actions=sizes, seed=seeds)
@examples
def test_what_depends_on_state_and_teammates_alone_shifts_no_advantage(batch, agents, actions, seed):
    """Any function of (s, u_-i) is one number per row; differences within a row do not see it."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, agents, actions, generator=generator, dtype=torch.float64)
    policy = policies(generator, some_available(generator, batch, agents, actions), 1.0)
    shift = 100 * torch.randn(batch, agents, 1, generator=generator, dtype=torch.float64)
    action = torch.randint(actions, (batch, agents), generator=generator)
    for advantage in (counterfactual_advantage, reference_advantage):
        torch.testing.assert_close(advantage(q + shift, policy, action), advantage(q, policy, action), rtol=0, atol=1e-9)
