"""Integrated gradients: how much each input moves a function away from its value at a baseline (arXiv:1703.01365).

    IG_k = (x_k - b_k) int_0^1 df/dx_k (b + t (x - b)) dt,          sum_k IG_k = f(x) - f(b)

The sum is exact in mathematics, so what the numerical integral misses of it is known, and is always handed back with the values. The
path is cut into pieces with a Gauss-Legendre rule of four nodes each. What a piece must add up to is known too: f at its end less f at its
start. Where it does not (a kink of a ReLU lies in it) the piece is halved, until both the sum and the root of the sum of squares of a
row's misses are below `tolerance` of its attribution (the second does not hope for misses that cancel), or pieces have been halved
MOST_HALVINGS times or a row has MOST_STEPS nodes; then the row says that it has not converged.

An attribution describes the function, not the world: an input gets 0 exactly if moving it along the path never moves f.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .intervals import t_interval

MOST_HALVINGS, MOST_STEPS = 12, 4096
_LARGEST_CALL = 2**21
"""Numbers given to f in one call; more are given one call after the other."""
_MOST_ROWS = 2**10
"""Rows in one call, however narrow they are: f's own layers may be wide."""
_INNER, _OUTER = (math.sqrt(3 / 7 + sign * 2 / 7 * math.sqrt(6 / 5)) for sign in (-1, 1))
_OF_INNER, _OF_OUTER = ((18 + sign * math.sqrt(30)) / 36 for sign in (1, -1))
NODES = torch.tensor([0.0, *((1 + node) / 2 for node in (-_OUTER, -_INNER, _INNER, _OUTER)), 1.0], dtype=torch.float64)
"""Of a piece of length 1: its start, four Gauss-Legendre nodes, its end."""
WEIGHTS = torch.tensor([0.0, *(weight / 2 for weight in (_OF_OUTER, _OF_INNER, _OF_INNER, _OF_OUTER)), 0.0], dtype=torch.float64)


@dataclass(frozen=True)
class Attribution:
    """Integrated gradients of every input of every row, and what the numerical integral missed."""

    value: Float[Tensor, "*shape"]
    """IG, in the unit of f; the shape of x."""
    f_x: Float[Tensor, "*batch"]
    f_baseline: Float[Tensor, "*batch"]
    error: Float[Tensor, "*batch"]
    """The completeness error: sum_k IG_k - (f(x) - f(b))."""
    steps: Int[Tensor, "*batch"]
    """Gradients behind each row."""
    converged: Bool[Tensor, "*batch"]
    """False where halving the pieces was given up before the error was within the tolerance."""

    @property
    def relative_error(self) -> Float[Tensor, "*batch"]:
        """|error| / sum_k |IG_k|; 0 where nothing was attributed and nothing missed."""
        size = self.value.abs().flatten(self.error.dim()).sum(-1)
        return torch.where(self.error == 0, 0.0, self.error.abs() / size)


@dataclass(frozen=True)
class _Pieces:
    """Parts of rows' paths, what each contributes, and what it misses of f's change over it."""

    row: Tensor
    start: Tensor
    width: Tensor
    part: Tensor
    """(piece, feature): the piece's contribution to IG."""
    first: Tensor
    """f at its start."""
    last: Tensor

    @property
    def missed(self) -> Tensor:
        return self.part.sum(-1) - (self.last - self.first)

    def sum_over(self, values: Tensor, rows: int) -> Tensor:
        """A value per piece, added up over each row's pieces."""
        return values.new_zeros(rows, *values.shape[1:]).index_add(0, self.row, values)

    def keep(self, which: Tensor) -> "_Pieces":
        return _Pieces(*(values[which] for values in vars(self).values()))

    def and_also(self, other: "_Pieces") -> "_Pieces":
        return _Pieces(*(torch.cat(pair) for pair in zip(vars(self).values(), vars(other).values(), strict=True)))


def integrated_gradients(
    f: Callable[..., Tensor],
    x: Float[Tensor, "*shape"],
    baseline: Float[Tensor, "*baseline_shape"],
    *,
    steps: int = 64,
    given: Sequence[Tensor] = (),
    axes: int = 1,
    tolerance: float = 1e-3,
) -> Attribution:
    """Attribution of f(x) - f(baseline) to the inputs of each row.

    Args:
        f: called as `f(rows, *given_rows)` with (row, *feature) inputs of any number of rows; gives (row,) values, each from its own row.
        x: (*batch, *feature).
        baseline: where the path begins; the shape of x.
        steps: gradients per row to begin with (four per piece, rounded up); halving adds to them where they miss f's change.
        given: what f needs beside the input and what is held fixed along the path, each (*batch, ...).
        axes: trailing axes of x that are one row's input: 2 for sequences (*batch, window, feature).
        tolerance: largest miss (see above), as a part of the row's sum_k |IG_k|.

    Raises:
        ValueError: shapes that do not fit, values that are NaN or infinite, or values without a gradient.
    """
    batch = _checked_batch(x, baseline, given, steps, axes)
    features = x.shape[len(batch) :]
    rows = math.prod(batch)
    starts, ends = (place.detach().reshape(rows, *features) for place in (baseline, x))
    ways = ends - starts
    fixed = [value.reshape(rows, *value.shape[len(batch) :]) for value in given]

    def measure(row: Tensor, start: Tensor, width: Tensor) -> _Pieces:
        size = max(1, min(_MOST_ROWS, _LARGEST_CALL // max(1, math.prod(features))) // len(NODES))
        chunks = zip(row.split(size), start.split(size), width.split(size), strict=True)
        found = [_measure_pieces(f, starts, ways, fixed, *chunk) for chunk in chunks]
        return _Pieces(row, start, width, *(torch.cat(parts) for parts in zip(*found, strict=True)))

    count = math.ceil(steps / 4)
    grid = torch.arange(count, dtype=x.dtype) / count
    pieces = measure(torch.arange(rows).repeat_interleave(count), grid.repeat(rows), torch.full((rows * count,), 1 / count, dtype=x.dtype))
    halvings = 0
    while True:
        value = pieces.sum_over(pieces.part, rows)
        unfinished, halved = _unfinished(pieces, tolerance * value.abs().sum(-1))
        if halvings == MOST_HALVINGS or not halved.any():
            break
        wide, half, halvings = pieces.keep(halved), pieces.width[halved] / 2, halvings + 1
        pieces = pieces.keep(~halved).and_also(measure(wide.row.repeat(2), torch.cat([wide.start, wide.start + half]), half.repeat(2)))
    f_baseline, f_x = (_value_at(f, place, fixed) for place in (starts, ends))
    return Attribution(
        value=value.reshape(x.shape),
        f_x=f_x.reshape(batch),
        f_baseline=f_baseline.reshape(batch),
        error=(value.sum(-1) - (f_x - f_baseline)).reshape(batch),
        steps=(pieces.row.bincount(minlength=rows) * 4).reshape(batch),
        converged=~unfinished.reshape(batch),
    )


def _checked_batch(x: Tensor, baseline: Tensor, given: Sequence[Tensor], steps: int, axes: int) -> torch.Size:
    """The batch axes, once everything fits."""
    if not 1 <= axes <= x.dim():
        raise ValueError(f"axes is {axes}, but x has shape {tuple(x.shape)}: 1 to {x.dim()} of its last axes are one row's input")
    if baseline.shape != x.shape:
        raise ValueError(f"the baseline has shape {tuple(baseline.shape)} and x {tuple(x.shape)}: they must be equal (expand the baseline)")
    if steps < 1:
        raise ValueError(f"steps is {steps}; the integral needs at least 1")
    if not bool(x.isfinite().all() and baseline.isfinite().all()):
        raise ValueError("x or the baseline holds NaN or infinity")
    batch = x.shape[: x.dim() - axes]
    for value in given:
        if value.shape[: len(batch)] != batch:
            raise ValueError(f"`given` holds shape {tuple(value.shape)}: it must begin with the batch axes of x, {tuple(batch)}")
    return batch


def _unfinished(pieces: _Pieces, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that miss more than allowed, and those of their pieces that are to be halved: the ones that miss more than most."""
    missed, rows = pieces.missed, len(allowed)
    number = pieces.row.bincount(minlength=rows)
    spread, total = pieces.sum_over(missed.square(), rows).sqrt(), pieces.sum_over(missed, rows).abs()
    unfinished = torch.maximum(spread, total) > allowed
    limit = allowed / 2 / torch.where(spread > allowed, number.sqrt(), number)
    return unfinished, (unfinished & (4 * number < MOST_STEPS))[pieces.row] & (missed.abs() > limit[pieces.row])


def _checked(values: Tensor, rows: int) -> Tensor:
    """f's values after plain sentences about what may be wrong with them."""
    if tuple(values.shape) != (rows,):
        raise ValueError(f"f returned shape {tuple(values.shape)} for {rows} rows: expected ({rows},), one value per row")
    if not bool(values.isfinite().all()):
        raise ValueError("f is NaN or infinite somewhere between the baseline and x; attribution needs finite values")
    return values


def _value_at(f: Callable[..., Tensor], place: Tensor, fixed: Sequence[Tensor]) -> Tensor:
    """f of every row, in calls of a bounded size."""
    size = max(1, min(_MOST_ROWS, _LARGEST_CALL // max(1, place[0].numel()))) if len(place) else 1
    parts = [_checked(f(*chunk), len(chunk[0])) for chunk in zip(*(value.split(size) for value in (place, *fixed)), strict=True)]
    return torch.cat(parts).detach() if parts else place.new_zeros(0)


def _measure_pieces(
    f: Callable[..., Tensor], starts: Tensor, ways: Tensor, fixed: Sequence[Tensor], row: Tensor, start: Tensor, width: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(contribution (piece, feature), f at the start, f at the end) of some pieces."""
    nodes, weights = NODES.to(starts.dtype), WEIGHTS.to(starts.dtype)
    t = start.unsqueeze(1) + width.unsqueeze(1) * nodes
    way = ways[row].flatten(1)
    places = starts[row].flatten(1).unsqueeze(1) + t.unsqueeze(2) * way.unsqueeze(1)
    places = places.reshape(-1, *starts.shape[1:]).requires_grad_()
    with torch.enable_grad():
        values = _checked(f(places, *(value[row].repeat_interleave(len(nodes), 0) for value in fixed)), len(places))
        if not values.requires_grad:
            raise ValueError("f returned values without a gradient: it must be made of differentiable operations, outside torch.no_grad")
        (slope,) = torch.autograd.grad(values.sum(), places)
    mean_slope = torch.einsum("pnf,n->pf", slope.reshape(len(row), len(nodes), way.shape[1]), weights)
    along = values.detach().reshape(len(row), len(nodes))
    return way * mean_slope * width.unsqueeze(1), along[:, 0], along[:, -1]


def group_labels(names: Sequence[str], groups: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The group of every feature, from the features' names.

    - a name with a blank says what and where: its first word is the group ("prey 2 up 1 left": prey);
    - else the parts between underscores count, and the group ends with the last part before the end that holds a digit
      ("food_0_row": food_0; "agent_1_signal_0": agent_1; "cell_-1_+0_requested_shelf": cell_-1_+0);
    - without such a part the last part is dropped ("own_row": own; "velocity_x": velocity; a one-hot's "heads_left": heads);
    - a name that would be alone in its group keeps its full name, and a name of one part is its own group.

    `groups` names the group of some features itself ({"own_level": "levels"}). ValueError for a feature in it that there is not.
    """
    groups = groups or {}
    if unknown := [name for name in groups if name not in names]:
        raise ValueError(f"no feature is called {', '.join(map(repr, unknown))}; there are: {', '.join(names)}")
    found = [groups.get(name) or _prefix(name) for name in names]
    return tuple(name if found.count(label) == 1 and name not in groups else label for name, label in zip(names, found, strict=True))


def _prefix(name: str) -> str:
    if " " in name:
        return name.split(" ")[0]
    parts = name.split("_")
    numbered = [place for place, part in enumerate(parts[:-1], 1) if any(character.isdigit() for character in part)]
    return "_".join(parts[: numbered[-1] if numbered else -1]) or name


def group(values: Float[Tensor, "*batch feature"], labels: Sequence[str]) -> tuple[tuple[str, ...], Float[Tensor, "*batch group"]]:
    """The groups in the order in which they first occur, and the sum of each one's features: IG is additive, so this is the group's."""
    if values.shape[-1] != len(labels):
        raise ValueError(f"{len(labels)} labels for {values.shape[-1]} features")
    names = tuple(dict.fromkeys(labels))
    place = torch.tensor([names.index(label) for label in labels], dtype=torch.int64)
    return names, values.new_zeros(*values.shape[:-1], len(names)).index_add(-1, place, values)


@dataclass(frozen=True)
class EpisodeMean:
    """Mean over episodes of the mean over each episode's rows, with a 95% t interval over episodes (approximate; NaN for one episode)."""

    mean: Float[Tensor, " group"]
    low: Float[Tensor, " group"]
    high: Float[Tensor, " group"]


def mean_over_episodes(values: Float[Tensor, "row group"], episode: Int[Tensor, " row"], *, confidence: float = 0.95) -> EpisodeMean:
    """Rows of one episode resemble each other, so episodes, not rows, are what the interval counts. ValueError without a row."""
    if not len(values):
        raise ValueError("no rows to average")
    numbers, which = episode.unique(return_inverse=True)
    sums = torch.zeros(len(numbers), values.shape[1], dtype=torch.float64).index_add(0, which, values.to(torch.float64))
    means = sums / which.bincount().unsqueeze(1)
    if len(numbers) == 1:
        unknown = torch.full_like(means[0], math.nan)
        return EpisodeMean(means[0], unknown, unknown.clone())
    low, high = t_interval(means.T, confidence=confidence)
    return EpisodeMean(means.mean(0), low, high)
