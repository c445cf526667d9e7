"""The `evaluate` phase: from predictions, or existing maps, to scores with intervals and pictures.

This file chooses the images. `phases/evaluation` scores them, and is imported when the options are correct.
"""

from pathlib import Path

from .. import data
from ..acquisition import datasets
from ..config import VALID_FRACTION
from ..data import CUSTOM
from ..scoring.fixations import make_saliency
from ..scoring.protocols import PROTOCOLS
from ..utils import UserError, quiet_stderr
from .evaluation.options import Images, Options


def run(options: Options) -> None:
    """Score networks and folders of maps, print one table, and write the run's files."""
    check(options)
    images = choose_images(options)
    with quiet_stderr():
        from .evaluation import scores
    scores.evaluate(options, images)


def check(options: Options) -> None:
    """Check that the options fit together."""
    name, of_densities = options.name, (options.metric_maps, options.fit, options.density, options.sigma)
    if any(of_densities) and not PROTOCOLS[options.protocol].uses_density:
        raise UserError("--metric-maps, --fit, --density and --sigma require --protocol tuebingen.")
    if options.fit and options.split != "valid":
        raise UserError(f"--fit uses the training split, so it cannot be scored on --split {options.split}.")
    if name is not None and (Path(name).name != name or name in ("", "..") or set(name) & set("/\\\0")):
        raise UserError(
            f"--name names a folder in {options.folder_of_runs}: it must not be empty, '..' or contain a slash; "
            f"received {name!r}."
        )


def choose_images(options: Options) -> Images:
    """Find the dataset and choose the images to score; missing maps of your own photographs are made."""
    folder = data.find_dataset(options.data, options.path)
    if options.data == CUSTOM:
        make_saliency(folder, None, options.params["orientation"], options.params["max_dropped"])
    if options.split == "all":
        return Images(folder, data.pair_files(folder, options.orientation))
    share = choose_fraction(options, folder) if options.data == CUSTOM else None
    size = datasets.input_size(options.data)
    groups = data.load_groups(options.data, folder, size, valid_fraction=share or 0.0, orientation=options.orientation)
    train, valid = (group.samples for group in groups)
    return Images(folder, train if options.split == "train" else valid, train if options.fit else (), share)


def choose_fraction(options: Options, folder: Path) -> float:
    """The share of your own images that validates.

    It is the one that the user named; else that of the first weights in whose training these images were; else the
    default. Weights of other people's photographs share a few names at most.
    """
    if options.valid_fraction is not None:
        return options.valid_fraction
    if options.maps and not options.weights:
        return VALID_FRACTION
    with quiet_stderr():
        from ..checkpoint import choose_weights, read_knowledge
    names = [sample.name for sample in data.pair_files(folder)]
    for wanted in options.weights or (None,):
        known = read_knowledge(choose_weights(CUSTOM, wanted, Path(options.params["results"])).path)
        if known is None or known.valid_fraction is None or CUSTOM not in known.datasets:
            continue
        if 2 * len(known.trained_on(CUSTOM, names)) > len(known.datasets[CUSTOM].train):
            return known.valid_fraction
    return VALID_FRACTION
