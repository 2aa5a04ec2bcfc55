"""Predator-prey: situations by hand, what is left to chance, views, ends and options."""

import pytest
import torch
from teamcredit.envs.native import NativeState, map_tensors
from teamcredit.envs.predator_prey import PredatorPrey, PredatorPreyTask
from teamcredit.envs.predator_prey_board import HEADINGS, Chance, draw_cells, draw_chance
from teamcredit.envs.randomness import Clock, copy_seeds

RIGHT, DOWN, LEFT, UP, STAY, CATCH = range(6)
FIRST_UP = next(i for i, heading in enumerate(HEADINGS) if heading[0] == 3)


def hunt(rows: int, cols: int, predators: list, prey: list, **options) -> tuple[PredatorPrey, PredatorPreyTask]:
    env = PredatorPrey(rows, cols, len(predators), len(prey), **options)
    stride = env.board.stride
    return env, env.place(*(torch.tensor([[row * stride + col for row, col in who]]) for who in (predators, prey)))


def chance(predators: list[int], prey: list[int], heading: list[int] | None = None) -> Chance:
    return Chance(torch.tensor([predators]), torch.tensor([prey]), torch.tensor([heading or [0] * len(prey)]))


def where(env: PredatorPrey, codes: torch.Tensor) -> list:
    return [divmod(code, env.board.stride) for code in codes[0].tolist()]


def test_two_catch_a_prey_and_leave_the_board_with_it():
    env, task = hunt(3, 3, [(0, 1), (1, 0), (2, 2)], [(1, 1)])
    after, reward = env.play(task, torch.tensor([[CATCH, CATCH, LEFT]]), chance([0, 1, 2], [0]))
    assert reward.item() == 10.0
    assert after.caught.tolist() == [[True]]
    assert after.frozen.tolist() == [[True, True, False]]
    assert where(env, after.predators) == [(0, 1), (1, 0), (2, 1)]
    view = env.observe(after)
    assert view.state[0].nonzero().flatten().tolist() == [(2 * 3 + 1) * 3]  # one predator, nothing else
    assert not view.obs[0, :2].any()
    assert view.available[0, 0].tolist() == [True] + [False] * 5


def test_three_catch_one_prey_and_all_three_freeze_for_one_reward():
    env, task = hunt(3, 3, [(0, 1), (1, 0), (2, 1), (2, 2)], [(1, 1)])
    after, reward = env.play(task, torch.tensor([[CATCH, CATCH, CATCH, STAY]]), chance([3, 2, 1, 0], [0]))
    assert (reward.item(), after.frozen.tolist()) == (10.0, [[True, True, True, False]])


def test_one_alone_pays_and_the_prey_moves_on():
    env, task = hunt(3, 3, [(0, 1), (2, 2)], [(1, 1)])
    after, reward = env.play(task, torch.tensor([[CATCH, STAY]]), chance([0, 1], [0], [FIRST_UP]))
    assert reward.item() == -2.0
    assert where(env, after.prey) != [(1, 1)]
    assert not after.frozen.any()


def test_a_partner_that_only_stands_by_does_not_count():
    env, task = hunt(3, 3, [(0, 1), (1, 0)], [(1, 1)], penalty=3.0)
    _, reward = env.play(task, torch.tensor([[CATCH, STAY]]), chance([0, 1], [0]))
    assert reward.item() == -3.0


@pytest.mark.parametrize("order, caught", [([0, 1], [True, False]), ([1, 0], [False, True])])
def test_a_catcher_that_two_prey_share_freezes_with_the_first(order, caught):
    # 0 A .      A and B stand beside prey 0, B and C beside prey 1: whichever prey comes first takes B along,
    # B . .      and the other is left with one catcher, who pays.
    # 1 C .
    env, task = hunt(3, 3, [(0, 1), (1, 0), (2, 1)], [(0, 0), (2, 0)])
    after, reward = env.play(task, torch.tensor([[CATCH, CATCH, CATCH]]), chance([0, 1, 2], order))
    assert (after.caught[0].tolist(), reward.item()) == (caught, 10.0 - 2.0)
    assert after.frozen[0].tolist() == [order[0] == 0, True, order[0] == 1]


def test_one_predator_between_two_prey_pays_twice():
    env, task = hunt(3, 3, [(1, 1), (2, 2)], [(0, 1), (1, 0)])
    _, reward = env.play(task, torch.tensor([[CATCH, STAY]]), chance([0, 1], [1, 0]))
    assert reward.item() == -4.0


@pytest.mark.parametrize("order, ends", [([0, 1], [(0, 0), (0, 2)]), ([1, 0], [(0, 1), (0, 2)])])
def test_predators_move_in_the_order_drawn_and_block_each_other(order, ends):
    env, task = hunt(2, 4, [(0, 0), (0, 1)], [(1, 3)])
    after, _ = env.play(task, torch.tensor([[RIGHT, RIGHT]]), chance(order, [0]))
    assert where(env, after.predators) == ends


@pytest.mark.parametrize("action, end", [(UP, (0, 0)), (LEFT, (0, 0)), (RIGHT, (0, 0)), (DOWN, (1, 0)), (STAY, (0, 0)), (CATCH, (0, 0))])
def test_prey_and_the_edge_of_the_board_block(action, end):
    env, task = hunt(3, 3, [(0, 0), (2, 2)], [(0, 1)])
    assert where(env, env.play(task, torch.tensor([[action, STAY]]), chance([0, 1], [0]))[0].predators)[0] == end


def test_a_prey_without_a_free_neighbour_stays():
    env, task = hunt(3, 3, [(0, 1), (1, 0)], [(0, 0)])
    after, _ = env.play(task, torch.tensor([[STAY, STAY]]), chance([0, 1], [0]))
    assert where(env, after.prey) == [(0, 0)]


def test_prey_move_in_the_order_drawn_and_a_cell_left_is_free_for_the_next():
    # 0 1 . : going right, prey 1 first makes room; otherwise prey 0 finds nothing free (below stand the predators).
    for order, ends in (([1, 0], [(0, 1), (0, 2)]), ([0, 1], [(0, 0), (0, 2)])):
        env, task = hunt(2, 4, [(1, 0), (1, 1), (1, 2)], [(0, 0), (0, 1)])
        assert where(env, env.play(task, torch.tensor([[STAY] * 3]), chance([0, 1, 2], order))[0].prey) == ends


def test_the_cell_of_a_caught_prey_and_of_its_catchers_is_free_at_once():
    # 0 A .     A and B catch prey 1; then prey 0 may go where A was.
    # B 1 .
    for order, end in (([1, 0], (0, 1)), ([0, 1], (0, 0))):
        env, task = hunt(2, 3, [(0, 1), (1, 0)], [(0, 0), (1, 1)])
        # Prey 0 stands beside both catchers too: it is caught itself when it comes first.
        after, reward = env.play(task, torch.tensor([[CATCH, CATCH]]), chance([0, 1], order))
        assert reward.item() == 10.0
        assert (where(env, after.prey)[0], after.caught[0].tolist()) == (end, [order[0] == 0, order[0] == 1])


def test_nothing_a_frozen_predator_is_told_matters():
    env, task = hunt(3, 3, [(0, 1), (1, 0), (2, 2)], [(1, 1), (0, 2)])
    task, _ = env.play(task, torch.tensor([[CATCH, CATCH, STAY]]), chance([0, 1, 2], [0, 1]))
    outcomes = [env.play(task, torch.tensor([[a, b, UP]]), chance([0, 1, 2], [0, 1])) for a, b in ((RIGHT, RIGHT), (CATCH, DOWN))]
    for one, other in zip(*(vars(after).values() for after, _ in outcomes), strict=True):
        assert torch.equal(one, other)


def run(env: PredatorPrey, task: PredatorPreyTask, actions: list[int], step: int = 0):
    zero, no = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool)
    return env.step(NativeState(task, Clock(zero, zero, zero + step), no, no), torch.tensor([actions]), autoreset=False)[1]


def test_the_last_prey_or_the_last_free_predator_ends_the_episode_and_the_limit_cuts_it():
    last_prey = run(*hunt(3, 3, [(0, 1), (1, 0), (2, 2)], [(1, 1)]), [CATCH, CATCH, STAY])
    last_predators = run(*hunt(3, 3, [(0, 1), (1, 0)], [(1, 1), (2, 2)]), [CATCH, CATCH])
    at_the_limit = run(*hunt(3, 3, [(0, 1), (1, 0)], [(1, 1)]), [CATCH, CATCH], step=199)
    time_over = run(*hunt(3, 3, [(0, 1), (1, 0)], [(2, 2)]), [STAY, STAY], step=199)
    ends = [(step.terminated.item(), step.truncated.item()) for step in (last_prey, last_predators, at_the_limit, time_over)]
    assert ends == [(True, False), (True, False), (True, False), (False, True)]


def test_a_predator_sees_predators_and_prey_around_it_by_name():
    env, task = hunt(5, 6, [(1, 1), (3, 2), (1, 4)], [(0, 1), (1, 2), (4, 4)])
    view, names = env.observe(task), env.spec.obs_names[0]
    seen = [names[i] for i in view.obs[0, 0].nonzero().flatten()]
    assert seen == ["prey 1 up", "predator here", "prey 1 right", "predator 2 down 1 right"]
    assert len(names) == len(set(names)) == 75
    assert view.available[0].tolist() == [[True] * 6, [True] * 5 + [False], [True] * 5 + [False]]


def test_sight_beyond_the_board_shows_no_ghosts():
    env, task = hunt(2, 2, [(0, 0), (1, 1)], [(0, 1)], sight=4)
    assert env.observe(task).obs[0].sum(-1).tolist() == [3.0, 3.0]


def within(counts: torch.Tensor, deviations: float = 4.5) -> bool:
    """Whether counts of equally likely outcomes are as far from their mean as chance allows."""
    mean = counts.double().mean()
    return bool(((counts - mean).abs() <= deviations * mean.sqrt()).all())


def test_orders_and_headings_are_equally_likely_and_independent():
    drawn = draw_chance(copy_seeds(0, 24_000), 3, 2)
    hunts = (drawn.predator_order * torch.tensor([9, 3, 1])).sum(1).unique(return_counts=True)[1]
    assert len(hunts) == 6
    assert within(hunts)
    assert within(torch.bincount(drawn.heading.flatten(), minlength=24))
    assert within(torch.bincount(drawn.prey_order[:, 0] * 24 + drawn.heading[:, 0], minlength=48))


def test_a_prey_goes_to_each_free_neighbour_equally_often():
    env, task = hunt(3, 3, [(0, 1), (2, 2)], [(1, 1)])
    many = map_tensors(lambda value: value.expand(9000, -1), task)
    after, _ = env.advance(many, torch.full((9000, 2), STAY), Clock.start(copy_seeds(1, 9000)))
    places, counts = after.prey.flatten().unique(return_counts=True)
    assert [divmod(place, env.board.stride) for place in places.tolist()] == [(1, 0), (1, 2), (2, 1)]
    assert within(counts)


def test_fresh_boards_are_different_cells_in_every_order_equally_often():
    drawn = draw_cells(copy_seeds(2, 24_000), 3, 4)
    codes, counts = (drawn * torch.tensor([16, 4, 1])).sum(1).unique(return_counts=True)
    assert len(codes) == 24  # 4 * 3 * 2 sequences of three different cells
    assert within(counts)
    assert draw_cells(copy_seeds(3, 50), 6, 6).sort(1).values.tolist() == [list(range(6))] * 50


def test_the_highest_return_counts_pairs():
    assert PredatorPrey().spec.return_range == (-2.0 * 8 * 200, 40.0)
    assert PredatorPrey(num_predators=5, num_prey=1, penalty=0.0).spec.return_range == (0.0, 10.0)
    assert PredatorPrey(num_predators=5, num_prey=4, penalty=0.0).spec.return_range == (0.0, 20.0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_predators": 1}, "num_predators is 1; a capture needs two"),
        ({"num_prey": 0}, "num_prey is 0"),
        ({"penalty": -2.0}, "penalty is -2.0.*number >= 0"),
        ({"capture_reward": -1.0}, "capture_reward is -1"),
        ({"rows": 3, "cols": 5}, "8 predators and 8 prey do not fit 3x5 cells.*at most 15"),
        ({"rows": 1, "cols": 30}, "1x30 is too narrow"),
        ({"sight": 0}, "sight is 0"),
        ({"episode_limit": 0}, "episode_limit is 0"),
    ],
)
def test_impossible_options_are_refused_by_value(options, told):
    with pytest.raises(ValueError, match=told):
        PredatorPrey(**options)
