"""The switch-off matrix: printed digits of a task solved by dynamic programming, and its sums."""

import pytest
import torch
from teamcredit.credit import shapley_from_values
from teamcredit.credit.plate_and_door import plate_and_door
from teamcredit.credit.switch_off import switch_off_matrix


def near(expected: list, atol: float = 5e-7) -> dict:
    return {"expected": torch.tensor(expected, dtype=torch.float64), "rtol": 0, "atol": atol}


def test_plate_and_door_against_random_play():
    truth = plate_and_door("random")
    start = truth.values[:, 0]
    torch.testing.assert_close(start[:4], **near([0.143466, 0.294162, 0.812071, 1]))
    assert torch.equal(start[4:], start[:4])  # the dummy adds nothing, exactly
    torch.testing.assert_close(start[-1] - start[[6, 5, 3]], **near([0.187929, 0.705838, 0]))
    torch.testing.assert_close(shapley_from_values(start), **near([0.169313, 0.687221, 0]))
    matrix = switch_off_matrix(truth.rewards, truth.values)
    printed = [[0.026613, 0.058926, 0], [0.084313, 0.205026, 0], [0.058387, 0.423270, 0]]
    torch.testing.assert_close(matrix, **near(printed, 6e-7))
    assert matrix[:, 2].tolist() == [0, 0, 0]
    torch.testing.assert_close(matrix.sum(0), shapley_from_values(start), rtol=0, atol=1e-12)


def test_plate_and_door_against_staying_where_one_is():
    """The guard stays anyway: only the walker's last step counts, for its whole gain is at stake until then."""
    truth = plate_and_door("noop")
    assert truth.values[:, 0].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert switch_off_matrix(truth.rewards, truth.values).tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_a_hidden_delayed_chain_pays_a_step_when_it_is_made():
    """R = sum of w[t, i] over hits, paid at the end: C[t, i] = w[t, i] (P(the policy hits) - P(the reference hits)), whatever was hit."""
    generator = torch.Generator().manual_seed(0)
    steps, agents, policy, reference = 5, 3, 0.75, 0.25
    w = torch.rand(steps, agents, generator=generator, dtype=torch.float64)
    w[2, 1] = 0.0  # nothing to earn there
    hit = (torch.rand(steps, agents, generator=generator) < policy).double()
    inside = (torch.arange(2**agents).unsqueeze(1) >> torch.arange(agents) & 1).double()
    ahead = inside @ w.T * policy + (1 - inside) @ w.T * reference  # what each step to come is worth to a coalition
    values = torch.stack([ahead[:, t:].sum(1) + (w * hit)[:t].sum() for t in range(steps + 1)], 1)
    values[:, -1] = 0.0  # paid and over
    rewards = torch.zeros(steps, dtype=torch.float64)
    rewards[-1] = (w * hit).sum()
    matrix = switch_off_matrix(rewards, values)
    torch.testing.assert_close(matrix, w * (policy - reference), rtol=0, atol=1e-12)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_discounted_columns_sum_to_the_shapley_values_whatever_happened(gamma):
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(16, 7, 3, generator=generator, dtype=torch.float64)
    values[:, -1] = 0.0
    matrix = switch_off_matrix(torch.randn(6, 3, generator=generator, dtype=torch.float64), values, gamma=gamma)
    discounts = gamma ** torch.arange(6, dtype=torch.float64)
    summed = torch.einsum("t,tab->ab", discounts, matrix)
    torch.testing.assert_close(summed, shapley_from_values(values[:, 0]), rtol=0, atol=1e-12)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"3 moments for 3 rewards.*T \+ 1"):
        switch_off_matrix(torch.zeros(3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="expected 2\\^n"):
        switch_off_matrix(torch.zeros(2), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="NaN"):
        switch_off_matrix(torch.tensor([0.0, torch.nan]), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="NaN"):
        switch_off_matrix(torch.zeros(2), torch.tensor([[0.0, torch.nan, 0.0]] * 4))
    for values in (torch.zeros(4), torch.zeros(4, 3, 7)):
        with pytest.raises(ValueError, match="same further axes"):
            switch_off_matrix(torch.zeros(2), values)
    with pytest.raises(ValueError, match="walker needs 3"):
        plate_and_door("noop", horizon=2)


def test_with_all_the_time_in_the_world_the_walker_arrives_whoever_plays_at_random():
    assert plate_and_door("random", horizon=2_000).values[0, 0] > 0.999
