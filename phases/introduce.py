"""What a phase prints about the network that it uses."""

import json

from ..acquisition import datasets
from ..bundled import name_of


def introduce(network, data: str, input_size, verbose: bool = False) -> None:
    """Print the network in one line; if it is bundled, also the dataset's own input size where that differs.

    Args:
        network: the one that predicts, a `predictor.Predictor`.
        data, input_size: what the user asked for with `--data` and `--input-size`.
        verbose: also print what the run's record says.
    """
    print(network.summary())
    published = datasets.input_size(data)
    if input_size is None and name_of(network.weights.path) and network.input_size != published:
        print(f"It has its own input size; that of -d {data} is --input-size {published[0]} {published[1]}.")
    if verbose:
        print(json.dumps(network.record(), indent=2))
