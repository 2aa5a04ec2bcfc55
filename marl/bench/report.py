"""The rows as a table for people, and as one JSON document."""

from collections.abc import Sequence
from typing import Any

from ..cli_output import number, table
from .machine import sentence
from .rows import Row


def to_document(seed: int, header: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """`marl bench speed --json` (the schema's number is added where it is printed)."""
    return {"seed": seed, **header, "rows": [row.document() for row in rows]}


def to_text(header: dict[str, Any], rows: Sequence[Row]) -> str:
    """A header, then one line per row, the units as headlines."""
    parts = [sentence(header)]
    for unit in dict.fromkeys(row.unit for row in rows):
        lines = [_line(row) for row in rows if row.unit == unit]
        parts.append(table((unit, "ours", "beside", "theirs", "ratio (lowest to highest)", ""), lines))
    return "\n\n".join(parts)


def _line(row: Row) -> tuple[str, ...]:
    return row.what, number(row.ours), row.peer, number(row.theirs), ratio(row), row.note


def ratio(row: Row) -> str:
    """`1.31 (1.22 to 1.40)`, without the brackets where there is but one figure, "-" where there is none."""
    if row.ratio is None:
        return "-"
    if row.ratio_min is None or row.ratio_max is None:
        return number(row.ratio)
    return f"{number(row.ratio)} ({number(row.ratio_min)} to {number(row.ratio_max)})"
