"""The delayed chain and key and door: closed forms, dynamic programming and hand arithmetic say the same."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from teamcredit.credit import shapley_from_values
from teamcredit.credit.chains import LateCredit, delayed_chain, key_and_door
from teamcredit.credit.switch_off import switch_off_matrix

REFERENCES = st.sampled_from(["random", "noop"])


def same(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def check(truth: LateCredit) -> torch.Tensor:
    """The switch-off matrix of the values, after its closed form and both sums."""
    matrix = switch_off_matrix(truth.rewards, truth.values)
    same(matrix, truth.matrix)
    same(matrix.sum(0), shapley_from_values(truth.values[:, 0]))
    same(matrix.sum(), truth.values[-1, 0] - truth.values[0, 0])
    return matrix


@settings(deadline=None, derandomize=True, max_examples=40)
@given(steps=st.integers(1, 7), agents=st.integers(1, 5), actions=st.integers(2, 5), reference=REFERENCES, seed=st.integers(0, 999))
def test_the_chains_matrix_is_its_closed_form_and_adds_up(steps, agents, actions, reference, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(steps, agents, generator=generator, dtype=torch.float64)
    null_step, null_agent = seed % steps, seed % agents
    weights[null_step], weights[:, null_agent] = 0.0, 0.0
    hits = torch.rand(steps, agents, generator=generator) < 0.6
    matrix = check(delayed_chain(weights, hits, num_actions=actions, reference=reference))
    assert not matrix[null_step].any()  # exactly 0
    assert not matrix[:, null_agent].any()


def test_a_chain_of_two_steps_by_hand():
    """Agent 0 hits both, agent 1 the second alone; random play hits a third of the time."""
    truth = delayed_chain(torch.tensor([[3.0, 6.0], [9.0, 12.0]]), torch.tensor([[1, 0], [1, 1]]).bool(), num_actions=3, reference="random")
    assert truth.rewards.tolist() == [0, 24]
    torch.testing.assert_close(truth.values[:, 0], torch.tensor([10.0, 18, 16, 24], dtype=torch.float64))  # nobody, 0, 1, both
    torch.testing.assert_close(truth.values[:, 1], torch.tensor([10.0, 16, 18, 24], dtype=torch.float64))
    torch.testing.assert_close(check(truth), torch.tensor([[2.0, -2.0], [6.0, 8.0]], dtype=torch.float64))


@settings(deadline=None, derandomize=True, max_examples=40)
@given(data=st.data(), agents=st.integers(2, 5), steps=st.integers(2, 7), actions=st.integers(2, 5), reference=REFERENCES)
def test_key_and_doors_matrix_is_its_closed_form_wherever_the_two_sit(data, agents, steps, actions, reference):
    key_step, door_step = sorted(data.draw(st.lists(st.integers(0, steps - 1), min_size=2, max_size=2, unique=True)))
    key_agent, door_agent = data.draw(st.lists(st.integers(0, agents - 1), min_size=2, max_size=2, unique=True))
    truth = key_and_door(
        reference, num_agents=agents, steps=steps, num_actions=actions,
        key_step=key_step, door_step=door_step, key_agent=key_agent, door_agent=door_agent,
    )  # fmt: skip
    matrix = check(truth)
    p = 1 / actions if reference == "random" else 0.0
    column = torch.zeros(agents, dtype=torch.float64)
    column[[key_agent, door_agent]] = (1 - p**2) / 2
    same(matrix.sum(0), column)  # symmetric in the end, though the key comes first
    others = matrix.clone()
    others[key_step, [key_agent, door_agent]] = 0.0
    others[door_step, door_agent] = 0.0
    assert not others.any()  # null steps and null agents are exactly 0


def test_key_and_door_by_hand():
    truth = key_and_door("random")
    ninth = torch.tensor([1, 3, 3, 9] * 2, dtype=torch.float64) / 9  # nobody, the key, the door, both; then with the third agent
    same(truth.values[:, 0], ninth)
    same(truth.values[:, 2], torch.tensor([1, 1, 3, 3] * 2, dtype=torch.float64) / 3)  # the key is taken: the door alone decides
    same(truth.values[:, 5], torch.ones(8, dtype=torch.float64))
    assert not truth.values[:, 6].any()
    expected = torch.zeros(6, 3, dtype=torch.float64)
    expected[1, :2] = torch.tensor([4 / 9, -2 / 9])
    expected[4, 1] = 2 / 3
    torch.testing.assert_close(check(truth), expected, rtol=0, atol=1e-7)
    nothing = key_and_door("noop")
    assert (nothing.matrix[1].tolist(), nothing.matrix[4].tolist()) == ([0.5, -0.5, 0], [0, 1, 0])


def test_what_cannot_be_is_named():
    weights, hits = torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="num_actions is 1"):
        delayed_chain(weights, hits, num_actions=1, reference="noop")
    with pytest.raises(ValueError, match="rise from 0"):
        key_and_door("noop", key_step=3, door_step=2)
    with pytest.raises(ValueError, match="two of the agents"):
        key_and_door("noop", key_agent=1, door_agent=1)
