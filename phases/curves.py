"""The curves of trainings."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..utils import whole_file


def draw_losses(path: Path, histories: Mapping[str, Sequence[Mapping]], title: str = "") -> None:
    """Draw the validation loss of trainings, by label, over the epochs as solid lines, and the training loss dotted.

    Each row of a history has "epoch", "loss" and "val_loss".
    """
    from matplotlib.figure import Figure  # pyplot would require a display.

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for number, (label, history) in enumerate(histories.items()):
        epochs, color = [row["epoch"] for row in history], f"C{number % 10}"
        losses = [row["val_loss"] for row in history]
        axes.plot(epochs, losses, marker="o", markersize=3, color=color, label=label)
        axes.plot(epochs, [row["loss"] for row in history], linestyle=":", color=color)
    # If KLD has its own column, the loss is a sum of several terms.
    is_sum = any("val_kld" in history[0] for history in histories.values())
    unit = "loss" if is_sum else "Kullback-Leibler divergence (nats)"
    axes.set(xlabel="epoch", ylabel=unit, title=f"{title}validation (dotted: training)")
    axes.locator_params("x", integer=True)
    axes.legend(fontsize=8)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)
