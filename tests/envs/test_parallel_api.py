"""Native tasks served as PettingZoo ParallelEnvs."""

import warnings

import numpy as np
import pytest
import torch
from teamcredit.envs.delayed_chain import DelayedChain
from teamcredit.envs.foraging import Foraging
from teamcredit.envs.key_and_door import KeyAndDoor
from teamcredit.envs.matrix import MatrixGame
from teamcredit.envs.parallel_api import to_parallel_env
from teamcredit.envs.plate_and_door import PlateAndDoor
from teamcredit.envs.predator_prey import PredatorPrey
from teamcredit.envs.spread import Spread
from teamcredit.envs.switch import Switch
from teamcredit.envs.two_step import TwoStep
from teamcredit.envs.uphill import Uphill
from teamcredit.envs.warehouse import Warehouse

with warnings.catch_warnings():
    # PettingZoo's own tests import a task by its old path.
    warnings.filterwarnings("ignore", "The old environment creation API", DeprecationWarning)
    from pettingzoo.test import parallel_api_test
    from pettingzoo.test.seed_test import parallel_seed_test

TASKS = {
    "spread": Spread,
    "foraging": Foraging,
    "foraging, short sight": lambda: Foraging(sight=2, penalty=0.1),
    "switch": Switch,
    "switch of four, clock": lambda: Switch(4, clock=True),
    "predator-prey": lambda: PredatorPrey(episode_limit=40),
    "predator-prey, crowded": lambda: PredatorPrey(3, 3, 4, 4, episode_limit=30),
    "warehouse": lambda: Warehouse(episode_limit=40),
    "warehouse of four": lambda: Warehouse(2, num_agents=4, episode_limit=30),
    "climbing": MatrixGame,
    "unequal matrix": lambda: MatrixGame([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
    "two-step": TwoStep,
    "plate and door": PlateAndDoor,
    "delayed chain with cues": lambda: DelayedChain(cue=True),
    "key and door": KeyAndDoor,
    "uphill": Uphill,
}
every_task = pytest.mark.parametrize("make", list(TASKS.values()), ids=list(TASKS))


def episode(env, seed: int | None, action_seed: int) -> list:
    rng = np.random.default_rng(action_seed)
    obs, infos = env.reset(seed=seed)
    record = [obs, infos, env.state()]
    while env.agents:
        joint = {agent: int(rng.integers(env.action_space(agent).n)) for agent in env.agents}
        record += [*env.step(joint), env.state()]
    return record


def flat(tree) -> list:
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree) for leaf in [key, *flat(tree[key])]]
    if isinstance(tree, (list, tuple)):
        return [leaf for item in tree for leaf in flat(item)]
    return [tree.tolist() if isinstance(tree, np.ndarray) else tree]


@every_task
def test_the_parallel_api_test_passes(make):
    parallel_api_test(to_parallel_env(make()), num_cycles=120)


@every_task
def test_the_parallel_seed_test_passes(make):
    parallel_seed_test(lambda: to_parallel_env(make()))


@every_task
def test_whole_episodes_repeat_with_the_seed(make):
    env, other = to_parallel_env(make()), to_parallel_env(make())
    first = flat(episode(env, 3, 0)) + flat(episode(env, None, 1))
    assert first == flat(episode(other, 3, 0)) + flat(episode(other, None, 1))
    assert first == flat(episode(env, 3, 0)) + flat(episode(env, None, 1))


def test_another_seed_and_the_next_episode_start_elsewhere():
    env = to_parallel_env(Foraging())
    starts = [env.reset(seed=1), env.reset(), env.reset(seed=2), env.reset(seed=1)]
    states = [flat(start) for start in starts]
    assert states[0] == states[3]
    assert len({str(s) for s in states}) == 3


@every_task
def test_observations_states_and_masks_lie_in_their_spaces(make):
    env = to_parallel_env(make())
    obs, infos = env.reset(seed=0)
    assert env.state_space.contains(env.state())
    for agent in env.possible_agents:
        assert env.observation_space(agent).contains(obs[agent])
        mask = infos[agent]["action_mask"]
        assert mask.dtype == np.int8
        assert mask.shape == (env.action_space(agent).n,)
        env.action_space(agent).sample(mask)


def test_rewards_are_the_agents_own_where_the_task_has_them():
    team, env = Spread(), to_parallel_env(Spread())
    env.reset(seed=4)
    state = env._state
    actions = dict.fromkeys(env.agents, 1)
    reward = env.step(actions)[1]
    expected = team.step(state, torch.ones(1, 3, dtype=torch.int64))[1]
    assert list(reward.values()) == expected.agent_reward[0].tolist()
    game = to_parallel_env(MatrixGame("climbing"))
    game.reset(seed=0)
    assert game.step({"agent_0": 0, "agent_1": 0})[1] == {"agent_0": 11, "agent_1": 11}


def test_an_unavailable_action_is_the_noop_or_else_the_first_available_one():
    env = to_parallel_env(Foraging())
    _, infos = env.reset(seed=0)
    agent = next(a for a in env.agents if not infos[a]["action_mask"].all())
    invalid = int(infos[agent]["action_mask"].argmin())
    asked = env._joint_action(dict.fromkeys(env.agents, 0) | {agent: invalid})
    assert asked.tolist() == [[0, 0]]
    game = to_parallel_env(MatrixGame([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    game.reset(seed=0)
    assert game._joint_action({"agent_0": 2, "agent_1": 2}).tolist() == [[0, 2]]


def test_max_cycles_truncates_at_exactly_that_step():
    env = to_parallel_env(Spread(), max_cycles=4)
    env.reset(seed=0)
    for t in range(1, 5):
        _, _, terminations, truncations, _ = env.step(dict.fromkeys(env.agents, 0))
        assert set(truncations.values()) == {t == 4}
        assert not any(terminations.values())
    assert env.agents == []


def test_misuse_is_named():
    env = to_parallel_env(Spread())
    with pytest.raises(ValueError, match="reset"):
        env.step({})
    with pytest.raises(ValueError, match="reset"):
        env.state()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="agent_2"):
        env.step({"agent_0": 0, "agent_1": 0})
