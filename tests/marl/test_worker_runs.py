"""Training in worker processes: the same run, and one whose worker died goes on as if nothing had happened."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from teamcredit.envs.errors import WorkerDied
from teamcredit.marl.checkpoint import list_checkpoints, read
from teamcredit.marl.cli import main
from teamcredit.marl.cli_errors import explain
from teamcredit.marl.errors import ConfigError, WorkerLost
from teamcredit.marl.evaluate import evaluate
from teamcredit.marl.folder import read_config, read_metrics
from teamcredit.marl.run import Run, load, resume, train

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pygame.*")

OWN_TASK = '''
import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv


class Walk(ParallelEnv):
    """Two walkers on a line are paid for standing together; the start and the length of an episode come from its seed."""

    metadata = {"name": "walk"}
    possible_agents = ["left", "right"]

    def __init__(self, fails_at=None):
        self.fails_at, self.spaces = fails_at, (Box(-9, 9, (3,)), Discrete(3))

    def observation_space(self, agent):
        return self.spaces[0]

    def action_space(self, agent):
        return self.spaces[1]

    def seen(self):
        return {agent: np.array([self.place[agent], *self.place.values()], np.float32) / 9 for agent in self.possible_agents}

    def reset(self, seed=None, options=None):
        luck = np.random.default_rng(seed)
        self.agents, self.time, self.end = list(self.possible_agents), 0, int(luck.integers(4, 9))
        self.place = {agent: float(luck.normal()) for agent in self.agents}
        return self.seen(), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.time += 1
        if self.time == self.fails_at:
            raise ValueError("the door is stuck")
        for agent, action in actions.items():
            self.place[agent] += action - 1
        reward = -abs(self.place["left"] - self.place["right"])
        over = dict.fromkeys(self.agents, self.time == self.end)
        rewards, infos = dict.fromkeys(self.agents, reward), {agent: {} for agent in self.agents}
        self.agents = [] if self.time == self.end else self.agents
        return self.seen(), rewards, dict.fromkeys(over, False), over, infos


def walk(): return Walk()
def stuck(): return Walk(fails_at=3)
'''
TASK, STEPS = "walk_task:walk", 256
OPTIONS: dict[str, Any] = {
    "network.hidden": 16, "evaluation.every": 96, "evaluation.episodes": 4, "evaluation.final_episodes": 4, "checkpoint.every": 128,
    "replay.sampling": "uniform", "replay.capacity": 200, "replay.rollout_steps": 8, "replay.num_envs": 4, "replay.minibatch_size": 16,
    "learner.target_every": 5,
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_task(tmp_path, monkeypatch):
    (tmp_path / "walk_task.py").write_text(OWN_TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def started(monkeypatch) -> list[int]:
    """Process ids of the workers, as they start."""
    pids: list[int] = []

    class Watched(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            pids.append(self.pid)

    monkeypatch.setattr("teamcredit.envs.vector.subprocess.Popen", Watched)
    return pids


def go(out: str, *, workers: int, **more: Any) -> Run:
    return train(TASK, algo="qmix", steps=STEPS, seed=1, options=OPTIONS | {"workers": workers}, out=out, **more)


def untimed(folder: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if not name.startswith("time.")} for record in read_metrics(folder)]


def assert_same_run(first: Path, second: Path) -> None:
    assert untimed(first) == untimed(second)
    assert json.loads((first / "result.json").read_text()) == json.loads((second / "result.json").read_text())
    ends = [read(list_checkpoints(folder / "checkpoints")[-1]).groups for folder in (first, second)]
    for group in ("networks", "training", "replay"):
        assert ends[0][group].keys() == ends[1][group].keys()
        assert all(torch.equal(value, ends[1][group][name]) for name, value in ends[0][group].items()), group


def test_a_run_in_two_workers_is_the_run_in_this_process(started):
    notes: list[str] = []
    alone = go("alone", workers=0)
    assert started == []
    shared = go("shared", workers=2, on_event=lambda event: notes.append(str(event.get("text"))))
    assert len(started) == 2
    assert_same_run(alone.folder, shared.folder)
    assert not any("workers" in note for note in notes)


def killing(started: list[int], event: str, env_steps: int) -> Any:
    """Kills the second worker at this event of the run."""

    def on_event(record: dict[str, Any]) -> None:
        if record["event"] == event and record.get("env_steps") == env_steps:
            os.kill(started[1], signal.SIGKILL)

    return on_event


@pytest.mark.parametrize(
    "event, env_steps, died_in", [("progress", 64, "a round"), pytest.param("train", 96, "an evaluation", marks=pytest.mark.slow)]
)
def test_a_run_whose_worker_was_killed_is_saved_and_goes_on_as_the_undisturbed_one(started, event, env_steps, died_in):
    alone = go("alone", workers=0)
    with pytest.raises(WorkerLost) as caught:
        go("killed", workers=2, on_event=killing(started, event, env_steps))
    told = str(caught.value)
    assert told.startswith(f"{TASK}: worker 2 of 2 (process {started[1]}) was killed by SIGKILL before it could move copy 1 (seed ")
    assert told.endswith(f"Saved at {env_steps} env steps. Go on with: marl resume killed")
    assert (caught.value.exit, caught.value.kind, caught.value.remedy) == (4, "worker-died", "marl resume killed")
    assert load("killed").env_steps == env_steps
    assert len([record for record in read_metrics(Path("killed")) if record["event"] == "evaluation"]) == 0
    resumed = resume("killed", workers=0)
    assert_same_run(resumed.folder, alone.folder)
    assert read_config(resumed.folder).workers == 0


@pytest.mark.slow
def test_a_death_in_the_last_evaluation_and_a_resumption_in_other_workers_change_nothing(started):
    alone = go("alone", workers=0)
    with pytest.raises(WorkerLost, match="Saved at 256 env steps"):
        go("killed", workers=2, on_event=killing(started, "progress", 256))
    assert not Path("killed/result.json").exists()
    assert_same_run(resume("killed", workers=1).folder, alone.folder)


@pytest.mark.slow
def test_a_run_made_in_workers_is_evaluated_in_them_and_on_a_native_task_in_this_process(started):
    go("alone", workers=0)
    run = go("shared", workers=2)
    assert evaluate("shared", episodes=5) == evaluate("alone", episodes=5)
    assert len(started) == 4
    with pytest.raises(ConfigError, match="this team cannot play native/spread"):
        evaluate(run, episodes=5, on="native/spread")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_training_on_mpe_is_the_same_in_workers(workers):
    options = OPTIONS | {"replay.num_envs": 2}
    alone, shared = (
        train("mpe/simple_spread", steps=96, options=options | {"workers": count}, out=f"mpe-{count}") for count in (0, workers)
    )
    assert_same_run(alone.folder, shared.folder)


def test_a_native_task_refuses_workers_before_anything_is_written():
    with pytest.raises(ValueError, match="native/spread is stepped as tensors in this process; leave out --workers"):
        train("native/spread", options={"workers": 2}, out="native")
    assert not Path("native").exists()
    with pytest.raises(ConfigError, match="workers -1 must be at least 0"):
        train(TASK, options={"workers": -1}, out="native")


def test_a_worker_that_dies_outside_training_ends_a_command_with_exit_code_4_and_a_remedy():
    failure = explain(WorkerDied("worker 1 of 2 (process 7)", "sisl/pursuit-v5", -signal.SIGSEGV, None, [f"copy {i}" for i in range(5)]))
    assert failure is not None
    assert (failure.exit, failure.kind) == (4, "worker-died")
    sentence = "sisl/pursuit-v5: worker 1 of 2 (process 7) was killed by SIGSEGV before it could move copy 0, copy 1, copy 2 and 2 more"
    assert failure.message == sentence
    assert failure.remedy == "with --workers 0 it runs in this process, where its own error shows"


def test_a_task_that_fails_in_a_worker_is_told_as_its_own_like_one_that_fails_here(capsys):
    told = []
    for workers in ("0", "1"):
        assert main(["train", "walk_task:stuck", "--steps", "64", "--workers", workers, "--out", f"stuck-{workers}"]) == 2
        told.append(capsys.readouterr().err)
    assert "the environment's own code fails: ValueError: the door is stuck (walk_task.py, line 34, in step)" in told[0]
    assert told[0] == told[1]
