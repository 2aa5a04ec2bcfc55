"""SuperSuit-wrapped environments are accepted as they come, and our own padding and agent ids equal SuperSuit's."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv
from teamcredit.envs.pettingzoo import PettingZooTeam

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
supersuit = pytest.importorskip("supersuit", exc_type=ImportError)
torch.set_num_threads(1)


class Two(ParallelEnv):
    """An agent with 2 features and 2 actions, one with 3 and 4; truncated after 5 steps."""

    metadata: ClassVar = {"name": "two", "is_parallelizable": True}
    render_mode = None
    widths = (2, 3)

    def __init__(self):
        self.possible_agents = ["a", "b"]
        self.boxes = {agent: Box(-9, 9, (w,), np.float32) for agent, w in zip(self.possible_agents, self.widths, strict=True)}
        self.choices = {"a": Discrete(2), "b": Discrete(4)}

    def observation_space(self, agent):
        return self.boxes[agent]

    def action_space(self, agent):
        return self.choices[agent]

    def see(self):
        return {agent: np.full(self.boxes[agent].shape, self.t + self.luck, dtype=np.float32) for agent in self.agents}

    def reset(self, seed=None, options=None):
        self.t, self.agents = 0, list(self.possible_agents)
        self.luck = float(np.random.default_rng(seed).random())
        return self.see(), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.t += 1
        obs, agents, over = self.see(), self.agents, self.t == 5
        self.agents = [] if over else agents
        each = dict.fromkeys
        return obs, each(agents, 1.0), each(agents, False), each(agents, over), {agent: {} for agent in agents}


class Same(Two):
    widths = (3, 3)


def observations(maker, steps: int = 4) -> torch.Tensor:
    """The `Step.after` observations of one copy under action 0: (step, agent, obs)."""
    env = PettingZooTeam(maker, name="wrapped")
    state, _ = env.reset(torch.tensor([7]))
    seen = []
    for _ in range(steps):
        state, step, _ = env.step(state, torch.zeros(1, 2, dtype=torch.int64))
        seen.append(step.after.obs)
    return torch.cat(seen)


def test_our_padding_of_observations_equals_pad_observations_v0():
    assert torch.equal(observations(lambda: supersuit.pad_observations_v0(Two())), observations(Two))


def test_a_one_hot_agent_id_behind_the_observation_equals_agent_indicator_v0():
    class Unbounded(Same):
        """SuperSuit writes the space's highest value as the indicator; for spaces without one it is 1."""

        def __init__(self):
            super().__init__()
            self.boxes = {agent: Box(-np.inf, np.inf, (3,), np.float32) for agent in self.possible_agents}

    plain = observations(Unbounded)
    with_id = torch.cat([plain, torch.eye(2).expand(len(plain), 2, 2)], -1)
    assert torch.equal(observations(lambda: supersuit.agent_indicator_v0(Unbounded())), with_id)


def test_frame_stack_does_not_corrupt_what_was_seen_before():
    env = PettingZooTeam(lambda: supersuit.frame_stack_v1(Same(), 2), name="stacked")
    state, view = env.reset(torch.tensor([7]))
    first = view.obs[0, 0, -1].item()
    seen = []
    for _ in range(4):
        state, step, _ = env.step(state, torch.zeros(1, 2, dtype=torch.int64))
        seen.append(step.after.obs[0, 0])
    newest = [row.max().item() - first for row in seen]
    np.testing.assert_allclose(newest, [1, 2, 3, 4], rtol=1e-6)


def test_padded_action_spaces_are_accepted_and_without_supersuit_the_rest_is_masked():
    padded = PettingZooTeam(lambda: supersuit.pad_action_space_v0(Two()), name="padded")
    _, view = padded.reset(torch.tensor([1]))
    assert view.available.all()  # SuperSuit's extra actions repeat action 0
    _, view = PettingZooTeam(Two, name="plain").reset(torch.tensor([1]))
    assert view.available[0].tolist() == [[True, True, False, False], [True] * 4]


def test_a_stack_of_wrappers_forks_and_reloads():
    env = PettingZooTeam(lambda: supersuit.agent_indicator_v0(supersuit.pad_observations_v0(Two())), name="wrapped")
    state, _ = env.reset(torch.tensor([3, 4]))
    action = torch.zeros(2, 2, dtype=torch.int64)
    state, _, _ = env.step(state, action)
    twin, loaded = env.select(state, torch.tensor([0, 1])), env.load(env.dump(state))
    _, expected, _ = env.step(state, action)
    for other in (twin, loaded):
        _, step, _ = env.step(other, action)
        assert torch.equal(step.after.obs, expected.after.obs)
