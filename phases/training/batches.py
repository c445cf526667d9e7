"""How batches are made, and how they reach the devices."""

import contextlib
import functools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import tensorflow as tf

from data import Batch, Group, share_out
from images import load_batches, load_cached, write_cache

Loader = Callable[[Sequence[Batch]], tf.data.Dataset]


def feed(strategy: tf.distribute.Strategy, plan: Sequence[Batch], load: Loader = load_batches):
    """The batches of a plan, each shared by the devices of a strategy; `load` makes a dataset of a plan."""
    devices = strategy.num_replicas_in_sync
    if devices == 1:
        return load(plan)
    shares = share_out(plan, devices)
    # Without end, as Keras does not learn the length of a distributed dataset, and stops by its number of steps.
    return strategy.distribute_datasets_from_function(lambda _: load(shares).repeat())


@contextlib.contextmanager
def loaders(
    folder: Path, params: Mapping, train_groups: Sequence[Group], valid_groups: Sequence[Group]
) -> Iterator[tuple[Loader, Loader]]:
    """What makes datasets of plans, that of training and that of validation.

    Args:
        folder: for the cache, if there is to be one; it is removed afterwards.
        params: see `config.PARAMS`.
        train_groups, valid_groups: what the plans are made of.
    """
    augmentation = {key: params[key] for key in ("mirror", "color", "crop") if params[key]}
    training = functools.partial(load_batches, augmentation=augmentation)
    if not params["cache"]:
        yield training, load_batches
        return
    varied = bool(augmentation) or any(scale != 1 for scale in params["scales"])
    if varied:
        print("Training varies its images, so that only those of the validation are cached.")
    shutil.rmtree(folder, ignore_errors=True)  # Of a process that was killed.
    try:
        files = write_cache([*valid_groups, *([] if varied else train_groups)], folder)
        cached = functools.partial(load_cached, files=files)
        yield training if varied else cached, cached
    finally:
        shutil.rmtree(folder, ignore_errors=True)
