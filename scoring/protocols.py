"""The two protocols: their metrics, and the maps and fixations that these are computed on.

"tuebingen" is the MIT/Tübingen Saliency Benchmark, "mit" the original MIT benchmark; see `metrics`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..acquisition.convert import gaussian_blur
from ..utils import UserError
from . import metrics

if TYPE_CHECKING:  # It imports TensorFlow, which the command line must not load.
    from .ground_truth import Case, GroundTruth

# A saliency map, (H, W), or one per metric by name.
Maps = np.ndarray | Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Protocol:
    """How a benchmark scores a prediction.

    Attributes:
        name: value of `--protocol`.
        metrics: in the order of the table.
        of_fixations: metrics that compare with fixations, so a single observer can be left out; the others compare with
            a true map.
        less_is_better: metrics for which less is better.
        uses_density: whether log densities are scored. Only then can a density be fitted, a map for each metric be
            made from it, and the blur of true maps be chosen.
    """

    name: str
    metrics: tuple[str, ...]
    of_fixations: tuple[str, ...]
    less_is_better: tuple[str, ...]
    uses_density: bool

    def arrow(self, metric: str) -> str:
        """The direction in which a metric improves."""
        return "↓" if metric in self.less_is_better else "↑"

    def check_size(self, saliency: np.ndarray, shape: tuple[int, int]) -> None:
        """Raise if a map, (h, w), cannot be scored for an image of `shape`."""

    def true_map(self, truth: "GroundTruth", case: "Case", fixations: np.ndarray | None = None) -> np.ndarray:
        """The true map, (H, W), of given fixations, (N, 2), or of all."""
        raise NotImplementedError

    def formulas(self, truth, case, maps, log_density, fixations, image) -> dict[str, Callable[[], float]]:
        """The computation of each metric; `image` makes the true map, the other arguments are those of `score`."""
        raise NotImplementedError

    def score(
        self,
        truth: "GroundTruth",
        case: "Case",
        maps: Maps,
        log_density: np.ndarray | None = None,
        fixations: np.ndarray | None = None,
        names: Sequence[str] | None = None,
    ) -> dict[str, float]:
        """The metrics `names` of one prediction, by default all, against given fixations, (N, 2), by default all.

        `log_density`, (H, W), is needed if the protocol uses it.
        """
        image = functools.cache(functools.partial(self.true_map, truth, case, fixations))
        fixated = case.fixations if fixations is None else fixations
        formulas = self.formulas(truth, case, maps, log_density, fixated, image)
        return {name: formulas[name]() for name in names or self.metrics}


class Tuebingen(Protocol):
    """Every fixation counts; the information gain is that of log densities; true maps are the dataset's own."""

    def check_size(self, saliency, shape):
        if saliency.shape != shape:
            raise UserError(
                f"the map has {saliency.shape} pixels, the image {shape} (height, width). Save maps at the images' "
                f"sizes, or use --protocol mit, which resizes them."
            )

    def true_map(self, truth, case, fixations=None):
        if fixations is None and truth.sigma is None:
            return truth.own_map(case)
        fixations = case.fixations if fixations is None else fixations
        return gaussian_blur(metrics.count_map(fixations, case.shape), truth.kernel)

    def formulas(self, truth, case, maps, log_density, fixations, image):
        of = maps.__getitem__ if isinstance(maps, Mapping) else lambda _: maps
        return {
            "AUC": lambda: metrics.auc_tuebingen(of("AUC"), fixations),
            "sAUC": lambda: metrics.sauc_tuebingen(of("sAUC"), fixations, *truth.other_fixations(case)),
            "NSS": lambda: metrics.nss_tuebingen(of("NSS"), fixations),
            "CC": lambda: metrics.cc(of("CC"), image()),
            "SIM": lambda: metrics.sim_tuebingen(of("SIM"), image()),
            "KLD": lambda: metrics.kld(of("KLD"), image()),
            "IG": lambda: metrics.ig_tuebingen(log_density, truth.log_center_bias(case), fixations),
        }


class Mit(Protocol):
    """Fixations are a binary map; the true map is its blur in the frequency domain; predictions are resized to it."""

    # Number of other images for the negatives of the shuffled AUC.
    OTHER_IMAGES = 10

    def true_map(self, truth, case, fixations=None):
        return metrics.blur_mit(metrics.fixation_map(case.fixations if fixations is None else fixations, case.shape))

    def formulas(self, truth, case, maps, log_density, fixations, image):
        maps = metrics.resize_mit(maps, case.shape)
        stretched = (maps - maps.min()) / (np.ptp(maps) or 1)
        binary = metrics.fixation_map(fixations, case.shape)
        seed = truth.seed
        return {
            "AUC-Judd": lambda: metrics.auc_judd_mit(stretched, binary, seed=seed),
            "AUC-Borji": lambda: metrics.auc_borji_mit(maps, binary, seed=seed),
            "sAUC": lambda: metrics.auc_shuffled_mit(maps, binary, truth.other_map(case, self.OTHER_IMAGES), seed=seed),
            "NSS": lambda: metrics.nss_mit(maps, binary),
            "CC": lambda: metrics.cc(maps, image()),
            "SIM": lambda: metrics.sim_mit(maps, image()),
            "KLD": lambda: metrics.kld(maps, image()),
            "IG": lambda: metrics.ig_mit(maps, binary, np.exp(truth.log_center_bias(case))),
            "EMD": lambda: metrics.emd_mit(maps, image()),
        }


TUEBINGEN = Tuebingen(
    "tuebingen",
    metrics=("AUC", "sAUC", "NSS", "CC", "SIM", "KLD", "IG"),
    of_fixations=("AUC", "sAUC", "NSS", "IG"),
    less_is_better=("KLD",),
    uses_density=True,
)
MIT = Mit(
    "mit",
    metrics=("AUC-Judd", "AUC-Borji", "sAUC", "NSS", "CC", "SIM", "KLD", "IG", "EMD"),
    of_fixations=("AUC-Judd", "AUC-Borji", "sAUC", "NSS", "IG"),
    less_is_better=("KLD", "EMD"),
    uses_density=False,
)
PROTOCOLS = {protocol.name: protocol for protocol in (TUEBINGEN, MIT)}


def usable(protocol: Protocol) -> tuple[Protocol, str]:
    """The protocol with the metrics that can be computed here, and a sentence about omitted ones, or an empty one."""
    try:
        if "EMD" in protocol.metrics:
            metrics.optimal_transport()
        return protocol, ""
    except UserError as error:
        rest = tuple(name for name in protocol.metrics if name != "EMD")
        return replace(protocol, metrics=rest), f"EMD is left out. {error}"
