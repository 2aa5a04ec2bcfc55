"""Recorded operations: the same numbers, written to the same places, for whatever comes in later."""

import torch
from teamcredit.marl.recorded import recorded


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
