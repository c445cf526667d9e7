"""Tables of answers: as CSV files and on the terminal."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...attention.regions import Total
from ...scoring.report import aligned

# Rows that are printed; the files have all.
MOST_ROWS = 20


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with equal keys, which become the header; numbers with 6 digits."""
    # Names of photographs may be bytes that are not valid text.
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.DictWriter(file, list(rows[0]) if rows else [])
        table.writeheader()
        for row in rows:
            table.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print the first rows under their head, in columns."""
    print(aligned([head, *rows[:MOST_ROWS]]).encode(errors="backslashreplace").decode())
    if len(rows) > MOST_ROWS:
        print(f"… and {len(rows) - MOST_ROWS} more rows in the file.")


def print_totals(means: Sequence[Total], unit: str) -> None:
    """Print the means of each area over all photographs or frames, which `unit` names."""
    head = ("area", unit, "share of area", "share of attention", "lift")
    shares = [(percent(mean.share_of_area), percent(mean.share_of_attention)) for mean in means]
    print_table(head, [(m.name, str(m.photographs), *s, f"{m.lift:.2f}") for m, s in zip(means, shares, strict=True)])


def percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


def percent_range(low: float, high: float) -> str:
    return f"{low:.0%} to {high:.0%}".replace("%", " %")


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * difference:+.1f}"
