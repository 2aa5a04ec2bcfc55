"""Tasks that observe images, and tasks with more agents than one kind: their shapes, and SuperSuit's wrappers as options."""

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv
from teamcredit.envs.check import broken_rules
from teamcredit.envs.images import ImageOptions
from teamcredit.envs.pettingzoo import PettingZooTeam
from teamcredit.envs.registry import make
from teamcredit.envs.spread import Spread

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # SuperSuit and pygame, as they are imported
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
supersuit = pytest.importorskip("supersuit", exc_type=ImportError)
torch.set_num_threads(1)
AGENTS, FRAMES = 2, 10


class Screen(ParallelEnv):
    """Two agents see colour images that depend on seed, frame and what was done; frame t pays t; ten frames."""

    metadata: ClassVar = {"name": "screen", "is_parallelizable": True}
    render_mode = None
    shape: ClassVar[tuple[int, ...]] = (12, 10, 3)
    dtype: ClassVar = np.uint8

    def __init__(self):
        self.possible_agents = [f"camera_{i}" for i in range(AGENTS)]
        self.box, self.choice = Box(0, 255, self.shape, self.dtype), Discrete(3)

    def observation_space(self, agent):
        return self.box

    def action_space(self, agent):
        return self.choice

    def see(self):
        numbers = np.random.default_rng([self.seed, self.t, *self.done])
        return {agent: numbers.integers(0, 256, self.shape).astype(self.dtype) for agent in self.possible_agents}

    def reset(self, seed=None, options=None):
        self.seed, self.t, self.done, self.agents = seed or 0, 0, [0] * AGENTS, list(self.possible_agents)
        return self.see(), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.t += 1
        self.done = [total + int(actions[agent]) for total, agent in zip(self.done, self.possible_agents, strict=True)]
        agents, over = self.agents, self.t == FRAMES
        self.agents = [] if over else agents
        each = dict.fromkeys
        return self.see(), each(agents, float(self.t)), each(agents, False), each(agents, over), {agent: {} for agent in agents}


class Grey(Screen):
    shape: ClassVar[tuple[int, ...]] = (12, 10)


class Features(Screen):
    shape: ClassVar[tuple[int, ...]] = (12, 10)
    dtype: ClassVar = np.float32


class Cube(Screen):
    shape: ClassVar[tuple[int, ...]] = (7, 7, 3)
    dtype: ClassVar = np.float32


class Bytes(Screen):
    shape: ClassVar[tuple[int, ...]] = (12,)


class Unequal(Screen):
    def observation_space(self, agent):
        return self.box if agent == "camera_0" else Box(0, 255, (4, 4, 3), np.uint8)


def play(env: Any, steps: int, seed: int = 7) -> list[torch.Tensor]:
    """What every env step brings in one copy, under actions that change from step to step."""
    state, view = env.reset(torch.tensor([seed]))
    seen = [view.obs, view.state]
    for t in range(steps):
        action = torch.arange(env.spec.num_agents).add(t).remainder(env.spec.num_actions).unsqueeze(0)
        state, step, _ = env.step(state, action, autoreset=False)
        seen += [step.after.obs, step.after.state, step.reward, step.agent_reward, step.terminated, step.truncated]
    return seen


def assert_same(left: list[torch.Tensor], right: list[torch.Tensor]) -> None:
    assert len(left) == len(right)
    assert all(torch.equal(one, other) for one, other in zip(left, right, strict=True))


@pytest.mark.parametrize(
    ("maker", "expected", "dtype"),
    [
        (Screen, (12, 10, 3), torch.uint8),
        (Grey, (12, 10, 1), torch.uint8),
        (Features, None, torch.float32),
        (Cube, (7, 7, 3), torch.float32),
        (Bytes, None, torch.uint8),
        (Unequal, None, torch.uint8),
    ],
)
def test_a_task_says_what_images_it_shows_only_where_all_agents_see_images_of_one_shape(maker, expected, dtype):
    spec = make(maker).spec
    assert (spec.obs_shape, spec.obs_dtype) == (expected, dtype)


def by_hand(colour: str | None, size: tuple[int, int] | None, frames: int | None) -> Any:
    def maker() -> Any:
        env = Screen()
        env.np_random = np.random.default_rng(0)  # frame_skip_v0 asks for one
        env = env if colour is None else supersuit.color_reduction_v0(env, mode=colour)
        env = env if size is None else supersuit.resize_v1(env, x_size=size[0], y_size=size[1], linear_interp=True)
        return env if frames is None else supersuit.frame_skip_v0(env, frames)

    return PettingZooTeam(maker, name="by hand")


@pytest.mark.parametrize(
    ("options", "wrapped"),
    [
        ({"color_reduction": "full"}, ("full", None, None)),
        ({"color_reduction": "G"}, ("G", None, None)),
        ({"color_reduction": "b"}, ("B", None, None)),
        ({"resize": "5x4"}, (None, (5, 4), None)),
        ({"frame_skip": 3}, (None, None, 3)),
        ({"frame_skip": "3"}, (None, None, 3)),
        ({"color_reduction": "R", "resize": "4x6", "frame_skip": 2}, ("R", (4, 6), 2)),
    ],
)
def test_the_image_options_are_supersuits_wrappers_in_their_order(options, wrapped):
    env = make(Screen, **options)
    assert_same(play(env, FRAMES), play(by_hand(*wrapped), FRAMES))


def test_the_shape_after_reduction_has_a_channel_and_width_stands_before_height_in_resize():
    assert make(Screen, resize="5x4").spec.obs_shape == (4, 5, 3)
    spec = make(Screen, color_reduction="full", resize="5x4").spec
    assert (spec.obs_shape, spec.obs_dim, spec.state_dim) == ((4, 5, 1), 20, 40)


def test_rewards_of_skipped_frames_are_summed_and_the_last_env_step_may_be_shorter():
    seen = play(make(Screen, frame_skip=4), 3)
    reward, truncated = seen[4::6], seen[7::6]
    assert [float(r) for r in reward] == [1 + 2 + 3 + 4, 5 + 6 + 7 + 8, 9 + 10]
    assert [bool(t) for t in truncated] == [False, False, True]


def test_an_agent_that_dies_while_frames_are_skipped_acts_no_more_and_keeps_what_it_was_paid():
    class Dying(Screen):
        """camera_0 dies in frame 3; nobody may act for it after that."""

        def step(self, actions):
            assert set(actions) == set(self.agents)
            both = dict.fromkeys(self.possible_agents, 0) | actions
            results = [dict(part) for part in super().step(both)]
            if self.t == 3:
                results[2]["camera_0"] = True
            for part in results if self.t > 3 else ():
                part.pop("camera_0", None)
            self.agents = [agent for agent in self.agents if self.t < 3 or agent == "camera_1"]
            return tuple(results)

    env = make(Dying, team_reward="sum", frame_skip=4)
    state, _ = env.reset(torch.tensor([1]))
    paid, alive = [], []
    for _ in range(3):
        state, step, _ = env.step(state, torch.zeros(1, AGENTS, dtype=torch.int64), autoreset=False)
        paid.append(step.agent_reward[0].tolist())
        alive.append(step.after.alive[0].tolist())
    assert paid == [[1 + 2 + 3, 1 + 2 + 3 + 4], [0, 5 + 6 + 7 + 8], [0, 9 + 10]]
    assert alive == [[False, True]] * 3
    assert step.truncated


@pytest.mark.parametrize(("frames", "skip", "expected"), [(None, 4, None), (125, None, 125), (125, 4, 32), (12, 4, 3)])
def test_the_episode_limit_counts_env_steps_not_frames(frames, skip, expected):
    assert ImageOptions(frame_skip=skip).env_steps(frames) == expected


def test_a_wrapped_task_keeps_the_contract():
    assert broken_rules(make(Screen, color_reduction="full", resize="5x4", frame_skip=3), episodes=2) == []


def test_the_state_of_a_reduced_task_is_the_reduced_observations_side_by_side():
    class WithState(Screen):
        def state(self):
            return np.zeros((100, 100, 3), dtype=np.uint8)

    assert make(WithState).spec.state_dim == 30_000
    assert not make(WithState).spec.state_is_obs
    assert make(WithState, frame_skip=2).spec.state_dim == 30_000  # its images are whole
    env = make(WithState, resize="5x4")
    assert env.spec.state_is_obs
    view = env.reset(torch.tensor([3]))[1]
    np.testing.assert_array_equal(view.state.numpy(), view.obs.numpy().reshape(1, -1) / np.float32(255))


@pytest.mark.parametrize(
    ("maker", "options", "sentence"),
    [
        (Screen, {"resize": "42"}, r"--env.resize '42' is not WIDTHxHEIGHT in pixels, both at least 1: write for example 42x42"),
        (Screen, {"resize": 42}, r"--env.resize 42 is not .* write for example 42x42"),
        (Screen, {"resize": "0x4"}, r"both at least 1"),
        (Screen, {"frame_skip": 0}, r"--env.frame-skip 0 is not a number of frames: 1 is every frame"),
        (Screen, {"frame_skip": True}, r"--env.frame-skip True is not a number of frames"),
        (Screen, {"color_reduction": "grey"}, r"--env.color-reduction 'grey' is not one of full, R, G, B"),
        (Grey, {"color_reduction": "full"}, r"images of three colours; camera_0 of Grey observes one of shape \(12, 10\)"),
        (Features, {"resize": "4x4"}, r"--env.resize is for images of bytes .* camera_0 of Features observes a Box of shape .* float32"),
        (Bytes, {"color_reduction": "full"}, r"--env.color-reduction is for images of bytes"),
        (Unequal, {"resize": "4x4", "colour": 1}, r'Unequal has no option "colour"'),
        (lambda: Spread(), {"resize": "4x4"}, r"gives a TeamEnv; color_reduction, resize, frame_skip are for ParallelEnvs"),
    ],
)
def test_image_options_that_make_no_sense_are_refused_with_one_that_does(maker, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(maker, **options)


def test_a_preset_of_image_options_can_be_switched_off_one_by_one():
    assert make(Screen, color_reduction="none", resize=None, frame_skip="none").spec.obs_shape == (12, 10, 3)


def test_a_function_keeps_an_option_of_its_own_that_has_the_same_name():
    given = []

    def own(resize: str = "") -> Screen:
        given.append(resize)
        return Screen()

    spec = make(own, resize="anything", color_reduction="full").spec
    assert (given[0], spec.obs_shape) == ("anything", (12, 10, 1))


def test_a_function_that_takes_anything_gets_all_but_the_image_options():
    given = []

    def anything(**options: Any) -> Screen:
        given.append(options)
        return Screen()

    assert make(anything, resize="5x4", size=3).spec.obs_shape == (4, 5, 3)
    assert given[0] == {"size": 3}


def test_render_mode_reaches_a_function_that_takes_it_and_no_other():
    given = []

    def drawn(render_mode: str | None = None) -> Screen:
        given.append(render_mode)
        return Screen()

    make(drawn, render_mode="rgb_array")
    make(drawn)
    assert given == ["rgb_array", None]
    assert make(Screen, render_mode="rgb_array").spec.obs_shape == (12, 10, 3)
    assert make("native/spread", render_mode="rgb_array").spec.num_agents == 3


def test_an_environment_that_supersuit_cannot_wrap_is_named():
    class Alike:
        possible_agents = ("a",)

        def observation_space(self, agent):
            return Box(0, 255, (4, 4, 3), np.uint8)

    with pytest.raises(ValueError, match=r"gives a Alike that is not derived from pettingzoo.ParallelEnv"):
        make(Alike, resize="2x2")


def test_cooperative_pong_is_seen_and_its_options_are_supersuits_wrappers():
    pettingzoo = pytest.importorskip("pettingzoo")
    pytest.importorskip("pygame")

    def maker() -> Any:
        env = pettingzoo.make("parallel", "butterfly/cooperative_pong-v6", render_mode="rgb_array")
        env.unwrapped.np_random = np.random.default_rng(0)
        env = supersuit.resize_v1(supersuit.color_reduction_v0(env, mode="full"), x_size=20, y_size=10, linear_interp=True)
        return supersuit.frame_skip_v0(env, 2)

    env = make("butterfly/cooperative_pong", color_reduction="full", resize="20x10", frame_skip=2)
    first, second = play(env, 4), play(PettingZooTeam(maker, name="by hand", state="observations"), 4)
    assert_same(first, second)
    assert all((obs.float().std(-1) > 0).all() for obs in (first[0], first[-6]))  # without a render_mode the screen stays black


def test_pistonball_has_actions_that_can_be_learned_unless_told_otherwise():
    pytest.importorskip("pymunk")
    spec = make("butterfly/pistonball", n_pistons=3, color_reduction="full", resize="8x8").spec
    assert (spec.num_actions, spec.obs_shape, spec.state_dim) == (3, (8, 8, 1), 3 * 64)
    with pytest.raises(ValueError, match=r"Use --env.continuous false, or wrap it"):
        make("butterfly/pistonball", n_pistons=3, continuous=True)
