"""The command line with a user's own environment: its mistakes are told as its own, its options work everywhere."""

import json
from pathlib import Path

import pytest
from teamcredit.marl.cli import main
from teamcredit.marl.errors import Diverged
from teamcredit.marl.folder import read_metrics
from teamcredit.marl.run import load, train

OWN_TASK = '''
import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv


class Pair(ParallelEnv):
    """Two agents, five steps."""

    metadata = {"name": "pair"}
    possible_agents = ["left", "right"]

    def __init__(self, pay=(1.0, 1.0), fails_at=None):
        self.pay, self.fails_at = pay, fails_at
        self.spaces = Box(-1, 1, (2,)), Discrete(2)

    def observation_space(self, agent):
        return self.spaces[0]

    def action_space(self, agent):
        return self.spaces[1]

    def seen(self):
        return {agent: np.full(2, self.time / 5, np.float32) for agent in self.possible_agents}

    def reset(self, seed=None, options=None):
        self.agents, self.time = list(self.possible_agents), 0
        return self.seen(), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.time += 1
        if self.time == self.fails_at:
            raise ValueError("the door is stuck")
        over = dict.fromkeys(self.agents, self.time == 5)
        rewards, infos = dict(zip(self.agents, self.pay)), {agent: {} for agent in self.agents}
        self.agents = [] if self.time == 5 else self.agents
        return self.seen(), rewards, dict.fromkeys(over, False), over, infos


def pair(): return Pair()
def stuck(): return Pair(fails_at=3)
def unequal(): return Pair(pay=(1.0, 2.0))
def rich(): return Pair(pay=(1e30, 1e30))


def turned():
    from pathlib import Path

    env = Pair()
    if Path("turn").exists():
        env.possible_agents = ["right", "left"]
    return env
'''
TINY = {"evaluation.episodes": 2, "evaluation.final_episodes": 2, "network.hidden": 8}


@pytest.fixture(autouse=True)
def own_task(tmp_path, monkeypatch):
    """A folder with a user's module in it, to stand in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MARL_RUNS", str(tmp_path / "runs"))
    Path("pair_task.py").write_text(OWN_TASK)
    Path("broken_task.py").write_text("def f(:\n")


@pytest.mark.parametrize("command", ["envs check", "train"])
@pytest.mark.parametrize(
    "task, told",
    [("pair_task:stuck", "ValueError: the door is stuck (pair_task.py, line 33, in step)"), ("broken_task:f", "(broken_task.py, line 1)")],
)
def test_what_an_environment_raises_is_told_as_its_own_mistake(capsys, command, task, told):
    assert main([*command.split(), task, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["kind"], error["remedy"]) == ("environment-failed", "correct the environment")
    assert told in error["message"]
    assert "Traceback" in Path("marl-error.log").read_text()
    assert not Path("runs").exists()


def test_a_task_whose_agents_are_paid_differently_is_checked_with_the_team_reward_that_training_needs(capsys):
    assert main(["envs", "check", "pair_task:unequal"]) == 2
    assert "--team-reward sum forces it" in capsys.readouterr().err
    assert main(["envs", "check", "pair_task:unequal", "--team-reward", "sum", "--time-limit", "3"]) == 0


def test_a_run_folder_that_is_a_file_is_refused(capsys):
    assert main(["train", "pair_task:pair", "--out", "pair_task.py"]) == 2
    assert "pair_task.py exists and is not a folder" in capsys.readouterr().err


def test_training_stops_with_a_sentence_when_a_gradient_is_not_finite_and_saves_nothing_of_it():
    with pytest.raises(Diverged, match="diverged before env step"):
        train("pair_task:rich", steps=2000, options=TINY, out="rich")
    assert load("rich").env_steps == 0
    assert read_metrics(Path("rich")) == []


def test_a_team_is_not_used_by_a_task_that_lists_its_agents_in_another_order_now(capsys):
    run = train("pair_task:turned", algo="vdn", steps=64, options=TINY)
    Path("turn").touch()
    for command in (["eval"], ["resume", "--steps", "+64"], ["play"]):
        assert main([*command, str(run.folder), "--json"]) == 3
        error = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
        assert error["kind"] == "checkpoint-incompatible"
        assert "trained with the agents left, right, and pair_task:turned lists right, left now" in error["message"]
        assert "one fixed order" in error["remedy"]


@pytest.mark.parametrize("command", ["envs check", "train"])
def test_an_option_of_the_run_among_those_of_the_task_is_sent_to_its_own_flag(capsys, command):
    assert main([*command.split(), "pair_task:pair", "--env.time-limit", "3", "--json"]) == 2
    message = json.loads(capsys.readouterr().out)["error"]["message"]
    assert "env.time_limit is an option of the run, not of its task: write --time-limit instead of --env.time-limit" in message
    assert not Path("runs").exists()
