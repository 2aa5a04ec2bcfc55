import pytest
import torch
from teamcredit.credit import EpisodeGame, aristocrat_utility, difference_reward, leave_one_out, shapley
from teamcredit.credit.games import airport, majority, random_two_additive
from teamcredit.credit.scores import coverage

torch.set_num_threads(1)
FLOAT = torch.float64


def noisy(game, noise, seed=0, pool=50_000):
    """Team returns with a luck of their own for every agent that plays, the same in every coalition of one episode."""
    luck = torch.randn(pool, game.num_agents, generator=torch.Generator().manual_seed(seed), dtype=FLOAT)

    def simulate(coalitions, episodes):
        return game(coalitions).unsqueeze(1) + noise * coalitions.to(FLOAT) @ luck[episodes].T, 7 * len(coalitions) * len(episodes)

    return EpisodeGame(simulate, game.num_agents)


def test_episode_credit_counts_what_it_played_and_plays_nothing_twice():
    game = noisy(majority(3, 2), 0.1)
    alone = leave_one_out(game, 3, episodes=10)
    assert (alone.evaluations, alone.episodes, alone.env_steps) == (4 * 10, 10, 7 * 40)
    both = shapley(game, 3, episodes=10)
    assert (both.evaluations, both.env_steps) == (4 * 10, 7 * 40)
    again = shapley(game, 3, episodes=10)
    assert (again.evaluations, again.env_steps) == (0, 0)
    assert torch.equal(both.value, again.value)


def test_an_episode_game_plays_only_the_episodes_a_coalition_lacks():
    calls = []

    def simulate(coalitions, episodes):
        calls.append((len(coalitions), episodes.tolist()))
        return coalitions.sum(1, keepdim=True) + episodes.to(FLOAT), 1

    game = EpisodeGame(simulate, 2)
    team = torch.tensor([[True, True]])
    game.play(team, torch.tensor([0, 1]))
    values = game.play(torch.tensor([[True, True], [False, True]]), torch.tensor([1, 2]))
    assert calls == [(1, [0, 1]), (1, [2]), (1, [1, 2])]
    assert values.tolist() == [[3.0, 4.0], [2.0, 3.0]]
    assert (game.lowest, game.highest) == (2.0, 4.0)


def test_episode_shapley_values_add_up_to_the_measured_total():
    for sampled in (False, True):
        credit = shapley(noisy(airport([1, 2, 3, 4]), 0.5), 4, episodes=39, exact_up_to=0 if sampled else 5)
        assert float(credit.value.sum()) == pytest.approx(credit.total)


@pytest.mark.parametrize(
    "game", [airport([1, 2, 3, 4]), random_two_additive(4, torch.Generator().manual_seed(2))], ids=["airport", "2-additive"]
)
@pytest.mark.parametrize("exact_up_to", [5, 0], ids=["exact", "sampled"])
def test_episode_intervals_hold_the_truth_about_95_times_in_100(game, exact_up_to):
    simulator = noisy(game, 0.5, seed=5)
    runs = [
        shapley(
            simulator,
            4,
            episodes=torch.arange(64 * run, 64 * run + 64),
            exact_up_to=exact_up_to,
            generator=torch.Generator().manual_seed(run),
        )
        for run in range(150)
    ]
    held = coverage(torch.stack([run.low for run in runs]), torch.stack([run.high for run in runs]), game.shapley)
    assert 0.93 <= held <= 0.97
    assert all(run.approximate for run in runs)


def test_a_declared_return_range_makes_the_interval_guaranteed():
    game = noisy(majority(3, 2), 0.0)
    credit = leave_one_out(game, 3, episodes=64, bound=1.0)
    assert not credit.approximate
    assert (credit.value == 0).all()
    assert (credit.high > 0.04).all()
    assert (credit.high < 0.08).all()
    assert "betting" in credit.resampled
    assert leave_one_out(game, 3, episodes=64).approximate
    assert not shapley(game, 3, episodes=64, bound=1.0).approximate


def test_a_return_outside_the_declared_range_is_refused():
    with pytest.raises(ValueError, match="return_range"):
        leave_one_out(noisy(airport([1, 2, 3]), 0.0), 3, episodes=8, bound=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs `episodes`"),
        ({"episodes": 1}, "give no interval"),
        ({"episodes": torch.tensor([1, 1])}, "twice"),
        ({"episodes": 10, "exact_up_to": 0, "rings": 1}, "at least 2"),
    ],
)
def test_mistakes_with_episodes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        shapley(noisy(majority(3, 2), 0.1), 3, **options)


def test_a_team_of_another_size_is_refused():
    with pytest.raises(ValueError, match="has 3 agents"):
        leave_one_out(noisy(majority(3, 2), 0.1), 4, episodes=4)


def test_difference_reward_and_aristocrat_utility_by_hand():
    team, replaced = torch.tensor([5.0]), torch.tensor([[3.0, 6.0]])
    assert difference_reward(team, replaced).tolist() == [[2.0, -1.0]]
    reward = torch.tensor([[1.0, 3.0], [5.0, 5.0]])
    policy = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    assert aristocrat_utility(reward, policy, torch.tensor([0, 1])).tolist() == [-1.5, 0.0]
    average = sum(
        policy[0, a] * policy[1, b] * aristocrat_utility(reward, policy, torch.tensor([a, b])) for a in range(2) for b in range(2)
    )
    assert average.abs().max() < 1e-6
