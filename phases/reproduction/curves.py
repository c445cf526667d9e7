"""The learning curves of a reproduction: one picture per dataset, with all trainings on it."""

from collections.abc import Sequence
from pathlib import Path

from ...utils import whole_file
from .ledger import Outcome
from .plan import Options


def draw_curves(folder: Path, options: Options, trainings: Sequence[Outcome]) -> list[Path]:
    """Draw `curves_<dataset>.png` for each dataset with finished trainings.

    Returns:
        The pictures.
    """
    from matplotlib.figure import Figure  # pyplot would require a display.

    pictures = []
    for name in dict.fromkeys(outcome.step.data for outcome in trainings):
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        for number, outcome in enumerate(found for found in trainings if found.step.data == name):
            assert outcome.result
            rows, color = outcome.result["epochs"], f"C{number % 10}"
            epochs = [row["epoch"] for row in rows]
            label = f"{options.title(outcome.step.network)}, seed {outcome.step.seed}"
            axes.plot(epochs, [row["val_loss"] for row in rows], marker="o", markersize=3, color=color, label=label)
            axes.plot(epochs, [row["loss"] for row in rows], linestyle=":", color=color)
        axes.set(
            xlabel="epoch", ylabel="Kullback-Leibler divergence (nats)", title=f"{name}: validation (dotted: training)"
        )
        axes.locator_params("x", integer=True)
        axes.legend(fontsize=8)
        path = folder / f"curves_{name}.png"
        with whole_file(path) as temporary:
            figure.savefig(temporary, dpi=120)
        pictures.append(path)
    return pictures
