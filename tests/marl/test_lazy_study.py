"""The study of laziness verdicts: its table, and the check by hand against a task whose effects are known exactly."""

import runpy
from dataclasses import replace
from math import isclose, sqrt
from pathlib import Path

import pytest
import torch
from teamcredit.envs.registry import make

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
STUDY = runpy.run_path(str(SCRIPTS / "lazy_study.py"))
HAND = runpy.run_path(str(SCRIPTS / "check_verdict.py"))


def row(seed, verdicts, *, value=1.0, problem=None, pairs=(32, 64)):
    agents = [
        {"verdict": verdict, "pairs": number, "effect": [0.5, 0.25], "effort": 1.0, "look": None}
        for verdict, number in zip(verdicts, pairs, strict=True)
    ]
    judged = {"problem": problem, "gain": [1.0, 1.0], "delta": [0.1, 0.1], "env_steps": 1000 * (seed + 1), "agents": agents}
    return {
        "task": "coop", "algo": "iql", "seed": seed, "run": f"coop-iql-{seed}", "return": value,
        "judged": {"0.25": judged},
    }  # fmt: skip


# The study ----------------------------------------------------------------------------------------------------------------


def test_the_table_counts_agents_by_class_and_teams_that_were_not_judged_apart():
    rows = [
        row(0, ["contributing", "redundant"], value=1.0),
        row(1, ["contributing", "contributing"], value=2.0, pairs=(96, 128)),
        row(2, ["undecided", "undecided"], value=3.0, pairs=(0, 0), problem="no gain"),
    ]
    header, _, line = STUDY["table"](rows, 0.25).splitlines()
    classes = "contributing | redundant | team did not beat its reference"
    assert header == f"| task | algo | seeds | return | {classes} | pairs a verdict | env steps a judgement |"
    half = 4.302653 / sqrt(3)  # t with two degrees of freedom times s / sqrt(n), s = 1
    assert line == f"| coop | iql | 3 | 2.000 +- {half:.3f} | 3 | 1 | 2 | 80 | 2,000 |"


def test_whoever_does_not_simply_contribute_is_listed_with_its_effects():
    look = {"room": "excluded", "stand_in": "random", "headroom": 0.01, "substitutes": ["agent_0"]}
    told = row(0, ["contributing", "redundant"])
    told["judged"]["0.25"]["agents"][1]["look"] = look
    refused = row(1, ["undecided", "undecided"], problem="no gain")
    assert STUDY["closer"]([told, refused], 0.25).splitlines() == [
        "coop-iql-0 agent_1: redundant, 64 pairs; +0.500, +0.250 (margins 0.100, 0.100); room excluded, random +0.010; "
        "stand in for it: agent_0",
        "coop-iql-1: no gain",
    ]


def test_one_seed_has_no_interval():
    assert STUDY["mean_and_half_width"]([0.5]) == "0.500"


# The check by hand --------------------------------------------------------------------------------------------------------


def test_shapley_over_all_orders_is_the_airport_game_s():
    sets = [frozenset(k for k in range(3) if number >> k & 1) for number in range(8)]
    values = {chosen: float(max((k + 1 for k in chosen), default=0)) for chosen in sets}
    assert [HAND["shapley_value"](values, agent, 3) for agent in range(3)] == pytest.approx([1 / 3, 5 / 6, 11 / 6])


@pytest.mark.parametrize(
    "effects, share, substitute, room, word",
    [
        ({"noop": (0.5, 0.1), "random": (-0.5, 0.1)}, "below", False, "below", "contributing"),
        ({"noop": (-0.5, 0.1), "random": (0.5, 0.1)}, "above", False, "below", "harmful"),
        ({"random": (-0.5, 0.1), "peer": (-0.5, 0.1)}, "above", False, "below", "harmful"),
        ({"random": (-0.5, 0.1), "peer": (0.1, 0.01)}, "below", False, "above", "lazy"),
        ({"noop": (0.1, 0.01), "random": (0.19, 0.01)}, "above", False, "above", "cannot be told"),
        ({"noop": (0.1, 0.01), "random": (0.1, 0.01)}, "above", False, "above", "redundant"),
        ({"noop": (0.1, 0.01), "random": (0.1, 0.01)}, "below", True, "above", "redundant"),
        ({"noop": (0.1, 0.01), "random": (0.1, 0.01)}, "below", False, "above", "lazy"),
        ({"noop": (0.1, 0.01), "random": (0.1, 0.01)}, "below", False, "below", "not needed"),
        ({"noop": (0.1, 0.01), "random": (0.1, 0.01)}, "below", False, "too near to tell", "cannot be told"),
    ],
)
def test_classes_by_hand_at_a_margin_of_a_fifth(effects, share, substitute, room, word):
    against = {name: (*effect, HAND["beside"](*effect, 0.2)) for name, effect in effects.items()}
    assert HAND["class_by_hand"](against, share, substitute, room).startswith(word)


class GuardAndWalker:
    """The trained team of plate and door: guard and dummy stay, the walker goes right."""

    def initial_memory(self, count):
        return torch.zeros(count, 3, 0)

    def __call__(self, obs, memory):
        return torch.tensor([[1.0, 0, 0], [0, 0, 1], [1, 0, 0]]).expand(len(obs), 3, 3), memory


@pytest.mark.parametrize("absent, exact", [((), 1.0), ((0,), 0.812071), ((1,), 0.294162), ((2,), 1.0), ((0, 1, 2), 0.143466)])
def test_the_naive_loop_finds_the_exact_values_of_plate_and_door(absent, exact):
    act = HAND["random"](0)
    played = HAND["play_many"](make("native/plate-and-door"), GuardAndWalker(), dict.fromkeys(absent, act), 0, 6_000, 2_000)
    assert abs(played.mean - exact) <= 4 * played.error + 1e-12
    assert isclose(played.error, sqrt(played.mean * (1 - played.mean) / 5_999), abs_tol=1e-9)  # returns are 0 or 1


def test_an_episode_in_words():
    env = make("native/plate-and-door")
    assert HAND["episode_in_words"](env, GuardAndWalker(), 5, {}) == [
        "  episode 5: return 1.000 in 3 steps; +1.000 at step 2",
        f"    {env.spec.agents[0]}: stay x3",
        f"    {env.spec.agents[1]}: right x3",
        f"    {env.spec.agents[2]}: stay x3",
    ]


def test_doing_nothing_is_refused_where_there_is_no_such_action_or_it_may_not_be_taken():
    with pytest.raises(SystemExit, match="has no action that does nothing"):
        HAND["noop"](make("native/matrix-climbing"))
    env = make("native/plate-and-door")
    _, view = env.reset(torch.arange(2))
    act = HAND["noop"](env)
    assert act(view, 1).tolist() == [env.spec.noop[1]] * 2
    masked = view.available.clone()
    masked[1, 1, env.spec.noop[1]] = False
    with pytest.raises(SystemExit, match=f"the action of {env.spec.agents[1]} that does nothing is not always available"):
        act(replace(view, available=masked), 1)
    object.__setattr__(env.spec, "noop", (0, None, 0))
    with pytest.raises(SystemExit, match="not for every agent"):
        HAND["noop"](env)


# What a user may get wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script, words, sentence",
    [
        ("check_verdict.py", ("no-such-run", "agent_0"), 'no run "no-such-run"'),
        ("check_verdict.py", ("no-such-run", "agent_0", "--margin", "3"), "between 0 and 1"),
        ("check_verdict.py", ("no-such-run", "agent_0", "--episodes", "1"), "at least 2, or there is no standard error"),
        ("lazy_study.py", ("--seeds", "0"), "--seeds 0: at least 1"),
        ("lazy_study.py", ("--again", "random"), "name their --out"),
        ("compare_cures.py", ("--cures", "heal"), "invalid choice: 'heal'"),
        ("compare_cures.py", ("--seeds", "0"), "must be at least 1"),
        ("compare_cures.py", ("--steps", "3"), "at least 20, one for each evaluation"),
        ("compare_cures.py", ("--out", "{rows}"), "holds runs of another task than native/uphill-3p"),
        ("compare_cures.py", ("--algos", "vdn", "--cures", "counterfactual"), "none of these --algos has one of these --cures"),
    ],
)
def test_scripts_say_what_is_wrong_with_their_input(script, words, sentence, tmp_path, monkeypatch, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"task": "native/foraging-8x8-2p-4f-pen", "algo": "vdn", "cure": "none", "seed": 0}\n')
    main = runpy.run_path(str(SCRIPTS / script))["main"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [script, *(word.format(rows=rows) for word in words)])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert ended.value.code  # not 0
    assert sentence in f"{told.err}{ended.value.code}"
