"""The two protocols: which metrics each of them has, and what they are computed on.

"tuebingen" is that of the MIT/Tübingen Saliency Benchmark, "mit" that of the original MIT benchmark; see `metrics`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from acquisition.convert import gaussian_blur
from scoring import metrics
from utils import UserError

if TYPE_CHECKING:  # It needs TensorFlow, and the command line looks at protocols before that is loaded.
    from scoring.ground_truth import Case, GroundTruth

# A saliency map, (H, W), or one for each metric by its name.
Maps = np.ndarray | Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Protocol:
    """How a benchmark scores a prediction.

    Attributes:
        name: what `--protocol` calls it.
        metrics: in the order of the table.
        of_fixations: those that compare with fixations, so that a single observer can be left out; the others compare
            with a true map.
        less_is_better: those of which less is.
        uses_density: whether log densities are scored. Only then can a density be fitted, and a map of its own be made
            of it for each metric; and only then is the blur of true maps free to choose.
    """

    name: str
    metrics: tuple[str, ...]
    of_fixations: tuple[str, ...]
    less_is_better: tuple[str, ...]
    uses_density: bool

    def without(self, metric: str) -> "Protocol":
        return replace(self, metrics=tuple(name for name in self.metrics if name != metric))

    def arrow(self, metric: str) -> str:
        """Which way a metric gets better."""
        return "↓" if metric in self.less_is_better else "↑"

    def check_size(self, saliency: np.ndarray, shape: tuple[int, int]) -> None:
        """Refuse a map, (h, w), that cannot be scored for an image of `shape`."""

    def true_map(self, truth: "GroundTruth", case: "Case", fixations: np.ndarray | None = None) -> np.ndarray:
        """The map to predict, (H, W); of given fixations, (N, 2), or of all."""
        raise NotImplementedError

    def formulas(
        self,
        truth: "GroundTruth",
        case: "Case",
        maps: Maps,
        log_density: np.ndarray | None,
        fixations: np.ndarray,
        image: Callable[[], np.ndarray],
    ) -> dict[str, Callable[[], float]]:
        """How each metric is computed; `image` makes the true map, and the rest is as `score` has it."""
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
        """The metrics of one prediction.

        Args:
            truth, case: what to score against.
            maps: the saliency map, (H, W), or one for each metric by name.
            log_density: (H, W), where the protocol uses it.
            fixations: score against these instead of all, (N, 2).
            names: of the metrics to compute; all by default.

        Returns:
            Values by the metrics' names.
        """
        image = functools.cache(functools.partial(self.true_map, truth, case, fixations))
        fixated = case.fixations if fixations is None else fixations
        formulas = self.formulas(truth, case, maps, log_density, fixated, image)
        return {name: formulas[name]() for name in names or self.metrics}


class Tuebingen(Protocol):
    """Every fixation counts; log densities give the information gain; true maps are the dataset's own."""

    def check_size(self, saliency, shape):
        if saliency.shape != shape:
            raise UserError(
                f"the map has {saliency.shape} pixels, the image {shape} (height, width). Save maps at the images' own "
                f"sizes, or use --protocol mit, which resizes them."
            )

    def true_map(self, truth, case, fixations=None):
        if fixations is None and truth.sigma is None:
            return truth.own_map(case)
        return gaussian_blur(
            metrics.count_map(case.fixations if fixations is None else fixations, case.shape), truth.kernel
        )

    def formulas(self, truth, case, maps, log_density, fixations, image):
        of = maps.__getitem__ if isinstance(maps, Mapping) else lambda _: maps
        return {
            "AUC": lambda: metrics.auc_tuebingen(of("AUC"), fixations),
            "sAUC": lambda: metrics.sauc_tuebingen(of("sAUC"), fixations, *truth.other_fixations(case)),
            "NSS": lambda: metrics.nss_tuebingen(of("NSS"), fixations),
            "CC": lambda: metrics.cc(of("CC"), image()),
            "SIM": lambda: metrics.sim_tuebingen(of("SIM"), image()),
            "KLD": lambda: metrics.kld(of("KLD"), image()),
            "IG": lambda: metrics.ig_tuebingen(log_density, truth.log_centre_bias(case), fixations),
        }


class Mit(Protocol):
    """Fixations are a binary map, and its blur in the frequency domain the true map; predictions are resized to it."""

    # The negatives of the shuffled AUC are from as many other images.
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
            "IG": lambda: metrics.ig_mit(maps, binary, np.exp(truth.log_centre_bias(case))),
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
    """The protocol with the metrics that can be computed here, and a sentence on what is left out, or none."""
    if "EMD" in protocol.metrics:
        try:
            metrics.optimal_transport()
        except UserError as error:
            return protocol.without("EMD"), f"EMD is left out. {error}"
    return protocol, ""
