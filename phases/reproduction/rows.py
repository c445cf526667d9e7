"""The rows of a reproduction's tables: scores, or the reason why there are none, by network, dataset and protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...config import PROTOCOLS
from ...scoring import protocols
from .ledger import Outcome
from .plan import NETWORKS, Options
from .reference import Reference


@dataclass(frozen=True)
class Score:
    """A metric of a row.

    Attributes:
        mean: over the images, and over the seeds if there are several.
        low, high: the 95 % interval over the images; for several seeds, one standard deviation to each side.
        images: number of images with a value.
        seeds: number of trainings.
    """

    mean: float
    low: float
    high: float
    images: int
    seeds: int = 1

    def __str__(self) -> str:
        if self.seeds > 1:
            return f"{self.mean:.3f} ± {self.high - self.mean:.3f}"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


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
    rows = []
    for protocol in PROTOCOLS:
        for network in NETWORKS:
            for dataset in options.names:
                found = [
                    outcome
                    for outcome in outcomes
                    if outcome.step.kind == "evaluate"
                    and (outcome.step.protocol, outcome.step.network, outcome.step.data) == (protocol, network, dataset)
                ]
                if found and network == "baselines":
                    rows += _baselines(found[0])
                elif found:
                    rows.append(_row(options, found))
    order = {title: i for i, title in enumerate(dict.fromkeys(row.title for row in rows))}
    return sorted(rows, key=lambda row: (list(PROTOCOLS).index(row.protocol), order[row.title]))


def _row(options: Options, outcomes: Sequence[Outcome]) -> Row:
    """The row of a network, from one training or several."""
    step = outcomes[0].step
    columns = [_scores(outcome.result, outcome.result["contender"]) for outcome in outcomes if outcome.result]
    scores = columns[0] if len(columns) == 1 else _spread(columns)
    failed = [outcome for outcome in outcomes if outcome.reason]
    reason = failed[0].reason if failed else ""
    if failed and columns:
        reason = f"seed {failed[0].step.seed} is missing: {reason}"
    return Row(step.network, options.title(step.network), step.data, step.protocol, scores, reason)


def _spread(columns: Sequence[Mapping[str, Score]]) -> dict[str, Score]:
    """Mean and standard deviation over trainings."""
    scores = {}
    for metric in columns[0] if columns else ():
        values = [column[metric].mean for column in columns]
        mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
        scores[metric] = Score(mean, mean - spread, mean + spread, columns[0][metric].images, len(values))
    return scores


def _baselines(outcome: Outcome) -> list[Row]:
    """A row for each baseline, and for the dataset's own maps, which are the ground truth of CC, SIM and KLD."""
    step = outcome.step
    if not outcome.result:
        return [Row(step.network, "baselines", step.data, step.protocol, reason=outcome.reason)]
    titles = {name: name for name in outcome.result["scores"]} | {outcome.result["contender"]: "dataset's own maps"}
    return [
        Row(step.network, title, step.data, step.protocol, _scores(outcome.result, name))
        for name, title in titles.items()
    ]


def _scores(result: Mapping, contender: str) -> dict[str, Score]:
    return {metric: Score(**found) for metric, found in result["scores"][contender].items() if found}


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
