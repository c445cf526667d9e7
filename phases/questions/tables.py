"""Tables of answers: as CSV files and on the terminal."""

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import utils
from ...scoring.report import aligned

# Rows that are printed; the files have all.
MOST_ROWS = 20


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with equal keys, which become the header; numbers with 6 digits."""
    rounded = (
        {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()} for row in rows
    )
    utils.write_csv(path, rows[0] if rows else [], rounded)


class Cells(string.Formatter):
    """Like `str.format`, with a space between a number and its percent sign."""

    def format_field(self, value, spec):
        text = super().format_field(value, spec)
        return text.replace("%", " %") if spec.endswith("%") else text


def print_table(columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the first rows; the columns are formats of their cells, such as "{share:.1%}", by their titles."""
    cells = [[Cells().vformat(column, (), row) for column in columns.values()] for row in rows[:MOST_ROWS]]
    print(aligned([list(columns), *cells]).encode(errors="backslashreplace").decode())
    if len(rows) > MOST_ROWS:
        print(f"… and {len(rows) - MOST_ROWS} more rows in the file.")


def print_totals(means: Sequence[Mapping[str, Any]], unit: str) -> None:
    """Print the fields of `regions.Total` of each area over all photographs or frames, which `unit` names."""
    columns = {"area": "{name}", unit: "{photographs}"}
    shares = {"share of area": "{share_of_area:.1%}", "share of attention": "{share_of_attention:.1%}"}
    print_table({**columns, **shares, "lift": "{lift:.2f}"}, means)
