"""Collecting: each row is one joint transition, memories start anew with episodes, sums of episodes are right."""

import pytest
import torch
from teamcredit.envs.randomness import copy_seeds
from teamcredit.envs.registry import make
from teamcredit.marl.agents import UtilityNetwork
from teamcredit.marl.config import NetworkConfig
from teamcredit.marl.exploration import greedy
from teamcredit.marl.policies import Team
from teamcredit.marl.rollout import begin, collect

STEPS, COPIES = 23, 3


@pytest.fixture
def env():
    return make("native/foraging-8x8-2p-3f", episode_limit=7)


def team(env, kind: str = "mlp") -> Team:
    torch.manual_seed(0)
    net = UtilityNetwork(NetworkConfig(kind=kind, hidden=16), num_agents=2, obs_dim=env.spec.obs_dim, num_actions=6)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()  # large enough for the memory to matter
    return Team(net)


def gather(env, players: Team, *, epsilon: float, steps: int = STEPS):
    return collect(env, begin(env, players, copy_seeds(0, COPIES)), players, epsilon=epsilon, steps=steps)


def test_a_transition_leads_to_the_next_row_unless_the_episode_ended(env):
    rollout, carry, _ = gather(env, team(env), epsilon=1.0)
    done = rollout.terminated | rollout.truncated
    assert done.any()
    assert rollout.episode_start[0].all()
    assert torch.equal(rollout.episode_start[1:], done[:-1])
    for now, after in (("obs", "next_obs"), ("state", "next_state"), ("available", "next_available"), ("alive", "next_alive")):
        assert torch.equal(getattr(rollout, after)[:-1][~done[:-1]], getattr(rollout, now)[1:][~done[:-1]]), now
    assert not torch.equal(rollout.next_obs[:-1][done[:-1]], rollout.obs[1:][done[:-1]])  # the last view is kept, not the reset's
    assert torch.equal(carry.view.obs[~done[-1]], rollout.next_obs[-1][~done[-1]])


def test_collecting_in_two_parts_is_collecting_at_once(env):
    players = team(env, "gru")
    whole, _, ended = gather(env, players, epsilon=0.3)
    first, carry, ended_first = gather(env, players, epsilon=0.3, steps=10)
    second, _, ended_second = collect(env, carry, players, epsilon=0.3, steps=STEPS - 10)
    for name in ("obs", "action", "reward", "episode_start", "behaviour"):
        assert torch.equal(torch.cat([getattr(first, name), getattr(second, name)]), getattr(whole, name)), name
    assert torch.equal(torch.cat([ended_first.returns, ended_second.returns]), ended.returns)


def test_recurrent_agents_act_on_a_memory_that_starts_anew_with_every_episode(env):
    players = team(env, "gru")
    rollout, _, _ = gather(env, players, epsilon=0.0)
    with torch.no_grad():
        q, _ = players.utility.unroll(rollout.obs, rollout.episode_start)
        forgetless, _ = players.utility.unroll(rollout.obs, torch.zeros_like(rollout.episode_start))
    assert torch.equal(greedy(q, rollout.available), rollout.action)
    assert not torch.equal(greedy(forgetless, rollout.available), rollout.action)


def test_finished_episodes_are_summed_by_hand(env):
    rollout, carry, ended = gather(env, team(env), epsilon=1.0)
    returns, lengths, own = [], [], []
    for t in range(STEPS):
        for copy in range(COPIES):
            if rollout.terminated[t, copy] or rollout.truncated[t, copy]:
                first = int(rollout.episode_start[: t + 1, copy].nonzero()[-1])
                returns.append(float(rollout.reward[first : t + 1, copy].double().sum()))
                own.append(rollout.agent_reward[first : t + 1, copy].double().sum(0))
                lengths.append(t + 1 - first)
    assert ended.lengths.tolist() == lengths
    torch.testing.assert_close(ended.returns.tolist(), returns)
    torch.testing.assert_close(ended.agent_returns, torch.stack(own))
    last = [float(rollout.reward[int(rollout.episode_start[:, copy].nonzero()[-1]) :, copy].double().sum()) for copy in range(COPIES)]
    assert carry.episode_return.tolist() == pytest.approx(last)


def test_every_collected_step_is_real_and_knows_who_collected_it(env):
    players = team(env)
    rollout, _, _ = collect(env, begin(env, players, copy_seeds(0, 2)), players, epsilon=1.0, steps=3, policy_version=17, actor=4)
    assert rollout.valid.all()
    assert (rollout.policy_version == 17).all()
    assert (rollout.actor == 4).all()
