"""Ids: which task is meant, what is said about one that is not there, and that nothing heavy is loaded to say so."""

import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv
from teamcredit.envs.base import TeamEnv
from teamcredit.envs.errors import MissingPackage, UnknownTask, UnsupportedTask
from teamcredit.envs.registry import list_tasks, make, resolve

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("spread", "native/spread"),
        ("native/spread", "native/spread"),
        ("spread-5", "native/spread-5"),
        ("foraging-8x8-2p-3f", "native/foraging-8x8-2p-3f"),
        ("foraging-10x10-3p-3f", "native/foraging-10x10-3p-3f"),
        ("two-step", "native/two-step"),
        ("simple_spread", "mpe/simple_spread"),
        ("simple_spread_v3", "mpe/simple_spread"),
        ("mpe/simple_reference_v3", "mpe/simple_reference"),
        ("lbf/2s-8x8-2p-2f-coop", "lbf/2s-8x8-2p-2f-coop"),
        ("sisl/pursuit", "sisl/pursuit-v5"),
        ("pistonball", "butterfly/pistonball-v6"),
        ("my_package.envs:make_env", "my_package.envs:make_env"),
    ],
)
def test_a_name_stands_for_one_full_id(short, full):
    assert resolve(short) == full


def test_every_listed_task_is_its_own_full_id_and_says_what_it_is():
    tasks = list_tasks()
    assert len({task.id for task in tasks}) == len(tasks)
    for task in tasks:
        assert resolve(task.id) == task.id
        assert task.summary


def test_every_native_task_is_made_under_its_id():
    for task in list_tasks():
        if task.id.startswith("native/"):
            assert isinstance(make(task.id), TeamEnv)


def test_a_mistyped_name_gets_the_sentence_of_the_command_line():
    with pytest.raises(UnknownTask) as caught:
        make("simple_spred")
    assert str(caught.value) == 'no environment "simple_spred". Did you mean mpe/simple_spread?   (marl envs list)'
    assert caught.value.kind == "unknown-environment"
    assert "mpe/simple_spread" in caught.value.remedy


@pytest.mark.parametrize("task", ["", "nothing_like_it", "lbf/8x8", "native/spread-many", "butterfly/pistonbal-v6", "nowhere/x"])
def test_an_id_without_a_task_is_refused(task):
    with pytest.raises(UnknownTask, match="no environment"):
        resolve(task)


def test_turn_based_and_competitive_tasks_are_refused_as_such():
    with pytest.raises(UnsupportedTask, match="turn-based"):
        make("classic/hanabi-v5")
    with pytest.raises(UnsupportedTask, match="not a task of one team"):
        make("mpe/simple_tag")


def test_an_unknown_option_is_named_with_the_ones_there_are():
    with pytest.raises(ValueError, match=r'native/spread has no option "num_agnts". Did you mean num_agents\? Options: .*num_agents'):
        make("spread", num_agnts=4)


def test_size_and_options_reach_the_task():
    assert make("spread-5").spec.num_agents == 5
    assert make("spread", num_agents=2).spec.num_agents == 2
    spec = make("foraging-6x6-3p-2f").spec
    assert (spec.num_agents, spec.num_actions) == (3, 6)


def test_listing_and_resolving_load_no_torch():
    code = (
        "import sys, teamcredit.envs.registry as r; r.list_tasks(); r.resolve('spread'); r.resolve('simple_spread');"
        "assert not {'torch', 'pettingzoo'} & sys.modules.keys(), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


MODULE = """
import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import AECEnv, ParallelEnv

class Tiny(ParallelEnv):
    metadata = {"name": "tiny"}
    def __init__(self, length=2):
        self.length, self.possible_agents = length, ["a"]
        self.box, self.two = Box(0, 99, (1,), np.float32), Discrete(2)
    def observation_space(self, agent): return self.box
    def action_space(self, agent): return self.two
    def reset(self, seed=None, options=None):
        self.t, self.agents = 0, ["a"]
        return {"a": np.zeros(1, np.float32)}, {"a": {}}
    def step(self, actions):
        self.t += 1
        over = self.t >= self.length
        self.agents = [] if over else ["a"]
        return {"a": np.full(1, self.t, np.float32)}, {"a": 1.0}, {"a": False}, {"a": over}, {"a": {}}

def parallel_env(length=2): return Tiny(length)
def team_env():
    from teamcredit.envs.registry import make
    return make("native/two-step")
class Turns(AECEnv): metadata = {}
def nothing(): return None
not_a_function = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A module of the user's in the current directory."""
    (tmp_path / "users_own_task.py").write_text(MODULE)
    (tmp_path / "users_broken_task.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    sys.modules.pop("users_own_task", None)


def test_the_users_own_function_in_the_current_directory_is_found_and_gets_its_options(here):
    env = make("users_own_task:parallel_env", length=3)
    state, _ = env.reset(torch.tensor([0]))
    for _ in range(3):
        state, step, _ = env.step(state, torch.tensor([[0]]))
    assert step.truncated.item()
    assert make("users_own_task:team_env").spec.num_agents == 2
    assert make("users_own_task:parallel_env", time_limit=1).spec.episode_limit == 1
    with pytest.raises(ValueError, match=r'no option "lenght". Did you mean length\?'):
        make("users_own_task:parallel_env", lenght=3)


@pytest.mark.parametrize(
    ("task", "error", "sentence"),
    [
        ("users_missing_task:f", UnknownTask, 'no module "users_missing_task" here'),
        (":parallel_env", UnknownTask, '":parallel_env" names no module.'),
        ("users_own_task:", UnknownTask, '"users_own_task:" names no function.'),
        ("users_own_task:paralel_env", UnknownTask, 'has no function "paralel_env". Did you mean parallel_env?'),
        ("users_own_task:not_a_function", UnsupportedTask, "is a int, not a function"),
        ("users_own_task:Turns", UnsupportedTask, "is an AEC environment"),
        ("users_own_task:nothing", UnsupportedTask, "gave None"),
        ("users_broken_task:f", MissingPackage, 'pip install "a_package_that_is_not_there"'),
    ],
)
def test_what_is_wrong_with_the_users_own_function_is_said(here, task, error, sentence):
    with pytest.raises(error) as caught:
        make(task)
    assert sentence in str(caught.value)
    assert caught.value.remedy


def test_a_maker_is_accepted_in_place_of_an_id():
    class Alone(ParallelEnv):
        metadata: ClassVar = {"name": "alone"}
        possible_agents: ClassVar = ["a"]
        box, two = Box(0, 1, (1,), np.float32), Discrete(2)

        def observation_space(self, agent):
            return self.box

        def action_space(self, agent):
            return self.two

        def reset(self, seed=None, options=None):
            self.agents = ["a"]
            return {"a": np.zeros(1, np.float32)}, {"a": {}}

    env = make(Alone, team_reward="sum")
    assert (env.spec.name, env.spec.agents, env.spec.team_reward) == ("Alone", ("a",), "sum")


def test_a_missing_extra_is_named_with_the_line_that_installs_it(monkeypatch):
    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name == "mpe2":
                raise ModuleNotFoundError("No module named 'mpe2'", name="mpe2")

    for name in [name for name in sys.modules if name.partition(".")[0] == "mpe2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(MissingPackage) as caught:
        make("mpe/simple_spread")
    assert str(caught.value) == 'package missing: pip install "teamcredit[envs]"'
    assert (caught.value.kind, caught.value.remedy) == ("missing-extra", 'pip install "teamcredit[envs]"')
