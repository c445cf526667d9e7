"""Published numbers, for comparison with ours."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...acquisition.datasets import DATASETS
from ...scoring.protocols import PROTOCOLS
from ...utils import UserError
from .plan import NETWORKS

COLUMNS = ("dataset", "metric", "value", "source")  # Two more may follow: "network" and "protocol".


@dataclass(frozen=True)
class Reference:
    """A published number, and the networks and protocols to compare it with."""

    dataset: str
    metric: str
    value: float
    source: str
    networks: Sequence[str]
    protocols: Sequence[str]


def read(path: Path) -> list[Reference]:
    """Read a table of numbers: CSV in UTF-8 with commas; lines that begin with "#" are comments.

    A `UserError` if the file cannot be read, or a line is invalid.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 ({error}); expected a CSV file of references.") from error
    numbered = [(i, line) for i, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")]
    table = csv.DictReader([line for _, line in numbered], skipinitialspace=True)
    if missing := [column for column in COLUMNS if column not in (table.fieldnames or [])]:
        raise UserError(f"{path} has no column {', '.join(missing)}; expected {','.join(COLUMNS)} in its first line.")
    return [_reference(f"{path}, line {i}", row) for (i, _), row in zip(numbered[1:], table, strict=True)]


def _reference(place: str, row: dict) -> Reference:
    """A line of the table; without a network or a protocol, it is compared with all that fit."""
    cells = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
    metrics = {
        name: protocol.metrics for name, protocol in PROTOCOLS.items() if cells.get("protocol") in (None, "", name)
    }
    choices = {
        "dataset": list(DATASETS),
        "protocol": ["", *PROTOCOLS],
        "network": ["", *NETWORKS],
        "metric": list(dict.fromkeys(metric for names in metrics.values() for metric in names)),
    }
    for column, expected in choices.items():
        if (received := cells.get(column, "")) not in expected:
            words = [word for word in expected if word]
            raise UserError(
                f"{place}: received the {column} {received!r}, expected {', '.join(words[:-1])} or {words[-1]}."
            )
    try:
        value = float(cells["value"])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{place}: received the value {cells['value']!r}, expected a number.")
    networks = [cells["network"]] if cells.get("network") else ["published", "trained"]
    protocols = [name for name, names in metrics.items() if cells["metric"] in names]
    return Reference(cells["dataset"], cells["metric"], value, cells["source"], networks, protocols)
