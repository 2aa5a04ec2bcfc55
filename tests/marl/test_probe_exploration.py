"""Probe episodes: one coalition an episode, of the kernel's sizes; who is absent follows the reference; nothing else moves."""

from dataclasses import replace

import pytest
import torch
from teamcredit.credit import all_coalitions, banzhaf_from_values
from teamcredit.credit.probes import additive_fit, size_probabilities, size_weights, with_total
from teamcredit.envs.base import View
from teamcredit.envs.randomness import Clock, copy_seeds
from teamcredit.envs.registry import make
from teamcredit.envs.tracing import tracing
from teamcredit.marl.agents import utility_network
from teamcredit.marl.coalition_tasks import true_game
from teamcredit.marl.config import Config, ExplorationConfig, NetworkConfig, ReplayConfig
from teamcredit.marl.exploration import greedy
from teamcredit.marl.graphs import recorded
from teamcredit.marl.policies import Team, parse_members
from teamcredit.marl.probes import Probes, make_probes, noop_actions, reference_action
from teamcredit.marl.rollout import advance, begin, collect
from teamcredit.marl.trainer import Trainer
from teamcredit.marl.trees import owned

torch.set_num_threads(1)


def probes(env, *, share: float = 1.0, learns: torch.Tensor | None = None, **options) -> Probes:
    learns = torch.ones(env.spec.num_agents, dtype=torch.bool) if learns is None else learns
    made = make_probes(ExplorationConfig(probe_share=share, **options), env.spec, learns)
    assert made is not None
    return made


def team(env, seed: int = 0, **fields) -> Team:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Team(utility_network(NetworkConfig(hidden=16), env.spec), **fields)


def played(env, players: Team, *, copies: int = 64, steps: int = 40, epsilon: float = 0.0):
    return collect(env, begin(env, players, copy_seeds(0, copies)), players, epsilon=epsilon, steps=steps)[0]


def test_in_a_coalition_game_who_joins_is_distributed_as_the_kernel_says():
    env = make("native/coalition-airport-4")
    rollout = played(env, team(env, probes=probes(env, probe_ends=0.4, probe_members="active")), copies=500, steps=40)
    masks = ((rollout.action == 1).to(torch.int64) << torch.arange(4)).sum(-1).flatten()
    frequency = torch.bincount(masks, minlength=16) / 20_000
    expected = size_weights(size_probabilities(4, 0.4))
    assert (frequency - expected).abs().max() < 4 * 0.5 / 20_000**0.5  # four standard errors at most
    assert (rollout.behaviour == 1).all()


def test_an_exact_fit_of_what_is_collected_is_shapley_with_probes_and_banzhaf_without():
    env, truth = make("native/coalition-airport-4"), true_game("airport-4")
    probed = probes(env, probe_ends=0.5, probe_members="active")
    for players, index, epsilon in ((None, banzhaf_from_values(truth(all_coalitions(4))), 1.0), (probed, truth.shapley, 0.0)):
        rollout = played(env, team(env, probes=players), copies=500, steps=40, epsilon=epsilon)
        joined, paid = (rollout.action == 1).flatten(0, 1), rollout.reward.flatten().to(torch.float64)
        gain = additive_fit(joined, paid).gain
        gain = gain if players is None else with_total(gain, 4.0)
        torch.testing.assert_close(gain, index, rtol=0, atol=0.03)


def test_only_the_share_asked_for_is_probed_and_the_rest_is_as_without_probes():
    env = make("native/foraging-8x8-3p-2f", episode_limit=6)
    plain, mixed = played(env, team(env), epsilon=0.5, steps=6), played(env, team(env, probes=probes(env, share=0.3)), epsilon=0.5, steps=6)
    clock = Clock.start(copy_seeds(0, 64))
    probing, members = probes(env, share=0.3).coalition(clock)
    assert 10 < int(probing.sum()) < 30
    for name in ("obs", "action", "behaviour", "reward"):
        assert torch.equal(getattr(plain, name)[:, ~probing], getattr(mixed, name)[:, ~probing]), name
    assert not torch.equal(plain.action[:, probing], mixed.action[:, probing])
    absent = probing.unsqueeze(-1) & ~members
    assert (mixed.action[:, absent] == 0).all()  # the no-op of foraging
    assert (mixed.behaviour[:, probing] == 1).all()


def test_the_coalition_stays_for_the_whole_episode_and_changes_with_it():
    env = make("native/foraging-8x8-3p-2f", episode_limit=5)
    drawn = probes(env, probe_ends=0.0)
    clock, seen = Clock.start(copy_seeds(0, 32)), []
    for step in range(20):
        seen.append(drawn.coalition(clock)[1])
        clock = clock.tick(torch.full((32,), step % 5 == 4))
    for t in range(19):
        assert torch.equal(seen[t], seen[t + 1]) == (t % 5 != 4), t
    assert all(coalition.any(1).all() and not coalition.all(1).any() for coalition in seen)


def test_members_act_greedily():
    env = make("native/foraging-8x8-3p-2f", episode_limit=6)
    players = team(env, probes=probes(env))
    rollout = played(env, players, steps=6, epsilon=1.0)
    _, members = probes(env).coalition(Clock.start(copy_seeds(0, 64)))
    with torch.no_grad():
        q, _ = players.utility.unroll(rollout.obs, rollout.episode_start)
    assert torch.equal(rollout.action, torch.where(members, greedy(q, rollout.available), 0))


def test_active_members_leave_out_the_no_op_where_they_have_another_action():
    env = make("native/coalition-either-or")
    view = env.reset(torch.arange(2))[1]
    q = torch.tensor([[5.0, 1.0], [5.0, 1.0], [1.0, 5.0]]).expand(2, -1, -1)
    blank = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3)
    clock = Clock.start(torch.arange(2))
    for how, joins in (("greedy", [0, 0, 1]), ("active", [1, 1, 1])):
        everybody = replace(probes(env, probe_members=how), sizes=torch.tensor([0, 0, 0, 1.0], dtype=torch.float64))
        assert everybody.act(q, *blank, view, clock)[0].tolist() == [joins] * 2
    only_noop = view.available.clone()
    only_noop[:, 0, 1] = False
    masked = View(view.obs, view.state, only_noop, view.alive)
    assert everybody.act(q, *blank, masked, clock)[0].tolist() == [[0, 1, 1]] * 2


def test_the_reference_is_the_no_op_or_a_uniform_available_action():
    available = torch.tensor([[[True, True, True], [False, True, True], [True, True, False]]])
    action, chance = reference_action(torch.tensor([0, 0, -1]), available, torch.tensor([[0.9, 0.9, 0.1]]))
    assert action.tolist() == [[0, 2, 0]]
    assert chance.tolist() == [[1, 0.5, 0.5]]
    assert noop_actions(make("native/matrix-climbing").spec).tolist() == [-1, -1]


def test_planted_members_are_no_players():
    env = make("native/coalition-airport-4")
    members, planted = parse_members(["agent_3=noop"], env.spec, {})
    players = Team(team(env).utility, members=members, planted=planted)
    learns = players.learns(4)
    drawn = probes(env, learns=learns, probe_ends=0.0)
    _, inside = drawn.coalition(Clock.start(copy_seeds(0, 3_000)))
    assert inside[:, 3].all()
    sizes = torch.bincount(inside[:, :3].sum(1), minlength=4) / 3_000
    assert (sizes - size_probabilities(3, 0.0)).abs().max() < 0.04
    assert (played(env, replace(players, probes=drawn)).action[..., 3] == 0).all()


def test_one_env_step_with_probes_is_one_graph_and_equals_the_plain_one():
    env = make("native/coalition-airport-4")
    players = team(env, probes=probes(env, share=0.5))
    carry, epsilon = owned(begin(env, players, copy_seeds(0, 32))), torch.tensor(0.3, dtype=torch.float64)

    def step(carry, epsilon):
        return advance(env, carry, players, epsilon=epsilon)[1]

    with torch.no_grad():
        plain = step(carry, epsilon)
        with tracing():
            in_graph = recorded(step)(carry, epsilon)
    assert all(torch.equal(in_graph[name], value) for name, value in plain.items())


def test_the_same_seed_trains_the_same_and_probing_changes_what_is_learned():
    def train(**exploration):
        replay = ReplayConfig(rollout_steps=4, num_envs=16, minibatch_size=32)
        config = Config(
            task="native/coalition-airport-4", algo="vdn", steps=128, exploration=ExplorationConfig(**exploration), replay=replay
        )
        trainer = Trainer(config, make(config.task))
        while not trainer.finished:
            trainer.round()
        return torch.cat([value.detach().flatten() for value in trainer.networks.parameters()])

    assert torch.equal(train(probe_share=0.5), train(probe_share=0.5))
    assert not torch.equal(train(probe_share=0.5), train())
    assert torch.equal(train(probe_share=0.0, probe_ends=0.9), train())


@pytest.mark.parametrize(
    "task, options, sentence",
    [
        ("native/matrix-climbing", {"probe_members": "active"}, "has no action that does nothing"),
        ("native/spread-1", {}, "coalitions need at least 2 that do"),
    ],
)
def test_probes_that_make_no_sense_are_refused(task, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        probes(make(task), **options)


def test_coma_and_impossible_shares_are_refused():
    with pytest.raises(ValueError, match="coma learns from what its own policies do"):
        Config(task="native/spread", algo="coma", exploration=ExplorationConfig(probe_share=0.1))
    with pytest.raises(ValueError, match=r"probe_share 1\.5 must lie in"):
        ExplorationConfig(probe_share=1.5)
