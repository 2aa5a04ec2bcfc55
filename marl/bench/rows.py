"""A comparison as one row: the medians of both sides, and the ratio with its lowest and highest over the turns.

    ratio = median over turns k of ours_k / theirs_k        (the k-th turns stand side by side in time)

Speeds are units of work per CPU second, so a ratio above 1 says that ours is faster.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .clock import Pace, Side, Turn, interleave


@dataclass(frozen=True)
class Row:
    """One measurement; None where it was not taken (the note says why)."""

    what: str
    peer: str
    unit: str
    ours: float | None = None
    theirs: float | None = None
    ratio: float | None = None
    ratio_min: float | None = None
    ratio_max: float | None = None
    note: str = ""
    """What a reader must know to judge the figure."""

    def document(self) -> dict[str, Any]:
        """As `--json` prints it."""
        keys = ("what", "peer", "ours", "theirs", "unit", "ratio", "ratio_min", "ratio_max", "note")
        return {key: getattr(self, key) for key in keys}


def paired(what: str, peer: str, unit: str, ours: Sequence[Turn], theirs: Sequence[Turn], *, note: str = "") -> Row:
    """The row of two sides that took turns."""
    assert len(ours) == len(theirs) > 0
    ratios = [mine.speed / other.speed for mine, other in zip(ours, theirs, strict=True)]
    return Row(
        what=what,
        peer=peer,
        unit=unit,
        ours=statistics.median(turn.speed for turn in ours),
        theirs=statistics.median(turn.speed for turn in theirs),
        ratio=statistics.median(ratios),
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        note=note,
    )


def compare(
    what: str, unit: str, ours: Side, peers: Mapping[str, Side], *, pace: Pace, notes: Mapping[str, str] | None = None
) -> list[Row]:
    """One row per peer, all of them and ours interleaved in the same turns."""
    if not peers:
        return []
    done = interleave({"": ours, **peers}, pace)
    return [paired(what, peer, unit, done[""], done[peer], note=(notes or {}).get(peer, "")) for peer in peers]


def missing(what: str, peer: str, unit: str, remedy: str) -> Row:
    """The row of a peer that is not there."""
    return Row(what=what, peer=peer, unit=unit, note=f"not installed: {remedy}")
