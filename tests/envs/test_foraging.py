"""Foraging: the rules by hand, fresh boards, sizes by name, relative coordinates and the scripted forager."""

import pytest
import torch
from teamcredit.envs.foraging import Foraging, parse_size, relative_coordinates
from teamcredit.envs.foraging_board import compact
from teamcredit.envs.native import NativeState
from teamcredit.envs.randomness import Clock, copy_seeds

NOOP, NORTH, SOUTH, WEST, EAST, LOAD = range(6)


def on_board(env: Foraging, foods, players) -> NativeState:
    task = env.place(torch.tensor([foods]), torch.tensor([players]))
    no = torch.zeros(1, dtype=torch.bool)
    return NativeState(task=task, clock=Clock.start(torch.zeros(1, dtype=torch.int64)), terminated=no, truncated=no)


def play(env: Foraging, state: NativeState, *actions: int):
    state, step, _ = env.step(state, torch.tensor([actions]), autoreset=False)
    return state, step


def places(state: NativeState) -> list:
    return state.task.players[0, :, :2].tolist()


def test_players_share_a_food_by_level_and_the_team_gets_its_part_of_the_board():
    env = Foraging(8, 8, 2, 2)
    state = on_board(env, [[2, 2, 3], [5, 5, 1]], [[2, 1, 1], [2, 3, 2]])
    _, alone = play(env, state, LOAD, NOOP)
    assert alone.agent_reward.tolist() == [[0, 0]]
    state, step = play(env, state, LOAD, LOAD)
    torch.testing.assert_close(step.agent_reward, torch.tensor([[1 / 4, 2 / 4]]))  # level * 3 / (3 * 4)
    torch.testing.assert_close(step.reward, torch.tensor([3 / 4]))
    assert state.task.foods.tolist() == [[[5, 5, 1], [-1, -1, 0]]]
    assert not step.terminated.item()


def test_a_cleared_board_is_terminated_even_at_the_step_limit():
    env = Foraging(8, 8, 1, 1, episode_limit=1)
    state = on_board(env, [[2, 2, 1]], [[2, 1, 2]])
    _, step = play(env, state, LOAD)
    assert (step.reward.item(), step.terminated.item(), step.truncated.item()) == (1, True, False)
    _, step = play(env, state, NOOP)
    assert (step.reward.item(), step.terminated.item(), step.truncated.item()) == (0, False, True)


def test_a_failed_load_costs_the_penalty():
    env = Foraging(8, 8, 2, 1, penalty=0.5)
    _, step = play(env, on_board(env, [[2, 2, 3]], [[2, 1, 1], [6, 6, 2]]), LOAD, NOOP)
    assert step.agent_reward.tolist() == [[-0.5, 0]]


@pytest.mark.parametrize(
    ("starts", "actions", "ends"),
    [
        ([(0, 0), (0, 2)], (EAST, WEST), [(0, 0), (0, 2)]),  # one target: both stay
        ([(0, 0), (0, 1)], (EAST, WEST), [(0, 1), (0, 0)]),  # a swap
        ([(0, 0), (0, 1)], (EAST, EAST), [(0, 1), (0, 2)]),  # following
        ([(0, 0), (0, 1)], (EAST, NOOP), [(0, 0), (0, 1)]),  # into one who stays: neither is alone on the target
        ([(0, 0), (0, 7)], (NORTH, EAST), [(0, 0), (0, 7)]),  # out of the board
        ([(4, 3), (7, 7)], (EAST, SOUTH), [(4, 3), (7, 7)]),  # into a food
    ],
)
def test_moves_happen_all_at_once(starts, actions, ends):
    env = Foraging(8, 8, 2, 1)
    state, _ = play(env, on_board(env, [[4, 4, 2]], [[*p, 1] for p in starts]), *actions)
    assert places(state) == [list(p) for p in ends]


def test_a_player_may_enter_the_cell_of_one_whose_own_move_failed():
    env = Foraging(8, 8, 3, 1)
    state = on_board(env, [[4, 4, 2]], [[0, 0, 1], [0, 1, 1], [0, 3, 1]])
    state, _ = play(env, state, EAST, EAST, WEST)  # 1 and 2 want (0, 2) and stay; 0 wants (0, 1) alone
    assert places(state) == [[0, 1], [0, 1], [0, 3]]


def test_what_is_valid_is_a_cell_without_food_inside_the_board():
    env = Foraging(8, 8, 2, 1)
    available = on_board(env, [[1, 1, 1]], [[0, 1, 1], [7, 7, 1]]).task.available[0].tolist()
    assert available[0] == [True, False, False, True, True, True]  # food to the south
    assert available[1] == [True, True, False, True, False, False]


def test_short_sight_hides_what_is_far_and_shifts_coordinates():
    env = Foraging(8, 8, 2, 2, sight=2)
    view = env.observe(on_board(env, [[1, 5, 1], [5, 5, 2]], [[4, 4, 1], [0, 0, 2]]).task)
    assert view.obs[0, 0].tolist() == [3, 3, 2, -1, -1, 0, 2, 2, 1, -1, -1, 0]  # corner (2, 2)
    # From (0, 0) the corner is (0, 0), and players (not foods) up to 2 * sight away are seen.
    assert view.obs[0, 1].tolist() == [-1, -1, 0, -1, -1, 0, 0, 0, 2, 4, 4, 1]


def test_compacting_keeps_the_order():
    items = torch.arange(12).view(1, 4, 3)
    assert compact(items, torch.tensor([[False, True, False, True]])).tolist() == [[[3, 4, 5], [9, 10, 11], [-1, -1, 0], [-1, -1, 0]]]


def test_relative_coordinates_point_from_oneself_and_vanish_for_what_is_missing():
    obs = torch.tensor([2.0, 3, 1, -1, -1, 0, 5, 1, 2, 4, 4, 1])
    assert relative_coordinates(obs, 2, 2).tolist() == [-3, 2, 0, 0, -1, 3]
    batch = obs.expand(3, 4, -1)
    assert torch.equal(relative_coordinates(batch, 2, 2)[1, 2], relative_coordinates(obs, 2, 2))


def test_relative_observations_only_append():
    plain, more = Foraging(), Foraging(relative_obs=True)
    obs, longer = plain.reset(copy_seeds(0, 9))[1].obs, more.reset(copy_seeds(0, 9))[1].obs
    assert torch.equal(longer[..., :15], obs)
    assert torch.equal(longer[..., 15:], relative_coordinates(obs, 3, 2))


@pytest.mark.parametrize("size", ["8x8-2p-3f", "15x15-4p-5f", "6x6-3p-2f-coop", "5x9-4p-2f"])
def test_fresh_boards_are_legal(size):
    env = Foraging(**parse_size(size))
    task = env.reset(copy_seeds(5, 3000))[0].task
    row, col, level = task.foods.unbind(-1)
    assert ((row > 0) & (row < env.rows - 1) & (col > 0) & (col < env.cols - 1))[level > 0].all()
    assert (level > 0).float().mean() > 0.99
    down, right = (row.unsqueeze(1) - row.unsqueeze(2)).abs(), (col.unsqueeze(1) - col.unsqueeze(2)).abs()
    too_close = (torch.maximum(down, right) <= 1) | ((down + right == 2) & (down * right == 0))
    both = (level.unsqueeze(1) > 0) & (level.unsqueeze(2) > 0) & ~torch.eye(env.num_food, dtype=torch.bool)
    assert not (too_close & both).any()
    cell = torch.cat((row * env.cols + col, task.players[..., 0] * env.cols + task.players[..., 1]), 1)
    cell = torch.where(cell < 0, -torch.arange(cell.shape[1]) - 1, cell)
    assert (cell.sort(1).values.diff(dim=1) > 0).all(), "two things start on one cell"
    code = torch.where(level > 0, row * env.cols + col, env.rows * env.cols)
    assert (code.diff(dim=1) >= 0).all(), "foods are not in row-major order"
    highest = task.players[..., 2].sort(1).values[:, :3].sum(1, keepdim=True)
    assert (level <= highest).all()
    assert not env.force_coop or ((level == highest) | (level == 0)).all()
    assert torch.equal(task.food_spawned, level.sum(1))


def test_sizes_read_as_the_references_ids():
    assert parse_size("8x8-2p-3f") == {
        "rows": 8, "cols": 8, "num_players": 2, "num_food": 3, "sight": None, "force_coop": False, "max_food_level": None, "penalty": 0.0,
    }  # fmt: skip
    short = parse_size("Foraging-2s-10x11-3p-4f-coop-ind-pen-v3")
    assert (short["sight"], short["cols"], short["force_coop"], short["max_food_level"], short["penalty"]) == (2, 11, True, 1, 0.1)
    assert Foraging(**parse_size("2s-8x8-2p-2f-coop")).spec.name == "foraging-2s-8x8-2p-2f-coop"


@pytest.mark.parametrize("size", ["8x8", "8x8-3f-2p", "8x8-2p-3f-hard", "", "8x8-2p-3f-pen-coop"])
def test_a_size_that_cannot_be_read_is_answered_with_the_form(size):
    with pytest.raises(ValueError, match="8x8-2p-3f"):
        parse_size(size)


@pytest.mark.parametrize(
    "options",
    [
        {"rows": 2},
        {"num_food": 0},
        {"num_players": 40},
        {"min_player_level": 3},
        {"player_levels": [1]},
        {"player_levels": [1, 0]},
        {"max_food_level": 0},
        {"sight": 0},
        {"penalty": -1.0},
        {"episode_limit": 0},
    ],
)
def test_an_impossible_board_is_refused(options):
    with pytest.raises(ValueError, match=r"\d"):
        Foraging(**options)


def test_the_return_range_bounds_penalties_from_below():
    assert Foraging().spec.return_range == (0.0, 1.0)
    assert Foraging(penalty=0.1).spec.return_range == (-0.1 * 2 * 50, 1.0)


def mean_return(env: Foraging, act, copies: int) -> float:
    state, view = env.reset(copy_seeds(9, copies))
    total = torch.zeros(copies)
    for _ in range(env.spec.episode_limit):
        state, step, view = env.step(state, act(view), autoreset=False)
        total += step.reward
    return total.mean().item()


def test_random_play_returns_about_a_sixth_of_the_board():
    """lbforaging measured .172 with actions drawn from all six, valid or not."""
    generator = torch.Generator().manual_seed(0)
    assert 0.15 < mean_return(Foraging(), lambda view: torch.randint(0, 6, view.alive.shape, generator=generator), 2000) < 0.2


@pytest.mark.parametrize(("size", "at_least"), [("8x8-2p-3f", 0.99), ("8x8-4p-3f", 0.98), ("10x10-3p-3f", 0.98), ("8x8-2p-2f-coop", 0.99)])
def test_scripted_foragers_clear_nearly_every_board(size, at_least):
    env = Foraging(**parse_size(size))
    forager = env.scripted["forager"]
    assert mean_return(env, lambda view: forager(view.obs, view.available), 64) > at_least


def test_the_forager_ignores_appended_features_and_batch_axes():
    plain, more = Foraging(), Foraging(relative_obs=True)
    view, longer = plain.reset(copy_seeds(0, 12))[1], more.reset(copy_seeds(0, 12))[1]
    action = plain.scripted["forager"](view.obs, view.available)
    assert torch.equal(more.scripted["forager"](longer.obs, longer.available), action)
    folded = plain.scripted["forager"](view.obs.unflatten(0, (3, 4)), view.available.unflatten(0, (3, 4)))
    assert torch.equal(folded.flatten(0, 1), action)
    assert torch.equal(plain.scripted["forager"](view.obs[5], view.available[5]), action[5])


def test_the_forager_acts_only_as_available_and_pays_no_penalty():
    env = Foraging(8, 8, 3, 3, penalty=1.0)
    state, view = env.reset(copy_seeds(1, 100))
    for _ in range(50):
        action = env.scripted["forager"](view.obs, view.available)
        assert view.available.gather(-1, action.unsqueeze(-1)).all()
        state, step, view = env.step(state, action)
        assert (step.agent_reward >= 0).all()


def test_no_forager_is_offered_where_players_do_not_see_the_board():
    assert Foraging(sight=2).scripted == {}


def test_players_keep_the_levels_they_are_given_and_nothing_else_changes():
    """The same seeds, the same cells; foods up to the three lowest levels together."""
    levels = [4, 1, 3, 2]
    fixed, drawn = (Foraging(8, 8, 4, 3, **options).reset(copy_seeds(0, 500))[0].task for options in ({"player_levels": levels}, {}))
    assert torch.equal(fixed.players[..., 2], torch.tensor(levels).expand(500, 4))
    assert torch.equal(fixed.players[..., :2], drawn.players[..., :2])
    assert torch.equal(fixed.foods[..., :2], drawn.foods[..., :2])
    assert fixed.foods[..., 2].unique().tolist() == [1, 2, 3, 4, 5, 6]  # lbforaging: 1 to the sum of the three lowest, 1 + 2 + 3
    assert Foraging(8, 8, 4, 3, player_levels=levels, normalize_reward=False).spec.return_range == (0.0, 3 * 12 * 4 * 4)


def test_levels_that_leave_nothing_to_chance_are_the_same_task_either_way():
    given = Foraging(8, 8, 3, 2, player_levels=[2, 2, 2]).reset(copy_seeds(1, 200))
    ranged = Foraging(8, 8, 3, 2, min_player_level=2, max_player_level=2).reset(copy_seeds(1, 200))
    assert all(torch.equal(getattr(given[1], name), getattr(ranged[1], name)) for name in ("obs", "state", "available"))
    assert torch.equal(given[0].task.foods, ranged[0].task.foods)


def test_a_shadow_follows_the_nearest_player_onto_nobody_and_never_loads():
    env = Foraging(8, 8, 3, 1)
    state = on_board(env, [[4, 4, 2]], [[0, 0, 1], [0, 2, 1], [7, 7, 1]])
    moves = env.scripted["shadow"](env.observe(state.task).obs, state.task.available)[0]
    assert moves.tolist() == [EAST, WEST, NORTH]  # the third: 12 cells from the second, moves of equal worth
    beside = on_board(env, [[4, 4, 2]], [[4, 3, 1], [5, 3, 1], [7, 7, 1]])
    assert env.scripted["shadow"](env.observe(beside.task).obs, beside.task.available)[0, :2].tolist() == [NOOP, NOOP]


def test_a_saboteur_steps_into_the_cell_a_forager_is_about_to_enter():
    env = Foraging(8, 8, 2, 1)
    state = on_board(env, [[2, 6, 1]], [[2, 0, 1], [1, 1, 1]])  # the forager goes east into (2, 1), just below the saboteur
    view = env.observe(state.task)
    forager, saboteur = (env.scripted[name](view.obs, view.available)[0] for name in ("forager", "saboteur"))
    assert (forager[0], saboteur[1]) == (EAST, SOUTH)
    after, _ = play(env, state, EAST, SOUTH)
    assert places(after) == [[2, 0], [1, 1]]


def test_shadow_and_saboteur_do_harm_beside_foragers():
    """What the team loses by them, measured against their standing still; 128 paired episodes, standard error of a difference about .02."""
    env = Foraging(**parse_size("8x8-4p-3f"))

    def with_last(name: str | None) -> float:
        def act(view):
            action = env.scripted["forager"](view.obs, view.available)
            action[:, 3] = 0 if name is None else env.scripted[name](view.obs, view.available)[:, 3]
            return action

        return mean_return(env, act, 128)

    still, shadow, saboteur = with_last(None), with_last("shadow"), with_last("saboteur")
    assert still > shadow + 0.03
    assert still > saboteur + 0.06
