"""The training phase: from photographs and fixations to checkpoints, a history and a run record."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import keras
import tensorflow as tf

import checkpoint
import utils
from checkpoint import Knowledge, TrainedOn
from config import VARIANTS
from data import Group, files_hash, is_split_by_folders, names_hash
from images import find_damaged
from loss import cc, combined, kld, nss
from model import build_model, choose_layout, describe_device
from phases.training.batches import feed, group_by_shape, loaders, training_plan, validation_plan
from phases.training.callbacks import Board, EpochEnd, ValidateAverage, check_tensorboard
from phases.training.devices import choose_devices, strategy_for
from phases.training.run import Run
from precision import check_precision
from utils import UserError

# The paper's value, and that of TensorFlow 1; Keras' own default is 1e-7.
ADAM_EPSILON = 1e-8


def train(
    name: str,
    groups: Sequence[tuple[Group, Group]],
    params: Mapping,
    *,
    variant: str = "full",
    context: str = "aspp",
    init: str | None = None,
    restart: bool = False,
    fit_pixels: int | None = None,
) -> None:
    """Train, or continue an interrupted run of the same settings.

    Args:
        name: of the dataset or datasets; the run's files are called after it.
        groups: for each dataset, the samples that train and those that validate.
        params: `config.PARAMS` with a recipe's changes and the user's flags.
        variant: a key of `config.VARIANTS`.
        context: "aspp", or "plain" for the paper's ablation.
        init: what to start from; see `checkpoint.initial_weights`.
        restart: begin anew where a run of this name exists.
        fit_pixels: of the network's input, whose shape is then each photograph's own (see `data.fitted_size`); None
            for the groups' sizes.

    Raises:
        UserError: an existing run has other settings, another process trains it, initial weights cannot be had, an
            image cannot be read, the memory is too small, or the loss or a weight is not a number.
    """
    parts = groups if fit_pixels is None else [part for pair in groups for part in group_by_shape(pair, fit_pixels)]
    train_groups, valid_groups = ([group for group in column if group.samples] for column in zip(*parts, strict=True))
    if not train_groups or not valid_groups:
        raise UserError(
            f"Training needs images that train and images that validate, received {_count(train_groups)} and "
            f"{_count(valid_groups)}: add images, or choose another --valid-fraction."
        )
    settings = _settings(name, groups, params, variant=variant, context=context, init=init, fit_pixels=fit_pixels)
    run = Run(Path(params["results"]), name, settings, _knowledge(name, groups, settings), epochs=params["epochs"])
    with run.lock():
        _train(run, params, train_groups, valid_groups, restart)


def _train(
    run: Run, params: Mapping, train_groups: Sequence[Group], valid_groups: Sequence[Group], restart: bool
) -> None:
    name, variant, context = (run.settings[key] for key in ("dataset", "variant", "context"))
    if params["tensorboard"]:
        check_tensorboard()
    if slow := check_precision(params["precision"]):
        print(slow)
    layout = choose_layout(params["device"])
    devices = choose_devices(params["gpus"], params["batch_size"])
    strategy = strategy_for(devices)
    device = describe_device(layout, len(devices))
    resuming = run.exists() and not restart
    if resuming:
        run.read()
        arrays = checkpoint.read_arrays(run.latest_path, "Begin anew with --restart.")
    else:
        arrays, run.start = checkpoint.initial_weights(
            name, run.settings["init"], results=run.results, context=context, variant=variant
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
    print(f"Training {name}: {_count(train_groups)} images, validating with {_count(valid_groups)}, on {device}.")
    print(f"Starting from {run.beginning()}.")
    first = len(run.history)
    if first >= params["epochs"]:
        print(
            f"This run is finished: {utils.count(first, 'epoch')} of {params['epochs']}, best validation loss "
            f"{run.best():.4f}. Train on with --epochs {first + params['epochs']}, or begin anew with --restart."
        )
        return
    _say_learning_rate(run, params, steps)

    run.record(params, device)
    with (
        _failures_explained([*train_groups, *valid_groups]),
        loaders(run.cache_path, params, train_groups, valid_groups) as load,
    ):
        _fit(model, strategy, run, params, steps, load, train_groups, valid_groups)
    run.record(params, device)
    print(f"Done. The best checkpoint has validation loss {run.best():.4f}: {run.best_path}")


def _fit(model, strategy, run: Run, params: Mapping, steps: int, load, train_groups, valid_groups) -> None:
    """Train for the epochs that are left."""
    first = len(run.history)
    plan = [
        batch
        for epoch in range(first, params["epochs"])
        for batch in training_plan(train_groups, params["batch_size"], params["seed"], epoch, params["scales"])
    ]
    validation = validation_plan(valid_groups, params["batch_size"])
    callbacks: list = [ValidateAverage()] if params["weight_average"] else []
    if params["tensorboard"]:
        folder = run.results / "tensorboard" / run.settings["dataset"]
        callbacks.append(Board(folder, validation, _count(train_groups)))
    model.fit(
        feed(strategy, plan, load[0]),
        validation_data=feed(strategy, validation, load[1]),
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
    """Turn what TensorFlow raises for a small memory or a damaged image into an error that a user can act on."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise UserError(
            "The memory is too small for this training: try a smaller --batch-size, --variant lite, or a smaller "
            "--input-size."
        ) from error
    except tf.errors.OpError as error:
        damaged = find_damaged([sample for group in groups for sample in group.samples])
        if not damaged:
            raise
        raise UserError(
            f"Training stopped at an image that cannot be read: {utils.name_some(damaged, '; ')}. Replace it, or "
            f"remove it and what belongs to it, and repeat the command."
        ) from error


def needs_batch_norm(arrays: Mapping, variant: str) -> bool:
    """Whether to train with batch normalisation: as complete initial weights were, else as the variant needs it.

    Weights whose normalisation is folded in go on without: to normalise again would undo what they learned.
    """
    found = checkpoint.describe(arrays)
    return found.batch_norm if found.context else bool(VARIANTS[variant]["batch_norm"])


def compile_model(model: keras.Model, params: Mapping, steps: int) -> None:
    """Give a model the loss and the optimizer.

    Args:
        model: the network.
        params: see `config.PARAMS`; those of the optimizer are used.
        steps: training steps of one epoch, which the decay of the learning rate is stretched over.
    """
    optimizer = keras.optimizers.Adam(
        learning_rate(params, steps),
        epsilon=ADAM_EPSILON,
        weight_decay=params["weight_decay"] or None,
        use_ema=params["weight_average"] > 0,
        ema_momentum=params["weight_average"],
    )
    if params["weight_decay"]:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    if params["precision"] == "float16":  # Its smallest numbers are greater than many gradients.
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(model.trainable_variables)
    loss: Callable = kld
    metrics: list = []
    if params["cc_weight"] or params["nss_weight"]:
        loss, metrics = combined(params["cc_weight"], params["nss_weight"]), [kld, cc, nss]
    # Compiling with XLA would compile anew for each size of the input, and does not work with several GPUs.
    model.compile(optimizer, loss, metrics=metrics, jit_compile=False)


def learning_rate(params: Mapping, steps: int) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate of `config.PARAMS`, alone or as a function of the training step; `steps` make an epoch."""
    rate, warmup, total = params["learning_rate"], warmup_steps(params, steps), params["epochs"] * steps
    if params["cosine_decay"]:
        return keras.optimizers.schedules.CosineDecay(
            0.0, max(1, total - warmup), warmup_target=rate, warmup_steps=warmup
        )
    if warmup:
        return keras.optimizers.schedules.PolynomialDecay(0.0, warmup, rate)  # Rises along a line, and stays.
    return rate


def warmup_steps(params: Mapping, steps: int) -> int:
    """Steps over which the learning rate rises: as set, or a tenth of a training of which they would be most."""
    total = params["epochs"] * steps
    return params["warmup_steps"] if params["warmup_steps"] <= total / 2 else max(1, total // 10)


def _say_learning_rate(run: Run, params: Mapping, steps: int) -> None:
    """Say where the learning rate is not what the flags alone suggest."""
    warmup = warmup_steps(params, steps)
    if warmup != params["warmup_steps"]:
        print(
            f"The learning rate rises over {utils.count(warmup, 'step')} instead of {params['warmup_steps']}, which "
            f"would be most of this training's {params['epochs'] * steps}."
        )
    if run.epochs_before not in (None, params["epochs"]):
        was, now = (
            rate(len(run.history) * steps) if callable(rate := learning_rate(p, steps)) else rate
            for p in ({**params, "epochs": run.epochs_before}, params)
        )
        if was != now:
            print(
                f"The run was to have {utils.count(run.epochs_before, 'epoch')} and now has {params['epochs']}: the "
                f"learning rate goes on with {now:.2g}, where it would have been {was:.2g}."
            )


def _settings(name: str, groups: Sequence[tuple[Group, Group]], params: Mapping, **others) -> dict:
    """What must not change while a run is continued. Devices, folders and the number of epochs may."""
    free = ("device", "gpus", "cache", "tensorboard", "results", "epochs")
    named = [
        not is_split_by_folders([*train.samples, *valid.samples])
        for dataset, (train, valid) in zip(name.split("+"), groups, strict=True)
        if dataset == "custom"
    ]
    return {
        "dataset": name,
        **others,
        **{
            part: [[len(group.samples), *group.size] for group in column if group.samples]
            for part, column in zip(("train", "valid"), zip(*groups, strict=True), strict=True)
        },
        "split": [names_hash(*_names(pair)) for pair in groups],
        **({"custom_split": "by name"} if any(named) else {}),
        "files": [files_hash([*train.samples, *valid.samples]) for train, valid in groups],
        **{key: list(value) if isinstance(value, tuple) else value for key, value in params.items() if key not in free},
    }


def _knowledge(name: str, groups: Sequence[tuple[Group, Group]], settings: dict) -> Knowledge:
    """What the checkpoints of a run tell whoever predicts with them; `name` joins the datasets' names by "+"."""
    fit_shape = settings["fit_pixels"] is not None
    datasets = {
        # By shape, all inputs have as many pixels as the first dataset's.
        dataset: TrainedOn(groups[0][0].size if fit_shape else pair[0].size, *_names(pair), split)
        for dataset, pair, split in zip(name.split("+"), groups, settings["split"], strict=True)
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
    """The names of the images that train and that validate."""
    train, valid = (tuple(sample.name for sample in group.samples) for group in pair)
    return train, valid


def _count(groups: Sequence[Group]) -> int:
    return sum(len(group.samples) for group in groups)
