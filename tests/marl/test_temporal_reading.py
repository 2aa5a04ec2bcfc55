"""Reading which steps earned the return: exact sums, the truth of the delayed chain, the run's own model, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from teamcredit.credit.chains import delayed_chain
from teamcredit.envs.delayed_chain import DelayedChain
from teamcredit.marl.cli_output import to_json
from teamcredit.marl.cli_temporal import temporal_document, temporal_text
from teamcredit.marl.errors import ConfigError
from teamcredit.marl.run import Run, load, train
from teamcredit.marl.temporal_reading import TemporalCredit, measure_temporal, own_model, play_episodes

CHAIN = {
    "env.num_agents": 3, "env.steps": 5, "env.num_actions": 3, "replay.rollout_steps": 10, "replay.num_envs": 16,
    "replay.minibatch_size": 80, "network.hidden": 16, "redistribution.hidden": 32, "redistribution.lr": 3e-3,
    "evaluation.episodes": 2, "evaluation.final_episodes": 2, "compile": "off",
}  # fmt: skip


def start(out: Path, kind: str, *, task: str = "native/delayed-chain", **options) -> Run:
    folder = train(task, algo="vdn", steps=320, seed=0, options=CHAIN | {"reward_redistribution": kind} | options, out=out).folder
    return load(folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return start(tmp_path_factory.mktemp("plain") / "run", "none")


@pytest.fixture(scope="module")
def reading(plain: Run) -> TemporalCredit:
    return measure_temporal(plain, episodes=6, fit_episodes=600, reference="random")


def test_the_steps_of_an_episode_add_up_to_its_return(reading):
    torch.testing.assert_close(reading.rewards.sum(0), reading.returns, rtol=1e-9, atol=1e-9)
    assert reading.fitted
    assert reading.model == "rudder"
    assert reading.valid.all()


def test_a_fitted_model_finds_the_truth_of_the_delayed_chain(plain, reading):
    env = plain.env
    assert isinstance(env, DelayedChain)
    played = play_episodes(env, plain.team, torch.arange(10_000_000, 10_000_006))
    assert torch.equal(played.episodes.returns, reading.returns)  # the same episodes
    hits = played.episodes.action[:, 0] == env.targets
    truth = delayed_chain(env.weights, hits, num_actions=3, reference="random").matrix
    steps = torch.stack([reading.by_step(), truth.sum(1)])
    assert torch.corrcoef(steps)[0, 1] > 0.9
    claims = torch.stack([reading.by_step_and_agent().flatten(), truth.flatten()])
    assert torch.corrcoef(claims)[0, 1] > 0.9
    assert reading.by_step_and_agent()[:, 2].abs().max() < 0.4 * truth.abs().max()  # the null agent
    assert reading.explained_variance > 0.9


def test_the_same_seed_gives_the_same_reading_and_another_seed_another(plain):
    again, other = (measure_temporal(plain, episodes=2, fit_episodes=60, reference="random", seed=seed) for seed in (0, 1))
    same = measure_temporal(plain, episodes=2, fit_episodes=60, reference="random")
    assert torch.equal(again.rewards, same.rewards)
    assert torch.equal(again.agents, same.agents)
    assert not torch.equal(other.rewards, same.rewards)


def test_a_run_that_redistributed_is_read_by_its_own_model(tmp_path):
    run = start(tmp_path / "run", "rrd")
    found = measure_temporal(run, episodes=3)
    assert (found.model, found.fitted, found.reference) == ("rrd", False, "noop")
    played = play_episodes(run.env, run.team, torch.arange(10_000_000, 10_000_003))
    with torch.no_grad():
        predicted = own_model(run).rewards(played.episodes)
    evenly = (played.episodes.returns - predicted.sum(0)) / 5
    torch.testing.assert_close(found.rewards, predicted + evenly)
    other = measure_temporal(run, episodes=3, model="rudder", fit_episodes=50)
    again = measure_temporal(run, episodes=3, refit=True, fit_episodes=50)
    assert (other.model, other.fitted, again.model, again.fitted) == ("rudder", True, "rrd", True)


def test_episodes_of_unequal_length_get_nothing_after_their_end(tmp_path):
    options = {name: value for name, value in CHAIN.items() if not name.startswith("env.")}
    options |= {"env.episode_limit": 12}
    run = train("native/foraging-5x5-2p-1f", algo="coma", steps=320, seed=0, options=options, out=tmp_path / "run")
    found = measure_temporal(run, episodes=30, fit_episodes=100)
    lengths = found.valid.sum(0)
    assert lengths.min() < lengths.max()
    assert not bool(found.rewards[~found.valid].any())
    assert not bool(found.agents[~found.valid].any())
    torch.testing.assert_close(found.rewards.sum(0), found.returns, rtol=1e-9, atol=1e-9)


def test_as_json_and_as_text(plain, reading):
    document = json.loads(to_json(temporal_document(plain, reading)))
    assert [entry["step"] for entry in document["steps"]] == [0, 1, 2, 3, 4]
    assert list(document["steps"][0]["agents"]) == ["agent_0", "agent_1", "agent_2"]
    for episode in document["episodes"]:
        assert sum(episode["rewards"]) == pytest.approx(episode["return"])
    text = temporal_text(document)
    assert "fitted to fresh exploring episodes" in text
    assert "not the truth" in text
    assert "an undefined part (all returns are alike)" in text  # the chain has one greedy episode


def test_what_cannot_be_read_is_refused(plain, tmp_path):
    with pytest.raises(ConfigError, match="at least 2"):
        measure_temporal(plain, episodes=1)
    with pytest.raises(ConfigError, match='no return model "lstm"'):
        measure_temporal(plain, model="lstm")
    with pytest.raises(ConfigError, match='no reference "nobody"'):
        measure_temporal(plain, reference="nobody", fit_episodes=20)
    planted = start(tmp_path / "planted", "none", members=tuple(f"agent_{agent}=trained" for agent in range(3)))
    with pytest.raises(ConfigError, match="have the same return"):
        measure_temporal(planted, fit_episodes=20)
