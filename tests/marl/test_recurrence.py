"""The recurrent window: against its steps one by one, its gradient against autograd, the C++ loops against both."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from teamcredit.marl import kernels
from teamcredit.marl.agents import GRUCell
from teamcredit.marl.kernels import BuildFailed, find_compiler, gru_library
from teamcredit.marl.recurrence import can_be_fast, gru_layer, unroll
from torch import Tensor

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="there is no C++ compiler here")
TIME, INPUTS = 6, 16


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The library is built anew, in a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        gru_library.cache_clear()
        yield
    gru_library.cache_clear()


def make_cell(hidden: int, *, agents: int = 3, share: bool = True, seed: int = 0) -> GRUCell:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GRUCell(agents, INPUTS, hidden, share=share)


def window(hidden: int, envs: int, *, agents: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (time, env, agent, input), which steps keep the memory, and the memory before the first."""
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(TIME, envs, generator=generator) < 0.7
    return torch.randn(TIME, envs, agents, INPUTS, generator=generator), keep, torch.randn(envs, agents, hidden, generator=generator)


def one_by_one(cell: GRUCell, inputs: Tensor, keep: Tensor, memory: Tensor) -> Tensor:
    """The same by the cell itself, a step at a time."""
    memories = []
    for x, kept in zip(inputs, keep, strict=True):
        memory = cell(x, memory * kept[:, None, None])
        memories.append(memory)
    return torch.stack(memories)


def gradients(cell: GRUCell, memories: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(9)
    asked = torch.randn(memories.shape, generator=generator).to(memories.dtype)
    return torch.autograd.grad((memories * asked).sum(), (*inputs, *cell.parameters()))


def compare(cell: GRUCell, hidden: int, envs: int, *, tolerance: float, dtype: torch.dtype = torch.float32) -> None:
    """Memories and every gradient of `cell.unroll` against the loop of single steps in float64."""
    x, keep, memory = window(hidden, envs)
    inputs = [value.to(dtype).requires_grad_() for value in (x, memory)]
    ours = cell.unroll(inputs[0], keep, inputs[1])
    exact = GRUCell(3, INPUTS, hidden, share=cell.of_memory.share).to(torch.float64)
    exact.load_state_dict(cell.state_dict())
    wide = [value.to(torch.float64).requires_grad_() for value in (x, memory)]
    reference = one_by_one(exact, wide[0], keep, wide[1])
    torch.testing.assert_close(ours.double(), reference, rtol=0, atol=tolerance)
    for mine, theirs in zip(gradients(cell, ours, *inputs), gradients(exact, reference, *wide), strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=tolerance, atol=tolerance * float(theirs.abs().max().clamp(min=1)))


@pytest.mark.parametrize("share", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("hidden, envs", [(16, 1), (5, 3), (24, 4), (1, 2)])
def test_a_window_equals_its_steps_one_by_one(hidden: int, envs: int, share: bool):
    compare(make_cell(hidden, share=share), hidden, envs, tolerance=1e-5)
    compare(make_cell(hidden, share=share).to(torch.float64), hidden, envs, tolerance=1e-12, dtype=torch.float64)


@needs_compiler
@pytest.mark.parametrize("share", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("hidden, envs", [(16, 1), (16, 8), (32, 3), (48, 5), (64, 16), (80, 2), (128, 3)])
def test_the_cpp_loops_equal_the_steps_one_by_one(hidden: int, envs: int, share: bool):
    cell = make_cell(hidden, share=share)
    cell.fast = True
    compare(cell, hidden, envs, tolerance=1e-5)


@needs_compiler
def test_the_cpp_loops_keep_their_precision_at_the_ends_of_the_gates():
    torch.testing.assert_close(*(_saturated(fast) for fast in (True, False)), rtol=0, atol=1e-6)


def _saturated(fast: bool) -> Tensor:
    """Memories where sigmoids are 0 and 1 to rounding, and where an exponential would overflow."""
    values = torch.tensor([-1e4, -200.0, -88.8, -30.0, 0.0, 30.0, 88.8, 1e4])
    return _unroll_gates(values.view(1, 1, 8, 1).expand(1, 3, 8, 48), torch.zeros(1, 48, 16), torch.full((1, 8, 16), 0.5), fast=fast)


def _unroll_gates(gates: Tensor, weight: Tensor, start: Tensor, *, fast: bool) -> Tensor:
    """Memories where the inputs' products are `gates` (set, time, row, 48) themselves."""
    zero = torch.zeros(1, 48)
    return unroll(gates.contiguous(), torch.ones(*gates.shape[:3], 1), start, torch.eye(48)[None], weight, zero, zero, fast=fast)


@needs_compiler
def test_the_cpp_loops_pass_on_what_is_no_number():
    """A run that diverges must be seen to. (A NaN among a row's inputs is in all its products, 0 times NaN being NaN.)"""
    x = torch.zeros(1, 3, 9, 48)
    for gate, row in enumerate((0, 4, 8)):
        x[0, 1, row, gate * 16] = torch.nan
    memories = _unroll_gates(x, torch.ones(1, 48, 16), torch.ones(1, 9, 16), fast=True)
    assert memories[0, 1, [0, 4, 8]].isnan().all()
    assert memories[0, 2, [0, 4, 8]].isnan().all()
    assert not memories[0, :, [1, 2, 3, 5, 6, 7]].isnan().any()


@needs_compiler
@pytest.mark.parametrize("gate", [0, 1, 2], ids=["reset", "update", "new"])
def test_a_gate_that_is_no_number_makes_its_memory_none(gate: int):
    bias = torch.zeros(1, 48)
    bias[0, 16 * gate + 3] = torch.nan
    weights = torch.zeros(1, 48, 16), torch.ones(1, 48, 16), bias, torch.zeros(1, 48)
    memories = unroll(torch.ones(1, 1, 9, 16), torch.ones(1, 1, 9, 1), torch.ones(1, 9, 16), *weights, fast=True)
    assert memories.isnan().nonzero()[:, -1].tolist() == [3] * 9


@needs_compiler
def test_the_cpp_loops_take_inputs_of_any_strides():
    hidden, rows = 16, 9
    generator = torch.Generator().manual_seed(1)

    def backwards(*shape: int) -> Tensor:
        return torch.randn(*reversed(shape), generator=generator).permute(*reversed(range(len(shape))))

    x, keep, start = backwards(2, TIME, rows, 32), torch.ones(1, 1, 1, 1).expand(2, TIME, rows, 1), backwards(2, rows, hidden)
    weights = backwards(2, 3 * hidden, 32), backwards(2, 3 * hidden, hidden), torch.zeros(1).expand(2, 3 * hidden), backwards(2, 3 * hidden)
    fast, slow = (unroll(x, keep, start, *weights, fast=choice) for choice in (True, False))
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-5)


def test_the_gradient_by_hand_is_that_of_finite_differences():
    hidden, inputs, rows, sets = 3, 5, 4, 2
    generator = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    keep = (torch.rand(sets, TIME, rows, 1, generator=generator) < 0.6).double()
    assert keep.min() == 0
    moved = draw(sets, TIME, rows, inputs), draw(sets, rows, hidden), draw(sets, 3 * hidden, inputs), draw(sets, 3 * hidden, hidden)
    biases = draw(sets, 3 * hidden), draw(sets, 3 * hidden)
    assert torch.autograd.gradcheck(lambda x, *others: unroll(x, keep, *others), (*moved, *biases))


@pytest.mark.parametrize("fast", [False, pytest.param(True, marks=needs_compiler)], ids=["torch", "own loops"])
def test_a_window_without_a_gradient_keeps_nothing_but_its_memories(fast: bool):
    cell, (x, keep, memory) = make_cell(16), window(16, 4)
    cell.fast = fast
    with_gradient = cell.unroll(x, keep, memory)
    with torch.no_grad():
        assert torch.equal(cell.unroll(x, keep, memory), with_gradient)
    weights = [weight.unsqueeze(0) for weight in (cell.of_input.weight, cell.of_memory.weight, cell.of_input.bias, cell.of_memory.bias)]
    rows, kept = x.flatten(1, 2).unsqueeze(0), keep.float().repeat_interleave(3, 1)[None, ..., None]
    with torch.no_grad():
        _, gates, of_new = gru_layer(rows, kept, memory.flatten(0, 1).unsqueeze(0), *weights, fast, False)
    assert gates.numel() == of_new.numel() == 0


def test_what_comes_before_an_episode_start_moves_nothing_after_it():
    cell, (x, _, memory) = make_cell(8), window(8, 2)
    keep = torch.ones(TIME, 2, dtype=torch.bool)
    keep[3, 0] = False
    other = x.clone()
    other[:3] += 1.0
    one, two = (cell.unroll(each, keep, memory) for each in (x, other))
    assert torch.equal(one[3:, 0], two[3:, 0])
    assert not torch.allclose(one[3:, 1], two[3:, 1])


@pytest.mark.parametrize("save", [True, False])
def test_the_custom_operation_keeps_torchs_rules(save: bool):
    hidden = 4
    x, keep, memory = window(hidden, 2, agents=1)
    generator = torch.Generator().manual_seed(3)
    shapes = (1, 3 * hidden, INPUTS), (1, 3 * hidden, hidden), (1, 3 * hidden), (1, 3 * hidden)
    inputs = [
        x.flatten(1, 2).unsqueeze(0),
        memory.flatten(0, 1).unsqueeze(0),
        *(torch.randn(shape, generator=generator) for shape in shapes),
    ]
    rows, start, *weights = (value.requires_grad_(save) for value in inputs)
    torch.library.opcheck(
        torch.ops.teamcredit.gru_layer.default,
        (rows, keep.float()[None, ..., None], start, *weights, False, save),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_the_cpp_loops_are_for_plain_floats_of_a_width_they_know():
    of_x = torch.zeros(48, 32)
    assert can_be_fast(of_x, torch.zeros(48, 16))
    assert not can_be_fast(of_x, torch.zeros(45, 15))
    assert not can_be_fast(torch.zeros(48, 5), torch.zeros(48, 16))
    assert not can_be_fast(of_x, torch.zeros(48, 16, dtype=torch.float64))
    assert not can_be_fast(of_x, torch.zeros(48, 16, device="meta"))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing built yet; where it will be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    gru_library.cache_clear()
    yield tmp_path / "teamcredit"
    gru_library.cache_clear()


def test_without_a_compiler_the_reason_is_said(empty_cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernels, "find_compiler", lambda: None)
    with pytest.raises(BuildFailed, match=r"no C\+\+ compiler: none of g\+\+, clang\+\+, c\+\+ was found"):
        gru_library()
    assert not empty_cache.exists()


def a_compiler(tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CXX names a program that does what `script` says."""
    path = tmp_path / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))


def test_what_the_compiler_complains_of_is_said_and_nothing_is_kept(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    a_compiler(tmp_path, "echo 'fatal: no such flag' >&2; exit 1", monkeypatch)
    with pytest.raises(BuildFailed, match="fatal: no such flag"):
        gru_library()
    assert list(empty_cache.iterdir()) == []


def test_a_compiler_that_fails_without_a_word_is_named(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    a_compiler(tmp_path, "exit 3", monkeypatch)
    with pytest.raises(BuildFailed, match=r"compiler ended with code 3"):
        gru_library()


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    a_compiler(tmp_path, "exit 0", monkeypatch)
    gru_library.cache_clear()
    with pytest.raises(BuildFailed, match=r"file.*: Not a directory"):
        gru_library()


@needs_compiler
def test_what_is_built_once_is_used_again(empty_cache: Path, monkeypatch: pytest.MonkeyPatch):
    gru_library()
    (built,) = empty_cache.iterdir()
    gru_library.cache_clear()
    monkeypatch.setattr(subprocess, "run", lambda *args, **more: pytest.fail("built again"))
    gru_library()
    assert list(empty_cache.iterdir()) == [built]


@needs_compiler
@pytest.mark.parametrize("damage", [b"", b"not a library"], ids=["empty", "other bytes"])
def test_a_damaged_file_in_the_cache_is_built_again(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes):
    """Another cache, since a library is loaded once per path."""
    gru_library()
    (built,) = empty_cache.iterdir()
    gru_library.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    copy = tmp_path / "other" / "teamcredit" / built.name
    copy.parent.mkdir(parents=True)
    copy.write_bytes(damage)
    gru_library()
    assert copy.stat().st_size == built.stat().st_size


@needs_compiler
def test_loading_the_library_changes_no_other_arithmetic():
    gru_library()
    tiny = torch.full((16,), 1e-40)
    assert (tiny * 0.5 > 0).all(), "numbers below the smallest normal one are not rounded to zero"


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2, 3, 9])
def test_threads_share_the_sets_and_change_no_number(threads: int, monkeypatch: pytest.MonkeyPatch):
    hidden, rows, sets = 16, 5, 4
    generator = torch.Generator().manual_seed(4)
    shapes = (
        (sets, TIME, rows, 32),
        (sets, rows, hidden),
        (sets, 3 * hidden, 32),
        (sets, 3 * hidden, hidden),
        (sets, 3 * hidden),
        (sets, 3 * hidden),
    )
    inputs = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    keep = torch.ones(sets, TIME, rows, 1)

    def run() -> list[Tensor]:
        memories = unroll(inputs[0], keep, *inputs[1:], fast=True)
        return [memories, *torch.autograd.grad(memories.square().sum(), inputs)]

    alone = run()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert all(torch.equal(one, other) for one, other in zip(alone, run(), strict=True))
