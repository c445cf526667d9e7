"""What an evaluation scores, and how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...data import Sample, orientation_of


@dataclass(frozen=True)
class Options:
    """The flags of `evaluate`, whose help describes them, and all parameters by name."""

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
    verbose: bool = False

    @property
    def orientation(self) -> str:
        """Of the photographs; those of published datasets are used as stored."""
        return orientation_of(self.data, self.params["orientation"])

    @property
    def folder_of_runs(self) -> Path:
        return Path(self.params["results"]) / "evaluation"


@dataclass(frozen=True)
class Images:
    """The images of an evaluation."""

    folder: Path  # of the dataset
    scored: Sequence[Sample]
    training: Sequence[Sample] = ()  # for fitting densities
    valid_fraction: float | None = None  # if it determined the samples
