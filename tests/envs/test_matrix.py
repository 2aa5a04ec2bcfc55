"""Matrix games: the payoffs, their shapes, and the messages."""

import itertools

import pytest
import torch
from teamcredit.envs.matrix import GAMES, MatrixGame


def payoffs(env: MatrixGame) -> torch.Tensor:
    """The payoff tensor as the environment pays it, joint action by joint action."""
    sizes = [len(names) for names in env.spec.action_names]
    joint = torch.tensor(list(itertools.product(*map(range, sizes))))
    state, _ = env.reset(torch.arange(len(joint)))
    _, step, _ = env.step(state, joint)
    assert step.terminated.all()
    assert not step.truncated.any()
    return step.reward.view(sizes)


@pytest.mark.parametrize("name", GAMES)
def test_every_joint_action_pays_its_entry(name):
    torch.testing.assert_close(payoffs(MatrixGame(name)), torch.tensor(GAMES[name], dtype=torch.float32))


@pytest.mark.parametrize("k", [0.0, 25.0, 100.0])
def test_the_penalty_game_punishes_missing_corners(k):
    paid = payoffs(MatrixGame("penalty", k=k))
    assert paid.tolist() == [[-k, 0, 10], [0, 2, 0], [10, 0, -k]]


def test_the_two_climbing_games_are_one_with_the_agents_swapped():
    assert torch.equal(MatrixGame("climbing").payoff, MatrixGame("climbing-credit").payoff.T)


def test_an_agent_with_fewer_actions_has_the_rest_masked():
    env = MatrixGame([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    _, view = env.reset(torch.arange(2))
    assert view.available[0].tolist() == [[True, True, False], [True, True, True]]
    assert env.spec.return_range == (1.0, 6.0)
    assert payoffs(env)[1, 2] == 6


def test_three_players_are_paid_from_a_three_dimensional_payoff():
    env = MatrixGame("climbing-3p")
    assert env.spec.num_agents == 3
    assert (payoffs(env)[2, 2, 1], env.spec.return_range) == (6, (-30.0, 11.0))


def test_nothing_is_a_noop_in_a_matrix_game():
    assert MatrixGame("qtran").spec.noop is None


def test_a_misspelt_game_gets_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'climbing'"):
        MatrixGame("climbin")


@pytest.mark.parametrize("payoff", [[1.0, 2.0], 3.0, [[], []]])
def test_a_payoff_that_is_no_team_game_is_refused(payoff):
    with pytest.raises(ValueError, match="no team game"):
        MatrixGame(torch.tensor(payoff))


def test_an_infinite_payoff_is_refused():
    with pytest.raises(ValueError, match="finite"):
        MatrixGame([[0.0, float("inf")], [0.0, 0.0]])
