"""The rows of a reproduction's tables, with scores or the reason why there are none, and published numbers."""

import csv
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...acquisition.datasets import DATASETS
from ...config import PROTOCOLS
from ...scoring import protocols
from ...scoring.report import Estimate
from ...utils import UserError
from .ledger import Outcome
from .plan import NETWORKS, Options

# Columns of a table of published numbers. Two more may follow: "network" and "protocol".
COLUMNS = ("dataset", "metric", "value", "source")


@dataclass(frozen=True)
class Score(Estimate):
    """A metric of a row. For several trainings, `low` and `high` are one standard deviation away from the mean."""

    seeds: int = 1

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.high - self.mean:.3f}" if self.seeds > 1 else super().__str__()


@dataclass(frozen=True)
class Row:
    """The scores of a network on a dataset.

    Attributes:
        network: a key of `NETWORKS`; each baseline has its own row.
        title: of the network, or of the baseline.
        dataset, protocol: their keys.
        scores: by metric, without metrics that have no value.
        reason: a few words on why there are no scores, or why some seeds are missing.
    """

    network: str
    title: str
    dataset: str
    protocol: str
    scores: Mapping[str, Score] = field(default_factory=dict)
    reason: str = ""


def metrics_of(protocol: str, rows: Sequence[Row]) -> list[str]:
    """The metrics of a protocol that any row has, or all if no row has scores."""
    names = protocols.PROTOCOLS[protocol].metrics
    found = {metric for row in rows if row.protocol == protocol for metric in row.scores}
    return [name for name in names if name in found] or list(names)


def make_rows(options: Options, outcomes: Sequence[Outcome]) -> list[Row]:
    """All rows, by protocol, network and dataset."""
    groups: dict[tuple[str, str, str], list[Outcome]] = {}
    for outcome in outcomes:
        if (step := outcome.step).kind == "evaluate":
            groups.setdefault((step.protocol, step.network, step.data), []).append(outcome)
    keys = [key for key in itertools.product(PROTOCOLS, NETWORKS, options.names) if key in groups]
    rows = [row for key in keys for row in _rows(options, groups[key])]
    order = {title: i for i, title in enumerate(dict.fromkeys(row.title for row in rows))}
    return sorted(rows, key=lambda row: (list(PROTOCOLS).index(row.protocol), order[row.title]))


def _rows(options: Options, outcomes: Sequence[Outcome]) -> list[Row]:
    """The row of a network, from one training or several; or one of each baseline and of the dataset's own maps."""
    step, result = outcomes[0].step, outcomes[0].result
    if step.network == "baselines" and result:
        titles = {name: name for name in result["scores"]} | {result["contender"]: "dataset's own maps"}
        cells = step.data, step.protocol
        return [Row(step.network, title, *cells, _scores(result, name)) for name, title in titles.items()]
    columns = [_scores(outcome.result, outcome.result["contender"]) for outcome in outcomes if outcome.result]
    scores = columns[0] if len(columns) == 1 else _spread(columns)
    failed = [outcome for outcome in outcomes if outcome.reason]
    reason = failed[0].reason if failed else ""
    if failed and columns:
        reason = f"seed {failed[0].step.seed} is missing: {reason}"
    return [Row(step.network, options.title(step.network), step.data, step.protocol, scores, reason)]


def _spread(columns: Sequence[Mapping[str, Score]]) -> dict[str, Score]:
    """Mean and standard deviation over trainings."""
    scores = {}
    for metric in columns[0] if columns else ():
        values = [column[metric].mean for column in columns]
        mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
        scores[metric] = Score(mean, mean - spread, mean + spread, columns[0][metric].images, len(values))
    return scores


def _scores(result: Mapping, contender: str) -> dict[str, Score]:
    return {metric: Score(**found) for metric, found in result["scores"][contender].items() if found}


# --- Published numbers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """A published number, and the networks and protocols to compare it with."""

    dataset: str
    metric: str
    value: float
    source: str
    networks: Sequence[str]
    protocols: Sequence[str]


def read_references(path: Path) -> list[Reference]:
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
    fitting = [each for each in protocols.PROTOCOLS.values() if cells.get("protocol") in (None, "", each.name)]
    choices = {
        "dataset": list(DATASETS),
        "protocol": ["", *PROTOCOLS],
        "network": ["", *NETWORKS],
        "metric": list(dict.fromkeys(metric for each in fitting for metric in each.metrics)),
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
    comparable = [each.name for each in fitting if cells["metric"] in each.metrics]
    return Reference(cells["dataset"], cells["metric"], value, cells["source"], networks, comparable)


@dataclass(frozen=True)
class Comparison:
    """One of our numbers and the published one; `ours` is None if we have none."""

    reference: Reference
    row: Row
    ours: Score | None

    @property
    def difference(self) -> float | None:
        return None if self.ours is None else self.ours.mean - self.reference.value

    @property
    def is_outside(self) -> bool:
        """Whether the published number is outside our interval, rounded like in the tables."""
        return self.ours is not None and not (
            round(self.ours.low, 3) <= round(self.reference.value, 3) <= round(self.ours.high, 3)
        )


def compare(rows: Sequence[Row], references: Sequence[Reference]) -> list[Comparison]:
    """Each reference with the rows that it applies to."""
    return [
        Comparison(reference, row, row.scores.get(reference.metric))
        for reference in references
        for row in rows
        if row.dataset == reference.dataset
        and row.network in reference.networks
        and row.protocol in reference.protocols
    ]
