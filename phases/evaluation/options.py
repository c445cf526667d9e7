"""What an evaluation scores, and how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...data import Sample, orientation_of


@dataclass(frozen=True)
class Options:
    """What to score, and how.

    Attributes:
        data: a key of `datasets.names()`.
        path: see `data.find_dataset`.
        params: all parameters, see `config.PARAMS`.
        split: the images to score: "valid", "train" or "all".
        weights: see `checkpoint.choose_weights`; None for the best available, unless there are `maps`.
        maps: folders of existing maps.
        protocol: a key of `config.PROTOCOLS`.
        sigma: see `scoring.ground_truth.GroundTruth`.
        baselines: whether to score the baselines and the gold standard too.
        metric_maps: see `contenders.score_contender`.
        fit: whether to fit each model's density to the training split.
        density: file of a density that was fitted before.
        name: of the run's folder in `results/evaluation/`.
        input_size, mirrored: see `network.load`.
        valid_fraction: share of your own images that validates; None for the share that the weights were trained with.
    """

    data: str
    path: Path
    params: Mapping
    split: str = "valid"
    weights: Sequence[str] | None = None
    maps: Sequence[Path] = ()
    protocol: str = "tuebingen"
    sigma: float | None = None
    baselines: bool = False
    metric_maps: bool = False
    fit: bool = False
    density: Path | None = None
    name: str | None = None
    input_size: tuple[int, int] | str | None = None
    mirrored: bool = False
    valid_fraction: float | None = None

    @property
    def orientation(self) -> str:
        """Of the photographs; those of published datasets are used as stored."""
        return orientation_of(self.data, self.params["orientation"])

    @property
    def folder_of_runs(self) -> Path:
        return Path(self.params["results"]) / "evaluation"


@dataclass(frozen=True)
class Images:
    """The images of an evaluation.

    Attributes:
        folder: of the dataset.
        scored: the samples to score.
        training: the samples that densities are fitted to, if any.
        valid_fraction: share of your own images that validates, if it determined the samples.
    """

    folder: Path
    scored: Sequence[Sample]
    training: Sequence[Sample] = ()
    valid_fraction: float | None = None
