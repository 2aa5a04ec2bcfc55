"""Which runs are captured, what is said where they are not, and that a run without its compiler goes on with the same numbers."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from teamcredit.envs.registry import make
from teamcredit.marl import capture, doctor, engine, trainer
from teamcredit.marl.capture import COMPILED, EAGER, LEARNING, NO_COMPILER, Choice, decide, iterations_per_round, seconds_saved
from teamcredit.marl.checkpoint import latest, read
from teamcredit.marl.config import Config, CriticConfig, ReplayConfig
from teamcredit.marl.errors import ConfigError
from teamcredit.marl.run import configure, make_env, resume, train
from teamcredit.marl.trainer import Trainer

LONG = 50_000_000
SMALL: dict[str, Any] = {
    "network.hidden": 16, "replay.rollout_steps": 16, "replay.num_envs": 2, "replay.minibatch_size": 16,
    "evaluation.every": 96, "evaluation.episodes": 2, "evaluation.final_episodes": 2,
}  # fmt: skip


def config(**changes: Any) -> Config:
    return Config(**{"task": "native/spread", "algo": "vdn", "steps": LONG, **changes})


@pytest.fixture(autouse=True)
def a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one, whatever this machine has."""
    monkeypatch.setattr(capture, "find_compiler", lambda: "/usr/bin/g++")


def test_off_is_off():
    assert decide(config(compile="off"), make("native/spread")) == Choice(EAGER, "--compile off")


def test_on_captures_however_short_the_run_is():
    assert decide(config(compile="on", steps=1), make("native/spread")) == Choice(COMPILED, "--compile on")


def test_auto_captures_long_runs_and_says_what_that_saves():
    choice = decide(config(), make("native/spread"))
    assert choice.engine == COMPILED
    assert choice.reason.startswith("saves about ")


def test_auto_leaves_short_runs_as_they_are_and_says_why():
    choice = decide(config(steps=10_000), make("native/spread"))
    assert choice.engine == EAGER
    assert choice.reason.startswith("too short to pay for compiling: about ")


def test_the_threshold_of_auto_by_hand():
    replay = ReplayConfig(rollout_steps=100, num_envs=2, minibatch_size=50)
    # 100 steps of the copies and 4 iterations in a round of 200 env steps
    per_env_step = (100 * capture._SAVED_PER_STEP + 4 * capture._SAVED_PER_ITERATION) / 200
    saved, cost = seconds_saved(config(replay=replay, steps=1_000_000))
    assert saved == pytest.approx(1_000_000 * per_env_step)
    border = int(cost / per_env_step)
    assert decide(config(replay=replay, steps=border - 200), make("native/spread")).engine == EAGER
    assert decide(config(replay=replay, steps=border + 200), make("native/spread")).engine == COMPILED


def test_iterations_of_a_round_are_counted_as_the_trainer_makes_them():
    assert iterations_per_round(config(replay=ReplayConfig(minibatch_size="full", epochs=3))) == 3
    assert iterations_per_round(config(replay=ReplayConfig(minibatch_size=32, epochs=2))) == 8
    assert iterations_per_round(config(replay=ReplayConfig(minibatch_size=64, sampling="uniform", replay_ratio=0.25, epochs=9))) == 0.5


REFUSED = {
    "a counterfactual critic": {"algo": "coma"},
    "a counterfactual critic draws": {"critic": CriticConfig(kind="mlp")},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_captured_is_named(reason: str):
    env = make("native/spread")
    choice = decide(config(**REFUSED[reason]), env)
    assert choice.engine == EAGER
    assert choice.reason.startswith(reason)
    with pytest.raises(ConfigError, match=f"--compile on: {reason}") as refused:
        decide(config(compile="on", **REFUSED[reason]), env)
    assert "--compile auto" in refused.value.remedy


OUTSIDE = {
    "mpe/simple_spread is stepped in Python": ("mpe/simple_spread", {}),
    "planted members are asked in Python": ("native/spread", {"members": ("agent_0=noop",)}),
}


@pytest.mark.parametrize("reason", OUTSIDE)
def test_where_env_steps_need_python_learning_alone_is_captured(reason: str):
    task, changes = OUTSIDE[reason]
    env = make(task)
    assert decide(config(task=task, compile="on", **changes), env) == Choice(LEARNING, f"--compile on; {reason}")
    assert decide(config(task=task, **changes), env).engine == LEARNING
    short = decide(config(task=task, steps=10_000, **changes), env)
    assert short.engine == EAGER
    assert short.reason.startswith("too short")


def test_what_learning_alone_saves_counts_iterations_alone():
    replay = ReplayConfig(rollout_steps=100, num_envs=2, minibatch_size=50)
    saved, _ = seconds_saved(config(replay=replay, steps=1_000_000), collecting=False)
    assert saved == pytest.approx(1_000_000 * 4 / 200 * capture._SAVED_PER_ITERATION)


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_without_a_compiler_a_run_says_so_and_goes_on(mode: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(capture, "find_compiler", lambda: None)
    assert decide(config(compile=mode), make("native/spread")) == Choice(EAGER, NO_COMPILER)
    said: list[str] = []
    Trainer(config(compile=mode), make("native/spread"), announce=said.append)
    assert [text for text in said if "compil" in text] == [f"compile     off: {NO_COMPILER}"]


def test_a_short_run_says_nothing_of_a_compiler_it_would_not_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(capture, "find_compiler", lambda: None)
    said: list[str] = []
    Trainer(config(steps=100), make("native/spread"), announce=said.append)
    assert not any("compil" in text for text in said)


@pytest.mark.parametrize("path, status", [(None, "note"), ("/usr/bin/g++", "ok")])
def test_doctor_says_whether_there_is_a_compiler(path: str | None, status: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "find_compiler", lambda: path)
    (check,) = [check for check in doctor.examine(Path()) if check.name == "compiler"]
    assert check.status == status
    assert ("--compile" in check.detail) == (path is None)


def broken(function: Any, *example: Any) -> Any:
    """A compiler that fails."""
    raise RuntimeError("CppCompileError: no such instruction\nand many more lines")


class Plain:
    """A compiler that does nothing: the captured loop in Python."""

    def __init__(self, function: Any, *example: Any):
        self.function = function

    def bind(self, *first: Any) -> Any:
        return partial(self.function, *first)


def test_a_compiler_that_fails_leaves_a_sentence_and_the_numbers_of_an_eager_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "compiled", broken)
    said: list[str] = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "note":
            said.append(event["text"])

    failed = train("native/spread", algo="qmix", steps=256, options=SMALL | {"compile": "on"}, out=tmp_path / "failed", on_event=listen)
    eager = train("native/spread", algo="qmix", steps=256, options=SMALL | {"compile": "off"}, out=tmp_path / "eager")
    sentences = [text for text in said if text.startswith("compile ")]
    assert sentences == ["compile     failed, so the run goes on without it: CppCompileError: no such instruction"]
    assert log(failed.folder) == log(eager.folder)
    for name, weight in failed.networks.state_dict().items():
        assert torch.equal(weight, eager.networks.state_dict()[name]), name
    assert stored(failed.folder) == {"engine": EAGER, "reason": "compiling failed (CppCompileError: no such instruction)"}


def log(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("time.")} for line in lines]


def stored(folder: Path) -> dict[str, str]:
    """What the newest checkpoint says that the run used."""
    return read(latest(folder / "checkpoints"), ()).meta["trainer"]["engine"]


@pytest.mark.parametrize("used", [COMPILED, EAGER])
def test_what_a_run_used_is_used_again_on_resume(used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever would be decided now."""
    monkeypatch.setattr(engine, "compiled", Plain)
    monkeypatch.setattr(engine, "quicken", lambda module: None)
    monkeypatch.setattr(trainer, "decide", lambda *args: Choice(used, "then"))
    run = train("native/spread", algo="vdn", steps=128, options=SMALL, out=tmp_path / "run")
    assert stored(run.folder) == {"engine": used, "reason": "then"}
    monkeypatch.setattr(trainer, "decide", lambda *args: Choice(EAGER if used == COMPILED else COMPILED, "now"))
    warmed: list[Any] = []
    warm_up = engine.Engine.warm_up
    monkeypatch.setattr(engine.Engine, "warm_up", lambda self, *args: warmed.append(self) or warm_up(self, *args))
    resume(run, steps="+64")
    assert stored(run.folder) == {"engine": used, "reason": "then"}
    assert bool(warmed) == (used == COMPILED)


MLP = {"replay.sampling": "split", "replay.epochs": 2, "learner.target": "none", "learner.td_lambda": 0.5}
UNIFORM = {
    "replay.sampling": "uniform",
    "replay.capacity": 80,
    "replay.window": 4,
    "learner.target": "soft",
    "learner.standardise_rewards": True,
}
GRU = {
    "network.kind": "gru",
    "replay.sampling": "uniform",
    "replay.window": 4,
    "replay.burn_in": 2,
    "learner.n_step": 2,
    "learner.target_every": 3,
}
FORMS: dict[str, dict[str, Any]] = {
    "split": MLP,
    "kept": MLP | {"replay.minibatch_size": 12, "replay.last_minibatch": "keep"},
    "windows": UNIFORM,
    "recurrent": GRU,
    "members": UNIFORM | {"members": ["agent_1=random"]},
    "stepped in Python": MLP
    | {
        "task": "mpe/simple_spread",
    },
    "recurrent, split": GRU | {"replay.sampling": "split", "network.share": False, "learner.target": "none"},
}


@pytest.mark.parametrize(
    "algo, form",
    [
        ("vdn", "split"), ("qmix", "kept"), ("iql", "windows"), ("qmix", "recurrent"), ("vdn", "recurrent, split"), ("qmix", "members"),
        ("vdn", "stepped in Python"),
    ],
)  # fmt: skip
def test_the_captured_loop_is_the_plain_one(algo: str, form: str, monkeypatch: pytest.MonkeyPatch):
    """In Python, where every line of it can be checked; what the compiler makes of it is tested beside (slow)."""
    monkeypatch.setattr(engine, "compiled", Plain)
    monkeypatch.setattr(engine, "quicken", lambda module: None)
    pair = []
    for mode in ("on", "off"):
        options = {"task": "native/spread", "algo": algo, "steps": 1000, "compile": mode} | SMALL | FORMS[form]
        limit = "env.max_cycles" if options["task"].startswith("mpe/") else "env.episode_limit"
        options[limit] = 10
        settled = configure(options=options, preset="none").config
        made = Trainer(settled, make_env(settled))
        for number in range(6):
            made.round()
            if number == 2:
                made.settle()
        pair.append(made)
    same(*pair)


def same(one: Trainer, other: Trainer) -> None:
    """Weights, targets, moments, replay, counters and metrics, to rounding."""
    lines = one.metrics(), other.metrics()
    assert one.counters == other.counters
    assert one.counters.iterations > 0
    assert lines[0].keys() == lines[1].keys()
    for name, value in lines[1].items():
        assert lines[0][name] == (None if value is None else pytest.approx(value, rel=1e-4, abs=1e-6)), name
    assert one.reward_scale.scale == pytest.approx(other.reward_scale.scale, rel=1e-6)
    ours, theirs = one.dump().groups, other.dump().groups
    for group, tensors in theirs.items():
        assert ours[group].keys() == tensors.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(ours[group][name], tensor, rtol=0, atol=1e-5, msg=lambda text, at=name: f"{at}: {text}")
