"""Environments of the user's own that nobody had in mind: bytes that are no pixels, masked images, odd option names, agents from a set."""

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary
from pettingzoo import ParallelEnv
from teamcredit.envs.base import TeamSpec
from teamcredit.envs.check import longest_play
from teamcredit.envs.registry import make

pytest.importorskip("supersuit", exc_type=ImportError)
torch.set_num_threads(1)


class Codes(ParallelEnv):
    """Two agents see the number of the step; four steps."""

    metadata: ClassVar = {"name": "codes"}
    render_mode = None
    box = Box(0, 4, (3,), np.uint8)

    def __init__(self):
        self.possible_agents: Any = ["a", "b"]

    def observation_space(self, agent):
        return self.box

    def action_space(self, agent):
        return Discrete(2)

    def see(self):
        return {agent: np.full(self.box.shape, self.t, dtype=np.uint8) for agent in self.agents}

    def reset(self, seed=None, options=None):
        self.t, self.agents = 0, list(self.possible_agents)
        return self.see(), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.t += 1
        acted, seen, over = self.agents, self.see(), self.t == 4
        self.agents = [] if over else acted
        each = dict.fromkeys
        return seen, each(acted, 1.0), each(acted, False), each(acted, over), {agent: {} for agent in acted}


def after_two_steps(maker: Any) -> Any:
    env = make(maker)
    state, view = env.reset(torch.tensor([1]))
    for _ in range(2):
        state, _, view = env.step(state, torch.zeros(1, len(env.spec.agents), dtype=torch.int64))
    return view


@pytest.mark.parametrize(("high", "shape"), [(4, (3,)), (1, (2, 2)), (10, (2, 2, 3)), (127, (3,))])
def test_bytes_that_hold_small_numbers_are_taken_as_they_are_and_not_as_dark_pixels(high, shape):
    class Small(Codes):
        box = Box(0, high, shape, np.uint8)

    view = after_two_steps(Small)
    assert view.obs.dtype == torch.float32
    assert (view.obs == 2).all()
    assert (view.state == 2).all()


def test_bytes_that_may_be_128_or_more_stay_pixels():
    class Pixels(Codes):
        box = Box(0, 128, (2, 2, 3), np.uint8)

    view = after_two_steps(Pixels)
    assert view.obs.dtype == torch.uint8
    assert torch.allclose(view.state, torch.tensor(2 / 255))


@pytest.mark.parametrize(("high", "expected"), [(4, 2.0), (255, 2 / 255)])
def test_a_state_of_bytes_is_read_by_its_bound_too(high, expected):
    class WithState(Codes):
        state_space = Box(0, high, (5,), np.uint8)

        def state(self):
            return np.full(5, self.t, dtype=np.uint8)

    assert torch.allclose(after_two_steps(WithState).state, torch.tensor(expected))


class Grey(Codes):
    box = Box(0, 255, (6, 5), np.uint8)


class ChannelsFirst(Codes):
    box = Box(0, 255, (3, 6, 5), np.uint8)


class Masked(Codes):
    def observation_space(self, agent):
        return Dict({"observation": Box(0, 255, (6, 5, 3), np.uint8), "action_mask": MultiBinary(2)})


@pytest.mark.parametrize(
    ("maker", "options", "sentence"),
    [
        (
            Grey,
            {"color_reduction": "full", "resize": "4x4"},
            r"a of Grey .* shape \(6, 5\)\. Use --env.color-reduction none\.",
        ),
        (
            Masked,
            {"color_reduction": "full", "resize": "4x4"},
            r"a of Masked observes a Dict of action_mask, observation\. Use --env.resize none --env.color-reduction none\.",
        ),
        (
            ChannelsFirst,
            {"resize": "4x4"},
            r"1, 3 or 4 channels, which come last; a of ChannelsFirst .*\(3, 6, 5\)\. Use --env.resize none",
        ),
        (Masked, {"resize": "4x4"}, r"Use --env.resize none\."),
    ],
)
def test_an_image_option_that_a_preset_set_is_refused_with_the_option_that_switches_it_off(maker, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(maker, **options)


def test_an_image_option_that_does_not_fit_can_be_switched_off_and_the_others_stay():
    assert make(Grey, color_reduction="none", resize="4x3").spec.obs_shape == (3, 4, 1)


@pytest.mark.parametrize("option", ["name", "task", "function", "scenario", "size", "maker"])
def test_a_maker_may_call_its_options_as_it_likes(option):
    given: list[Any] = []

    def maker(name=None, task=None, function=None, scenario=None, size=None, maker=None) -> Codes:
        given.append((name, task, function, scenario, size, maker))
        return Codes()

    make(maker, **{option: "x"})
    assert "x" in given[0]


def test_a_maker_that_takes_anything_still_keeps_an_option_that_it_names_itself():
    given: list[Any] = []

    def maker(resize: int = 0, **more: Any) -> Codes:
        given.append((resize, more))
        return Codes()

    make(maker, resize=7, frame_skip=2, other=1)
    assert given[0] == (7, {"other": 1})


def test_agents_listed_as_a_set_have_one_order_in_every_process():
    class Crowd(Codes):
        def __init__(self):
            self.possible_agents = {f"robot_{i}" for i in range(9)}

    assert make(Crowd).spec.agents == tuple(f"robot_{i}" for i in range(9))


def spec(obs_dim: int, state_dim: int, dtype: torch.dtype = torch.uint8) -> TeamSpec:
    agents = tuple(f"agent_{i}" for i in range(20))
    return TeamSpec(name="t", agents=agents, num_actions=2, obs_dim=obs_dim, state_dim=state_dim, episode_limit=None, obs_dtype=dtype)


def test_the_contract_is_checked_in_fewer_steps_where_whole_screens_would_fill_the_memory():
    assert longest_play(spec(18, 360, torch.float32)) == 400
    pistonball = spec(457 * 120 * 3, 560 * 880 * 3)
    view = 20 * 457 * 120 * 3 + 4 * 560 * 880 * 3  # bytes of one copy
    assert longest_play(pistonball) == 1_000_000_000 // (12 * view) == 9
    assert longest_play(spec(10**9, 1)) == 8
