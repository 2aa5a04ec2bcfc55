"""Credit of a team, from episodes: what must be exactly zero is, and pairs are pairs."""

import pytest
import torch
from teamcredit.credit.difference import leave_one_out
from teamcredit.credit.shapley import shapley
from teamcredit.envs.base import TeamEnv, View
from teamcredit.envs.matrix import MatrixGame
from teamcredit.envs.randomness import Clock
from teamcredit.envs.registry import make
from teamcredit.marl.agents import UtilityNetwork
from teamcredit.marl.config import NetworkConfig
from teamcredit.marl.errors import ConfigError
from teamcredit.marl.evaluate import EVALUATION_SEEDS, play, seeds_from
from teamcredit.marl.inspection import episode_game, measure_credit
from teamcredit.marl.policies import Override, Team, parse_members, random_policy
from teamcredit.marl.references import default_references, reference_policy
from teamcredit.marl.run import Run, train


def team(env: TeamEnv, members: tuple[str, ...] = (), kind: str = "mlp") -> Team:
    """Untrained agents, some replaced by scripted members."""
    torch.manual_seed(0)
    spec = env.spec
    net = UtilityNetwork(NetworkConfig(kind=kind, hidden=8), num_agents=spec.num_agents, obs_dim=spec.obs_dim, num_actions=spec.num_actions)
    overrides, planted = parse_members(members, spec, getattr(env, "scripted", {}))
    return Team(net, overrides, planted)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A trained run with a planted idler."""
    options = {"members": "agent_1=noop", "replay.rollout_steps": 16, "replay.num_envs": 4, "network.hidden": 8,
               "env.episode_limit": 10, "evaluation.episodes": 4, "evaluation.final_episodes": 4}  # fmt: skip
    out = tmp_path_factory.mktemp("small") / "run"
    return train("native/foraging-8x8-2p-3f", algo="vdn", steps=128, options=options, out=out)


@pytest.mark.parametrize("method", ["difference", "shapley"])
def test_a_planted_idler_earns_exactly_nothing_against_noop(small_run, method):
    credit = measure_credit(small_run, method=method, reference="noop", episodes=32)
    assert credit.value[1] == 0
    assert credit.reference == "noop"


def always(action: list[int]) -> Override:
    """A team that always plays this joint action."""

    def act(view: View, clock: Clock) -> torch.Tensor:
        return torch.tensor(action).expand(view.alive.shape)

    return Override(act, torch.ones(len(action), dtype=torch.bool))


def coalition_game(payoff: list, joint: list[int]):
    """A one-step game in which action 0 does nothing, played by a team that plays `joint`."""
    env = MatrixGame(payoff)
    object.__setattr__(env.spec, "noop", (0,) * env.spec.num_agents)
    return episode_game(env, Team(team(env).utility, (always(joint),)), "noop")


def test_credit_of_a_one_step_game_is_hand_arithmetic():
    """v(empty) 1, v(first) 4, v(second) 3, v(both) 10."""
    game = coalition_game([[1.0, 3.0], [4.0, 10.0]], [1, 1])
    assert leave_one_out(game, 2, episodes=2, bound=10.0).value.tolist() == [10 - 3, 10 - 4]
    found = shapley(game, 2, episodes=2, bound=10.0)
    assert found.value.tolist() == [((4 - 1) + (10 - 3)) / 2, ((3 - 1) + (10 - 4)) / 2]
    assert found.total == 9


def test_of_two_agents_who_can_stand_in_for_each_other_both_have_shapley_value_and_neither_leaves_a_gap():
    game = coalition_game([[[0.0, 1.0], [2.0, 3.0]], [[2.0, 3.0], [2.0, 3.0]]], [1, 1, 1])  # an OR pair worth 2, and a worker
    assert leave_one_out(game, 3, episodes=2, bound=3.0).value.tolist() == [0, 0, 1]
    torch.testing.assert_close(shapley(game, 3, episodes=2, bound=3.0).value, torch.ones(3, dtype=torch.float64))


def test_credit_counts_the_env_steps_it_played():
    game = coalition_game([[1.0, 3.0], [4.0, 10.0]], [1, 1])
    assert shapley(game, 2, episodes=5, bound=10.0).env_steps == 4 * 5


@pytest.mark.parametrize("kind", ["mlp", "gru"])
def test_the_same_seeds_play_the_same_episodes_whatever_stands_beside_them(kind):
    env = make("native/foraging-8x8-3p-3f")
    players = team(env, kind=kind)
    seeds = seeds_from(EVALUATION_SEEDS, 20)
    reference = Override(random_policy, torch.tensor([True, True, False]))
    whole = play(env, players, seeds, [reference]).returns
    assert whole.unique().numel() > 1
    assert torch.equal(play(env, players, seeds[[7, 3]], [reference]).returns, whole[[7, 3]])
    mask = torch.zeros(40, 3, dtype=torch.bool)
    mask[20:] = reference.mask  # the first twenty copies keep the team, the others are the same worlds replaced
    both = play(env, players, seeds.repeat(2), [Override(random_policy, mask)]).returns
    assert torch.equal(both[20:], whole)
    assert torch.equal(both[:20], play(env, players, seeds).returns)


def test_replacing_one_agent_by_itself_changes_no_episode():
    env = make("native/foraging-8x8-3p-3f")
    players, seeds = team(env, ("agent_2=random",)), seeds_from(0, 16)
    again = Override(random_policy, torch.tensor([False, False, True]))
    assert torch.equal(play(env, players, seeds, [again]).returns, play(env, players, seeds).returns)


def test_a_member_with_a_noop_may_idle_though_a_teammate_has_none():
    env = make("native/foraging-5x5-2p-1f")
    object.__setattr__(env.spec, "noop", (None, 0))
    players = team(env, ("agent_1=noop",))
    assert play(env, players, seeds_from(0, 2)).effort[:, 1].tolist() == [0, 0]
    with pytest.raises(ValueError, match="no action that does nothing for agent_0"):
        team(env, ("agent_0=noop",))


@pytest.mark.parametrize("task, references", [("native/foraging-8x8-2p-3f", ("noop", "random")), ("native/two-step", ("random",))])
def test_noop_is_a_reference_where_every_agent_has_one(task, references):
    assert default_references(make(task).spec) == references


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"method": "shaply"}, "Did you mean shapley"),
        ({"reference": "still"}, "There are: noop, random, average"),
        ({"episodes": 1}, "at least 2"),
    ],
)
def test_credit_that_cannot_be_measured_says_why(small_run, arguments, sentence):
    with pytest.raises(ConfigError, match=sentence):
        measure_credit(small_run, **arguments)


def test_a_task_without_noop_names_the_agents_that_lack_it():
    with pytest.raises(ConfigError, match=r"two-step has no action that does nothing for agent_0, agent_1: use the reference random"):
        reference_policy("noop", make("native/two-step").spec)
