"""Coalition games as tasks: every coalition is paid its value, the truth of credit/games.py is read back from play, and the messages."""

import re
import warnings

import pytest
import torch
from teamcredit.credit import EpisodeGame, all_coalitions, leave_one_out, shapley, shapley_from_values
from teamcredit.credit.games import airport, majority
from teamcredit.envs import registry
from teamcredit.envs.check import check_team_env
from teamcredit.envs.coalition import JOIN, REFERENCE, CoalitionTask
from teamcredit.envs.errors import UnknownTask
from teamcredit.envs.look import look
from teamcredit.envs.matrix import MatrixGame
from teamcredit.envs.native import name_tensors
from teamcredit.envs.parallel_api import to_parallel_env
from teamcredit.envs.randomness import copy_seeds
from teamcredit.envs.tracing import tracing
from teamcredit.marl.coalition_tasks import GAMES, true_game
from teamcredit.marl.graphs import recorded

with warnings.catch_warnings():
    # PettingZoo's own tests import a task by its old path.
    warnings.filterwarnings("ignore", "The old environment creation API", DeprecationWarning)
    from pettingzoo.test import parallel_api_test
    from pettingzoo.test.seed_test import parallel_seed_test

NAMES = {
    "airport-6": [1 / 6, 11 / 30, 37 / 60, 0.95, 1.45, 2.45],
    "glove-1-2": [2 / 3, 1 / 6, 1 / 6],
    "majority-5-3": [0.2] * 5,
    "vote-4-3-2-1-1": [1 / 2, 1 / 6, 1 / 6, 1 / 6],
    "unanimity-3-2": [1 / 2, 1 / 2, 0],
    "either-or": [1, 1, 1],
    "harmful": [11 / 6, 11 / 6, -2 / 3],
    "additive-4-1": [1, 2, 3, 0],
    "pairs-6-0": None,
}
"""Task name -> Shapley values, worked out by hand (None: random weights)."""
every_name = pytest.mark.parametrize("name", NAMES)


def make(name: str) -> CoalitionTask:
    return registry.make(f"native/coalition-{name}")


def paid(env: CoalitionTask, coalitions: torch.Tensor) -> torch.Tensor:
    """What the environment pays each coalition."""
    state, _ = env.reset(torch.arange(len(coalitions)))
    _, step, _ = env.step(state, torch.where(coalitions, JOIN, REFERENCE))
    assert step.terminated.all()
    assert not step.truncated.any()
    return step.reward


@every_name
def test_every_coalition_is_paid_its_value_and_the_true_credit_is_read_back_from_play(name):
    env, truth = make(name), true_game(name)
    n = env.spec.num_agents
    values = paid(env, all_coalitions(n)).to(torch.float64)
    torch.testing.assert_close(values, truth(all_coalitions(n)), rtol=0, atol=1e-6)
    if NAMES[name] is not None:
        torch.testing.assert_close(truth.shapley, torch.tensor(NAMES[name], dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(shapley_from_values(values), truth.shapley, rtol=0, atol=1e-6)
    assert env.spec.return_range == (float(values.min()), float(values.max()))
    assert env.spec.noop == (REFERENCE,) * n
    assert env.spec.name == f"coalition-{name}"


def test_an_episode_game_played_in_the_task_gives_shapley_and_leave_one_out():
    env, truth = make("airport-6"), true_game("airport-6")

    def simulate(coalitions, episodes):
        rows = coalitions.repeat_interleave(len(episodes), 0)
        return paid(env, rows).view(len(coalitions), -1).to(torch.float64), len(rows)

    game = EpisodeGame(simulate, 6)
    torch.testing.assert_close(shapley(game, 6, episodes=2, exact_up_to=6).value, truth.shapley, rtol=0, atol=1e-6)
    torch.testing.assert_close(leave_one_out(game, 6, episodes=2).value, truth.leave_one_out, rtol=0, atol=1e-6)


@every_name
def test_the_task_keeps_the_contract(name):
    check_team_env(make(name))


@every_name
def test_the_parallel_api_test_passes(name):
    env = to_parallel_env(make(name))
    parallel_api_test(env, num_cycles=30)
    parallel_seed_test(lambda: to_parallel_env(make(name)), num_cycles=20)


def test_as_a_parallel_env_the_agents_who_join_are_paid_together():
    env = to_parallel_env(make("vote-4-3-2-1-1"))
    env.reset(seed=0)
    names = env.agents
    _, rewards, terminations, truncations, _ = env.step(dict(zip(names, (1, 0, 1, 0), strict=True)))  # weights 3 + 1 reach the quota
    assert rewards == dict.fromkeys(names, 1.0)
    assert all(terminations.values())
    assert not any(truncations.values())
    assert env.agents == []


@pytest.mark.parametrize("env", [make("airport-6"), CoalitionTask(airport(range(1, 15)), 14)], ids=["table", "function"])
def test_a_step_is_one_graph_and_equals_the_plain_one(env):
    state, _ = env.reset(copy_seeds(0, 32))
    action = torch.randint(2, (32, env.spec.num_agents), generator=torch.Generator().manual_seed(0))
    with tracing():
        state_in_graph, step_in_graph, view_in_graph = recorded(env.step)(state, action)
    after, step, view = env.step(state, action)
    for ours, plain in ((state_in_graph, after), (view_in_graph, view), (step_in_graph.after, step.after)):
        assert all(torch.equal(name_tensors(ours)[name], tensor) for name, tensor in name_tensors(plain).items())
    assert torch.equal(step_in_graph.reward, step.reward)


def test_a_table_and_a_function_are_the_same_task():
    game = majority(3, 2)
    by_function, by_table = CoalitionTask(game, 3), CoalitionTask(game(all_coalitions(3)))
    assert by_function.table is not None
    assert by_table.table is not None
    assert torch.equal(by_function.table, by_table.table)
    assert by_table.spec == by_function.spec


def test_a_game_too_large_for_a_table_is_asked_at_every_step():
    env = CoalitionTask(airport(range(1, 21)), 20)
    assert env.table is None
    assert env.spec.return_range is None
    coalitions = torch.eye(20, dtype=torch.bool)
    assert paid(env, coalitions).tolist() == list(range(1, 21))


def test_agents_may_have_names():
    assert CoalitionTask([0.0, 1.0, 1.0, 3.0], agents=("pump", "valve")).spec.agents == ("pump", "valve")


def test_it_is_drawn_as_the_matrix_game_it_is():
    env = make("harmful")
    state, _ = env.reset(torch.arange(1))
    drawn = look(env, state, now=(1, 1, 0))
    payoff = [[[0.0, 0.0], [2.0, 1.0]], [[2.0, 1.0], [4.0, 3.0]]]
    assert env.payoff is not None
    assert env.payoff.tolist() == payoff
    same = MatrixGame(payoff)
    other = look(same, same.reset(torch.arange(1))[0], now=(1, 1, 0))
    assert (drawn.pixels == other.pixels).all()


@pytest.mark.parametrize("name", GAMES)
def test_every_game_has_an_id(name):
    examples = [task for task in NAMES if task == name or task.startswith(f"{name}-")]
    assert examples
    assert registry.resolve(f"coalition-{examples[0]}") == f"native/coalition-{examples[0]}"


@pytest.mark.parametrize("task", ["airport", "airport-x", "majority-5", "vote-4", "either-or-3", "lottery-3"])
def test_an_id_that_is_no_game_is_refused(task):
    with pytest.raises(UnknownTask, match="no environment"):
        registry.resolve(f"native/coalition-{task}")


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("lottery-3", "no coalition game is called 'lottery-3'. There are: airport, "),
        ("airport", "airport does not go with 0 number"),
        ("majority-5-6", "needed is 6; a vote of 5 agents"),
        ("unanimity-3-4", "needed is 4; unanimity among 3 agents"),
        ("additive-2-3", "3 dummies among 2 agents"),
    ],
)
def test_numbers_that_are_no_game_are_refused(name, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        true_game(name)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (([0.0, 1.0, 2.0],), "no coalition game"),
        (([0.0, 1.0], 2), "a game of 1 agents, not of 2"),
        (([0.0, float("nan")],), "NaN or infinity"),
        ((majority(3, 2),), "num_agents is None"),
        ((lambda coalitions: coalitions, 2), "returned shape (4, 2)"),
    ],
)
def test_what_is_no_game_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        CoalitionTask(*arguments)


def test_names_must_be_as_many_as_agents():
    with pytest.raises(ValueError, match="1 names for 2 agents"):
        CoalitionTask([0.0, 1.0, 1.0, 3.0], agents=("pump",))
