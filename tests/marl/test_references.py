"""References by name: what each makes an absent agent do, and when two of them are the same."""

import pytest
import torch
from teamcredit.credit import measure_interactions
from teamcredit.envs.base import TeamEnv, View
from teamcredit.envs.randomness import Clock
from teamcredit.envs.registry import make
from teamcredit.marl.agents import UtilityNetwork
from teamcredit.marl.config import NetworkConfig
from teamcredit.marl.errors import ConfigError
from teamcredit.marl.evaluate import CREDIT_SEEDS, play, seeds_from
from teamcredit.marl.inspection import episode_game, measure_credit
from teamcredit.marl.policies import Override, StandIn, Team, parse_members
from teamcredit.marl.references import drawn_from, make_reference, reference_of
from teamcredit.marl.run import train


def team(env: TeamEnv, members: tuple[str, ...]) -> Team:
    torch.manual_seed(0)
    spec = env.spec
    net = UtilityNetwork(NetworkConfig(hidden=8), num_agents=spec.num_agents, obs_dim=spec.obs_dim, num_actions=spec.num_actions)
    overrides, planted = parse_members(members, spec, getattr(env, "scripted", {}))
    return Team(net, overrides, planted)


TASK = "native/foraging-8x8-3p-3f"


def view_of(available: list[list[bool]], copies: int) -> View:
    legal = torch.tensor(available)
    agents = len(legal)
    return View(torch.zeros(copies, agents, 1), torch.zeros(copies, 1), legal.expand(copies, -1, -1), torch.ones(copies, agents) > 0)


@pytest.fixture(scope="module", params=["mlp", "gru"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    options = {"network.kind": request.param, "replay.window": 4, "replay.rollout_steps": 16, "replay.num_envs": 4, "network.hidden": 8,
               "env.episode_limit": 10, "evaluation.episodes": 4, "evaluation.final_episodes": 4, "evaluation.every": 128}  # fmt: skip
    return train(TASK, algo="vdn", steps=256, options=options, out=tmp_path_factory.mktemp("references") / "run")


def test_the_average_policy_draws_actions_as_often_as_they_were_taken_among_the_available_ones():
    act = drawn_from(torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]], dtype=torch.float64))
    view = view_of([[True, True, False], [True, True, False]], 20_000)
    action = act(view, Clock.start(torch.arange(20_000)))
    assert not (action == 2).any()
    assert abs(float((action[:, 0] == 0).double().mean()) - 2 / 3) < 0.015  # four standard errors
    assert abs(float((action[:, 1] == 0).double().mean()) - 1 / 2) < 0.015  # it never took either: uniform


def test_an_agent_in_its_own_place_changes_nothing(run):
    """peer:agent_1 for agent_1, and the run's own newest checkpoint for anybody; recurrent agents with their memory."""
    seeds = seeds_from(CREDIT_SEEDS, 12)
    base = play(run.env, run.team, seeds).returns
    own = make_reference("peer:agent_1", run).policy
    assert torch.equal(play(run.env, run.team, seeds, [Override(own, torch.tensor([False, True, False]))]).returns, base)
    newest = make_reference(f"@{run.env_steps}", run).policy
    assert torch.equal(play(run.env, run.team, seeds, [Override(newest, torch.ones(3, dtype=torch.bool))]).returns, base)


def test_a_peer_acts_from_the_absent_agents_own_observations(run):
    """The utilities of agent_2's network at agent_0's observations, by hand."""
    stand = make_reference("peer:agent_2", run).policy
    assert isinstance(stand, StandIn)
    _, view = run.env.reset(torch.arange(5))
    obs = view.obs.clone()
    obs[:, 2] = view.obs[:, 0]
    q, _ = run.team.utility(obs, run.team.utility.initial_memory(5))
    wanted = q[:, 2].masked_fill(~view.available[:, 0], -torch.inf).argmax(-1)
    chosen, _ = stand.act(view, stand.initial_memory(5), Clock.start(torch.arange(5)))
    assert torch.equal(chosen[:, 0], wanted)


def test_an_earlier_checkpoint_stands_in_for_absent_agents(run):
    early = make_reference("@128", run)
    assert early.reference.name.endswith("@128")
    found = measure_credit(run, method="difference", reference="@128", episodes=8)
    assert found.reference_digest == early.reference.digest
    assert "@128" in found.reference


def test_the_digest_says_whether_two_references_act_alike(run):
    env = make(TASK)
    digests = [reference_of(name, env, run.team).reference.digest for name in ("noop", "random", "average", "peer:agent_0", "peer:agent_1")]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 12 for digest in digests)
    assert digests == [reference_of(name, make(TASK), run.team).reference.digest for name in
                       ("noop", "random", "average", "peer:agent_0", "peer:agent_1")]  # fmt: skip
    torch.manual_seed(1)
    other = Team(type(run.team.utility)(run.config.network, num_agents=3, obs_dim=env.spec.obs_dim, num_actions=6))
    assert reference_of("peer:agent_0", env, other).reference.digest != digests[3]


def test_from_a_step_on_an_absent_agent_is_itself_before_it():
    env = make(TASK)
    players = team(env, ("agent_0=forager", "agent_1=forager", "agent_2=forager"))
    late = episode_game(env, players, "noop", from_step=10_000)
    nobody, all_of_them = torch.zeros(1, 3, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    assert torch.equal(late.play(nobody, torch.arange(8)), late.play(all_of_them, torch.arange(8)))
    whole, later = (episode_game(env, players, "noop", from_step=step).play(nobody, torch.arange(32)).mean() for step in (0, 8))
    assert whole == 0 < later < late.play(all_of_them, torch.arange(32)).mean()


def test_two_foragers_of_one_food_stand_in_for_each_other():
    """Either alone clears a board of level-1 food; so together they earn no more than one does: interaction below 0."""
    env = make("native/foraging-6x6-2p-1f-ind")
    game = episode_game(env, team(env, ("agent_0=forager", "agent_1=forager")), "noop")
    found = measure_interactions(game, episodes=32)
    assert found.high[0, 1] < 0
    assert found.value[0, 1] == found.value[1, 0]
    assert found.value[0, 0] == found.low[0, 0] == 0


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("nop", "Did you mean noop"),
        ("peer:agent_9", "Agents: agent_0, agent_1, agent_2"),
        ("peer:agent_2", "agent_2 is planted"),
        ("@128", "names no run"),
    ],
)
def test_a_reference_that_does_not_exist_is_refused(name, sentence):
    env = make(TASK)
    with pytest.raises(ConfigError, match=sentence):
        reference_of(name, env, team(env, ("agent_2=noop",)))


def test_a_checkpoint_of_another_task_cannot_stand_in(run, tmp_path):
    other = train("native/two-step", algo="vdn", steps=128, out=tmp_path / "other")
    with pytest.raises(ConfigError, match="cannot stand in for this team: its agents"):
        make_reference(f"{other.folder}@128", run)
