"""Which inputs drive an agent's decisions: networks set by hand, the id, windows of recurrent agents, images, and what is refused."""

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from teamcredit.credit.attribution import integrated_gradients
from teamcredit.envs.base import TeamEnv, TeamSpec, View
from teamcredit.envs.native import NativeEnv, Outcome
from teamcredit.envs.randomness import Clock
from teamcredit.envs.registry import make
from teamcredit.marl.agents import UtilityNetwork, utility_network
from teamcredit.marl.attribution import InputAttribution, explain_decision, measure_inputs
from teamcredit.marl.cli_inputs import inputs_document, inputs_text
from teamcredit.marl.cli_output import to_json
from teamcredit.marl.config import Config, NetworkConfig
from teamcredit.marl.decisions import live
from teamcredit.marl.errors import ConfigError
from teamcredit.marl.evaluate import CREDIT_SEEDS, play, seeds_from
from teamcredit.marl.one_agent import one_agent, utilities
from teamcredit.marl.policies import Team, parse_members
from teamcredit.marl.run import Run, train

torch.set_num_threads(1)
SPREAD, FORAGING = "native/spread-3", "native/foraging-8x8-2p-3f"


@dataclass(frozen=True)
class ByHand(Run):
    """A run whose task and team are given, not read from a folder."""

    env: TeamEnv = field(kw_only=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    team: Team = field(kw_only=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    reward_scale: float = field(default=1.0, kw_only=True)  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def env_steps(self) -> int:
        return self.config.steps


def by_hand(task: TeamEnv | str, *, algo: str = "vdn", members: tuple[str, ...] = (), reward_scale: float = 1.0, **network: Any) -> ByHand:
    """Untrained networks, their norms' and heads' parameters moved off their even start."""
    env: TeamEnv = make(task) if isinstance(task, str) else task
    config = Config(env.spec.name, algo=algo, members=members)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        utility = utility_network(NetworkConfig(**{"hidden": 12, **network}), env.spec)
        for weight in utility.parameters():
            weight.data += 0.1 * torch.randn_like(weight)
    overrides, planted = parse_members(members, env.spec, getattr(env, "scripted", {}))
    team = Team(utility, overrides, planted, sampled=config.acts == "sampled")
    return ByHand(Path("nowhere"), config, Path("nowhere"), env=env, team=team, reward_scale=reward_scale)


def zero(network: UtilityNetwork) -> UtilityNetwork:
    for weight in network.parameters():
        weight.data.zero_()
    return network


KINDS = pytest.mark.parametrize(
    "network",
    [{"kind": kind, "share": share, "layer_norm": norm} for kind in ("mlp", "gru") for share in (True, False) for norm in (True, False)],
    ids=lambda network: "-".join(f"{name}={value}" for name, value in network.items()),
)


@KINDS
def test_the_network_of_one_agent_is_the_teams_with_its_own_id(network):
    utility = by_hand(SPREAD, **network).team.utility
    generator = torch.Generator().manual_seed(1)
    obs, memory = torch.randn(5, 3, 18, generator=generator), torch.randn(5, 3, utility.memory_dim, generator=generator)
    out, after = utility(obs, memory)
    for agent in range(3):
        x = torch.cat([obs[:, agent], torch.eye(3)[agent].expand(5, -1)], -1) if network["share"] else obs[:, agent]
        alone, remembered = one_agent(utility, agent, 18)(x.double().unsqueeze(1), memory[:, agent : agent + 1].double())
        torch.testing.assert_close(alone.squeeze(1).float(), out[:, agent], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(remembered.squeeze(1).float(), after[:, agent], rtol=1e-5, atol=1e-5)


@KINDS
def test_groups_add_up_to_the_change_of_the_target(network):
    found = measure_inputs(by_hand(SPREAD, **network), episodes=3, window=4)
    assert list(found.agents) == ["agent_0", "agent_1", "agent_2"]
    for agent in found.agents.values():
        assert float(agent.value.sum()) == pytest.approx(agent.at_decision - agent.at_baseline, abs=agent.error_max + 1e-9)
        assert agent.not_converged == 0
        assert agent.relative_error_max <= 1e-3
        assert agent.relative_error_mean <= agent.relative_error_max
        assert (agent.size >= agent.value.abs() - 1e-12).all()
        assert (agent.low <= agent.value).all()
        assert (agent.value <= agent.high).all()
        assert float(agent.share.sum()) == pytest.approx(1)
        assert ("agent id" in agent.groups) == network["share"]
        assert len(agent.by_lag) == (4 if network["kind"] == "gru" else 1)


def test_a_network_that_reads_one_feature_gives_it_everything():
    """q(right) = 2 relu(landmark_1_x + 5), all else 0: linear where it is played, so 2 (x - mean x) at every decision."""
    run = by_hand(SPREAD, layer_norm=False, layers=1, share=False)
    name, place = "landmark_1_x", 6
    spec, network = run.env.spec, zero(run.team.utility)
    assert spec.obs_names[0][place] == name
    network.first.linear.weight.data[:, 0, place], network.first.linear.bias.data[:, 0] = 1, 5
    network.head.weight.data[:, spec.action_names[0].index("right"), 0] = 2
    found = measure_inputs(run, target="utility", action="right", episodes=4)
    lived = live(run, seeds_from(CREDIT_SEEDS, 4))
    for index, agent in enumerate(found.agents.values()):
        own = agent.groups.index("landmark_1")
        others = [group for group in range(len(agent.groups)) if group != own]
        assert agent.size[others].tolist() == agent.value[others].tolist() == [0] * len(others)
        assert float(agent.share[own]) == 1
        x = 2 * lived.obs[:, :, index, place].double()
        assert float(agent.size[own]) == pytest.approx(float((x - x.mean()).abs().mean()), rel=1e-6)
        assert float(agent.value[own]) == pytest.approx(0, abs=1e-6)
        assert agent.error_max < 1e-9
        assert agent.decisions == agent.decisions_seen == x.numel()
    one = explain_decision(run, episode=2, step=7, agent="agent_1", action="right", target="utility", episodes=4)
    x = 2 * lived.obs[..., 1, place].double()
    assert float(one.value[one.groups.index("landmark_1")]) == pytest.approx(float(x[7, 2] - x.mean()), abs=1e-6)
    from_zero = explain_decision(run, episode=2, step=7, agent="agent_1", action="right", baseline="zero", episodes=4)
    assert float(from_zero.value[one.groups.index("landmark_1")]) == pytest.approx(float(x[7, 2]), abs=1e-6)
    assert (from_zero.at_baseline, from_zero.baseline) == (10, "an observation of zeros")


def test_the_gap_is_to_the_best_other_available_action():
    run = by_hand(FORAGING)
    lived = live(run, seeds_from(CREDIT_SEEDS, 2))
    for step in range(6):
        found = explain_decision(run, episode=1, step=step, agent="agent_1", episodes=2)
        names = run.env.spec.action_names[1]
        with torch.no_grad():
            out = run.team.utility(lived.obs[step], lived.memory[step])[0][1, 1]
        ranked = sorted((float(out[names.index(name)]), name) for name in found.available)
        assert (found.action, found.against) == (ranked[-1][1], ranked[-2][1])
        assert found.at_decision == pytest.approx(ranked[-1][0] - ranked[-2][0], abs=1e-5)
        assert float(found.value.sum()) - found.error == pytest.approx(found.at_decision - found.at_baseline, abs=1e-9)
        assert set(found.available) == {names[action] for action in lived.available[step, 1, 1].nonzero().squeeze(-1).tolist()}


def test_the_id_is_an_input_against_the_mean_id():
    """First layer: the id alone, agent i's entry 3 i; the head passes it on. The mean id gives 3 (0 + 1 + 2) / 3 = 3."""
    run = by_hand(SPREAD, layer_norm=False, layers=1)
    network = zero(run.team.utility)
    network.first.linear.weight.data[0, 18:] = torch.tensor([0.0, 3, 6])
    network.head.weight.data[1, 0] = 1
    found = measure_inputs(run, action=1, episodes=2)
    for agent, value in zip(found.agents.values(), (-3, 0, 3), strict=True):
        assert agent.groups[-1] == "agent id"
        assert agent.features[-1] == ("id of agent_0", "id of agent_1", "id of agent_2")
        assert agent.value.tolist() == pytest.approx([0] * (len(agent.groups) - 1) + [value])
        assert (agent.at_decision, agent.at_baseline) == (3 + value, 3)
    assert "the mean id of the agents that learned" in found.baseline


def test_a_planted_member_is_not_attributed_and_its_id_is_nobodys_mean():
    run = by_hand(SPREAD, members=("agent_2=noop",))
    found = measure_inputs(run, episodes=2)
    assert list(found.agents) == ["agent_0", "agent_1"]
    assert found.not_attributed == {"agent_2": "agent_2 is planted (noop): no network of its own decides, so nothing can be attributed"}
    with pytest.raises(ConfigError, match="agent_2 is planted"):
        measure_inputs(run, agent="agent_2", episodes=2)
    alone = measure_inputs(by_hand(SPREAD, members=("agent_1=noop", "agent_2=random")), episodes=2).agents["agent_0"]
    assert float(alone.size[alone.groups.index("agent id")]) == 0  # the only agent that learned: its id is the mean id


@pytest.mark.parametrize("share", [True, False])
def test_a_recurrent_agent_is_attributed_over_its_window_from_its_true_memory(share):
    run = by_hand(SPREAD, kind="gru", share=share)
    lived = live(run, seeds_from(CREDIT_SEEDS, 2))
    found = explain_decision(run, episode=1, step=9, agent="agent_1", episodes=2, window=3)
    assert found.by_lag.shape == (3, len(found.groups))
    torch.testing.assert_close(found.by_lag.sum(0), found.value)
    # The same by hand: the team's network, stepped over steps 7, 8, 9 from agent_1's memory before step 7.
    mean = lived.obs[..., 1, :].flatten(0, 1).mean(0)
    taken, runner_up = (run.env.spec.action_names[1].index(name) for name in (found.action, found.against))

    def gap(x: torch.Tensor) -> torch.Tensor:
        memory = lived.memory[7, 1].expand(len(x), -1, -1)
        for t, now in zip((7, 8, 9), x.unbind(1), strict=True):
            obs = lived.obs[t, 1].expand(len(x), -1, -1)
            out, memory = run.team.utility(torch.stack([obs[:, 0], now, obs[:, 2]], 1), memory)
        return out[:, 1, taken] - out[:, 1, runner_up]

    x = lived.obs[7:10, 1, 1]
    assert float(gap(x.unsqueeze(0)).detach()) == pytest.approx(found.at_decision, abs=1e-5)
    if not share:  # with an id the path moves it too
        by_team = integrated_gradients(gap, x, mean.expand(3, -1), axes=2, tolerance=1e-2)
        velocity = by_team.value[:, :2].sum(1).flip(0)
        size = float(by_team.value.abs().sum())
        torch.testing.assert_close(found.by_lag[:, 0].float() / size, velocity / size, rtol=0, atol=1e-2)


def test_before_an_episodes_first_step_there_is_nothing_to_attribute():
    run = by_hand(SPREAD, kind="gru")
    found = explain_decision(run, episode=0, step=1, agent="agent_0", episodes=2, window=5)
    assert found.by_lag[2:].tolist() == [[0.0] * len(found.groups)] * 3
    assert (found.by_lag[:2].abs().sum(1) > 0).all()
    longer = explain_decision(run, episode=0, step=1, agent="agent_0", episodes=2, window=9)
    torch.testing.assert_close(longer.value, found.value)


def test_steps_outside_the_episode_leave_the_memory_alone():
    alone = one_agent(by_hand(SPREAD, kind="gru").team.utility, 0, 18)
    x = torch.randn(2, 3, 21, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    memory = torch.randn(2, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cut = utilities(alone, x, memory, torch.tensor([[False, True, True]] * 2))
    torch.testing.assert_close(cut, utilities(alone, x[:, 1:], memory, torch.ones(2, 2, dtype=torch.bool)))


def test_values_are_in_raw_reward_and_logits_are_not_scaled():
    plain, scaled = (measure_inputs(by_hand(FORAGING, reward_scale=scale), episodes=2) for scale in (1.0, 5.0))
    assert plain.unit == "raw reward"
    torch.testing.assert_close(scaled.agents["agent_0"].value, 5 * plain.agents["agent_0"].value)
    logits = [measure_inputs(by_hand(FORAGING, algo="coma", reward_scale=scale), episodes=2) for scale in (1.0, 5.0)]
    assert logits[0].unit == "logit"
    assert logits[0].target.startswith("logit of the action the agent chose, less that of the best other available action")
    torch.testing.assert_close(logits[0].agents["agent_0"].value, logits[1].agents["agent_0"].value)


def test_at_most_so_many_decisions_are_drawn_by_a_seed(monkeypatch):
    monkeypatch.setattr("teamcredit.marl.attribution.MOST_DECISIONS", 20)
    run = by_hand(SPREAD)
    first, again, other = (measure_inputs(run, episodes=3, seed=seed) for seed in (0, 0, 1))
    one = measure_inputs(run, episodes=3, agent="agent_1")
    mine = first.agents["agent_1"]
    assert (mine.decisions, mine.decisions_seen, mine.episodes) == (20, 75, 3)
    assert torch.equal(mine.value, again.agents["agent_1"].value)
    assert torch.equal(mine.value, one.agents["agent_1"].value)
    assert not torch.equal(mine.value, other.agents["agent_1"].value)
    recurrent = measure_inputs(by_hand(SPREAD, kind="gru"), episodes=3, agent="agent_1", window=2)
    assert recurrent.agents["agent_1"].decisions == 10


def test_the_episodes_are_those_of_the_team_as_deployed():
    run = by_hand(FORAGING, members=("agent_1=random",))
    seeds = seeds_from(CREDIT_SEEDS, 5)
    lived, played = live(run, seeds), play(run.env, run.team, seeds)
    assert lived.env_steps == played.env_steps == measure_inputs(run, episodes=5).env_steps
    decided = lived.living & (lived.available.sum(-1) > 1)
    assert decided.sum(0).tolist() == played.choices.tolist()


@dataclass(frozen=True)
class Time:
    step: torch.Tensor


class Doors(NativeEnv[Time]):
    """Two agents, three steps. agent_0 may `open` at step 1 alone; agent_1 never may, has a choice at step 1 alone, and dies at step 2."""

    def __init__(self):
        self.spec = TeamSpec(
            name="doors", agents=("agent_0", "agent_1"), num_actions=3, obs_dim=2, state_dim=1, episode_limit=3,
            action_names=(("wait", "walk", "open"),) * 2, obs_names=(("time", "constant"), ("time",)), noop=(0, 0),
        )  # fmt: skip

    def begin(self, clock: Clock) -> Time:
        return Time(torch.zeros_like(clock.seed))

    def observe(self, task: Time) -> View:
        step, one = task.step, torch.ones(len(task.step))
        alive = torch.stack([step >= 0, step < 2], 1)
        obs = torch.stack([torch.stack([step, one], 1), torch.stack([step, 0 * one], 1)], 1)
        available = torch.zeros(len(step), 2, 3, dtype=torch.bool)
        available[..., 0] = available[:, 0, 1] = True
        available[:, 0, 2] = available[:, 1, 1] = step == 1
        return View(obs=obs * alive.unsqueeze(-1), state=step.float().unsqueeze(1), available=available, alive=alive)

    def advance(self, task: Time, action: torch.Tensor, clock: Clock) -> tuple[Time, Outcome]:
        after = task.step + 1
        return Time(after), Outcome(torch.zeros(len(after)), None, after == 3, after < 0)


def test_an_action_is_explained_only_where_it_was_available():
    run = by_hand(Doors())
    found = measure_inputs(run, action="open", episodes=4)
    opened = found.agents["agent_0"]
    assert (opened.decisions, opened.decisions_seen, opened.episodes) == (4, 4, 4)
    assert found.not_attributed == {
        "agent_1": "refused: action open is not available at any of agent_1's 4 decisions; available: wait, walk"
    }
    assert found.target == "utility of the action open, wherever it was available"
    with pytest.raises(ConfigError, match="refused: action open is not available at any of agent_1's 4 decisions; available: wait, walk"):
        measure_inputs(run, agent="agent_1", action="open", episodes=4)
    assert explain_decision(run, episode=0, step=1, agent="agent_0", action="open", episodes=2).available == ("wait", "walk", "open")
    with pytest.raises(ConfigError, match="refused: action open is not available there; available: wait, walk"):
        explain_decision(run, episode=0, step=2, agent="agent_0", action="open", episodes=2)


def test_means_over_decisions_keep_the_order_of_the_window():
    run = by_hand(Doors(), kind="gru")
    agent = measure_inputs(run, agent="agent_1", episodes=3, window=3).agents["agent_1"]
    single = explain_decision(run, episode=0, step=1, agent="agent_1", episodes=3, window=3)  # its only decision, the same in every episode
    torch.testing.assert_close(agent.by_lag, single.by_lag.abs())
    torch.testing.assert_close(agent.value, single.value)
    assert float(agent.lag_share[2]) == 0 < float(agent.lag_share[1]) != float(agent.lag_share[0])


def test_only_living_agents_with_a_choice_decide_and_only_what_they_saw_alive_is_the_baseline():
    run = by_hand(Doors(), layer_norm=False, layers=1, share=False)
    network = zero(run.team.utility)
    network.first.linear.weight.data[:, 0, 0] = 1  # the time
    network.head.weight.data[:, 1, 0] = 1
    found = measure_inputs(run, action="walk", episodes=2)
    assert (found.agents["agent_0"].decisions, found.agents["agent_1"].decisions) == (6, 2)
    assert found.agents["agent_0"].groups == ("time", "constant")
    assert found.agents["agent_1"].groups == ("time", "padding")
    assert found.agents["agent_0"].at_baseline == 1  # the mean of 0, 1, 2
    assert found.agents["agent_1"].at_baseline == 0.5  # of 0 and 1: at step 2 it is dead
    assert found.agents["agent_1"].value.tolist() == [0.5, 0]
    assert found.agents["agent_0"].size.tolist() == pytest.approx([2 / 3, 0])


class Screens(Doors):
    """The same with images of bytes, 3 x 2 x 1."""

    def __init__(self):
        super().__init__()
        self.spec = replace(self.spec, obs_dim=6, obs_dtype=torch.uint8, obs_shape=(3, 2, 1), obs_names=())

    def observe(self, task: Time) -> View:
        view = super().observe(task)
        bright = torch.arange(6) * 10 + task.step[:, None, None] * 50 + torch.arange(2)[:, None] * 5
        return replace(view, obs=(bright * view.alive.unsqueeze(-1)).to(torch.uint8))


@pytest.mark.parametrize("network", [{}, {"share": False}, {"kind": "gru"}, {"encoder": "flat"}], ids=str)
def test_images_are_one_group_on_the_scale_of_the_network(network):
    run = by_hand(Screens(), **network)
    found = measure_inputs(run, episodes=2, window=2)
    agent = found.agents["agent_0"]
    assert agent.groups == (("image", "agent id") if network.get("share", True) else ("image",))
    assert float(agent.value.sum()) == pytest.approx(agent.at_decision - agent.at_baseline, abs=agent.error_max + 1e-9)
    assert float(agent.size[0]) > 0
    lived = live(run, seeds_from(CREDIT_SEEDS, 2))
    one = explain_decision(run, episode=0, step=1, agent="agent_0", episodes=2, window=2)
    with torch.no_grad():
        out = run.team.utility(lived.obs[1], lived.memory[1])[0][0, 0]
    names = run.env.spec.action_names[0]
    assert one.at_decision == pytest.approx(float(out[names.index(one.action)] - out[names.index(one.against)]), abs=1e-5)


def test_features_without_names_stand_alone():
    env = make(SPREAD)
    object.__setattr__(env.spec, "obs_names", ())
    agent = measure_inputs(by_hand(env), agent="agent_0", episodes=2).agents["agent_0"]
    assert agent.groups == (*(f"obs{place}" for place in range(18)), "agent id")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"agent": "agent_9"}, 'no agent "agent_9"'),
        ({"target": "advantage"}, 'no target "advantage": use gap or utility'),
        ({"baseline": "median"}, 'no baseline "median": use mean or zero'),
        ({"action": "jump"}, 'agent_0 has no action "jump".*Actions: noop, north'),
        ({"action": 6}, 'agent_0 has no action "6"'),
        ({"episodes": 1}, "--episodes 1 gives no interval"),
        ({"window": 0}, "--window 0 must be at least 1"),
    ],
)
def test_bad_questions_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        measure_inputs(by_hand(FORAGING), **{"episodes": 2, **options})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"episode": 2}, "episode 2 is not one of the 2 played, 0 to 1"),
        ({"step": 3}, "episode 0 has steps 0 to 2, no step 3"),
        ({"step": 2}, "agent_1 is not alive at step 2 of episode 0"),
        ({"step": 0}, "refused: wait is agent_1's only available action there"),
    ],
)
def test_decisions_that_were_none_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        explain_decision(by_hand(Doors()), **{"episode": 0, "step": 1, "agent": "agent_1", "episodes": 2, **options})


@pytest.mark.parametrize(
    "task, algo, options",
    [
        (FORAGING, "coma", {}),
        (FORAGING, "qmix", {"network.kind": "gru", "replay.window": 4, "learner.standardise_rewards": True}),
        (SPREAD, "vdn", {"members": "agent_1=noop"}),
    ],
)
def test_a_trained_run_is_read_and_told(tmp_path, task, algo, options):
    small = {
        "replay.rollout_steps": 16,
        "replay.num_envs": 4,
        "network.hidden": 8,
        "evaluation.episodes": 2,
        "evaluation.final_episodes": 2,
    }
    run = train(task, algo=algo, steps=64, options=small | options, out=tmp_path / "run")
    found = measure_inputs(run, episodes=2, window=3)
    document = inputs_document(run, found)
    check_document(json.loads(to_json(document)), found)
    text = inputs_text(document)
    for name, agent in found.agents.items():
        assert f"{name}: {agent.decisions:,} decisions" in text
        assert f"{name}: completeness error" in text
    assert f"baseline: {found.baseline}." in text
    assert f"target: {found.target}." in text
    assert ("memory: the last 3 observations" in text) == (options.get("network.kind") == "gru")
    assert ("share by age of the observation" in text) == (options.get("network.kind") == "gru")
    assert ("not attributed: agent_1 is planted (noop)" in text) == ("members" in options)


def check_document(document: dict[str, Any], found: InputAttribution) -> None:
    assert set(document) == {
        "schema", "method", "run", "env_steps", "target", "unit", "baseline", "memory", "window", "estimator", "interval", "episodes",
        "env_steps_played", "agents", "not_attributed",
    }  # fmt: skip
    for name, agent in found.agents.items():
        said = document["agents"][name]
        assert [entry["value"] for entry in said["groups"].values()] == agent.value.tolist()
        assert tuple(said["groups"]) == agent.groups
        assert said["completeness"]["relative_error_max"] == agent.relative_error_max
        assert set(said["groups"][agent.groups[0]]) == {"value", "interval", "size", "size_interval", "share", "features"}
        assert set(said) == {"groups", "at_decision", "at_baseline", "lags", "completeness", "decisions", "decisions_seen", "episodes"}
        assert len(said["lags"]["share"]) == found.window


def test_many_groups_end_in_one_row_and_rough_values_are_called_rough():
    run = by_hand("native/rware-tiny-2ag")
    found = measure_inputs(run, episodes=2, agent="agent_0")
    agent = found.agents["agent_0"]
    text = inputs_text(inputs_document(run, found))
    assert f"{len(agent.groups) - 8} other groups" in text
    assert "did not reach the tolerance" not in text
    rough = replace(found, agents={"agent_0": replace(agent, not_converged=3)})
    assert "3 decisions did not reach the tolerance: their values are rougher" in inputs_text(inputs_document(run, rough))


def test_an_agent_that_always_sees_the_same_is_told_as_such():
    run = by_hand("native/two-step", share=False)
    zero(run.team.utility)
    found = measure_inputs(run, episodes=2)
    assert math.isnan(float(found.agents["agent_0"].share[0]))
    assert "no input moved the target" in inputs_text(inputs_document(run, found))
