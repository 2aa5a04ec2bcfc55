"""The packages' tasks: each keeps the contract, and random play earns what is known of it."""

import numpy as np
import pytest
import torch
from teamcredit.envs.check import broken_rules
from teamcredit.envs.pettingzoo import PettingZooTeam
from teamcredit.envs.randomness import choice, fold
from teamcredit.envs.registry import make

torch.set_num_threads(1)
mpe = pytest.importorskip("mpe2")
lbf = pytest.importorskip("lbforaging")

MPE = ["mpe/simple_spread", "mpe/simple_speaker_listener", "mpe/simple_reference"]
LBF = ["lbf/8x8-2p-3f", "lbf/2s-8x8-2p-2f-coop"]


def random_returns(env: PettingZooTeam, episodes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per episode of uniform play over available actions: team return, agents' returns, whether it was terminated."""
    seeds = torch.arange(episodes)
    state, view = env.reset(seeds)
    total, each = torch.zeros(episodes), torch.zeros(episodes, env.spec.num_agents)
    for t in range(env.spec.episode_limit):
        key = fold(fold(seeds, t).unsqueeze(1), torch.arange(env.spec.num_agents))
        state, step, view = env.step(state, choice(key, view.available), autoreset=False)
        total, each = total + step.reward, each + step.agent_reward
    assert (step.terminated | step.truncated).all()
    return total, each, step.terminated


@pytest.mark.parametrize("task", [*MPE, *LBF])
def test_the_task_keeps_the_contract(task):
    assert broken_rules(make(task), episodes=1) == []


@pytest.mark.slow
@pytest.mark.parametrize("task", [*MPE, "mpe/simple_line", "mpe/simple_formation", *LBF])
def test_the_task_keeps_the_contract_over_several_episodes(task):
    assert broken_rules(make(task), episodes=3, seed=5) == []


@pytest.mark.slow
def test_pursuit_from_pettingzoos_registry_keeps_the_contract():
    assert broken_rules(make("sisl/pursuit-v5", max_cycles=15), episodes=2) == []


# The usual random figures, which are sums over agents (for speaker_listener: the shared reward counted twice).
@pytest.mark.slow
@pytest.mark.parametrize(("task", "usual"), [("simple_spread", -79), ("simple_speaker_listener", -79), ("simple_reference", -57)])
def test_random_play_summed_over_agents_earns_the_usual_figure(task, usual):
    total, _, terminated = random_returns(make(f"mpe/{task}", team_reward="sum"), 300)
    assert abs(total.mean() - usual) < 4 * total.std() / 300**0.5 + 1
    assert not terminated.any()


@pytest.mark.slow
def test_random_play_of_foraging_earns_the_usual_figure():
    total, each, _ = random_returns(make("lbf/8x8-2p-3f"), 300)
    assert abs(total.mean() - 0.172) < 4 * total.std() / 300**0.5
    torch.testing.assert_close(each.sum(1), total)


def test_a_shared_reward_is_counted_once():
    total, each, _ = random_returns(make("mpe/simple_speaker_listener", max_cycles=5), 4)
    torch.testing.assert_close(total, each[:, 0])
    torch.testing.assert_close(total, each[:, 1])


def test_the_state_of_spread_is_what_the_package_calls_state():
    env = make("mpe/simple_spread")
    state, view = env.reset(torch.tensor([4]))
    np.testing.assert_array_equal(env.live(state, 0).state(), view.state[0].numpy())


def test_speaker_and_listener_differ_in_observations_actions_and_no_op():
    spec = make("mpe/simple_speaker_listener").spec
    assert (spec.obs_dim, spec.num_actions, spec.state_dim) == (11, 5, 14)
    assert spec.noop == (None, 0)
    assert [len(names) for names in spec.action_names] == [3, 5]


def test_options_reach_the_package_and_set_the_limit():
    spec = make("mpe/simple_spread", N=4, max_cycles=10).spec
    assert (spec.num_agents, spec.episode_limit, len(spec.action_names)) == (4, 10, 4)


def test_continuous_actions_are_refused_with_the_option_that_helps():
    with pytest.raises(ValueError, match=r"Use --env.continuous-actions false, or wrap it.") as caught:
        make("mpe/simple_spread", continuous_actions=True)
    assert str(caught.value).startswith("agent_0 has Box(0.0, 1.0, (5,)); VDN and QMIX need Discrete actions.")
    assert caught.value.kind == "unsupported-environment"


def test_foraging_is_truncated_at_its_limit_and_terminated_only_on_an_empty_board():
    env = make("lbf/5x5-2p-1f", max_episode_steps=30)
    _, each, terminated = random_returns(env, 40)
    assert 0 < terminated.sum() < 40
    torch.testing.assert_close(each.sum(1)[terminated], torch.ones(int(terminated.sum())))
    assert (each.sum(1)[~terminated] == 0).all()


def test_foraging_forbids_what_the_package_ignores():
    env = make("lbf/8x8-2p-3f")
    state, view = env.reset(torch.arange(8))
    for row in range(8):
        board = env.live(state, row).env
        for i, player in enumerate(board.players):
            allowed = {action.value for action in board._valid_actions[player]}
            assert set(view.available[row, i].nonzero().flatten().tolist()) == allowed
    assert view.available[:, :, 0].all()


def test_an_episode_of_foraging_depends_on_its_seed_only():
    env = make("lbf/5x5-4p-1f")
    _, first = env.reset(torch.arange(20))
    random_returns(env, 20)
    _, again = env.reset(torch.arange(20))
    assert torch.equal(first.obs, again.obs)


def test_relative_coordinates_stand_behind_the_packages_observation():
    plain = make("lbf/8x8-2p-3f").reset(torch.arange(3))[1].obs
    obs = make("lbf/8x8-2p-3f", relative_obs=True).reset(torch.arange(3))[1].obs
    assert torch.equal(obs[..., :15], plain)
    assert torch.equal(obs[..., 15:17], plain[..., 0:2] - plain[..., 9:11])
    assert obs.shape[-1] == 15 + 2 * 4


@pytest.mark.parametrize(("options", "expected"), [({}, (0.0, 1.0)), ({"penalty": 0.1}, None), ({"normalize_reward": False}, None)])
def test_the_return_range_of_foraging_is_given_only_where_it_is_known(options, expected):
    assert make("lbf/8x8-2p-3f", **options).spec.return_range == expected


def pursuers(env) -> list:
    return [tuple(agent.current_position()) for agent in env.unwrapped.env.pursuers]


def archers_and_knights(env) -> list:
    return [(player.rect.x, player.rect.y) for player in env.unwrapped.agent_map.values()]


@pytest.mark.parametrize(
    ("task", "places"), [("sisl/pursuit-v5", pursuers), ("butterfly/knights_archers_zombies-v11", archers_and_knights)]
)
def test_the_action_called_staying_moves_nobody_and_another_does(task, places):
    env = make(task)
    state, _ = env.reset(torch.zeros(1, dtype=torch.int64))
    before = places(env.live(state, 0))
    still, _, _ = env.step(state, torch.tensor([list(env.spec.noop)]))
    assert places(env.live(still, 0)) == before
    moved, _, _ = env.step(still, torch.zeros(1, env.spec.num_agents, dtype=torch.int64))
    assert places(env.live(moved, 0)) != before
    assert {len(names) for names in env.spec.action_names} == {env.spec.num_actions}
