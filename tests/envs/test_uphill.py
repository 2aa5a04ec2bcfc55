"""Uphill: what a push costs and the top pays, the best return, what random play loses, and each agent's credit, all by enumeration."""

import itertools
import re

import pytest
import torch
from teamcredit.envs.draw_credit import draw_uphill
from teamcredit.envs.randomness import copy_seeds
from teamcredit.envs.registry import list_tasks, make, resolve
from teamcredit.envs.uphill import Uphill, UphillTask, random_play
from torch import Tensor

TOLL = 1 / 40


def returns_of(env: Uphill, joint: Tensor) -> tuple[Tensor, Tensor]:
    """Team returns, and whether each stone got to the top, of joint plays (env, step, agent), each to its end."""
    state, _ = env.reset(copy_seeds(0, len(joint)))
    total = torch.zeros(len(joint), dtype=torch.float64)
    for t in range(env.steps):
        state, step, _ = env.step(state, joint[:, t], autoreset=False)
        total += step.reward.double()
        assert bool((step.terminated == (t == env.steps - 1)).all())
        assert not step.truncated.any()
    return total, state.task.height == env.height


def every_play(steps: int) -> Tensor:
    """(2^steps, steps): each sequence of rests and pushes."""
    return torch.tensor(list(itertools.product((0, 1), repeat=steps)))


def test_a_push_costs_the_top_pays_and_a_stone_left_alone_rolls_back():
    env = Uphill(2, height=2, steps=5, toll=0.25)
    state, view = env.reset(torch.tensor([0]))
    assert view.obs[0].tolist() == [[1, 0, 0, 1]] * 2
    seen = []
    for joint in ([1, 1], [1, 0], [1, 0], [0, 1], [1, 1]):
        state, step, view = env.step(state, torch.tensor([joint]), autoreset=False)
        seen.append((round(float(step.reward), 6), state.task.height[0].tolist(), bool(step.terminated)))
    # agent 0 arrives at once, and what it does there costs nothing; agent 1 rolls back, rests at the bottom, and arrives with its last push
    assert seen == [(-0.5, [1, 1], False), (0.75, [2, 0], False), (0.0, [2, 0], False), (-0.25, [2, 1], False), (0.75, [2, 2], True)]
    assert view.obs[0].tolist() == [[0, 0, 1, 0]] * 2
    assert view.state[0].tolist() == [0, 0, 1, 0, 0, 1, 0]


@pytest.mark.parametrize("height, steps, toll", [(2, 2, 0.25), (2, 5, 0.4), (3, 6, 0.3), (4, 6, 0.1)])
def test_no_play_earns_more_or_less_than_the_range_and_both_ends_are_reached(height, steps, toll):
    env, own = Uphill(2, height, steps, toll=toll), every_play(steps)
    joint = torch.stack([own.repeat_interleave(len(own), 0), own.repeat(len(own), 1)], -1)
    returns, _ = returns_of(env, joint)
    assert env.spec.return_range == pytest.approx((float(returns.min()), float(returns.max())), abs=1e-6)
    assert float(returns.max()) == pytest.approx(2 * (1 - toll * height), abs=1e-6)


def test_random_play_at_the_usual_size_is_that_of_all_1024_plays_and_loses_a_little_to_rest():
    env, own = Uphill(2), every_play(10)
    returns, arrived = returns_of(env, torch.stack([own, torch.zeros_like(own)], -1))
    chance, pushes = random_play(env.height, env.steps)
    assert chance == pytest.approx(float(arrived[:, 0].double().mean()))
    assert chance - TOLL * pushes == pytest.approx(float(returns.mean()), abs=1e-6)
    assert chance - TOLL * pushes == pytest.approx(-0.036, abs=5e-4)
    # so random play is a trap, and yet costs less than the margin: an agent that rests is told from a guard (.25 of an equal share)
    gain = (1 - 6 * TOLL) + 3 * (TOLL * pushes - chance)  # one of three works, against all at random
    assert TOLL * pushes - chance < 0.25 * gain / 3


def test_explorers_that_mostly_rest_lose_more_per_push_the_less_they_explore():
    """What shuts the trap: a push is worth less and less as epsilon falls (pushing with probability epsilon / 2)."""
    worth = [(chance - TOLL * pushes) / pushes for chance, pushes in (random_play(6, 10, epsilon / 2) for epsilon in (1.0, 0.5, 0.05))]
    assert worth == sorted(worth, reverse=True)
    assert worth[-1] == pytest.approx(-TOLL, abs=1e-5)
    assert random_play(6, 10)[0] / random_play(6, 10, 0.25)[0] == pytest.approx(57, abs=1)


def test_credit_adds_up_an_idle_agent_is_worth_nothing_and_has_all_the_room_there_is():
    env = make("native/uphill-3p")
    works = torch.tensor(list(itertools.product((0, 1), repeat=3)))
    values, _ = returns_of(env, works.unsqueeze(1).expand(-1, env.steps, -1))
    torch.testing.assert_close(values, works.sum(1) * (1 - 6 * TOLL), rtol=0, atol=1e-6, check_dtype=False)


def test_the_scripted_policies_bring_every_stone_up_and_then_rest():
    env = make("native/uphill-2p")
    for name in ("trained", "pusher"):
        state, view = env.reset(copy_seeds(0, 3))
        actions, total = [], torch.zeros(3)
        for _ in range(env.steps):
            actions.append(env.scripted[name](view.obs, view.available))
            state, step, view = env.step(state, actions[-1], autoreset=False)
            total += step.reward
        assert [action[0].tolist() for action in actions] == [[1, 1]] * 6 + [[0, 0]] * 4
        assert total.tolist() == pytest.approx([2 * 0.85] * 3)


def test_agents_are_alike_so_that_a_policy_fits_in_anothers_place():
    spec = make("native/uphill-4p").spec
    assert spec.noop == (0,) * 4
    assert len(set(spec.obs_names)) == len(set(spec.action_names)) == 1


def test_ids_carry_the_number_of_agents():
    assert make("uphill-12p").spec.num_agents == 12
    assert resolve("uphill-3p") == "native/uphill-3p"
    assert "native/uphill-3p" in {task.id for task in list_tasks()}
    for name in ("uphill-1p", "uphill-0p", "uphill-3"):
        with pytest.raises(ValueError, match="no environment"):
            make(f"native/{name}")


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"num_agents": 1}, "num_agents is 1; it is at least 2"),
        ({"height": 1}, "height is 1; it is at least 2"),
        ({"steps": 5}, "steps is 5; a stone needs 6 pushes"),
        ({"toll": 0.0}, "toll is 0.0; it is above 0 and below 1 / 6"),
        ({"toll": 1 / 6}, "or the top would not be worth its pushes"),
    ],
)
def test_a_hill_that_is_none_is_refused(options, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Uphill(**options)


def test_the_picture_shows_each_stone_on_its_step():
    env = Uphill(3, height=4, steps=8)

    def places(at: int) -> list[tuple[float, float]]:
        picture = draw_uphill(env, UphillTask(torch.tensor([[0, at, 4]]), torch.tensor([0])), 0, (0, 1, 0), 480)
        return [(place.x, place.y) for place in picture.places or () if place is not None]

    low, high = places(0), places(3)
    assert (low[0], low[2]) == (high[0], high[2])
    assert low[1][0] < high[1][0] < high[2][0]
    assert low[1][1] > high[1][1]
