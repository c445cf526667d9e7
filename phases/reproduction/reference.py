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
DEFAULT_NETWORKS = ("published", "trained")


@dataclass(frozen=True)
class Reference:
    """A published number, and the networks and protocols to compare it with."""

    dataset: str
    metric: str
    value: float
    source: str
    networks: Sequence[str] = DEFAULT_NETWORKS
    protocols: Sequence[str] = tuple(PROTOCOLS)


def read(path: Path) -> list[Reference]:
    """Read a table of numbers: CSV in UTF-8 with commas; lines that begin with "#" are comments.

    Raises:
        UserError: the file cannot be read, or a line is invalid.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 ({error}); expected a CSV file of references.") from error
    numbered = [(i, line) for i, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")]
    table = csv.DictReader([line for _, line in numbered], skipinitialspace=True)
    if missing := [column for column in COLUMNS if column not in (table.fieldnames or [])]:
        raise UserError(f"{path} has no column {', '.join(missing)}; expected {','.join(COLUMNS)} in its first line.")
    return [_reference(path, number, row) for (number, _), row in zip(numbered[1:], table, strict=True)]


def _reference(path: Path, number: int, row: dict) -> Reference:
    """A line of the table."""
    cells = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
    try:
        value = float(cells["value"])
    except ValueError:
        value = math.nan
    metrics = {name: protocol.metrics for name, protocol in PROTOCOLS.items()}
    protocols = [cells["protocol"]] if cells.get("protocol") else list(metrics)
    networks = [cells["network"]] if cells.get("network") else list(DEFAULT_NETWORKS)
    choices = (
        ("dataset", cells["dataset"], list(DATASETS)),
        ("protocol", protocols[0], list(metrics)),
        ("network", networks[0], list(NETWORKS)),
    )
    for column, received, expected in choices:
        if received not in expected:
            raise UserError(f"{path}, line {number}: received the {column} {received!r}, expected {_or(expected)}.")
    known = list(dict.fromkeys(metric for protocol in protocols for metric in metrics[protocol]))
    if cells["metric"] not in known:
        raise UserError(f"{path}, line {number}: received the metric {cells['metric']!r}, expected {_or(known)}.")
    if not math.isfinite(value):
        raise UserError(f"{path}, line {number}: received the value {cells['value']!r}, expected a number.")
    fitting = [protocol for protocol in protocols if cells["metric"] in metrics[protocol]]
    return Reference(cells["dataset"], cells["metric"], value, cells["source"], networks, fitting)


def _or(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
