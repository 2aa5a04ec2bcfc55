"""Graphs: recorded or compiled, the same numbers, written to the same places, for whatever comes in later."""

import os
import time
from pathlib import Path

import pytest
import torch
from teamcredit.envs.randomness import split
from teamcredit.marl import graphs
from teamcredit.marl.graphs import compiled, recorded
from teamcredit.marl.kernels import find_compiler


def change(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """One step down the slope of the sum of squares of x w, written into the state."""
    loss = (x @ state["weight"] * 1).view(len(x), -1).square().sum()
    (gradient,) = torch.autograd.grad(loss, [state["weight"]])
    with torch.no_grad():
        state["weight"].sub_(0.5 * gradient)
        state["count"].add_(1)
    return loss.detach()


def fresh() -> dict[str, torch.Tensor]:
    return {"weight": torch.tensor([[1.0], [2.0]], requires_grad=True), "count": torch.zeros(())}


def test_what_is_written_lands_in_the_tensors_of_each_call_and_recording_itself_changes_nothing():
    """w = (1, 2), x = (1, 0): x w = 1, gradient (2, 0), so w becomes (0, 2); once, though recording runs the function."""
    again, state, x = recorded(change), fresh(), torch.tensor([[1.0, 0.0]])
    assert again(state, x).item() == 1
    assert (state["weight"].tolist(), state["count"].item()) == ([[0.0], [2.0]], 1)
    other = fresh()
    assert again(other, torch.tensor([[0.0, 1.0]])).item() == 4
    assert (other["weight"].tolist(), state["count"].item()) == ([[1.0], [0.0]], 1)


def test_a_function_is_recorded_once_for_each_set_of_shapes_and_strides():
    seen = []

    def double(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape)
        return 2 * x

    again, square = recorded(double), torch.arange(4.0).view(2, 2)
    for x in (torch.ones(3), torch.zeros(3), torch.ones(2), square, square.T, square + 1, square.T.clone()):
        torch.testing.assert_close(again(x), 2 * x)
    assert len(seen) == 4


def test_views_of_other_strides_are_read_where_they_lie():
    """Columns of a matrix, as a seed's part of a ring: what is recorded must not take them for contiguous."""
    matrix = torch.arange(24.0).view(4, 6)
    again = recorded(lambda x: x.unflatten(1, (2, -1)).flatten(1).sum(0))
    for first in (0, 1):
        part = matrix[:, first : first + 4]
        torch.testing.assert_close(again(part), part.sum(0))


needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="there is no C++ compiler here")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing compiled yet; where it will be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "teamcredit"


def pull(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """`change`, with its gradient asked for even where none is wanted."""
    with torch.enable_grad():
        loss = (x @ state["weight"]).square().sum()
        (gradient,) = torch.autograd.grad(loss, [state["weight"]])
    with torch.no_grad():
        state["weight"].sub_(0.5 * gradient)
        state["count"].add_(1)
    return loss.detach()


@needs_compiler
def test_a_compiled_function_writes_where_it_was_bound_and_compiling_changes_nothing(own_cache: Path):
    """w = (1, 2): at x = (1, 0) the loss is 1 and w becomes (0, 2); at x = (0, 1) the loss is 4 and w becomes (0, 0)."""
    state, x = fresh() | {"count": torch.zeros(1)}, torch.tensor([[1.0, 0.0]])
    step = compiled(pull, state, x)
    assert (state["weight"].tolist(), state["count"].item()) == ([[1.0], [2.0]], 0)
    bound = step.bind(state)
    assert bound(x).item() == 1
    assert bound(torch.tensor([[0.0, 1.0]])).item() == 4
    assert (state["weight"].tolist(), state["count"].item()) == ([[0.0], [0.0]], 2)


@needs_compiler
def test_what_is_compiled_once_is_read_from_disk_and_what_differs_is_not(own_cache: Path, monkeypatch: pytest.MonkeyPatch):
    table = torch.tensor([1.0, 2.0])

    def run(x: torch.Tensor, factor: float = 3.0) -> torch.Tensor:
        return (x * table).sum() * factor

    x = torch.ones(2)
    assert compiled(run, x).bind()(x).item() == 9
    made = list(own_cache.glob("graph-*"))
    assert len(made) == 1
    with monkeypatch.context() as patch:
        patch.setattr(graphs, "_make", lambda *args: pytest.fail("compiled again"))
        assert compiled(run, x).bind()(x).item() == 9
    table = torch.tensor([1.0, 5.0])  # a constant of the graph
    assert compiled(run, x).bind()(x).item() == 18
    assert compiled(lambda x: run(x, 2.0), x).bind()(x).item() == 12
    assert len(list(own_cache.glob("graph-*"))) == 3


@needs_compiler
def test_a_damaged_file_is_compiled_again(own_cache: Path):
    x = torch.ones(3)
    compiled(torch.cos, x)
    (package,) = own_cache.glob("graph-*")
    package.write_bytes(b"not a package")
    torch.testing.assert_close(compiled(torch.cos, x).bind()(x), torch.cos(x))
    assert package.stat().st_size > 1000


def test_only_the_files_used_last_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(graphs, "KEPT", 2)
    for age, name in enumerate(("graph-b.pt2", "graph-a.pt2", "graph-c.pt2", "gru_layer-x.so")):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    graphs._keep_newest(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graph-a.pt2", "graph-b.pt2", "gru_layer-x.so"]


def test_weights_that_are_not_among_the_inputs_are_refused():
    """A graph would keep a copy of them and never see them learn."""
    layer = torch.nn.Linear(2, 1)
    with pytest.raises(AssertionError, match="weights must be among the inputs"):
        compiled(layer, torch.ones(1, 2))


def test_a_branch_on_what_a_tensor_holds_is_refused():
    with pytest.raises(RuntimeError, match="tracing"):
        compiled(lambda x: x if x.sum() > 0 else -x, torch.ones(2))


def made_for(x: torch.Tensor) -> graphs.Graph:
    """The sum of its input, without a compiler."""
    return graphs.Graph(lambda tensors: [tensors[0].sum(0)], (graphs._form(x),), x[0])


def test_inputs_of_other_shapes_are_refused_and_other_strides_are_met():
    run = made_for(torch.ones(3, 2)).bind()
    assert run(torch.ones(2, 3).T).tolist() == [3, 3]
    with pytest.raises(AssertionError, match=r"was called with .*\[2, 2\]"):
        run(torch.ones(2, 2))
    with pytest.raises(AssertionError, match="float64"):
        run(torch.ones(3, 2, dtype=torch.float64))
    with pytest.raises(AssertionError, match="other shapes or strides"):
        made_for(torch.ones(3, 2)).bind(torch.ones(2, 3).T)


def test_strides_along_axes_of_length_one_are_set_right_without_a_copy():
    odd = torch.ones(4, 4)[:1, :2]
    fitted = graphs._fit(odd, graphs._form(torch.ones(1, 2)))
    assert fitted.stride() == (2, 1)
    assert fitted.data_ptr() == odd.data_ptr()


@pytest.mark.parametrize("look", [lambda x: x.tolist(), lambda x: x.numpy()], ids=["tolist", "numpy"])
def test_numbers_that_python_reads_out_of_a_tensor_are_refused(look):
    """They would be constants of the graph, right for its first inputs only."""
    with pytest.raises(RuntimeError, match="while a graph is recorded"):
        compiled(lambda x: x + torch.as_tensor(look(x)), torch.ones(2))


def test_a_product_with_one_that_is_written_later_is_no_second_name_of_the_input():
    x = torch.zeros(2)
    (result,) = (recorded(lambda x: torch.ops.aten.mul.Scalar(x, 1).add_(1))(x),)
    assert x.tolist() == [0, 0]
    assert result.tolist() == [1, 1]


def test_files_that_another_process_removes_meanwhile_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(graphs, "KEPT", 1)
    for name in ("graph-a.pt2", "graph-b.pt2"):
        (tmp_path / name).write_bytes(b"")
    gone = tmp_path / "graph-gone.pt2"
    own = Path.glob
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: [*own(folder, pattern), *([gone] if "pt2" in pattern else [])])
    graphs._keep_newest(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_compiler_left_is_cleared_after_a_day(tmp_path: Path):
    for name, age in (("tmpold", 2 * 86_400), ("tmpnew", 60)):
        (tmp_path / name).mkdir()
        then = time.time() - age
        os.utime(tmp_path / name, (then, then))
    graphs._keep_newest(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tmpnew"]


@needs_compiler
def test_compiled_random_numbers_are_the_plain_ones_however_many_are_drawn(own_cache: Path):
    """An index times a 64-bit constant wraps around; compiled into index arithmetic it would be undefined."""
    key = torch.tensor([3, -5])
    for count in (7, 1_100):
        assert torch.equal(compiled(lambda key, count=count: split(key, count), key).bind()(key), split(key, count))
    assert split(key, 1_100)[:, :7].tolist() == split(key, 7).tolist()
