"""Pictures of tasks: agents are where the state says, in colours and numbers of their own; what is no picture is refused."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pettingzoo import ParallelEnv
from teamcredit.envs.draw_board import draw_foraging
from teamcredit.envs.draw_grid import draw_predator_prey, draw_switch
from teamcredit.envs.draw_tasks import draw_matrix, draw_spread, draw_two_step
from teamcredit.envs.errors import CannotRender
from teamcredit.envs.foraging import Foraging
from teamcredit.envs.look import look
from teamcredit.envs.markers import find_places
from teamcredit.envs.matrix import MatrixGame
from teamcredit.envs.packages import MPE_SCENARIOS
from teamcredit.envs.picture import COLOURS, Place, colour_of, ink_on, shorten, text_width
from teamcredit.envs.predator_prey import PredatorPrey, PredatorPreyTask
from teamcredit.envs.registry import make
from teamcredit.envs.spread import Spread, SpreadTask
from teamcredit.envs.switch import COLS, SwitchTask
from teamcredit.envs.two_step import TwoStepTask

# Arcade games: their fonts and surfaces are left to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pygame", "ignore::DeprecationWarning:pettingzoo")


@pytest.fixture(autouse=True)
def no_display(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("SDL_AUDIODRIVER", "dummy")


def pixel(picture, x: float, y: float) -> tuple[int, ...]:
    return tuple(picture.pixels[int(y), int(x)].tolist())


def spread_at(*positions: tuple[float, float]) -> SpreadTask:
    where = torch.tensor([positions], dtype=torch.float64)
    return SpreadTask(position=where, velocity=torch.zeros_like(where), landmark=torch.full_like(where, 0.9))


# Colours ---------------------------------------------------------------------------------------------------------------


def test_twenty_agents_have_twenty_colours():
    assert len({colour_of(i) for i in range(20)}) == len(COLOURS) == 20


@pytest.mark.parametrize("agent", range(20))
def test_a_number_stands_out_from_its_colour(agent):
    def luminance(colour: tuple[int, ...]) -> float:
        linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(colour_of(agent)), luminance(ink_on(colour_of(agent)))), reverse=True)
    assert (light + 0.05) / (dark + 0.05) > 3  # the contrast asked for of large text (WCAG 2.1, 1.4.11)


@pytest.mark.parametrize("width", [0, 5, 30, 60, 400])
def test_a_shortened_text_fits(width):
    text = shorten("collector_12 = random", 13, width)
    assert text == "" or text_width(text, 13) <= width
    assert (text == "collector_12 = random") == (width == 400)


# Native tasks ----------------------------------------------------------------------------------------------------------


def test_agents_of_spread_stand_where_the_state_says():
    picture = draw_spread(spread_at((0.5, 0.5), (-0.5, 0.0)), 0, None, 480)
    # 480 pixels show -1.2 to 1.2, so a unit is 200 pixels; up is up.
    assert picture.places == (Place(340, 140, 30), Place(140, 240, 30))
    for i, place in enumerate(picture.places):
        assert pixel(picture, place.x - 20, place.y) == colour_of(i)


def test_agents_of_spread_that_wander_off_stay_in_the_picture():
    picture = draw_spread(spread_at((7.0, -3.0), (0.0, 0.0)), 0, None, 480)
    assert all(place.radius <= place.x <= 480 - place.radius for place in picture.places)


def test_a_collision_is_drawn_in_red_and_a_near_miss_is_not():
    red = np.array((200, 30, 30))
    collides, misses = (draw_spread(spread_at((0.0, 0.0), (apart, 0.0)), 0, None, 480) for apart in (0.29, 0.31))
    assert (collides.pixels == red).all(-1).any()
    assert not (misses.pixels == red).all(-1).any()


@pytest.mark.parametrize("action, dx, dy", [(1, -1, 0), (2, 1, 0), (3, 0, 1), (4, 0, -1)])
def test_an_arrow_shows_where_an_agent_of_spread_pushes(action, dx, dy):
    still, pushing = (draw_spread(spread_at((0.0, 0.0), (0.9, 0.9)), 0, now, 480) for now in ((0, 0), (action, 0)))
    rows, cols = (still.pixels != pushing.pixels).any(-1).nonzero()
    assert (np.sign(np.round((cols.mean() - 240) / 30)), np.sign(np.round((rows.mean() - 240) / 30))) == (dx, dy)


def test_players_stand_in_their_cells_and_share_one_side_by_side():
    env = Foraging(rows=4, cols=8, num_players=3, num_food=1)
    task = env.place(torch.tensor([[[1, 2, 2]]]), torch.tensor([[[0, 0, 1], [3, 7, 2], [3, 7, 1]]]))
    picture = draw_foraging(task, 0, 4, 8, None, 480)
    assert picture.pixels.shape == (241, 481, 3)  # cells of 60
    assert [(place.x, place.y) for place in picture.places] == [(30, 30), (435, 210), (465, 210)]
    for i, place in enumerate(picture.places):
        assert pixel(picture, place.x - 0.75 * place.radius, place.y) == colour_of(i)


def test_a_player_that_loads_is_drawn_otherwise_and_only_it():
    env = Foraging(rows=4, cols=4, num_players=2, num_food=1)
    task = env.place(torch.tensor([[[1, 1, 1]]]), torch.tensor([[[0, 1, 1], [3, 3, 1]]]))
    idle, loading = (draw_foraging(task, 0, 4, 4, now, 480) for now in ((0, 0), (5, 0)))
    changed = (idle.pixels != loading.pixels).any(-1)
    assert changed[:120, 120:240].any()
    changed[:121, 120:241] = False
    assert not changed.any()


def corridor(*cells: tuple[int, int]) -> SwitchTask:
    return SwitchTask(torch.tensor([[row * COLS + col for row, col in cells]]), torch.tensor([3]))


def test_agents_of_switch_stand_in_their_cells_before_dark_walls():
    picture = draw_switch(corridor((0, 1), (1, 4)), 0, 490)  # cells of 70
    assert picture.pixels.shape == (211, 491, 3)
    assert [(place.x, place.y) for place in picture.places] == [(105, 35), (315, 105)]
    for i, place in enumerate(picture.places):
        assert pixel(picture, place.x - 0.75 * place.radius, place.y) == colour_of(i)
    assert {pixel(picture, x, y) for x in (145, 245, 345) for y in (35, 175)} == {(70, 78, 92)}


def test_a_goal_of_switch_is_framed_in_its_agents_colour_and_its_flag_comes_down_when_the_agent_is_home():
    away, home = (draw_switch(corridor(cell, (1, 4)), 0, 490) for cell in ((0, 5), (0, 6)))
    assert [pixel(away, x, 5) for x in (35, 455)] == [colour_of(1), colour_of(0)]
    flag = pixel(away, 450, 25)
    assert flag == colour_of(0)
    assert pixel(home, 455, 5) == colour_of(0)
    assert home.places[0].x == 455


def hunt(frozen: bool) -> tuple[PredatorPrey, PredatorPreyTask]:
    env = PredatorPrey(4, 4, 2, 1)
    cells = torch.tensor([[0, 1 * env.board.stride + 2]])
    task = env.place(cells, torch.tensor([[3 * env.board.stride + 3]]))
    return env, PredatorPreyTask(task.predators, torch.tensor([[False, frozen]]), task.prey, task.caught)


def test_a_frozen_predator_is_pale_and_stays_where_it_froze():
    (env, free), (_, frozen) = hunt(False), hunt(True)
    bright, pale = (draw_predator_prey(task, 0, env.board, None, 480) for task in (free, frozen))
    assert bright.places == pale.places
    assert [(place.x, place.y) for place in pale.places] == [(60, 60), (300, 180)]
    assert pixel(bright, 300 - 30, 180) == colour_of(1)
    assert min(pixel(pale, 300 - 30, 180)) > 200
    assert pixel(pale, 60 - 30, 60) == colour_of(0)


def test_a_predator_that_catches_has_a_rim_and_prey_are_drawn_until_they_are_caught():
    env, task = hunt(False)
    caught = PredatorPreyTask(task.predators, task.frozen, task.prey, torch.tensor([[True]]))
    idle, catching, empty = (
        draw_predator_prey(moment, 0, env.board, now, 480).pixels for moment, now in ((task, (4, 4)), (task, (5, 4)), (caught, (4, 4)))
    )
    for other, rows, cols in ((catching, slice(0, 121), slice(0, 121)), (empty, slice(360, 481), slice(360, 481))):
        changed = (idle != other).any(-1)
        assert changed[rows, cols].any()
        changed[rows, cols] = False
        assert not changed.any()


def test_lbforaging_is_drawn_as_the_native_board_it_equals():
    pytest.importorskip("lbforaging")
    env = make("lbf/8x8-2p-3f")
    state, _ = env.reset(torch.tensor([3]))
    board = env.live(state, 0).unwrapped.env.unwrapped
    foods = [[r, c, int(board.field[r, c])] for r, c in zip(*board.field.nonzero(), strict=True)]
    players = [[*map(int, player.position), int(player.level)] for player in board.players]
    native = Foraging(num_food=len(foods)).place(torch.tensor([foods]), torch.tensor([players]))
    np.testing.assert_array_equal(look(env, state).pixels, draw_foraging(native, 0, 8, 8, None, 480).pixels)


def test_the_chosen_cell_of_a_matrix_game_is_marked_by_the_agents_who_chose_it():
    first, second = (draw_matrix(MatrixGame("climbing"), now, None, 480).places for now in ((0, 2), (1, 2)))
    assert first[1] == second[1]
    assert first[0].x == second[0].x
    assert first[0].y < second[0].y


def test_before_any_choice_no_cell_is_marked_and_after_the_end_the_last_one_is():
    game = MatrixGame("climbing")
    assert draw_matrix(game, None, None, 480).places == (None, None)
    assert draw_matrix(game, None, (2, 1), 480).places == draw_matrix(game, (2, 1), None, 480).places


def test_a_game_of_three_shows_the_table_of_what_the_third_plays():
    game = MatrixGame("climbing-3p")
    tables = [draw_matrix(game, (0, 0, third), None, 480).pixels for third in range(3)]
    assert not np.array_equal(tables[0], tables[1])


def test_the_two_step_game_marks_the_choice_in_the_state_it_is_in():
    first = draw_two_step(TwoStepTask(torch.tensor([0])), 0, (1, 0), None, 480)
    assert first.places == (None, None)
    left, right = (draw_two_step(TwoStepTask(torch.tensor([place])), 0, (0, 0), (0, 0), 480).places for place in (1, 2))
    assert right[0].x - left[0].x == pytest.approx(240)


NATIVE = ["spread-20", "foraging-10x10-20p-4f", "switch2", "switch4", "predator-prey", "rware-small-4ag", "two-step", "matrix-penalty",
          "plate-and-door", "delayed-chain", "key-and-door", "uphill-3p"]  # fmt: skip


@pytest.mark.parametrize("task", [f"native/{name}" for name in NATIVE])
@pytest.mark.parametrize("size", [240, 480])
def test_native_pictures_keep_to_the_size_asked_for(task, size):
    env = make(task)
    state, view = env.reset(torch.tensor([0, 1]))
    picture = look(env, state, 1, now=tuple(view.available[1].int().argmax(-1).tolist()), size=size)
    assert size - 7 < max(picture.pixels.shape[:2]) <= size + 1  # cells are whole pixels: the corridor's 7 columns may lack up to 6
    assert picture.numbered


# Other people's environments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", MPE_SCENARIOS)
def test_the_places_of_mpe_lie_on_the_agents_it_draws(scenario):
    pytest.importorskip("mpe2")
    env = make(f"mpe/{scenario}", render_mode="rgb_array")
    state, view = env.reset(torch.tensor([5]))
    for _ in range(4):
        state, _, view = env.step(state, view.available.int().argmax(-1), autoreset=False)
    picture, world = look(env, state), env.live(state, 0).unwrapped.world
    hits = 0
    for place, agent in zip(picture.places, world.agents, strict=True):
        colour = tuple((np.array(agent.color) * 200).astype(np.uint8).tolist())
        rim = [(place.x + dx * place.radius, place.y + dy * place.radius) for dx, dy in ((0, 0), (0.4, 0.4), (-0.4, 0.4), (0.4, -0.4))]
        hits += all(pixel(picture, x, y) == colour for x, y in rim)
    assert hits >= len(world.agents) - 1  # one may be under another
    assert not picture.numbered


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The system font:UserWarning")
def test_the_places_of_pursuit_lie_on_the_red_discs_it_draws():
    pytest.importorskip("pygame")
    env = make("sisl/pursuit-v5", render_mode="rgb_array")
    state, _ = env.reset(torch.tensor([2]))
    picture = look(env, state)
    for place in picture.places:
        assert pixel(picture, place.x - 6, place.y + 4) == (255, 0, 0)


@pytest.mark.slow
def test_the_places_of_pong_lie_on_its_paddles():
    env = make("butterfly/cooperative_pong-v6", render_mode="rgb_array", cake_paddle=False)
    state, _ = env.reset(torch.tensor([2]))
    picture = look(env, state)
    assert [pixel(picture, place.x, place.y) for place in picture.places] == [(255, 255, 255)] * 2
    assert picture.places[0].x < 20 < 460 < picture.places[1].x


@pytest.mark.slow
def test_a_marker_of_pistonball_stands_on_the_rod_of_its_piston():
    env = make("butterfly/pistonball-v6", render_mode="rgb_array", continuous=False)
    state, _ = env.reset(torch.tensor([2]))
    picture = look(env, state)
    assert [place.x for place in picture.places] == sorted(place.x for place in picture.places)
    assert [pixel(picture, place.x, min(place.y, 500)) for place in picture.places] == [(65, 159, 221)] * 20


@pytest.mark.slow
def test_a_dead_archer_has_no_place():
    env = make("butterfly/knights_archers_zombies-v11", render_mode="rgb_array")
    state, view = env.reset(torch.tensor([2]))
    while view.alive.all():
        state, _, view = env.step(state, view.available.int().argmax(-1) * 0 + 5 * view.alive, autoreset=False)
    picture = look(env, state)
    assert [place is not None for place in picture.places] == view.alive[0].tolist()


@pytest.mark.slow
def test_image_options_leave_the_picture_whole_and_the_places_on_it():
    full, small = (
        make("butterfly/cooperative_pong-v6", render_mode="rgb_array", **options)
        for options in ({}, {"color_reduction": "B", "resize": "42x42", "frame_skip": 4})
    )
    pictures = [look(env, env.reset(torch.tensor([1]))[0]) for env in (full, small)]
    np.testing.assert_array_equal(pictures[0].pixels, pictures[1].pixels)
    assert pictures[0].places == pictures[1].places


def test_a_warehouse_is_drawn_with_its_robots_where_they_are():
    pytest.importorskip("rware")
    env = make("rware/tiny-2ag")
    state, _ = env.reset(torch.tensor([1]))
    picture, warehouse = look(env, state), env.live(state, 0).unwrapped.env.unwrapped
    cell = (picture.pixels.shape[0] - 1) // warehouse.grid_size[0]
    for i, (place, robot) in enumerate(zip(picture.places, warehouse.agents, strict=True)):
        assert (place.x // cell, place.y // cell) == (robot.x, robot.y)
        assert pixel(picture, place.x - 0.55 * place.radius, place.y) == colour_of(i)


@pytest.mark.parametrize("size", ["tiny-2ag", "small-4ag"])
def test_the_native_warehouse_is_drawn_as_the_packages_it_equals(size):
    pytest.importorskip("rware")
    theirs, ours = make(f"rware/{size}"), make(f"native/rware-{size}")
    state, _ = theirs.reset(torch.tensor([1]))
    warehouse, cols = theirs.live(state, 0).unwrapped.env.unwrapped, ours.layout.cols
    carried = warehouse.request_queue[0]
    warehouse.agents[0].carrying_shelf, carried.x, carried.y = carried, warehouse.agents[0].x, warehouse.agents[0].y
    task = ours.place(
        torch.tensor([[int(robot.y * cols + robot.x) for robot in warehouse.agents]]),
        torch.tensor([[robot.dir.value for robot in warehouse.agents]]),
        torch.tensor([[robot.carrying_shelf is not None for robot in warehouse.agents]]),
        torch.tensor([[int(shelf.y * cols + shelf.x) for shelf in warehouse.shelfs]]),
        torch.tensor([[shelf in warehouse.request_queue for shelf in warehouse.shelfs]]),
    )
    expected, drawn = look(theirs, state), look(ours, SimpleNamespace(task=task))
    np.testing.assert_array_equal(drawn.pixels, expected.pixels)
    assert drawn.places == expected.places


class Plain(ParallelEnv):
    """Two agents; what `render` gives is set from outside."""

    metadata = {"name": "plain"}  # noqa: RUF012  (PettingZoo's own form)
    possible_agents = ["left", "right"]  # noqa: RUF012
    frame = None

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def observation_space(self, agent):
        from gymnasium.spaces import Box

        return self.__dict__.setdefault("_seen", Box(0, 1, (1,)))

    def action_space(self, agent):
        from gymnasium.spaces import Discrete

        return self.__dict__.setdefault("_done", Discrete(2))

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return {agent: np.zeros(1, np.float32) for agent in self.agents}, {agent: {} for agent in self.agents}

    def render(self):
        return self.frame


def picture_of(env: ParallelEnv):
    team = make(lambda: env)
    return look(team, team.reset(torch.tensor([0]))[0])


class Silent(Plain):
    def render(self):
        raise NotImplementedError


@pytest.mark.parametrize("env, told", [(Plain(), "returned None"), (Silent(), "has no render")])
def test_a_task_without_a_picture_is_refused_with_the_remedy(env, told):
    with pytest.raises(CannotRender, match=f'{told}.*Accept render_mode="rgb_array"') as caught:
        picture_of(env)
    assert caught.value.kind == "cannot-render"


@pytest.mark.parametrize(
    "frame, told",
    [
        (np.zeros((4, 4, 3)), "float64 of shape"),
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\)"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        ("a window", "returned a str"),
    ],
)
def test_what_is_no_picture_is_refused_by_its_type_and_shape(frame, told):
    env = Plain()
    env.frame = frame
    with pytest.raises(CannotRender, match=told):
        picture_of(env)


def test_a_picture_is_a_copy_so_that_a_renderers_buffer_may_be_used_again():
    env = Plain()
    env.frame = np.zeros((4, 4, 4), np.uint8)
    picture = picture_of(env)
    env.frame[:] = 255
    assert picture.pixels.shape == (4, 4, 3)
    assert not picture.pixels.any()


def test_positions_of_an_unknown_environment_are_said_to_be_unknown():
    env = Plain()
    env.frame = np.zeros((4, 4, 3), np.uint8)
    assert picture_of(env).places is None


def test_an_environments_own_locate_is_asked():
    told = {"left": (3, 4), "right": (10, 20, 5)}
    env = SimpleNamespace(locate=told.get)
    assert find_places(env, ("left", "right", "gone")) == (Place(3, 4, 12), Place(10, 20, 5), None)


@pytest.mark.parametrize("told", [(1,), "middle", 5, (1, None), (float("nan"), 2.0), (1, 2, float("inf"))])
def test_a_locate_that_gives_something_else_is_refused_by_name(told):
    with pytest.raises(ValueError, match=rf"locate\('left'\) gave {re.escape(repr(told))}; give \(x, y\) or"):
        find_places(SimpleNamespace(locate=lambda agent: told), ("left",))


class Own:
    """A TeamEnv of one's own: spread with another name and its own picture."""

    def __init__(self, **methods):
        self.inner = Spread()
        self.spec = self.inner.spec
        self.__dict__.update(methods)

    def __getattr__(self, name):
        if name in ("render", "locate"):
            raise AttributeError(name)
        return getattr(self.inner, name)


def test_a_team_env_of_ones_own_draws_itself():
    frame = np.zeros((4, 4, 3), np.uint8)
    picture = look(Own(render=lambda state, row: frame + row, locate=lambda state, row, agent: (row, 2)), None, 1)
    assert picture.pixels.max() == 1
    assert picture.places == (Place(1, 2, 12),) * 3
    assert look(Own(render=lambda state, row: frame), None).places is None


def test_a_team_env_without_render_is_told_to_have_one():
    with pytest.raises(CannotRender, match=r"without render\(state, row\)"):
        look(Own(), None)
