"""Our spread against mpe2's `simple_spread_v3`: the reference's state is copied into ours and both take the same actions."""

import numpy as np
import pytest
import torch
from teamcredit.envs.native import NativeState
from teamcredit.envs.randomness import Clock
from teamcredit.envs.spread import Spread, SpreadTask

simple_spread_v3 = pytest.importorskip("mpe2.simple_spread_v3")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pygame.*")


def record(reference, episode: int, rng: np.random.Generator):
    """One reference episode: start, actions, and what each step brought."""
    obs, _ = reference.reset(seed=episode)
    world = reference.unwrapped.world
    start = [np.array([entity.state.p_pos for entity in group]) for group in (world.agents, world.landmarks)]
    seen, states, actions, rewards, ends = [np.stack(list(obs.values()))], [reference.state()], [], [], []
    # Agents that run at one another for a while, so that bumps and rebounds are frequent.
    habits = rng.integers(0, 5, size=len(world.agents))
    while reference.agents:
        keep = rng.random(len(habits)) < 0.6
        joint = np.where(keep, habits, rng.integers(0, 5, size=len(habits)))
        obs, reward, terminated, truncated, _ = reference.step(dict(zip(reference.agents, joint.tolist(), strict=True)))
        seen.append(np.stack(list(obs.values())))
        states.append(reference.state())
        actions.append(joint)
        rewards.append(list(reward.values()))
        ends.append((any(terminated.values()), any(truncated.values())))
    return start, np.array(seen), np.array(states), np.array(actions), np.array(rewards), np.array(ends)


def compare(num_agents: int, episodes: int, **options) -> int:
    """Play `episodes` of both side by side; returns how many agent steps had a collision."""
    reference = simple_spread_v3.parallel_env(N=num_agents, **options)
    rng = np.random.default_rng(num_agents)
    starts, seen, states, actions, rewards, ends = zip(*(record(reference, k, rng) for k in range(episodes)), strict=True)
    env = Spread(num_agents, local_ratio=options.get("local_ratio", 0.5))
    position, landmark = (torch.tensor(np.stack([start[k] for start in starts])) for k in range(2))
    running = torch.zeros(episodes, dtype=torch.bool)
    task = SpreadTask(position=position, velocity=torch.zeros_like(position), landmark=landmark)
    state = NativeState(task=task, clock=Clock.start(torch.arange(episodes)), terminated=running, truncated=running)
    view = env.observe(task)
    collisions = 0
    for t in range(25):
        torch.testing.assert_close(view.obs, torch.tensor(np.stack([s[t] for s in seen])), rtol=0, atol=1e-6)
        torch.testing.assert_close(view.state, torch.tensor(np.stack([s[t] for s in states])), rtol=0, atol=1e-6)
        state, step, view = env.step(state, torch.tensor(np.stack([a[t] for a in actions])), autoreset=False)
        expected = torch.tensor(np.stack([r[t] for r in rewards]))
        torch.testing.assert_close(step.agent_reward.double(), expected, rtol=1e-7, atol=1e-6)
        torch.testing.assert_close(step.reward.double(), expected.sum(1), rtol=1e-6, atol=1e-6)
        assert step.terminated.tolist() == [bool(e[t][0]) for e in ends]
        assert step.truncated.tolist() == [bool(e[t][1]) for e in ends]
        collisions += int((expected != expected.amax(1, keepdim=True)).sum())
    torch.testing.assert_close(view.obs, torch.tensor(np.stack([s[25] for s in seen])), rtol=0, atol=1e-6)
    return collisions


@pytest.mark.parametrize("num_agents", [3, 5])
def test_whole_episodes_equal_mpe2(num_agents):
    assert compare(num_agents, 20) > 10


@pytest.mark.parametrize("local_ratio", [0.0, 1.0])
def test_the_local_ratio_weighs_as_in_mpe2(local_ratio):
    compare(3, 10, local_ratio=local_ratio)


@pytest.mark.slow
@pytest.mark.parametrize("num_agents", [3, 5])
def test_a_thousand_episodes_equal_mpe2(num_agents):
    assert compare(num_agents, 1000) > 1000
