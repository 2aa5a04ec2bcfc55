"""Our switch against its rules in plain Python (scripts/make_switch_traces.py), and against golden episodes made from them."""

import json
import random
import runpy
from pathlib import Path

import pytest
import torch
from teamcredit.envs.native import NativeState
from teamcredit.envs.randomness import Clock
from teamcredit.envs.switch import COLS, Switch

ROOT = Path(__file__).parents[2]
RULES = runpy.run_path(str(ROOT / "scripts" / "make_switch_traces.py"))


def start(env: Switch, count: int) -> NativeState:
    clock, running = Clock.start(torch.arange(count)), torch.zeros(count, dtype=torch.bool)
    return NativeState(task=env.begin(clock), clock=clock, terminated=running, truncated=running)


def cells_of(where: list) -> list:
    return [row * COLS + col for row, col in where]


@pytest.mark.parametrize("num_agents", [2, 4])
def test_golden_episodes_are_played_step_by_step(num_agents):
    golden = json.loads((ROOT / "tests" / "golden" / f"switch{num_agents}.json").read_text())
    assert len(golden["episodes"]) >= 4
    env = Switch(golden["num_agents"])
    for episode in golden["episodes"]:
        state = start(env, 1)
        for t, moment in enumerate(episode["steps"]):
            state, step, view = env.step(state, torch.tensor([moment["actions"]]), autoreset=False)
            assert state.task.cell[0].tolist() == cells_of(moment["where"])
            torch.testing.assert_close(step.agent_reward[0], torch.tensor(moment["rewards"]), rtol=0, atol=1e-7)
            assert view.alive[0].tolist() == [not home for home in moment["home"]]
            last = t == len(episode["steps"]) - 1
            assert (step.terminated.item(), step.truncated.item()) == (episode["terminated"] and last, episode["truncated"] and last)


def compare(num_agents: int, episodes: int, clock: bool, full_obs: bool) -> dict[str, int]:
    """Play `episodes` of both in lock step, exactly; returns how often the rare things happened."""
    env, rng = Switch(num_agents, clock=clock, full_obs=full_obs), random.Random(num_agents)
    references = [RULES["Corridor"](num_agents) for _ in range(episodes)]
    players = [RULES["Wanderer"](num_agents, rng) for _ in range(episodes)]
    actions = [[4] * num_agents] * episodes
    state, live = start(env, episodes), set(range(episodes))
    view = env.observe(state.task)
    happened = dict.fromkeys(("steps", "arrived", "all home", "time over", "kept in place"), 0)
    while live:
        for k in live:
            shown = torch.tensor(references[k].observe(clock), dtype=torch.float64).float()
            away = ~torch.tensor(references[k].home)
            expected = shown.flatten().expand(num_agents, -1) if full_obs else shown
            assert torch.equal(view.obs[k], expected * away.unsqueeze(1))
            assert torch.equal(view.state[k], shown.flatten())
            assert torch.equal(view.alive[k], away)
            actions[k] = players[k].act(references[k])
        before = [[list(cell) for cell in reference.where] for reference in references]
        state, step, view = env.step(state, torch.tensor(actions), autoreset=False)
        for k in list(live):
            rewards, home, ended, late = references[k].step(actions[k])
            assert state.task.cell[k].tolist() == cells_of(references[k].where)
            assert step.agent_reward[k].tolist() == torch.tensor(rewards).tolist()
            assert step.reward[k].item() == torch.tensor(sum(rewards), dtype=torch.float64).float().item()
            assert (bool(step.terminated[k]), bool(step.truncated[k])) == (ended, late and not ended)
            happened["steps"] += 1
            happened["arrived"] += rewards.count(5.0)
            happened["all home"] += ended
            happened["time over"] += late and not ended
            happened["kept in place"] += sum(
                a < 4 and b == now and not h for a, b, now, h in zip(actions[k], before[k], references[k].where, home, strict=True)
            )
            if ended or late:
                live.discard(k)
    return happened


@pytest.mark.parametrize("num_agents, clock, full_obs", [(2, False, False), (2, True, True), (3, False, True), (4, True, False)])
def test_whole_episodes_equal_the_rules(num_agents, clock, full_obs):
    happened = compare(num_agents, 60, clock, full_obs)
    assert happened["steps"] > 1000
    assert min(happened["arrived"], happened["time over"], happened["kept in place"]) > 5
    assert happened["all home"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("num_agents", [2, 3, 4])
def test_thirty_thousand_steps_equal_the_rules(num_agents):
    happened = compare(num_agents, 1000, clock=True, full_obs=False)
    assert happened["steps"] > 30_000
    assert happened["all home"] > 100
