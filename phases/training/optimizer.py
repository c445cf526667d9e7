"""The loss and the optimizer of a training, and the schedule of its learning rate."""

from collections.abc import Callable, Mapping

import keras

from ...loss import cc, combined, kld, nss
from ...utils import count

# The paper's value and the default of TensorFlow 1; the default of Keras is 1e-7.
ADAM_EPSILON = 1e-8


def compile_model(model: keras.Model, params: Mapping, steps: int) -> None:
    """Give a model the loss and the optimizer; an epoch has `steps` training steps."""
    optimizer = keras.optimizers.Adam(
        learning_rate(params, steps),
        epsilon=ADAM_EPSILON,
        weight_decay=params["weight_decay"] or None,
        use_ema=params["weight_average"] > 0,
        ema_momentum=params["weight_average"],
    )
    if params["weight_decay"]:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    if params["precision"] == "float16":  # Many gradients are below its smallest numbers.
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(model.trainable_variables)
    loss: Callable = kld
    metrics: list = []
    if params["cc_weight"] or params["nss_weight"]:
        loss, metrics = combined(params["cc_weight"], params["nss_weight"]), [kld, cc, nss]
    # XLA would recompile for each input size, and does not work with several GPUs.
    model.compile(optimizer, loss, metrics=metrics, jit_compile=False)


def learning_rate(params: Mapping, steps: int) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate: a number, or a function of the training step. An epoch has `steps` training steps."""
    rate, warmup, total = params["learning_rate"], warmup_steps(params, steps), params["epochs"] * steps
    if params["cosine_decay"]:
        return keras.optimizers.schedules.CosineDecay(
            0.0, max(1, total - warmup), warmup_target=rate, warmup_steps=warmup
        )
    if warmup:
        return keras.optimizers.schedules.PolynomialDecay(0.0, warmup, rate)  # Rises linearly, then stays.
    return rate


def warmup_steps(params: Mapping, steps: int) -> int:
    """Steps over which the learning rate rises: as set, but if that is most of the training, a tenth of it."""
    total = params["epochs"] * steps
    return params["warmup_steps"] if params["warmup_steps"] <= total / 2 else max(1, total // 10)


def explain_learning_rate(params: Mapping, steps: int, done: int, epochs_before: int | None) -> list[str]:
    """A sentence for each way in which the learning rate differs from what the flags alone suggest.

    An earlier process trained `done` epochs with --epochs `epochs_before`, if there was one.
    """
    notes = []
    warmup = warmup_steps(params, steps)
    if warmup != params["warmup_steps"]:
        notes.append(
            f"The learning rate rises over {count(warmup, 'step')} instead of {params['warmup_steps']}, which would be "
            f"most of this training's {params['epochs'] * steps}."
        )
    if epochs_before not in (None, params["epochs"]):
        was, now = (
            rate(done * steps) if callable(rate := learning_rate(p, steps)) else rate
            for p in ({**params, "epochs": epochs_before}, params)
        )
        if was != now:
            notes.append(
                f"This run was started with --epochs {epochs_before} and now has {params['epochs']}: the learning rate "
                f"continues with {now:.2g} instead of {was:.2g}."
            )
    return notes
