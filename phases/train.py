"""The `train` phase: from photographs and fixations to checkpoints, a history and a run record.

This file chooses data, sizes and settings. `phases/training` trains, and is imported when all of that is correct.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import data
from ..acquisition import datasets
from ..config import VALID_FRACTION
from ..data import CUSTOM
from ..scoring.fixations import Blur
from ..utils import UserError, quiet_stderr
from .custom import make_missing_maps

# Options that only your own photographs have.
OF_CUSTOM = ("valid_fraction", "sigma", "pixels_per_degree")


@dataclass(frozen=True)
class Options:
    """What to train, and how.

    Attributes:
        data: keys of `datasets.names()`; several are trained on together.
        path: see `data.find_dataset`.
        params: all parameters, see `config.PARAMS`.
        init: see `checkpoint.initial_weights`.
        variant: a key of `config.VARIANTS`; None for "lite" with the initial weights of the lite network, else "full".
        context: one of `config.CONTEXTS`.
        restart: whether to start over if a run of this name exists.
        input_size: height and width; "auto" for a size by each photograph's shape, None for each dataset's own.
        valid_fraction, sigma, pixels_per_degree: of your own photographs; see `data.split_custom` and `fixations.Blur`.
    """

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
        # These options decide what is learned, and therefore belong to the settings of the run.
        own = {"valid_fraction": valid_fraction, "sigma": options.sigma, "pixels_per_degree": options.pixels_per_degree}
        params |= own
        folder = data.find_dataset(CUSTOM, options.path)
        if not options.restart:
            check_resumed(Path(params["results"]), "+".join(options.data), own)
        make_missing_maps(folder, params, Blur(options.sigma, options.pixels_per_degree))
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
    fit.train(
        groups,
        params,
        variant=options.variant or ("lite" if options.init == "lite" else "full"),
        context=options.context,
        init=options.init,
        restart=options.restart,
        fit_pixels=math.prod(sizes[options.data[0]]) if options.input_size == "auto" else None,
    )


def check(options: Options) -> None:
    """Check that the options fit together."""
    if len(set(options.data)) < len(options.data):
        raise UserError(f"Received -d {' '.join(options.data)}, expected each dataset once.")
    for name in OF_CUSTOM:
        if CUSTOM not in options.data and getattr(options, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} requires -d custom; other datasets are used as published.")


def check_resumed(results: Path, name: str, settings: Mapping) -> None:
    """Refuse to resume a run that has other settings than these, before maps are made that it cannot use."""
    with quiet_stderr():
        from .training.run import Run
    run = Run(results, name, dict(settings))
    if run.exists():
        run.read()
