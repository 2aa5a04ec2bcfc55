"""Going on after a kill, a signal or the end: the log reads as if nothing had happened."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from teamcredit.marl.checkpoint import list_checkpoints, read, step_of
from teamcredit.marl.errors import CheckpointDamaged, CheckpointIncompatible, ConfigError, DiskError, Interrupted
from teamcredit.marl.folder import Logbook, read_metrics
from teamcredit.marl.run import Run, load, resume, train

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pygame.*")

STEPS, KILLED_AT = 256, 160
COMMON = {"network.hidden": 16, "evaluation.every": 96, "evaluation.episodes": 2, "evaluation.final_episodes": 2, "checkpoint.every": 48}
MLP = COMMON | {
    "replay.sampling": "uniform", "replay.capacity": 200, "replay.rollout_steps": 16, "replay.num_envs": 2, "replay.minibatch_size": 24,
    "learner.standardise_rewards": True, "learner.target_every": 5,
}  # fmt: skip
GRU = COMMON | {
    "network.kind": "gru", "replay.rollout_steps": 16, "replay.num_envs": 2, "replay.minibatch_size": 16, "replay.window": 4,
    "replay.burn_in": 2, "learner.td_lambda": 0.5, "learner.target": "soft", "learner.optimiser": "radam",
}  # fmt: skip
RUNS = {
    f"{kind}-{task}": (task, options) for task in ("native/spread", "mpe/simple_spread") for kind, options in (("mlp", MLP), ("gru", GRU))
}

KILLER = """
import json, os, signal, sys
import torch
import teamcredit.marl.run as run

torch.set_num_threads(1)

def die(event):
    if event["event"] == "progress" and event["env_steps"] == killed_at:
        os.kill(os.getpid(), signal.SIGKILL)

root, killed_at, steps, runs = json.loads(sys.argv[1])
for name, (task, options) in runs.items():
    child = os.fork()
    if child == 0:
        run.train(task, algo="qmix", steps=steps, seed=1, options=options, out=os.path.join(root, name.replace("/", "-")), on_event=die)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
"""


def start(name: str, out: Path, **more: Any) -> Run:
    task, options = RUNS[name]
    return train(task, algo="qmix", steps=STEPS, seed=1, options=options, out=out, **more)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of each kind, killed in the middle, neither at a checkpoint nor at a line of the log."""
    root = tmp_path_factory.mktemp("killed")
    subprocess.run([sys.executable, "-W", "ignore", "-c", KILLER, json.dumps([str(root), KILLED_AT, STEPS, RUNS])], check=True)
    return root


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return start("mlp-native/spread", tmp_path_factory.mktemp("unbroken") / "whole")


@pytest.fixture
def whole(unbroken: Run, tmp_path: Path) -> Run:
    """A copy of the unbroken run that a test may change."""
    shutil.copytree(unbroken.folder, tmp_path / "whole")
    return load(tmp_path / "whole")


def untimed(folder: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if not name.startswith("time.")} for record in read_metrics(folder)]


def assert_same_run(first: Path, second: Path) -> None:
    assert untimed(first) == untimed(second)
    assert json.loads((first / "result.json").read_text()) == json.loads((second / "result.json").read_text())
    ends = [read(list_checkpoints(folder / "checkpoints")[-1]).groups for folder in (first, second)]
    for group in ("networks", "training", "replay"):
        assert ends[0][group].keys() == ends[1][group].keys()
        assert all(torch.equal(value, ends[1][group][name]) for name, value in ends[0][group].items()), group


@pytest.mark.parametrize("name", list(RUNS))
def test_a_run_killed_in_the_middle_and_resumed_is_the_unbroken_run(name, killed, unbroken, tmp_path):
    folder = killed / name.replace("/", "-")
    before, saved = untimed(folder), step_of(list_checkpoints(folder / "checkpoints")[-1])
    assert before[-1]["env_steps"] > saved  # the log ran ahead of the checkpoint
    assert not (folder / "result.json").exists()
    resume(str(folder))
    assert_same_run(folder, unbroken.folder if name == "mlp-native/spread" else start(name, tmp_path / "whole").folder)


def test_a_run_stopped_by_a_signal_is_saved_and_goes_on_as_the_unbroken_run(whole, tmp_path):
    polls = iter([None] * 6 + [15])
    with pytest.raises(Interrupted, match="stopped at 224 env steps; saved") as caught:
        start("mlp-native/spread", tmp_path / "run", stop_signal=lambda: next(polls))
    assert caught.value.exit == 143
    assert load(tmp_path / "run").env_steps == 224
    resume(str(tmp_path / "run"))
    assert_same_run(tmp_path / "run", whole.folder)


def test_a_run_goes_on_from_an_earlier_checkpoint_when_the_newest_is_damaged(whole, tmp_path):
    polls = iter([None] * 6 + [2])
    with pytest.raises(Interrupted):
        start("mlp-native/spread", tmp_path / "run", stop_signal=lambda: next(polls))
    newest = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    (newest / "training.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointDamaged, match=r"The one before, step_192, is sound.*run@192"):
        resume(str(tmp_path / "run"))
    resume(f"{tmp_path / 'run'}@192")
    assert_same_run(tmp_path / "run", whole.folder)


def test_resuming_a_finished_run_changes_nothing(whole):
    before = (whole.folder / "metrics.jsonl").read_bytes()
    events = []
    again = resume(whole, on_event=events.append)
    assert (whole.folder / "metrics.jsonl").read_bytes() == before
    assert again.checkpoint == whole.checkpoint
    assert [event["event"] for event in events if event["event"] != "note"] == ["start", "done"]


@pytest.mark.parametrize("steps, total", [("+96", STEPS + 96), (480, 480)])
def test_a_finished_run_can_be_given_more_steps(whole, steps, total):
    before = untimed(whole.folder)
    more = resume(whole, steps=steps)
    assert (more.config.steps, more.env_steps) == (total, total)
    assert load(whole.folder).config.steps == total
    after = untimed(whole.folder)
    assert after[: len(before)] == before
    assert after[-1] | {"return": 0, "interval": 0, "agent_return": 0} == {
        "event": "evaluation", "env_steps": total, "return": 0, "interval": 0, "episodes": 2, "agent_return": 0, "final": True,
    }  # fmt: skip
    assert json.loads((whole.folder / "result.json").read_text())["env_steps"] == total


def test_a_prolonged_run_is_logged_and_evaluated_at_its_new_pace_from_the_start(tmp_path):
    """evaluation.every 0 is a twentieth of the run, so --steps changes it."""
    options = COMMON | {"replay.rollout_steps": 16, "replay.minibatch_size": 16, "evaluation.every": 0, "checkpoint.every": 0}
    run = train("native/two-step", algo="vdn", steps=64, options=options, out=tmp_path / "run")
    more = resume(run, steps=320)
    evaluated = [record["env_steps"] for record in read_metrics(more.folder) if record["event"] == "evaluation"]
    assert evaluated == [16, 32, 48, 64, *range(80, 321, 16)]


@pytest.mark.parametrize("steps, sentence", [(100, "--steps 100 is less than the 256 env steps already done"), ("+many", "not a number")])
def test_steps_that_make_no_sense_are_refused_and_the_run_stays_as_it_was(whole, steps, sentence):
    before = (whole.folder / "config.yaml").read_bytes()
    with pytest.raises(ConfigError, match=sentence):
        resume(whole, steps=steps)
    assert (whole.folder / "config.yaml").read_bytes() == before


def test_a_run_that_ended_with_a_whole_round_beyond_its_steps_can_be_resumed_and_prolonged(tmp_path):
    options = COMMON | {"replay.rollout_steps": 16, "replay.minibatch_size": 16, "evaluation.every": 0}
    run = train("native/two-step", algo="vdn", steps=40, options=options, out=tmp_path / "run")
    assert run.env_steps == 48
    before = (run.folder / "metrics.jsonl").read_bytes()
    assert resume(str(run.folder)).env_steps == 48
    assert (run.folder / "metrics.jsonl").read_bytes() == before
    assert resume(str(run.folder), steps="+4").env_steps == 64


def test_a_damaged_line_of_the_log_is_named_and_cut_off_by_resuming(whole):
    log = whole.folder / "metrics.jsonl"
    before = log.read_bytes()
    log.write_bytes(before + b"\0\0\xff\n")
    with pytest.raises(CheckpointIncompatible, match=r"metrics\.jsonl has a line that is no JSON"):
        load(f"{whole.folder}@best")
    resume(str(whole.folder))
    assert log.read_bytes() == before


def test_a_full_disk_at_the_start_of_a_run_leaves_no_folder(tmp_path, monkeypatch):
    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("teamcredit.marl.folder.os.fsync", refuse)
    with pytest.raises(DiskError, match="the disk is full"):
        train("native/two-step", steps=16, options=COMMON | {"replay.rollout_steps": 16, "replay.minibatch_size": 16}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_log_shorter_than_the_checkpoint_says_is_refused(whole):
    (whole.folder / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(CheckpointIncompatible, match="does not reach up to checkpoint"):
        resume(whole, steps="+96")
    assert load(whole.folder).config.steps == STEPS


def test_a_checkpoint_without_its_replay_cannot_be_gone_on_from(whole):
    with pytest.raises(CheckpointIncompatible, match="holds no replay: only the newest checkpoints carry it"):
        resume(f"{whole.folder}@96")


def test_a_full_disk_while_logging_is_said_plainly_and_the_file_can_still_be_closed():
    with pytest.raises(DiskError, match="the disk is full"), Logbook(Path("/dev/full"), lambda record: None, seconds=1.0) as logbook:
        logbook.write({"event": "train", "env_steps": 1})


def test_only_the_two_newest_checkpoints_of_a_run_carry_the_replay(whole):
    found = [(step_of(path), (path / "replay.safetensors").exists()) for path in list_checkpoints(whole.folder / "checkpoints")]
    assert found == [(0, False), (64, False), (96, False), (160, False), (192, True), (256, True)]


def test_two_runs_of_one_configuration_are_the_same_run_and_another_seed_is_another(whole, tmp_path):
    assert_same_run(start("mlp-native/spread", tmp_path / "again").folder, whole.folder)
    task, options = RUNS["mlp-native/spread"]
    other = train(task, algo="qmix", steps=STEPS, seed=2, options=options, out=tmp_path / "other")
    assert untimed(other.folder) != untimed(whole.folder)


def test_a_finished_run_whose_result_was_removed_gets_it_again(tmp_path):
    run = train("native/two-step", steps=64, out=tmp_path / "run", options={"evaluation.final_episodes": 2})
    result = run.folder / "result.json"
    written = result.read_text()
    result.unlink()
    resume(run)
    assert result.read_text() == written
