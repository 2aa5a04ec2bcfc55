"""The command line as a person and a program meet it: results, JSON keys, exit codes, and what bad input gets."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from teamcredit.marl import cli_progress, doctor
from teamcredit.marl.cli import app, main
from teamcredit.marl.cli_options import complete_flags, parse_numbers, task_options
from teamcredit.marl.cli_output import table, to_json
from teamcredit.marl.errors import ConfigError
from teamcredit.marl.resolve import option_types

COMMANDS = [
    "demo", "train", "resume", "eval", "play", "credit", "lazy", "whatif", "envs list", "envs check", "algos list", "doctor", "config show",
]  # fmt: skip
# A run that ends in an error leaves its metrics.jsonl to the garbage collector, which is no concern of the command line.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in.*metrics.jsonl:pytest.PytestUnraisableExceptionWarning")
TINY = ["--steps", "256", "--rollout-steps", "32", "--evaluation.every", "128", "--evaluation.episodes", "4", "--final-episodes", "8"]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """An empty place for runs."""
    monkeypatch.setenv("MARL_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A place for runs with one finished run in it, `spread`."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARL_RUNS", str(root))
        assert main(["train", "native/spread", "--algo", "vdn", *TINY, "--out", str(root / "spread"), "-q", "--json"]) == 0
    return root


@pytest.fixture
def spread(trained, monkeypatch, tmp_path):
    """The finished run's name; it is `last` too."""
    monkeypatch.setenv("MARL_RUNS", str(trained))
    monkeypatch.chdir(tmp_path)
    return "spread"


def in_a_process(*words: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "teamcredit.marl.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


# Quick help ------------------------------------------------------------------------------------------------------------


def test_no_help_imports_anything_heavy():
    script = f"""
import contextlib, io, sys
from teamcredit.marl.cli import app, main
for command in ["", *{COMMANDS!r}]:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        assert main([*command.split(), "--help"]) == 0, command
    assert "Usage: marl" in text.getvalue(), command
assert not [name for name in ("torch", "numpy", "pettingzoo", "gymnasium", "scipy") if name in sys.modules], sorted(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_key_of_the_configuration_is_a_flag_of_train():
    flags = {name for argument in app["train"].assemble_argument_collection() for name in argument.names}
    assert {f"--{key}".replace("_", "-") for key in option_types() if key != "task"} <= flags
    assert {"--lr", "--embed-dim", "--minibatch-size", "--config", "--seeds", "--json"} <= flags


def test_the_choices_on_the_command_line_are_those_of_the_library():
    from typing import get_args

    from teamcredit.marl.cli_options import Method
    from teamcredit.marl.cli_readouts import READOUTS
    from teamcredit.marl.inspection import METHODS

    assert set(get_args(Method)) == {*METHODS, *READOUTS}


# Results ---------------------------------------------------------------------------------------------------------------


def test_training_prints_its_events_as_json_lines_and_done_last(cli, runs):
    code, out, err = cli("train", "native/two-step", *TINY, "--seeds", "1,3", "--json", "-q")
    events = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert all(event["schema"] == 1 for event in events)
    done = [event for event in events if event["event"] == "done"]
    assert [Path(event["run"]).name for event in done] == ["native-two-step-qmix-s1", "native-two-step-qmix-s3"]
    assert events[-1] == done[-1]
    for event in done:
        assert event["env_steps"] == 256
        assert event["return"].keys() == {"mean", "interval", "episodes"}
        assert len(event["return"]["interval"]) == 2
    assert {event["event"] for event in events} == {"start", "train", "evaluation", "done"}


def test_training_tells_a_person_where_how_far_and_what_next(cli, runs):
    code, out, err = cli("train", "native/two-step", *TINY)
    assert code == 0
    assert "final return" in out
    assert "resampled" in out
    for part in ("run folder", "device cpu", "torch", "env steps/s", "ETA", "epsilon", "marl eval", "marl credit", "marl lazy", "best"):
        assert part in err
    assert "evaluation at 128 env steps" in (runs / "native-two-step-qmix-s0" / "run.log").read_text()


def test_seeds_in_processes_of_their_own_give_the_same_runs(cli, runs):
    arguments = ["train", "native/two-step", *TINY, "--no-learner.double", "--json"]
    _, alone, _ = cli(*arguments, "--seeds", "0-1", "--out", "one")
    code, out, err = cli(*arguments, "--seeds", "0-1", "--jobs", "2", "--out", "two")
    assert code == 0, err
    assert "[seed 0] " in err
    assert "[seed 1] " in err

    def finals(text: str) -> dict[str, dict]:
        events = map(json.loads, text.splitlines())
        return {Path(event["run"]).name: event["return"] for event in events if event["event"] == "done"}

    assert finals(out) == finals(alone)
    assert finals(out).keys() == {"seed-0", "seed-1"}
    assert yaml.safe_load(Path("two/seed-1/config.yaml").read_text())["learner"]["double"] is False


def test_eval_keeps_its_keys(cli, spread):
    code, out, _ = cli("eval", "last", "--seeds", "1000-1004", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["schema"] == 1
    assert Path(document["run"]).name == "spread"
    assert document["episodes"] == 5
    assert document["return"].keys() == {"mean", "interval"}
    assert document["agent_return"] is None or document["agent_return"].keys() == {"agent_0", "agent_1", "agent_2"}


def test_a_single_episode_has_no_interval(cli, spread):
    _, out, _ = cli("eval", "spread@128", "--episodes", "1", "--json")
    assert json.loads(out)["return"]["interval"] is None
    assert json.loads(out)["env_steps"] == 128


def test_credit_keeps_its_keys_and_stores_what_it_prints(cli, spread, trained):
    code, out, _ = cli("credit", spread, "--episodes", "4", "--reference", "noop", "random", "--json")
    document = json.loads(out)
    assert code == 0
    assert [(item["method"], item["reference"]) for item in document["estimates"]] == [
        ("shapley", "noop"), ("difference", "noop"), ("shapley", "random"), ("difference", "random"),
    ]  # fmt: skip
    for item in document["estimates"]:
        assert {"method", "reference", "estimand", "unit", "env_steps", "agents"} <= item.keys()
        assert item["unit"] == "team return"
        assert item["env_steps"] == 256
        assert item["agents"].keys() == {"agent_0", "agent_1", "agent_2"}
        assert all(entry.keys() == {"value", "interval"} for entry in item["agents"].values())
        stored = json.loads((trained / "spread" / "credit" / f"{item['method']}-{item['reference']}-step_256.json").read_text())
        assert stored == {"schema": 1, **item}


def test_lazy_keeps_its_keys_and_check_answers_with_the_exit_code(cli, spread, trained):
    code, out, err = cli("lazy", spread, "--max-pairs", "4", "--margin", "0.5", "--check", "--json")
    document = json.loads(out)
    assert {entry["verdict"] for entry in document["agents"].values()} == {"undecided"}
    assert code == 0
    assert "warning: undecided: agent_0, agent_1, agent_2" in err
    assert document["margin"] == 0.5
    for entry in document["agents"].values():
        assert {"verdict", "episodes", "references"} <= entry.keys()
        assert all({"effect", "interval"} <= reference.keys() for reference in entry["references"].values())
    assert json.loads((trained / "spread" / "credit" / "lazy-step_256.json").read_text()) == document
    assert cli("lazy", spread, "--max-pairs", "4", "--check", "--strict")[0] == 1
    assert cli("lazy", spread, "--max-pairs", "4", "--strict")[0] == 0


def test_lazy_check_fails_on_an_agent_planted_idle(cli, runs):
    cli("train", "native/spread", "--steps", "0", "--members", "agent_2=noop", "--final-episodes", "2", "--out", "run", "-q")
    code, out, _ = cli("lazy", "run", "--reference", "random", "--check")
    # Nobody learned anything here, so only the exit code's agreement with the printed verdicts is claimed.
    assert code == (1 if "lazy-idle" in out or "lazy-busy" in out else 0)
    assert "agent_2" in out


def test_the_lists_and_the_check_are_one_document_each(cli, runs):
    tasks = json.loads(cli("envs", "list", "--json")[1])["tasks"]
    assert {"id", "summary", "installed", "requires"} == tasks[0].keys()
    assert "native/spread" in [task["id"] for task in tasks]
    assert [item["name"] for item in json.loads(cli("algos", "list", "--json")[1])["algorithms"]] == ["iql", "vdn", "qmix", "coma"]
    code, out, _ = cli("envs", "check", "native/two-step", "--json")
    assert (code, json.loads(out)) == (0, {"schema": 1, "task": "native/two-step", "ok": True, "broken": []})


def test_results_for_people_stand_on_standard_output_and_the_rest_does_not(cli, spread):
    code, out, err = cli("credit", spread, "--method", "shapley", "--episodes", "2", "-q")
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split() == ["agent", "shapley", "(noop)"]


NAN_TASK = """
import gymnasium, numpy, pettingzoo
class NaN(pettingzoo.ParallelEnv):
    metadata = {"name": "nan"}
    possible_agents = ["a", "b"]
    def observation_space(self, agent): return gymnasium.spaces.Box(-1, 1, (1,))
    def action_space(self, agent): return gymnasium.spaces.Discrete(2)
    def reset(self, seed=None, options=None):
        print("a task that talks")
        self.agents = list(self.possible_agents)
        return {a: numpy.zeros(1, numpy.float32) for a in self.agents}, {a: {} for a in self.agents}
    def step(self, actions):
        agents, self.agents = self.agents, []
        flags = {a: True for a in agents}
        return {a: numpy.full(1, numpy.nan, numpy.float32) for a in agents}, {a: 0.0 for a in agents}, flags, flags, {a: {} for a in agents}
"""


def test_a_task_that_breaks_the_contract_is_named_by_its_rule_and_cannot_spoil_the_json(cli, runs, monkeypatch):
    Path("nan_task.py").write_text(NAN_TASK)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    code, out, _ = cli("envs", "check", "nan_task:NaN", "--json")
    document = json.loads(out)
    assert code == 1
    assert document["ok"] is False
    assert "nan" in document["broken"][0]["sentence"].lower()
    assert cli("envs", "check", "nan_task:NAN")[0] == 2


# Settings --------------------------------------------------------------------------------------------------------------


def test_later_layers_win_and_config_show_says_which(cli, runs, monkeypatch):
    Path("c.yaml").write_text("learner: {gamma: 0.5, lr: 0.1}\nreplay: {epochs: 3, capacity: 500}\n")
    monkeypatch.setenv("MARL_LEARNER_LR", "0.2")
    monkeypatch.setenv("MARL_REPLAY_CAPACITY", "600")
    arguments = ("config", "show", "--preset", "two-step-paper", "--config", "c.yaml", "--capacity", "1k", "--json")
    document = json.loads(cli(*arguments)[1])
    expected = {
        "steps": (10_000, "preset two-step-paper"), "learner.gamma": (0.5, "c.yaml"), "learner.lr": (0.2, "environment"),
        "replay.capacity": (1000, "flag"), "replay.epochs": (3, "c.yaml"), "seed": (0, "default"),
    }  # fmt: skip
    assert {key: (document["config"][key], document["sources"][key]) for key in expected} == expected


def test_config_show_prints_yaml_that_config_reads_back(cli, runs):
    options = (
        "--env.N",
        "5",
        "--env.note",
        "a b",
        "--members",
        "x=noop,y=random",
        "--learner.lr",
        "1e-5",
        "--no-double",
        "--minibatch-size",
        "full",
    )
    plain = cli("config", "show", *options)[1]
    annotated = cli("config", "show", *options, "--sources")[1]
    assert yaml.safe_load(plain) == yaml.safe_load(annotated)
    Path("c.yaml").write_text(annotated)
    assert cli("config", "show", "--config", "c.yaml")[1] == plain
    assert yaml.safe_load(plain)["env"] == {"N": 5, "note": "a b"}
    assert "double: false" in plain
    assert "# flag" in annotated


def test_config_show_of_a_run_is_what_it_was_made_with(cli, spread):
    code, out, _ = cli("config", "show", "last", "--sources")
    assert code == 0
    assert "algo: vdn" in out
    assert "rollout_steps: 32" in out
    assert cli("config", "show", "last", "--preset", "demo")[0] == 2


def test_a_flag_that_may_stand_alone_gets_its_value():
    assert complete_flags(["t", "--learner.double", "--no-standardise-rewards", "--env.wide", "--env.N", "5"]) == [
        "t", "--learner.double=true", "--standardise-rewards=false", "--env.wide=true", "--env.N", "5",
    ]  # fmt: skip
    assert complete_flags(["--double", "false", "--env.x", "-3", "--env.y", "-q", "--no-env.z"]) == [
        "--double", "false", "--env.x", "-3", "--env.y=true", "-q", "--env.z=false",
    ]  # fmt: skip


def test_task_options_are_read_as_yaml():
    assert task_options({"N": "5", "local-ratio": "0.5", "wide": "true", "name": "x"}) == {
        "env.N": 5, "env.local_ratio": 0.5, "env.wide": True, "env.name": "x",
    }  # fmt: skip


def test_lists_of_seeds():
    assert parse_numbers("0-4", "--seeds") == [0, 1, 2, 3, 4]
    assert parse_numbers("0,3, 5-6,3", "--seeds") == [0, 3, 5, 6]
    for text in ("", "a", "3-1", "1--2", "-1"):
        with pytest.raises(ConfigError, match="--seeds"):
            parse_numbers(text, "--seeds")


def test_json_never_holds_nan():
    assert json.loads(to_json({"a": math.nan, "b": [math.inf, 1.5], "c": {"d": (-math.inf,)}})) == {
        "schema": 1, "a": None, "b": [None, 1.5], "c": {"d": [None]},
    }  # fmt: skip


def test_a_table_keeps_its_columns():
    assert table(("a", "long"), [("wide cell", "x"), ("y", "z")]) == "a          long\nwide cell  x\ny          z"


# Bad input -------------------------------------------------------------------------------------------------------------

BAD_INPUT = [
    ("trian", 2, "usage", 'Did you mean "train"?'),
    ("envs lst", 2, "usage", 'Did you mean "list"?'),
    ("train native/two-step --mixer.embed-dm 3", 2, "usage", "Did you mean --mixer.embed-dim?"),
    ("train native/two-step --embed-di 3", 2, "usage", "Did you mean --embed-dim?"),
    ("credit last --method shaply", 2, "usage", 'Did you mean "shapley"?'),
    ("eval", 2, "usage", "RUN requires an argument"),
    ("eval last --episodes many", 2, "usage", "many"),
    ("eval last --threads 0", 2, "config", "--threads 0 must be at least 1"),
    ("train simple_spred", 2, "unknown-environment", 'no environment "simple_spred". Did you mean mpe/simple_spread?   (marl envs list)'),
    ("train nowhere:env", 2, "unknown-environment", "nowhere"),
    ("train native/two-step --preset two-step-papr", 2, "config", "Did you mean two-step-paper?"),
    ("train native/two-step --seeds 4-1", 2, "config", '"4-1" is no list of seeds'),
    ("train native/two-step --seeds 0-1 --seed 2", 2, "config", "exclude each other"),
    ("train native/two-step --steps few", 2, "config", "'few' is not a number (400000, 400k, 3M and 1e-3 are)"),
    ("train native/two-step --steps -3", 2, "config", "steps -3 must be at least 0"),
    ("train native/two-step --replay.minibatch-size 1000", 2, "config", "exceeds the batch of 128"),
    ("train native/two-step --network.kind gro", 2, "config", "Did you mean gru?"),
    ("train native/two-step --algo qmx", 2, "config", "qmix"),
    ("train native/two-step --members agnt_1=noop", 2, "config", "Did you mean agent_1?"),
    ("train native/two-step --env.size 3", 2, "config", 'no option "size"'),
    ("train", 2, "config", "no task was named"),
    ("train --config c.yaml", 2, "config", 'c.yaml: unknown key "mixer.embd". Did you mean "mixer.embed_dim"?'),
    ("train --config none.yaml", 2, "config", "no configuration file none.yaml"),
    ("eval spred", 3, "run-not-found", "Did you mean spread?"),
    ("eval spread@5", 3, "run-not-found", "@128"),
    ("eval spread --episodes 0", 2, "config", "episodes 0 must be at least 1"),
    ("credit spread --episodes 1", 2, "config", "at least 2"),
    ("lazy spread --margin 3", 2, "config", "--margin 3.0"),
    ("resume spread --steps 5", 2, "config", "--steps 5 is less than the 256 env steps already done"),
]


@pytest.mark.parametrize("line, exit_code, kind, part", BAD_INPUT, ids=[case[0] for case in BAD_INPUT])
def test_bad_input_gets_a_sentence_an_exit_code_and_leaves_nothing(cli, spread, trained, tmp_path, line, exit_code, kind, part):
    Path("c.yaml").write_text("task: native/two-step\nmixer: {embd: 3}\n")
    before = sorted(trained.rglob("*"))
    code, out, err = cli(*line.split())
    assert (code, out) == (exit_code, "")
    assert err.startswith("error: ")
    assert part in err
    assert err.count("\n") == 1
    code, out, err = cli(*line.split(), "--json")
    error = json.loads(out)["error"]
    assert (code, err) == (exit_code, "")
    assert error.keys() == {"exit", "kind", "message", "remedy"}
    assert (error["exit"], error["kind"]) == (exit_code, kind)
    assert sorted(trained.rglob("*")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.yaml"]


def test_continuous_actions_are_refused_with_the_flag_that_helps(cli, runs):
    pytest.importorskip("mpe2")
    code, _, err = cli("train", "mpe/simple_spread", "--env.continuous-actions")
    expected = "agent_0 has Box(0.0, 1.0, (5,)); VDN and QMIX need Discrete actions. Use --env.continuous-actions false, or wrap it."
    assert (code, err) == (2, f"error: {expected}\n")
    assert not runs.exists()


def test_a_missing_package_is_named_with_its_pip_line(cli, runs, monkeypatch):
    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name == "mpe2":
                raise ModuleNotFoundError("No module named 'mpe2'", name="mpe2")

    for name in [name for name in sys.modules if name.split(".")[0] == "mpe2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    code, _, err = cli("train", "mpe/simple_spread")
    assert (code, err) == (4, 'error: package missing: pip install "teamcredit[envs]"\n')


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_offered(cli, runs):
    cli("train", "native/two-step", *TINY, "--out", "run", "-q")
    newest = sorted(Path("run/checkpoints").iterdir())[-1]
    weights = newest / "networks.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    for command in ("eval", "resume", "credit", "lazy"):
        code, out, _ = cli(command, "last", "--json")
        error = json.loads(out)["error"]
        assert (code, error["kind"]) == (3, "checkpoint-damaged")
        assert "step_256 is damaged (100 of " in error["message"]
        assert "run@128" in error["remedy"]
    assert cli("eval", "run@128")[0] == 0


def test_our_own_mistakes_exit_70_with_the_trace_in_a_file(cli, runs, monkeypatch):
    from teamcredit.envs import registry
    from teamcredit.marl.trainer import Trainer

    def fail(*_):
        raise ZeroDivisionError("by nobody")

    with monkeypatch.context() as patch:
        patch.setattr(registry, "list_tasks", fail)
        code, out, err = cli("envs", "list")
    assert (code, out) == (70, "")
    assert err.startswith("error: internal error: ZeroDivisionError: by nobody. The trace is in marl-error.log")
    assert "Traceback" not in err
    assert "in fail" in Path("marl-error.log").read_text()
    monkeypatch.setattr(Trainer, "round", fail)
    code, out, _ = cli("train", "native/two-step", "--out", "run", "--json")
    assert (code, json.loads(out.splitlines()[-1])["error"]["kind"]) == (70, "internal")
    assert "in fail" in Path("run/run.log").read_text()


def test_a_library_s_valueerror_is_our_mistake_and_not_the_user_s(cli, runs, monkeypatch):
    from teamcredit.envs import registry

    monkeypatch.setattr(registry, "list_tasks", lambda: json.loads("{"))
    assert cli("envs", "list")[0] == 70


def test_a_reader_who_leaves_ends_the_program_quietly(runs):
    process = in_a_process("envs", "list", "-q")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 128 + signal.SIGPIPE


# Signals ---------------------------------------------------------------------------------------------------------------


def test_ctrl_c_saves_and_exits_130_and_the_run_can_be_used(cli, runs):
    process = in_a_process("train", "native/spread", "--steps", "100M", "--rollout-steps", "32", "--json", "-q")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["event"] == "start"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    last = json.loads(out.splitlines()[-1])["error"]
    assert (process.returncode, last["exit"], last["kind"]) == (130, 130, "interrupted")
    assert "marl resume" in last["message"]
    code, out, _ = cli("eval", "last", "--episodes", "2", "--json")
    assert code == 0
    assert json.loads(out)["env_steps"] > 0
    assert json.loads(out)["env_steps"] % 32 == 0


def test_sigterm_saves_and_exits_143_and_resume_goes_on(cli, runs, monkeypatch):
    show = cli_progress.TrainView._on_progress

    def terminate(view, event):
        show(view, event)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(cli_progress.TrainView, "_on_progress", terminate)
        assert cli("train", "native/two-step", *TINY, "--out", "run")[0] == 143
    code, out, _ = cli("resume", "run", "--json")
    assert code == 0
    events = [json.loads(line) for line in out.splitlines()]
    assert (events[0]["env_steps"], events[-1]["env_steps"]) == (32, 256)


def test_a_second_ctrl_c_stops_at_once_and_the_handlers_come_back():
    before = signal.getsignal(signal.SIGINT)
    with cli_progress.catching_signals() as stop:
        assert stop() is None
        os.kill(os.getpid(), signal.SIGINT)
        assert stop() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


# Doctor and demo -------------------------------------------------------------------------------------------------------


def test_doctor_fails_on_a_frame_of_one_colour_and_a_full_disk(cli, runs, monkeypatch):
    pytest.importorskip("mpe2")
    Path("flat_task.py").write_text(
        "import numpy\n"
        "class parallel_env:\n"
        "    def __init__(self, render_mode): pass\n"
        "    def reset(self, seed): pass\n"
        "    def render(self): return numpy.zeros((4, 4, 3), numpy.uint8)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    code, out, _ = cli("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert (code, json.loads(out)["ok"]) == (0, True)
    assert checks["mpe/ frame"]["status"] == "ok"
    assert {"teamcredit", "packages", "gpu", "threads", "run folder", "disk"} <= checks.keys()
    monkeypatch.setattr(doctor, "_FRAMES", {"mpe": "flat_task"})
    monkeypatch.setattr(doctor, "_ROOM_NEEDED", 2**80)
    code, out, _ = cli("doctor")
    failed = [line for line in out.splitlines() if " failed " in line]
    assert code == 1
    assert [line.split("  ")[0] for line in failed] == ["mpe/ frame", "disk"]
    assert "one single colour" in failed[0]
    assert list(runs.parent.glob("runs")) == []


def test_the_demo_is_one_document_with_return_credit_and_verdicts(cli, runs):
    code, out, _ = cli("demo", "--steps", "4k", "--out", "demo", "--json", "-q")
    document = json.loads(out)
    assert code == 0
    assert document["return"]["mean"] >= 0
    assert [item["method"] for item in document["estimates"]] == ["shapley", "difference"]
    idler = document["estimates"][0]["agents"]["agent_3"]
    assert idler["value"] == 0.0
    assert document["lazy"]["agents"]["agent_3"]["verdict"] in ("lazy-idle", "undecided")
    assert len(list(Path("demo/credit").iterdir())) == 3
