"""Situations in the native warehouse by hand: who gets through, what may be carried where, what a delivery pays and requests."""

import itertools
import random

import networkx
import pytest
import torch
from teamcredit.envs.native import NativeState, name_tensors
from teamcredit.envs.randomness import Clock, copy_seeds
from teamcredit.envs.registry import make, resolve
from teamcredit.envs.warehouse import Warehouse, WarehouseTask
from teamcredit.envs.warehouse_layout import DOWN, LEFT, RIGHT, UP, parse_size
from teamcredit.envs.warehouse_move import may_move
from teamcredit.envs.warehouse_ties import Ties, probe_sequence
from teamcredit.envs.warehouse_view import LOADED, NUMBER, REQUESTED, SHELF
from teamcredit.marl.graphs import compiled
from teamcredit.marl.kernels import find_compiler
from teamcredit.marl.trees import owned

NOOP, FORWARD, TURN_LEFT, TURN_RIGHT, TOGGLE = range(5)
COLS = 10  # of the tiny warehouse: corridors are x = 0, 3, 6, 9, y = 0, 9, 10 and the queue x = 4, 5


def tiny(*robots: tuple[int, int, int], carries: dict[int, int] | None = None, requested: tuple[int, ...] = (1, 2), **options):
    """A tiny warehouse with robots at (x, y, heading); robot i carries shelf carries[i]; shelf 1 stands at (1, 1) at first."""
    env = Warehouse(num_agents=len(robots), num_requests=len(requested), **options)
    x, y, heading = torch.tensor(robots).unbind(1)
    shelf_cell, loaded = env.layout.storage.clone(), torch.zeros(len(robots), dtype=torch.bool)
    for robot, shelf in (carries or {}).items():
        shelf_cell[shelf - 1], loaded[robot] = y[robot] * COLS + x[robot], True
    wanted = torch.tensor([number in requested for number in range(1, env.num_shelves + 1)])
    task = env.place(*(part.unsqueeze(0) for part in (y * COLS + x, heading, loaded, shelf_cell, wanted)))
    return env, task


def act(env: Warehouse, task: WarehouseTask, *actions: int, seed: int = 0):
    return env.advance(task, torch.tensor([actions]), Clock.start(torch.tensor([seed])))


def where(task: WarehouseTask) -> list[tuple[int, int]]:
    return [(cell % COLS, cell // COLS) for cell in task.cell[0].tolist()]


def requested(task: WarehouseTask) -> set[int]:
    return {what & NUMBER for what in task.holds[0].tolist() if what & REQUESTED}


# Who gets through ------------------------------------------------------------------------------------------------------


def test_robots_that_would_swap_stay_and_so_does_who_follows():
    env, task = tiny((3, 0, RIGHT), (4, 0, LEFT), (2, 0, RIGHT))
    assert where(act(env, task, FORWARD, FORWARD, FORWARD)[0]) == [(3, 0), (4, 0), (2, 0)]


def test_four_robots_in_a_circle_all_move_and_a_fifth_does_not_get_in():
    env, task = tiny((4, 9, RIGHT), (5, 9, DOWN), (5, 10, LEFT), (4, 10, UP), (3, 9, RIGHT))
    moved = where(act(env, task, *[FORWARD] * 5)[0])
    assert moved == [(5, 9), (5, 10), (4, 10), (4, 9), (3, 9)]


def test_robots_in_line_move_together_or_not_at_all():
    env, task = tiny((3, 0, RIGHT), (4, 0, RIGHT), (5, 0, RIGHT))
    assert where(act(env, task, FORWARD, FORWARD, FORWARD)[0]) == [(4, 0), (5, 0), (6, 0)]
    for stop in (NOOP, TURN_LEFT, TOGGLE):
        assert where(act(env, task, FORWARD, FORWARD, stop)[0]) == [(3, 0), (4, 0), (5, 0)]


def test_of_two_robots_for_one_cell_the_lower_number_goes():
    env, task = tiny((5, 0, LEFT), (3, 0, RIGHT))
    assert where(act(env, task, FORWARD, FORWARD)[0]) == [(4, 0), (3, 0)]


def test_the_robot_with_more_behind_it_goes_first_and_they_follow():
    env, task = tiny((5, 0, LEFT), (3, 0, RIGHT), (2, 0, RIGHT))
    assert where(act(env, task, FORWARD, FORWARD, FORWARD)[0]) == [(5, 0), (4, 0), (3, 0)]


def test_a_robot_at_the_wall_stays_and_holds_up_who_follows():
    env, task = tiny((0, 0, LEFT), (1, 0, LEFT), (9, 10, DOWN))
    assert where(act(env, task, FORWARD, FORWARD, FORWARD)[0]) == [(0, 0), (1, 0), (9, 10)]


def test_turns_go_round_the_compass():
    for action, compass in ((TURN_RIGHT, (UP, RIGHT, DOWN, LEFT)), (TURN_LEFT, (UP, LEFT, DOWN, RIGHT))):
        env, task = tiny((3, 0, UP), (5, 0, UP))
        for heading in (*compass[1:], UP):
            task = act(env, task, action, NOOP)[0]
            assert task.heading.tolist() == [[heading, UP]]


# What is carried -------------------------------------------------------------------------------------------------------


def test_a_loaded_robot_stops_before_a_standing_shelf_and_an_empty_one_passes_under_it():
    for carries, expected in (({0: 5}, (0, 1)), ({}, (1, 1))):
        env, task = tiny((0, 1, RIGHT), (9, 0, UP), carries=carries)
        assert where(act(env, task, FORWARD, NOOP)[0])[0] == expected


def test_a_loaded_robot_follows_a_loaded_one_but_not_an_empty_one_out_from_under_a_shelf():
    for carries, expected in (({0: 5, 1: 6}, [(4, 0), (5, 0)]), ({0: 5}, [(4, 0), (5, 0)])):
        env, task = tiny((3, 0, RIGHT), (4, 0, RIGHT), carries=carries)
        assert where(act(env, task, FORWARD, FORWARD)[0]) == expected
    env, task = tiny((0, 1, RIGHT), (1, 1, UP), carries={0: 5})  # shelf 1 stands at (1, 1)
    assert where(act(env, task, FORWARD, FORWARD)[0]) == [(0, 1), (1, 0)]


def test_a_shelf_is_loaded_travels_along_and_is_put_down_only_off_the_corridors():
    env, task = tiny((1, 1, UP), (9, 10, UP))
    task = act(env, task, TOGGLE, NOOP)[0]
    assert task.loaded.tolist() == [[True, False]]
    task = act(env, task, FORWARD, NOOP)[0]
    assert int(task.shelf_cell[0, 1]) == 1
    assert int(task.holds[0, 11]) == 0
    task = act(env, task, TOGGLE, NOOP)[0]  # (1, 0) is a corridor
    assert task.loaded.tolist() == [[True, False]]
    for action in (TURN_LEFT, TURN_LEFT, FORWARD, TOGGLE):
        task = act(env, task, action, NOOP)[0]
    assert (where(task)[0], task.loaded.tolist()) == ((1, 1), [[False, False]])
    assert int(task.holds[0, 11]) & (LOADED | SHELF | NUMBER) == SHELF + 1


def test_there_is_nothing_to_load_where_no_shelf_stands():
    env, task = tiny((3, 3, UP), (9, 0, UP))
    assert not act(env, task, TOGGLE, TOGGLE)[0].loaded.any()


# What a delivery pays --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward_type, paid, team", [("individual", [0, 1], 1), ("global", [1, 1], 1), ("two_stage", [0, 0.5], 0.5)])
def test_a_requested_shelf_brought_to_a_goal_pays_and_another_is_requested(reward_type, paid, team):
    env, task = tiny((9, 0, UP), (4, 9, DOWN), carries={1: 2}, reward_type=reward_type)
    for seed in range(20):
        after, outcome = act(env, task, NOOP, FORWARD, seed=seed)
        assert outcome.agent_reward.tolist() == [paid]
        assert outcome.reward.tolist() == [team]
        assert len(requested(after)) == 2
        assert 1 in requested(after)
        assert 2 not in requested(after)
        again = act(env, after, NOOP, NOOP)[1]
        assert again.agent_reward.tolist() == [[0, 0]]


def test_a_shelf_that_nobody_requested_pays_nothing():
    env, task = tiny((9, 0, UP), (4, 9, DOWN), carries={1: 7})
    after, outcome = act(env, task, NOOP, FORWARD)
    assert where(after)[1] == (4, 10)
    assert outcome.reward.tolist() == [0]
    assert requested(after) == {1, 2}


def test_two_stage_pays_the_other_half_when_the_shelf_is_put_down_and_only_once():
    env, task = tiny((9, 0, UP), (1, 1, DOWN), carries={1: 2}, reward_type="two_stage")
    task = WarehouseTask(**{**name_tensors(task), "delivered": torch.tensor([[False, True]])})
    rewards = []
    for _ in range(3):
        task, outcome = act(env, task, NOOP, TOGGLE)
        rewards.append(outcome.agent_reward.tolist())
    assert rewards == [[[0, 0.5]], [[0, 0]], [[0, 0]]]


def test_deliveries_at_both_goals_are_seen_one_after_the_other():
    """The left goal's new request may be the shelf on the right one, which is then delivered too."""
    env, task = tiny((4, 9, DOWN), (5, 9, DOWN), carries={0: 1, 1: 20}, requested=tuple(range(1, 20)) + tuple(range(21, 32)))
    both = 0
    for seed in range(40):  # only shelves 20 and 32 are free to be requested
        after, outcome = act(env, task, FORWARD, FORWARD, seed=seed)
        assert len(requested(after)) == 30
        assert outcome.agent_reward[0, 0] == 1
        right = bool(outcome.agent_reward[0, 1])
        assert right or {20, 32} & requested(after) == {32}
        both += right
    assert 5 < both < 35


def test_replacements_are_uniform_over_the_shelves_that_nobody_requested():
    env, task = tiny((9, 0, UP), (4, 9, DOWN), carries={1: 2})
    copies = 6000
    many = WarehouseTask(**{name: value.expand(copies, -1) for name, value in name_tensors(task).items()})
    after = env.advance(many, torch.tensor([[NOOP, FORWARD]]).expand(copies, -1), Clock.start(copy_seeds(0, copies)))[0]
    asked = (after.holds[:, env.layout.storage] & REQUESTED) > 0
    counts = asked.sum(0).double()
    assert (counts[0], counts[1]) == (copies, 0)  # shelf 1 stays requested; 2 is on the goal, and not requested
    expected = copies / 30
    statistic = ((counts[2:] - expected) ** 2 / expected).sum()
    assert abs(statistic - 29) < 4 * (2 * 29) ** 0.5


# Whole states ----------------------------------------------------------------------------------------------------------


def test_what_the_cells_hold_is_always_what_the_robots_and_shelves_say():
    env = Warehouse(column_height=2, num_agents=7, num_requests=5, episode_limit=40)
    state, _ = env.reset(copy_seeds(3, 200))
    generator = torch.Generator().manual_seed(0)
    paid = 0.0
    for _ in range(120):
        action = torch.multinomial(torch.tensor([1.0, 6, 1, 1, 2]), 1400, replacement=True, generator=generator).view(200, 7)
        state, step, _ = env.step(state, action)
        task, paid = state.task, paid + float(step.reward.sum())
        flags = torch.zeros(200, env.num_shelves + 1, dtype=torch.bool).scatter(1, task.idle.long(), True)
        again = env.place(task.cell, task.heading, task.loaded, task.shelf_cell[:, 1:].long(), ~flags[:, 1:])
        assert torch.equal(again.holds, task.holds)
        assert (task.cell.sort(1).values.diff(dim=1) > 0).all()
        assert (task.shelf_cell[:, 1:].sort(1).values.diff(dim=1) > 0).all()
        assert (flags.sum(1) == env.num_shelves - 5).all()
    assert paid > 0


def test_the_state_shows_every_robot_and_every_stored_shelf():
    env, task = tiny((9, 0, UP), (4, 9, DOWN), carries={1: 2}, requested=(2, 3), reward_type="two_stage")
    state = env.observe(task).state[0]
    robots, delivered, stands, wanted = state.split([16, 2, 32, 32])
    torch.testing.assert_close(robots.view(2, 8)[0], torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0]))
    torch.testing.assert_close(robots.view(2, 8)[1], torch.tensor([4 / 9, 0.9, 1, 1, 0, 1, 0, 0]))
    assert delivered.tolist() == [0, 0]
    assert stands.tolist() == [number != 2 for number in range(1, 33)]
    assert wanted.tolist() == [number == 3 for number in range(1, 33)]


def test_the_step_limit_truncates_and_never_terminates():
    env = Warehouse(episode_limit=3)
    state, _ = env.reset(torch.arange(2))
    for t in range(3):
        state, step, _ = env.step(state, torch.zeros(2, 2, dtype=torch.int64), autoreset=False)
        assert not step.terminated.any()
        assert step.truncated.tolist() == [t == 2] * 2


def test_a_copy_draws_its_replacement_from_its_own_clock():
    env, task = tiny((9, 0, UP), (4, 9, DOWN), carries={1: 2})
    running = torch.zeros(1, dtype=torch.bool)
    draws = set()
    for step in range(30):
        clock = Clock(seed=torch.tensor([5]), episode=torch.tensor([0]), step=torch.tensor([step]))
        state = NativeState(task=task, clock=clock, terminated=running, truncated=running)
        draws |= requested(env.step(state, torch.tensor([[NOOP, FORWARD]]))[0].task)
    assert len(draws) > 10


def test_more_robots_than_any_id_has_never_share_a_cell():
    env = Warehouse(num_agents=40, num_requests=3)
    state, _ = env.reset(copy_seeds(0, 8))
    for t in range(30):
        action = torch.where(torch.rand(8, 40, generator=torch.Generator().manual_seed(t)) < 0.8, FORWARD, TURN_LEFT)
        state, _, _ = env.step(state, action)
        assert (state.task.cell.sort(1).values.diff(dim=1) > 0).all()


# Ids -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, robots, requests, cells", [("tiny-2ag", 2, 2, 110), ("small-4ag-hard", 4, 2, 200), ("large-19ag-easy", 19, 38, 464)]
)
def test_an_id_stands_for_its_warehouse(size, robots, requests, cells):
    env = make(f"native/rware-{size}")
    assert (env.spec.num_agents, env.num_requests, env.layout.num_cells, env.spec.obs_dim) == (robots, requests, cells, 71)
    assert make(f"native/rware-{size}", sensor_range=2).spec.obs_dim == 8 + 25 * 7


def test_the_package_s_own_id_and_the_bare_name_are_understood():
    assert resolve("rware-tiny-2ag") == resolve("rware-tiny-2ag-v2") == "native/rware-tiny-2ag"
    assert resolve("rware-medium-6ag-easy-v2") == "native/rware-medium-6ag-easy"


@pytest.mark.parametrize("size", ["tiny-0ag", "tiny-20ag", "huge-2ag", "tiny-2ag-medium", "tiny"])
def test_an_impossible_size_is_refused_with_the_rule(size):
    with pytest.raises(
        ValueError, match=rf'no environment "native/rware-{size}": sizes are rware-<tiny\|small.*Did you mean native/rware-tiny-2ag'
    ):
        make(f"native/rware-{size}")
    with pytest.raises(ValueError, match=f"'{size}' is no warehouse size"):
        parse_size(size)


@pytest.mark.parametrize(
    "options, told",
    [
        ({"num_requests": 32}, "num_requests is 32 of 32 shelves; at least one"),
        ({"num_requests": -1}, "num_requests is -1"),
        ({"num_agents": 0}, "num_agents is 0"),
        ({"num_agents": 111, "num_requests": 2}, "room for 1 to 110"),
        ({"shelf_columns": 2}, "number of columns is odd"),
        ({"column_height": 0}, "each is at least 1"),
        ({"sensor_range": 0}, "at least 1 cell"),
        ({"reward_type": "shared"}, "choose one of individual, global, two_stage"),
        ({"episode_limit": 0}, "at least 1 env step"),
    ],
)
def test_a_bad_option_is_refused_with_the_rule(options, told):
    with pytest.raises(ValueError, match=told):
        Warehouse(**options)


# Equal robots ----------------------------------------------------------------------------------------------------------


def test_the_probe_sequence_is_that_of_pythons_own_sets():
    rng = random.Random(0)
    for _ in range(300):
        nodes = rng.sample(list(itertools.product(range(30), range(30))), rng.randint(1, 18))
        entered, order = set(), nodes
        for node in nodes:
            entered.add(node)
        if len(nodes) >= 5:  # the first five are entered into the small table first, and moved from it slot by slot
            order = enter(nodes[:5], 8) + nodes[5:]
        assert enter(order, 8 if len(nodes) < 5 else 32) == list(entered)


def enter(nodes: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """The nodes in the order of their slots, each in the first free one of its sequence."""
    table: dict[int, tuple[int, int]] = {}
    for node in nodes:
        table[next(slot for slot in probe_sequence(hash(node), size) if slot not in table)] = node
    return [table[slot] for slot in sorted(table)]


def package_moves(cells: list[tuple[int, int]], targets: list[tuple[int, int]]) -> list[bool]:
    """The rule with networkx, from its description: the longest path of each component, or its circle unless that is a swap."""
    graph, free = networkx.DiGraph(), set()
    graph.add_edges_from(zip(cells, targets, strict=True))
    for nodes in networkx.weakly_connected_components(graph):
        part = graph.subgraph(nodes).copy()
        try:
            circle = [edge[0] for edge in networkx.find_cycle(part)]
            free |= set(circle if len(circle) != 2 else [])
        except networkx.NetworkXNoCycle:
            free |= set(networkx.dag_longest_path(part))
    return [cell in free for cell in cells]


def crowd(env: Warehouse, copies: int, seed: int, forward: float = 0.9, block: int = 5):
    """Robots thrown into a block of cells somewhere, most of which want to go ahead: (cell, target)."""
    generator, lay, n = torch.Generator().manual_seed(seed), env.layout, env.spec.num_agents
    corner = torch.randint(0, lay.rows - block + 1, (copies, 1), generator=generator) * lay.cols
    corner = corner + torch.randint(0, lay.cols - block + 1, (copies, 1), generator=generator)
    inside = torch.rand(copies, block**2, generator=generator).topk(n, 1).indices
    cell = corner + inside // block * lay.cols + inside % block
    heading = torch.randint(0, 4, (copies, n), generator=generator)
    goes = torch.rand(copies, n, generator=generator) < forward
    return cell, torch.where(goes, lay.ahead.take(cell * 4 + heading), cell)


def assert_moves_as_networkx(num_agents: int, copies: int, block: int) -> int:
    """Returns in how many copies numbering alone would have decided otherwise."""
    env = Warehouse(shelf_rows=2, num_agents=num_agents, num_requests=1)
    cell, target = crowd(env, copies, num_agents, block=block)
    ours = may_move(cell, target, env._ties)
    cols = env.layout.cols
    for k in range(copies):
        cells, targets = ([(c % cols, c // cols) for c in row[k].tolist()] for row in (cell, target))
        assert ours[k].tolist() == package_moves(cells, targets), (cells, targets)
    return int((ours != may_move(cell, target)).any(1).sum())


@pytest.mark.parametrize("num_agents, block", [(2, 2), (3, 3), (4, 4), (5, 4), (6, 5), (10, 6), (19, 7)])
def test_crowded_robots_move_as_a_graph_library_says(num_agents, block):
    otherwise = assert_moves_as_networkx(num_agents, 400, block)
    assert (otherwise > 0) == (num_agents > 3)


@pytest.mark.slow
@pytest.mark.parametrize("num_agents, block", [(2, 2), (3, 3), (4, 4), (5, 4), (6, 5), (7, 5), (8, 5), (10, 6), (13, 6), (16, 7), (19, 8)])
def test_many_crowded_robots_move_as_a_graph_library_says(num_agents, block):
    assert_moves_as_networkx(num_agents, 20_000, block)


def test_the_table_for_four_robots_says_what_the_general_rule_says():
    env = Warehouse(shelf_rows=2, num_agents=4, num_requests=1)
    general = Ties(env.layout.x, env.layout.y, 4)
    general._after = None
    cell, target = crowd(env, 20_000, 1, block=4)
    assert torch.equal(may_move(cell, target, env._ties), may_move(cell, target, general))


@pytest.mark.parametrize("size", ["tiny-1ag", "small-4ag", "tiny-6ag"])
def test_every_tensor_of_a_state_is_contiguous_so_that_a_captured_step_is_made_for_all(size):
    env = make(f"native/rware-{size}", episode_limit=2)
    state, _ = env.reset(torch.arange(8))
    for _ in range(4):
        assert all(tensor.is_contiguous() for tensor in name_tensors(state.task).values())
        state, _, _ = env.step(state, torch.ones(8, env.spec.num_agents, dtype=torch.int64))


@pytest.mark.slow
@pytest.mark.skipif(find_compiler() is None, reason="there is no C++ compiler here")
@pytest.mark.parametrize("size", ["tiny-2ag", "small-4ag", "tiny-6ag"])
def test_one_compiled_graph_says_what_the_eager_functions_say(size):
    env = make(f"native/rware-{size}")
    state, _ = env.reset(copy_seeds(0, 32))
    action = torch.zeros(32, env.spec.num_agents, dtype=torch.int64)

    def graph(function, *example):
        return compiled(lambda *inputs: owned(function(*inputs)), *example).bind()

    begin, observe = graph(env.begin, state.clock), graph(env.observe, state.task)
    advance = graph(env.advance, state.task, action, state.clock)

    def same(one, two) -> bool:
        return all(torch.equal(first, second) for first, second in zip(name_tensors(one).values(), name_tensors(two).values(), strict=True))

    assert same(begin(state.clock), state.task)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        action = torch.multinomial(torch.tensor([1.0, 4, 1, 1, 1]), 32 * env.spec.num_agents, replacement=True, generator=generator).view(
            32, -1
        )
        task, outcome = env.advance(state.task, action, state.clock)
        fast, fast_outcome = advance(state.task, action, state.clock)
        assert same(task, fast)
        assert same(outcome, fast_outcome)
        assert same(env.observe(task), observe(task))
        state, _, _ = env.step(state, action)
