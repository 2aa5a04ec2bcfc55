"""`marl whatif`: two worlds that share every random number, and differ by one replaced action alone."""

import json
import os
from dataclasses import replace

import pytest
import teamcredit as tc
import torch
from PIL import Image
from teamcredit.envs.fork_check import CopyCheck
from teamcredit.envs.pettingzoo import PettingZooTeam
from teamcredit.envs.randomness import Clock
from teamcredit.marl.errors import ConfigError, RunNotFound
from teamcredit.marl.evaluate import CREDIT_SEEDS, evaluate
from teamcredit.marl.policies import team_action
from teamcredit.marl.run import load, train
from teamcredit.marl.whatif import action_number, what_if

torch.set_num_threads(1)
TINY = {"evaluation.episodes": 2, "evaluation.final_episodes": 2, "evaluation.every": 0, "rollout_steps": 32}
OWN_TASKS = '''
import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv

LENGTH = 6
draws = iter(range(10**9))


class Lamps(ParallelEnv):
    """Each agent that plays 1 earns the team 1, 2 earns 10 and is available in even steps only; all see the time alone."""

    metadata = {"name": "lamps"}
    possible_agents = ["left", "right"]

    def __init__(self):
        self.spaces = Box(-9, 9, (2,)), Discrete(3)

    def observation_space(self, agent):
        return self.spaces[0]

    def action_space(self, agent):
        return self.spaces[1]

    def seen(self):
        mask = np.array([1, 1, self.time % 2 == 0], np.int8)
        return (
            {agent: np.array([self.time / 5, self.extra()], np.float32) for agent in self.possible_agents},
            {agent: {"action_mask": mask} for agent in self.possible_agents},
        )

    def extra(self):
        return 0.0

    def reset(self, seed=None, options=None):
        self.agents, self.time = list(self.possible_agents), 0
        return self.seen()

    def step(self, actions):
        self.time += 1
        over = dict.fromkeys(self.agents, self.time == LENGTH)
        rewards = dict.fromkeys(self.agents, float(sum([0, 1, 10][action] for action in actions.values())))
        obs, infos = self.seen()
        self.agents = [] if self.time == LENGTH else self.agents
        return obs, rewards, over, dict.fromkeys(over, False), infos


class Bulbs(Lamps):
    """Where every step is seen by draws of the whole process."""

    def extra(self):
        return float(next(draws) % 7)


def lamps(): return Lamps()
def bulbs(): return Bulbs()
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked")
    (folder / "whatif_tasks.py").write_text(OWN_TASKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARL_RUNS", str(folder / "runs"))
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        planted = {"members": "agent_2=random", "learner.lr": 0.05}
        train("native/spread", algo="vdn", steps=64, options=TINY | planted, out=folder / "spread")
        train(
            "native/foraging-8x8-2p-3f",
            algo="vdn",
            steps=64,
            options=TINY | {"network.kind": "gru", "replay.window": 8},
            out=folder / "foraging",
        )
        train("native/spread", algo="coma", steps=64, options=TINY, out=folder / "sampled")
        for name in ("lamps", "bulbs"):
            train(f"whatif_tasks:{name}", algo="vdn", steps=64, options=TINY, out=folder / name)
    return folder


@pytest.fixture
def here(place, monkeypatch, tmp_path):
    monkeypatch.setenv("MARL_RUNS", str(place / "runs"))
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.chdir(tmp_path)
    return place


def from_the_start(run, seed: int, step: int, agent: int, action: int, hold: int) -> tuple[float, int]:
    """Return and length of the episode played from its first step, with the action put in wherever it is available."""
    env, team, seeds = run.env, run.team, torch.tensor([seed])
    state, view = env.reset(seeds)
    clock, memory, total, number = Clock.start(seeds), team.utility.initial_memory(1), 0.0, 0
    while True:
        joint, memory = team_action(team, view, memory, clock)
        if step <= number < step + hold and bool(view.available[0, agent, action]):
            joint = joint.clone()
            joint[0, agent] = action
        state, after, view = env.step(state, joint, autoreset=False)
        total, number, clock = total + float(after.reward), number + 1, clock.tick()
        if bool(after.terminated | after.truncated):
            return total, number


# The two worlds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["spread", "foraging", "sampled", "lamps"])
def test_the_action_that_was_taken_anyway_changes_nothing_at_all(here, name):
    run = load(here / name)
    agent = run.env.spec.agents[0]
    step = 3
    taken = what_if(run, episode=2, step=step, agent=agent, action=0).taken
    same = what_if(run, episode=2, step=step, agent=agent, action=taken)
    assert (same.action, same.taken, same.held) == (taken, taken, 1)
    assert same.difference == 0.0
    assert same.as_played == same.replaced
    assert (same.worlds_part, same.others_react, same.first_to_react) == (None, None, None)


@pytest.mark.parametrize("name", ["spread", "foraging", "sampled", "lamps"])
def test_both_worlds_are_the_episodes_that_are_played_from_their_start(here, name):
    run, seed = load(here / name), CREDIT_SEEDS + 1
    agent = run.env.spec.agents[-1]
    index = run.env.spec.agents.index(agent)
    found = what_if(run, episode=1, step=2, agent=agent, action=0, hold=3)
    assert found.seed == seed
    assert found.as_played.team_return == pytest.approx(evaluate(run, seeds=[seed]).returns[0], rel=1e-6)
    total, length = from_the_start(run, seed, 2, index, 0, 3)
    assert (found.replaced.team_return, found.replaced.env_steps) == (pytest.approx(total, rel=1e-9, abs=1e-9), length)
    assert found.difference == pytest.approx(found.replaced.return_from_step - found.as_played.return_from_step, abs=1e-9)


def test_a_replaced_action_shows_one_step_later_and_others_may_react_after_that(here):
    run = load(here / "spread")
    taken = what_if(run, episode=0, step=4, agent="agent_1", action=0).taken
    found = what_if(run, episode=0, step=4, agent="agent_1", action=(taken + 1) % 5, hold=10)
    assert found.held == 10
    assert found.worlds_part == 5
    assert found.others_react is None or found.others_react >= 5
    assert (found.as_played.env_steps, found.as_played.end, found.way) == (25, "truncated", "rows")


def test_the_difference_is_what_hand_arithmetic_says_where_nobody_reacts(here):
    run = load(here / "lamps")
    worth, taken = [0, 1, 10], []
    for step in range(6):
        taken.append(what_if(run, episode=0, step=step, agent="right", action=0).taken)
    for step, action, hold in ((0, 0, 1), (2, 1, 3), (2, 2, 3), (4, 0, 9)):
        steps = [t for t in range(step, min(step + hold, 6)) if action < 2 or t % 2 == 0]
        found = what_if(run, episode=0, step=step, agent="right", action=action, hold=hold)
        assert found.held == len(steps)
        assert found.difference == sum(worth[action] - worth[taken[t]] for t in steps)
        assert found.others_react is None
        changed = [t for t in steps if taken[t] != action]
        assert found.worlds_part == (changed[0] + 1 if changed else None)
        assert (found.as_played.env_steps, found.replaced.end, found.way) == (6, "terminated", "copy")


def test_a_copied_and_a_replayed_second_world_are_the_same(here, monkeypatch):
    copied = what_if(load(here / "lamps"), episode=0, step=2, agent="left", action=2, hold=3)
    monkeypatch.setattr(PettingZooTeam, "copy_check", CopyCheck(False, "asked to replay", None, 0, 0))
    replayed = what_if(load(here / "lamps"), episode=0, step=2, agent="left", action=2, hold=3)
    assert replayed.way == "replay"
    assert replace(replayed, way="copy") == copied


def test_a_planted_member_may_be_asked_about(here):
    found = what_if(load(here / "spread"), episode=0, step=0, agent="agent_2", action=0, hold=25)
    assert (found.agent, found.held) == ("agent_2", 25)


def test_it_is_part_of_the_public_face(here):
    found = tc.what_if(str(here / "spread"), episode=0, step=0, agent="agent_0", action="up")
    assert load(here / "spread").env.spec.action_names[0][found.action] == "up"
    assert found.pictures is None


# What is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"agent": "agnt_1"}, 'no agent "agnt_1" in this run. Did you mean agent_1? Agents: agent_0, agent_1, agent_2.'),
        ({"action": "rigth"}, 'agent_0 has no action "rigth". Did you mean right? Actions: noop, left, right, down, up.'),
        ({"action": 5}, 'agent_0 has no action "5". Actions: noop, left, right, down, up.'),
        ({"action": "-1"}, 'agent_0 has no action "-1". Actions: noop, left, right, down, up.'),
        ({"step": 25}, "--step 25: this episode is truncated after 25 env steps"),
        ({"step": -1}, "--step -1 must be at least 0"),
        ({"episode": -2}, "--episode -2 must be at least 0"),
        ({"hold": 0}, "--hold 0 must be at least 1"),
    ],
)
def test_a_bad_question_is_answered_with_what_there_is(here, asked, message):
    question = {"episode": 0, "step": 0, "agent": "agent_0", "action": "left"} | asked
    with pytest.raises(ValueError) as caught:
        what_if(load(here / "spread"), **question)
    assert str(caught.value) == message


def test_an_action_that_is_not_available_is_refused_with_those_that_are(here):
    with pytest.raises(ConfigError, match=r"refused: 2 is not available to left at this step\. Available: 0, 1\."):
        what_if(load(here / "lamps"), episode=0, step=1, agent="left", action=2)
    with pytest.raises(ConfigError, match=r'left has no action "on"\. Actions: 0 to 2'):
        what_if(load(here / "lamps"), episode=0, step=1, agent="left", action="on")


def test_an_agent_that_is_dead_takes_no_other_action(here):
    env = load(here / "spread").env
    _, view = env.reset(torch.tensor([0]))
    dead = replace(view, alive=torch.tensor([[True, False, True]]))
    assert action_number("up", 0, dead, env.spec) == 4
    with pytest.raises(ConfigError, match="agent_1 is not alive at this step"):
        action_number("up", 1, dead, env.spec)


def test_a_task_without_a_second_world_says_which_part_differs_and_what_still_works(here):
    with pytest.raises(ConfigError) as caught:
        what_if(load(here / "bulbs"), episode=0, step=2, agent="left", action=1)
    message = str(caught.value)
    assert "replaying episode 0 of copy seed 20000000 to step 2, the observations differ" in message
    assert "a copy would not be exact either: the observation of left differs at step 1 after the copy was taken" in message
    assert "--method difference or shapley" in caught.value.remedy


def test_a_run_that_is_not_there_is_not_found(here):
    with pytest.raises(RunNotFound):
        what_if("nowhere", episode=0, step=0, agent="agent_0", action=0)


# The command -----------------------------------------------------------------------------------------------------------


def test_the_command_prints_both_returns_and_writes_both_worlds_side_by_side(here, cli):
    code, out, err = cli(
        "whatif", str(here / "spread"), "--episode", "1", "--step", "20", "--agent", "agent_0", "--action", "up", "--hold", "2"
    )
    assert code == 0, err
    found = what_if(load(here / "spread"), episode=1, step=20, agent="agent_0", action="up", hold=2)
    assert f"held for {found.held} of 2 env steps" in out
    assert "truncated after 25 env steps" in out
    assert f"{found.difference:+.6g}" in out
    (path,) = (here / "spread" / "credit").glob("whatif-*.webp")
    with Image.open(path) as film:
        assert film.n_frames == 6
        assert film.width > 2 * 480
    assert path.name in out


def test_the_document_has_these_keys(here, cli):
    words = ["whatif", str(here / "spread"), "--episode", "1", "--step", "3", "--agent", "agent_0", "--action", "2", "--json"]
    code, out, _ = cli(*words, "--no-pictures")
    assert code == 0
    document = json.loads(out)
    assert document["schema"] == 1
    assert [*document] == [
        "schema", "run", "env_steps", "episode", "seed", "step", "agent", "action", "taken", "hold", "held", "as_played", "what_if",
        "difference", "worlds_part", "others_react", "first_to_react", "second_world", "out", "frames", "no_pictures",
    ]  # fmt: skip
    assert document["action"] == {"number": 2, "name": "right"}
    assert {*document["what_if"]} == {"return", "return_from_step", "env_steps", "end"}
    assert document["difference"] == document["what_if"]["return"] - document["as_played"]["return"]
    assert (document["seed"], document["out"]) == (CREDIT_SEEDS + 1, None)


def test_a_strip_shows_moments_of_both_worlds_one_above_the_other(here):
    run = load(here / "spread")
    question = {"episode": 0, "step": 5, "agent": "agent_0"}
    taken = what_if(run, **question, action=0).taken
    rows = []
    for name, action in (("same.png", taken), ("other.png", (taken + 2) % 5)):
        found = what_if(run, **question, action=action, hold=1 if action == taken else 20, out=name)
        assert (str(found.pictures), found.frames) == (name, 4)
        with Image.open(name) as strip:
            assert strip.width == 4 * 480 + 3 * 8
            half = (strip.height - 8) // 2
            rows.append([strip.crop((0, top + 46, strip.width, top + 46 + 480)).tobytes() for top in (0, half + 8)])
    assert rows[0][0] == rows[0][1]
    assert rows[1][0] != rows[1][1]
    assert not [name for name in os.listdir() if name.startswith(".tmp")]


def test_a_task_that_cannot_be_drawn_is_measured_all_the_same(here, cli):
    code, out, err = cli("whatif", str(here / "lamps"), "--episode", "0", "--step", "2", "--agent", "left", "--action", "2")
    assert code == 0, err
    assert "No pictures: " in out
    assert "The second world is an exact copy of the live environment." in out
    assert not [*(here / "lamps" / "credit").glob("*.webp")]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--agent", "agnt_2", "--action", "up"], 2, "Did you mean agent_2?"),
        (["--agent", "agent_2", "--action", "-1"], 2, 'has no action "-1"'),
        (["--agent", "agent_2", "--action", "up", "--out", "x.mp4"], 2, "MP4 is not offered"),
        (["--agent", "agent_2", "--action", "up", "--step", "-3"], 2, "--step -3 must be at least 0"),
        (["--agent", "agent_2"], 2, "--action"),
    ],
)
def test_the_command_refuses_in_one_sentence(here, cli, words, code, message):
    step = [] if "--step" in words else ["--step", "0"]
    found, out, err = cli("whatif", str(here / "spread"), "--episode", "0", *step, *words)
    assert found == code
    assert message in err
    assert out == ""


def test_the_command_says_where_a_run_should_be(here, cli):
    assert cli("whatif", "nowhere", "--episode", "0", "--step", "0", "--agent", "a", "--action", "0")[0] == 3
