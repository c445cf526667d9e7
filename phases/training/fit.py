"""Training: the network, its loss and optimizer, and the epochs of a run."""

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from ... import checkpoint
from ...checkpoint import Knowledge, TrainedOn
from ...config import FEW, PARAMS, SPEED, VARIANTS
from ...data import CUSTOM, Group, files_hash, is_split_by_folders, names_hash
from ...images import find_damaged
from ...model import build_model, choose_layout, describe_device, find_gpus
from ...precision import check_precision
from ...utils import UserError, count, name_some
from .batches import feed, group_by_shape, training_plan, validation_plan
from .callbacks import EpochEnd, ValidateAverage
from .optimizer import compile_model, explain_learning_rate
from .run import Run


def train(
    groups: Mapping[str, tuple[Group, Group]],
    params: Mapping,
    *,
    variant: str = "full",
    context: str = "aspp",
    init: str | None = None,
    restart: bool = False,
    fit_pixels: int | None = None,
) -> None:
    """Train, or resume an interrupted run with the same settings; see `phases.train.Options`.

    Args:
        groups: for each dataset by name, the training and the validation samples.
        params: values of `config.PARAMS` after recipe and flags, and the options for your own photographs.
        fit_pixels: pixels of the network's input if it takes each photograph's shape; None to use the groups' sizes.

    Raises:
        UserError: an existing run has other settings, another process is training it, initial weights are not
            available, an image cannot be read, memory is too small, or the loss or a weight is not a number.
    """
    pairs = list(groups.values())
    if fit_pixels is not None:
        pairs = [part for pair in pairs for part in group_by_shape(pair, fit_pixels)]
    train_groups, valid_groups = ([group for group in column if group.samples] for column in zip(*pairs, strict=True))
    if not train_groups or not valid_groups:
        raise UserError(
            f"Training needs training images and validation images, received {_count(train_groups)} and "
            f"{_count(valid_groups)}: add images, or choose another --valid-fraction."
        )
    settings = settings_of(groups, params, variant=variant, context=context, init=init, fit_pixels=fit_pixels)
    knowledge = _knowledge(groups, settings)
    run = Run(Path(params["results"]), settings["dataset"], settings, knowledge, epochs=params["epochs"])
    with run.lock():
        _train(run, params, train_groups, valid_groups, restart)


def _train(
    run: Run, params: Mapping, train_groups: Sequence[Group], valid_groups: Sequence[Group], restart: bool
) -> None:
    variant, context = run.settings["variant"], run.settings["context"]
    if params["tensorboard"] and importlib.util.find_spec("tensorboard") is None:
        raise UserError("--tensorboard requires TensorBoard, which is not installed: run 'pip install tensorboard'.")
    if slow := check_precision(params["precision"]):
        print(slow)
    layout = choose_layout(params["device"])
    devices = choose_devices(params["gpus"], params["batch_size"])
    strategy = tf.distribute.MirroredStrategy(devices) if len(devices) > 1 else tf.distribute.get_strategy()
    device = describe_device(layout, len(devices))
    resuming = run.exists() and not restart
    if resuming:
        run.read()
        arrays = checkpoint.read_arrays(run.latest_path, "Start over with --restart.")
    else:
        arrays, run.start = checkpoint.initial_weights(
            run.name, run.settings["init"], results=run.results, context=context, variant=variant
        )

    steps = len(training_plan(train_groups, params["batch_size"], params["seed"], 0))
    width, batch_norm = VARIANTS[variant]["width"], needs_batch_norm(arrays, variant)
    with strategy.scope():
        model = build_model(layout, context, width, batch_norm, params["seed"], params["precision"])
        compile_model(model, params, steps)
        if resuming:
            checkpoint.load_checkpoint(model, run.latest_path)
        elif arrays:
            checkpoint.assign(model, arrays)
    print(f"Training {run.name}: {_count(train_groups)} images, validating with {_count(valid_groups)}, on {device}.")
    if _count(valid_groups) < FEW:
        few = count(_count(valid_groups), "image")
        print(f"Only {few} to choose the best epoch, so the choice is chance. See --valid-fraction.")
    print(f"Starting from {run.beginning()}.")
    first = len(run.history)
    if first >= params["epochs"]:
        print(
            f"This run is finished: {count(first, 'epoch')} of {params['epochs']}, best validation loss "
            f"{run.best():.4f}. Continue with --epochs {first + params['epochs']}, or start over with --restart."
        )
        return
    for note in explain_learning_rate(params, steps, first, run.epochs_before):
        print(note)

    run.record(params, device)
    with _failures_explained([*train_groups, *valid_groups]):
        _fit(model, strategy, run, params, steps, train_groups, valid_groups)
    run.record(params, device)
    print(f"Done. The best checkpoint has validation loss {run.best():.4f}: {run.best_path}")


def _fit(model, strategy, run: Run, params: Mapping, steps: int, train_groups, valid_groups) -> None:
    """Train for the remaining epochs."""
    first = len(run.history)
    plan = [
        batch
        for epoch in range(first, params["epochs"])
        for batch in training_plan(train_groups, params["batch_size"], params["seed"], epoch, params["scales"])
    ]
    validation = validation_plan(valid_groups, params["batch_size"])
    callbacks: list = [ValidateAverage()] if params["weight_average"] else []
    if params["tensorboard"]:
        callbacks.append(keras.callbacks.TensorBoard(run.results / "tensorboard" / run.name, write_graph=False))
    augmentation = {key: params[key] for key in ("mirror", "color", "crop") if params[key]}
    model.fit(
        feed(strategy, plan, augmentation),
        validation_data=feed(strategy, validation),
        validation_steps=len(validation),
        initial_epoch=first,
        epochs=params["epochs"],
        steps_per_epoch=steps,
        callbacks=[*callbacks, EpochEnd(run, steps)],
        shuffle=False,
        verbose=0,
    )


@contextlib.contextmanager
def _failures_explained(groups: Sequence[Group]) -> Iterator[None]:
    """Turn TensorFlow's errors about too little memory or a damaged image into errors that a user can act on."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise UserError(
            "There is not enough memory for this training: try a smaller --batch-size, a smaller --input-size, or "
            "--init lite."
        ) from error
    except tf.errors.OpError as error:
        damaged = find_damaged([sample for group in groups for sample in group.samples])
        if not damaged:
            raise
        raise UserError(
            f"Training stopped at an image that cannot be read: {name_some(damaged, '; ')}. Replace it, or remove it "
            f"with its map and fixations, and repeat the command."
        ) from error


def choose_devices(gpus: int, batch_size: int) -> list[str]:
    """Names of the GPUs that share each batch, with at least one image each; empty if there are none.

    A `UserError` if this machine has fewer GPUs, or a batch has fewer images.
    """
    found = find_gpus(gpus)
    if gpus > batch_size:
        raise UserError(
            f"--batch-size {batch_size} is shared by --gpus {gpus}, so some GPUs would get no image: choose at least "
            f"--batch-size {gpus}, or fewer GPUs."
        )
    return found[:batch_size]


def needs_batch_norm(arrays: Mapping, variant: str) -> bool:
    """Whether to train with batch normalization: as in the initial weights if they are complete, else by variant.

    Weights with folded batch normalization train without it: normalizing again would undo what they learned.
    """
    found = checkpoint.describe(arrays)
    return found.batch_norm if found.context else bool(VARIANTS[variant]["batch_norm"])


def settings_of(groups: Mapping[str, tuple[Group, Group]], params: Mapping, **others) -> dict:
    """All settings that must not change while a run is resumed.

    Includes the parameters in `config.PARAMS` that affect more than speed, except those that may change.
    """
    kept = {key for key in params if key not in PARAMS or (PARAMS[key].affects != SPEED and not PARAMS[key].may_change)}
    samples = {name: [*train.samples, *valid.samples] for name, (train, valid) in groups.items()}
    by_name = CUSTOM in samples and not is_split_by_folders(samples[CUSTOM])
    return {
        "dataset": "+".join(groups),
        **others,
        **{
            part: [[len(group.samples), *group.size] for group in column if group.samples]
            for part, column in zip(("train", "valid"), zip(*groups.values(), strict=True), strict=True)
        },
        "split": [names_hash(*_names(pair)) for pair in groups.values()],
        **({"custom_split": "by name"} if by_name else {}),
        "files": [files_hash(found) for found in samples.values()],
        **{key: list(value) if isinstance(value, tuple) else value for key, value in params.items() if key in kept},
    }


def _knowledge(groups: Mapping[str, tuple[Group, Group]], settings: dict) -> Knowledge:
    """Metadata that a run's checkpoints carry for prediction."""
    fit_shape = settings["fit_pixels"] is not None
    first, _ = next(iter(groups.values()))
    datasets = {
        # With `fit_shape`, all inputs have about as many pixels as those of the first dataset.
        name: TrainedOn(first.size if fit_shape else pair[0].size, *_names(pair), split)
        for (name, pair), split in zip(groups.items(), settings["split"], strict=True)
    }
    largest = max(datasets.values(), key=lambda dataset: len(dataset.train))
    return Knowledge(
        largest.input_size,
        settings["context"],
        settings["variant"],
        datasets,
        settings.get("valid_fraction"),
        fit_shape,
        settings=settings,
    )


def _names(pair: tuple[Group, Group]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the training images and of the validation images."""
    train, valid = (tuple(sample.name for sample in group.samples) for group in pair)
    return train, valid


def _count(groups: Sequence[Group]) -> int:
    return sum(len(group.samples) for group in groups)
