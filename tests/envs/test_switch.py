"""Switch: moves by hand, ends, rewards and views, the declared range against a search over all positions."""

from itertools import product

import pytest
import torch
from teamcredit.envs.native import NativeState
from teamcredit.envs.randomness import Clock
from teamcredit.envs.switch import COLS, GOALS, STARTS, Switch, SwitchTask, is_free

DOWN, LEFT, UP, RIGHT, NOOP = range(5)


def at(*cells: tuple[int, int], step: int = 0) -> NativeState:
    where = torch.tensor([[row * COLS + col for row, col in cells]])
    one = torch.zeros(1, dtype=torch.int64)
    no = torch.zeros(1, dtype=torch.bool)
    return NativeState(SwitchTask(where, one + step), Clock(one, one, one + step), no, no)


def play(env: Switch, state: NativeState, *actions: int):
    state, step, _ = env.step(state, torch.tensor([actions]), autoreset=False)
    return state, step


def places(state: NativeState) -> list:
    return [divmod(cell, COLS) for cell in state.task.cell[0].tolist()]


@pytest.mark.parametrize(
    ("starts", "actions", "ends"),
    [
        ([(0, 1), (0, 5)], (RIGHT, LEFT), [(0, 1), (0, 5)]),  # walls
        ([(0, 0), (2, 5)], (UP, DOWN), [(0, 0), (2, 5)]),  # the edge of the board
        ([(1, 3), (1, 4)], (RIGHT, LEFT), [(1, 3), (1, 4)]),  # nobody passes in the corridor
        ([(1, 3), (1, 4)], (RIGHT, RIGHT), [(1, 3), (1, 5)]),  # agent 0 moves first and finds the cell taken,
        ([(1, 4), (1, 3)], (RIGHT, RIGHT), [(1, 5), (1, 4)]),  # agent 1 after it finds it free
        ([(1, 2), (1, 4)], (RIGHT, LEFT), [(1, 3), (1, 4)]),  # one free cell between them: the first gets it
        ([(1, 2), (1, 4)], (NOOP, LEFT), [(1, 2), (1, 3)]),
    ],
)
def test_agents_move_one_after_another(starts, actions, ends):
    assert places(play(Switch(2), at(*starts), *actions)[0]) == ends


def test_an_agent_at_its_goal_is_paid_once_and_stays_in_the_way():
    env = Switch(2)
    state, step = play(env, at((0, 5), (1, 6)), RIGHT, NOOP)
    assert step.agent_reward.tolist() == [[5.0, pytest.approx(-0.1)]]
    assert step.reward.item() == pytest.approx(4.9)
    state, step = play(env, state, DOWN, UP)  # agent 0 no longer listens, agent 1 bumps into it
    assert places(state) == [(0, 6), (1, 6)]
    assert step.agent_reward.tolist() == [[0.0, pytest.approx(-0.1)]]
    assert step.after.alive.tolist() == [[False, True]]


def test_a_finished_agent_sees_zeros_and_the_state_still_shows_it():
    env = Switch(2, full_obs=True)
    _, step = play(env, at((0, 5), (1, 3)), RIGHT, NOOP)
    assert step.after.obs.tolist() == [[[0.0] * 4, [0.0, 1.0, 0.5, 0.5]]]
    assert step.after.state.tolist() == [[0.0, 1.0, 0.5, 0.5]]
    assert step.after.available.tolist() == [[[True] + [False] * 4, [True] * 5]]


@pytest.mark.parametrize(
    ("options", "first"),
    [({}, [0, 0.17]), ({"clock": True}, [0, 0.17, 0.5]), ({"full_obs": True}, [0, 0.17, 0, 0.83])],
)
def test_agents_see_rounded_places_and_the_share_of_time_that_passed(options, first):
    env = Switch(2, **options)
    view = env.observe(at((0, 1), (0, 5), step=25).task)
    torch.testing.assert_close(view.obs[0, 0], torch.tensor(first))
    assert len(env.spec.obs_names[0]) == len(first)


def test_all_home_terminates_even_in_the_last_step_and_the_limit_truncates():
    env = Switch(2, episode_limit=50)
    late = at((0, 5), (0, 0), step=49)
    _, step = play(env, late, RIGHT, NOOP)
    assert (step.terminated.item(), step.truncated.item()) == (True, False)
    _, step = play(env, late, NOOP, NOOP)
    assert (step.terminated.item(), step.truncated.item()) == (False, True)


def test_the_quickest_way_for_two_pays_what_the_range_says():
    env, state, total = Switch(2), at(*STARTS[:2]), 0.0
    first, second = (DOWN, RIGHT, RIGHT, RIGHT, RIGHT, RIGHT, UP), (NOOP,) * 5 + (DOWN, LEFT, LEFT, LEFT, LEFT, LEFT, UP)
    for actions in zip((*first, *[NOOP] * 5), second, strict=True):
        state, step = play(env, state, *actions)
        total += step.reward.item()
    assert step.terminated.item()
    assert total == pytest.approx(8.3)
    assert env.spec.return_range == (pytest.approx(-10.0), pytest.approx(8.3))


def search_best_return(num_agents: int, limit: int = 50) -> float:
    """The highest return from the start, by looking at every joint action in every position that can be reached, step by step."""
    env = Switch(num_agents)
    joint = torch.tensor(list(product(range(5), repeat=num_agents)))
    free = [row * COLS + col for row in range(3) for col in range(COLS) if is_free(row, col)]
    base = COLS * 3
    weights = torch.tensor([base**i for i in range(num_agents)])
    best = torch.full((base**num_agents,), -torch.inf)
    best[(torch.tensor([row * COLS + col for row, col in STARTS[:num_agents]]) * weights).sum()] = 0.0
    home = (torch.tensor([row * COLS + col for row, col in GOALS[:num_agents]]) * weights).sum()
    highest = -torch.inf
    assert len(free) == 15
    for _ in range(limit):
        reached = best.isfinite().nonzero().squeeze(1)
        after = torch.full_like(best, -torch.inf)
        for codes in reached.split(4000):
            cell = codes.unsqueeze(1) // weights % base
            task = SwitchTask(cell.repeat_interleave(len(joint), 0), torch.zeros(len(codes) * len(joint), dtype=torch.int64))
            clock = Clock(*[torch.zeros(len(task.cell), dtype=torch.int64)] * 3)
            moved, outcome = env.advance(task, joint.repeat(len(codes), 1), clock)
            total = best[codes].repeat_interleave(len(joint)) + outcome.reward
            after.scatter_reduce_(0, (moved.cell * weights).sum(1), total, "amax")
        highest = max(highest, float(after[home]))
        after[home] = -torch.inf
        best = after
        # Whoever is not home yet loses 0.1 a step and gains 5 at the end: no later arrival can be better than this.
        if float(best.max()) + 5.0 * num_agents < highest:
            break
    return highest


def test_no_play_of_two_pays_more_than_the_range_says():
    assert search_best_return(2) == pytest.approx(Switch(2).spec.return_range[1], abs=1e-4)


@pytest.mark.slow
def test_no_play_of_three_pays_more_than_the_range_says():
    assert search_best_return(3) == pytest.approx(Switch(3).spec.return_range[1], abs=1e-4)


@pytest.mark.slow
def test_no_play_of_four_in_20_steps_pays_more_than_the_range_says():
    assert search_best_return(4, limit=20) == pytest.approx(Switch(4).spec.return_range[1], abs=1e-4)


@pytest.mark.parametrize("limit, best", [(6, -1.2), (7, 5 - 0.6 - 0.7), (11, 5 - 0.6 - 1.1), (12, 8.3)])
def test_a_short_episode_declares_a_range_that_holds(limit, best):
    low, high = Switch(2, episode_limit=limit).spec.return_range
    assert low == pytest.approx(-0.2 * limit)
    assert high >= best - 1e-6
    assert high == pytest.approx(best) or 7 <= limit < 12


def test_the_mean_of_rewards_and_its_range():
    env = Switch(4, team_reward="mean", step_cost=0.2)
    assert env.spec.return_range[0] == pytest.approx(-10.0)
    _, step = play(env, at(*STARTS), NOOP, NOOP, NOOP, NOOP)
    assert step.reward.item() == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_agents": 5}, "num_agents is 5; switch has places for 2, 3 or 4"),
        ({"num_agents": 1}, "num_agents is 1"),
        ({"step_cost": -0.1}, "step_cost is -0.1.*>= 0"),
        ({"episode_limit": 0}, "episode_limit is 0"),
        ({"team_reward": "shared"}, "team_reward is 'shared'; choose 'sum' or 'mean'"),
    ],
)
def test_impossible_options_are_refused_by_value(options, told):
    with pytest.raises(ValueError, match=told):
        Switch(**options)
