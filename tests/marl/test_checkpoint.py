"""Checkpoints: whole or absent, damage found when read, the one before it offered, only the newest carry the replay."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from teamcredit.marl import checkpoint
from teamcredit.marl.checkpoint import Content
from teamcredit.marl.errors import CheckpointDamaged, CheckpointIncompatible, DiskError, RunNotFound


def content(number: int = 0) -> Content:
    tensors = {"weight": torch.full((3, 2), float(number)), "flag": torch.tensor([True, False]), "count": torch.arange(4)}
    return Content(meta={"number": number, "text": "a"}, groups={"networks": tensors, "training": {}, "replay": {"rows": torch.rand(100)}})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Checkpoints of a run called `team`, at env steps 100 and 200."""
    root = tmp_path / "team" / "checkpoints"
    for step in (100, 200):
        checkpoint.save(root, step, content(step))
    return root


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_is_read_back(root):
    found, saved = checkpoint.read(checkpoint.latest(root)), content(200)
    assert found.meta == saved.meta
    assert found.groups.keys() == saved.groups.keys()
    for name, tensor in saved.groups["networks"].items():
        assert torch.equal(found.groups["networks"][name], tensor)


def test_one_group_can_be_read_alone(root):
    assert list(checkpoint.read(checkpoint.latest(root), ("networks",)).groups) == ["networks"]


def test_checkpoints_are_listed_by_env_step_and_anything_else_is_not_one(root):
    (root / ".tmp-step_000000300").mkdir()
    (root / "step_notes").mkdir()
    checkpoint.save(root, 2_000_000_000, content())
    assert [checkpoint.step_of(path) for path in checkpoint.list_checkpoints(root)] == [100, 200, 2_000_000_000]


def test_a_run_without_a_checkpoint_is_told_so(tmp_path):
    with pytest.raises(RunNotFound, match="team has no checkpoint yet"):
        checkpoint.latest(tmp_path / "team" / "checkpoints")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def blank(path: Path) -> None:
    path.write_bytes(b"")


DAMAGE = [
    ("networks.safetensors", truncate, "of .* bytes"),
    ("networks.safetensors", flip_a_byte, "networks.safetensors does not match its checksum"),
    ("training.safetensors", Path.unlink, "training.safetensors is missing"),
    ("replay.safetensors", blank, "0 of .* bytes"),
    ("state.json", Path.unlink, "state.json is missing"),
    ("state.json", truncate, "state.json is not readable"),
    ("state.json", blank, "state.json is not readable"),
    ("state.json", lambda path: path.write_text("[1]"), "state.json is not readable"),
    ("state.json", lambda path: path.write_text('{"sha256": "0", "state": 5}'), "state.json is not readable"),
    ("state.json", lambda path: path.write_bytes(b"\xff\xfe"), "state.json is not readable"),
    (
        "state.json",
        lambda path: path.write_text(path.read_text().replace("networks", "netwerks")),
        "state.json does not match its checksum",
    ),
]
every_damage = pytest.mark.parametrize("file, damage, reason", DAMAGE)


@every_damage
def test_a_damaged_checkpoint_is_refused_and_the_sound_one_before_it_is_offered(root, file, damage, reason):
    damage(root / "step_000000200" / file)
    sentence = rf"step_200 is damaged \(.*{reason}.*\)\. The one before, step_100, is sound: .*team@100"
    with pytest.raises(CheckpointDamaged, match=sentence):
        checkpoint.read(checkpoint.latest(root))
    assert not checkpoint.is_sound(root / "step_000000200")


@every_damage
def test_only_a_sound_one_is_offered(root, file, damage, reason):
    checkpoint.save(root, 50, content(50))
    for step in ("000000100", "000000200"):
        damage(root / f"step_{step}" / file)
    with pytest.raises(CheckpointDamaged, match=r"The one before, step_50, is sound: .*team@50"):
        checkpoint.read(checkpoint.latest(root))
    shutil.rmtree(root / "step_000000050")
    with pytest.raises(CheckpointDamaged, match="There is no sound one before it"):
        checkpoint.read(checkpoint.latest(root))


def test_another_format_is_refused(root, monkeypatch):
    written = checkpoint.FORMAT
    monkeypatch.setattr(checkpoint, "FORMAT", written + 1)
    with pytest.raises(CheckpointIncompatible, match=f"has format {written}; this version reads {written + 1}"):
        checkpoint.read(checkpoint.latest(root))


def fails(number: int, code: int):
    """A stand-in for os.fsync that fails at its `number`-th call."""
    calls = iter(range(1, 1000))

    def fsync(descriptor: int) -> None:
        if next(calls) == number:
            raise OSError(code, os.strerror(code))

    return fsync


@pytest.mark.parametrize("call", [1, 2, 4, 5])  # a group's file, the next one's, state.json, the folder
@pytest.mark.parametrize("step", [200, 300])
def test_a_full_disk_leaves_what_was_saved_before_whole_and_nothing_half_written(root, monkeypatch, call, step):
    monkeypatch.setattr(os, "fsync", fails(call, errno.ENOSPC))
    with pytest.raises(DiskError, match=r"the disk is full: .* what was saved before is whole"):
        checkpoint.save(root, step, content(step + 1))
    assert names(root) == ["step_000000100", "step_000000200"]
    assert checkpoint.read(checkpoint.latest(root)).meta["number"] == 200


def test_a_disk_that_cannot_be_opened_is_a_disk_error(root, monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DiskError, match="could not be written: Permission denied"):
        checkpoint.save(root, 300, content())
    monkeypatch.undo()
    assert names(root) == ["step_000000100", "step_000000200"]


def test_a_checkpoint_appears_under_its_name_only_when_it_is_complete(root, monkeypatch):
    """Killed at any flush, the folder's name is not there yet, or it is sound."""
    seen = []

    def look(descriptor: int) -> None:
        present = [path for path in checkpoint.list_checkpoints(root) if checkpoint.step_of(path) == 300]
        seen.append([checkpoint.is_sound(path) for path in present])

    monkeypatch.setattr(os, "fsync", look)
    checkpoint.save(root, 300, content())
    assert seen == [[]] * 5 + [[True]]  # three groups, state.json, the temporary folder; then the parent folder


def test_saving_the_same_env_step_again_replaces_it(root):
    checkpoint.save(root, 200, content(7))
    assert checkpoint.read(checkpoint.latest(root)).meta["number"] == 7
    assert names(root) == ["step_000000100", "step_000000200"]


def test_only_the_newest_two_carry_the_replay_and_the_others_stay_sound(root):
    for step in (300, 400):
        checkpoint.save(root, step, content(step))
    checkpoint.drop_replays(root, 2)
    folders = checkpoint.list_checkpoints(root)
    assert [(folder / "replay.safetensors").exists() for folder in folders] == [False, False, True, True]
    assert all(checkpoint.is_sound(folder) for folder in folders)
    assert checkpoint.read(folders[0], ("networks",)).meta["number"] == 100
    with pytest.raises(CheckpointIncompatible, match="only the newest checkpoints carry it"):
        checkpoint.read(folders[0], ("replay",))


def test_a_damaged_checkpoint_keeps_its_replay(root):
    blank(root / "step_000000100" / "state.json")
    checkpoint.drop_replays(root, 1)
    assert (root / "step_000000100" / "replay.safetensors").exists()


def test_a_full_disk_while_dropping_replays_leaves_every_checkpoint_sound(root, monkeypatch):
    monkeypatch.setattr(os, "fsync", fails(1, errno.ENOSPC))
    with pytest.raises(DiskError):
        checkpoint.drop_replays(root, 1)
    assert all(checkpoint.is_sound(folder) for folder in checkpoint.list_checkpoints(root))
    assert names(root / "step_000000100") == ["networks.safetensors", "replay.safetensors", "state.json", "training.safetensors"]


def test_what_lies_after_a_step_and_what_a_killed_process_left_is_taken_away(root):
    for name in (".tmp-step_000000300", ".old-step_000000200"):
        (root / name).mkdir()
    checkpoint.drop_after(root, 100)
    assert names(root) == ["step_000000100"]


def test_the_state_is_plain_json(root):
    outer = json.loads((root / "step_000000200" / "state.json").read_text())
    assert json.loads(outer["state"])["env_steps"] == 200
