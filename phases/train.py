"""The `train` phase: from photographs and fixations to checkpoints, a history and a run record.

This file chooses data, sizes and settings. `phases/training` trains; it is imported after the options are checked.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import data
from ..acquisition import datasets
from ..bundled import BUNDLED
from ..config import VALID_FRACTION, VARIANTS
from ..data import CUSTOM
from ..scoring.fixations import Blur, make_saliency
from ..utils import UserError, quiet_stderr

# Options that only apply to your own photographs.
OF_CUSTOM = ("valid_fraction", "sigma", "pixels_per_degree")


@dataclass(frozen=True)
class Options:
    """The flags of `train`, whose help describes them, and all parameters by name."""

    data: Sequence[str]
    path: Path
    params: Mapping
    init: str | None = None
    variant: str | None = None
    context: str = "aspp"
    restart: bool = False
    input_size: tuple[int, int] | str | None = None
    valid_fraction: float | None = None
    sigma: float | None = None
    pixels_per_degree: float | None = None


def run(options: Options) -> None:
    """Train, or resume an interrupted run with the same settings.

    Raises:
        UserError: options contradict each other, data is missing or damaged, or training fails; see `fit.train`.
    """
    check(options)
    valid_fraction = VALID_FRACTION if options.valid_fraction is None else options.valid_fraction
    params = dict(options.params)
    if CUSTOM in options.data:
        # These options affect training, so they are part of the run's settings.
        own = {"valid_fraction": valid_fraction, "sigma": options.sigma, "pixels_per_degree": options.pixels_per_degree}
        params |= own
        folder = data.find_dataset(CUSTOM, options.path)
        if not options.restart:
            check_resumed(Path(params["results"]), "+".join(options.data), own)
        blur = Blur(options.sigma, options.pixels_per_degree)
        make_saliency(folder, blur, params["orientation"], params["max_dropped"])
    fixed = None if isinstance(options.input_size, str) else options.input_size
    sizes = {name: fixed or datasets.input_size(name) for name in options.data}
    groups = {
        name: data.load_groups(
            name, options.path, size, valid_fraction=valid_fraction, orientation=params["orientation"]
        )
        for name, size in sizes.items()
    }
    with quiet_stderr():
        from .training import fit
    variant = variant_of(options)
    fit.train(
        groups,
        params,
        variant=variant,
        context=VARIANTS[variant].get("context", options.context),
        init=options.init,
        restart=options.restart,
        fit_pixels=math.prod(sizes[options.data[0]]) if options.input_size == "auto" else None,
    )


def variant_of(options: Options) -> str:
    """The size of the network: as asked for, or that of the bundled network that training starts from."""
    return options.variant or (options.init if options.init in BUNDLED else "full")


def check(options: Options) -> None:
    """Check that the options fit together."""
    if len(set(options.data)) < len(options.data):
        raise UserError(f"Received -d {' '.join(options.data)}, expected each dataset once.")
    check_network(variant_of(options), options.context, options.init)
    for name in OF_CUSTOM:
        if CUSTOM not in options.data and getattr(options, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} requires -d custom; other datasets are used as published.")


def check_network(variant: str, context: str, init: str | None) -> None:
    """Check that a network can have this context and these initial weights."""
    if "context" not in VARIANTS[variant]:
        return
    if context != "aspp":
        raise UserError(f"The {variant} network has no --context {context}: add --variant full or narrow.")
    if init in ("scratch", "vgg16"):
        others = "full or narrow" if init == "scratch" else "full"
        raise UserError(
            f"The {variant} network cannot start from --init {init}: use --init {variant}, or --variant {others}."
        )


def check_resumed(results: Path, name: str, settings: Mapping) -> None:
    """Reject a run with different settings before maps are made for it."""
    with quiet_stderr():
        from .training.run import Run
    run = Run(results, name, dict(settings))
    if run.exists():
        run.read()
