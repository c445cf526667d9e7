"""The page of a reproduction: tables, pictures and provenance, as Markdown, CSV, JSON and LaTeX."""

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ...acquisition.datasets import DATASETS
from ...config import PROTOCOLS
from ...scoring import protocols
from ...utils import count, whole_file, write_json
from . import latex, provenance
from .commands import command_of
from .curves import draw_curves
from .ledger import Outcome
from .plan import Options
from .reference import Reference
from .rows import compare, make_rows, metrics_of


class Report:
    """The results of a reproduction: `summary` for the terminal, `write` for the folder."""

    def __init__(self, options: Options, outcomes: Sequence[Outcome], references: Sequence[Reference]):
        self.options, self.outcomes = options, outcomes
        self.rows = make_rows(options, outcomes)
        self.comparisons = compare(self.rows, references)

    def summary(self) -> str:
        """The tables only."""
        return "\n\n".join(f"Protocol {name}\n\n{self.table(name)}" for name in PROTOCOLS)

    def write(self) -> None:
        """Write every file of the page.

        Raises:
            OSError: the disk is full, or the folder cannot be written to.
        """
        folder = self.options.folder
        curves = draw_curves(folder, self.options, self.done("train"))
        self._write_csv(folder / "results.csv")
        write_json(folder / "results.json", self.as_json())
        for path, text in ((folder / "tables.tex", latex.document(self)), (folder / "README.md", self.page(curves))):
            with whole_file(path) as temporary:
                temporary.write_text(text, encoding="utf-8")

    def done(self, kind: str) -> list[Outcome]:
        """The finished steps of a kind."""
        return [outcome for outcome in self.outcomes if outcome.step.kind == kind and outcome.result]

    # --- Tables -------------------------------------------------------------------------------------------------------

    def table(self, protocol: str) -> str:
        """One row per network and dataset, one column per metric, in Markdown."""
        metrics = metrics_of(protocol, self.rows)
        arrow = protocols.PROTOCOLS[protocol].arrow
        lines = [["network", "dataset", *(f"{metric} {arrow(metric)}" for metric in metrics)]]
        for row in self.rows:
            if row.protocol == protocol:
                cells = [str(row.scores.get(metric, "–")) for metric in metrics] if row.scores else []
                notes = [f"failed: {row.reason}"] if row.reason and not row.scores else []
                title = row.title + (f" ({row.reason})" if row.reason and row.scores else "")
                lines.append([title, row.dataset, *cells, *notes])
        return markdown(lines)

    def _reference_table(self) -> str:
        lines = [["dataset", "metric", "protocol", "network", "published", "ours", "difference", "", "source"]]
        for found in self.comparisons:
            ours, difference = found.ours, found.difference
            lines.append(
                [
                    found.row.dataset,
                    found.reference.metric,
                    found.row.protocol,
                    found.row.title,
                    f"{found.reference.value:g}",
                    str(ours) if ours else f"failed: {found.row.reason or 'no value'}",
                    "" if difference is None else f"{difference:+.3f}",
                    "**outside**" if found.is_outside else "",
                    found.reference.source,
                ]
            )
        return markdown(lines)

    # --- The page -----------------------------------------------------------------------------------------------------

    def page(self, curves: Sequence[Path]) -> str:
        """README.md."""
        sections = [self._head(), *(self._scores(protocol) for protocol in PROTOCOLS)]
        if self.comparisons:
            text = (
                "Published numbers next to ours; *outside* marks those outside our interval. They can only be compared "
                "if protocol, ground truth and images are the same."
            )
            sections.append(f"## Published and reproduced\n\n{text}\n\n{self._reference_table()}")
        if self.done("train"):
            sections.append(self._trainings(curves))
        sections.append(self._pictures())
        if any(outcome.step.kind == "submit" for outcome in self.outcomes):
            sections.append(self._submissions())
        sections += [self._provenance(), self._commands(), self._costs()]
        return "\n\n".join(sections) + "\n"

    def _head(self) -> str:
        options, failed = self.options, [row for row in self.rows if row.reason]
        lines = [
            "# MSI-Net: a reproduction",
            "Contextual encoder–decoder network for visual saliency prediction (Kroner, Senden, Driessens, Goebel; "
            "Neural Networks 129, 2020, 261–270, doi:10.1016/j.neunet.2020.05.004), scored on the validation images of "
            f"{count(len(options.names), 'dataset')}: {', '.join(DATASETS[name].title for name in options.names)}.",
        ]
        if options.weights != "published":
            stand_in = "the lite network" if options.weights == "lite" else options.weights
            lines.append(
                f"**The published networks are not in these tables.** They are replaced by {stand_in}, because of "
                f"`--weights`; its numbers are not those of the paper."
            )
        if size := options.input_size:
            lines.append(f"**The networks' input was {size[0]}×{size[1]}**, not that of the paper.")
        if failed:
            lines.append(
                f"{count(len(failed), 'row')} of {len(self.rows)} failed or are incomplete; each says why. Run the "
                f"same command to try them again; finished steps are skipped."
            )
        lines.append(
            "The same numbers with all digits are in [results.csv](results.csv) and [results.json](results.json), the "
            "tables for LaTeX in [tables.tex](tables.tex)."
        )
        return "\n\n".join(lines)

    def _scores(self, protocol: str) -> str:
        number = self.options.seeds
        spread = f"; mean ± standard deviation over {number} trainings for those trained here" if number > 1 else ""
        text = (
            f"Metrics as defined by {PROTOCOLS[protocol]}. Mean over the validation images [95 % bootstrap interval]"
            f"{spread}. The *dataset's own maps* are the ground truth itself (blurred fixations) instead of a "
            f"prediction: they show the score of a perfect map of this kind."
        )
        if protocol == "mit" and "EMD" not in metrics_of(protocol, self.rows):
            text += " EMD is missing because the library POT is not installed."
        return f"## Scores, protocol {protocol}\n\n{text}\n\n{self.table(protocol)}"

    def _trainings(self, curves: Sequence[Path]) -> str:
        lines = [["training", "starts from", "epochs", "best epoch", "best validation loss"]]
        for outcome in self.done("train"):
            assert outcome.result
            epochs = outcome.result["epochs"]
            best = min(epochs, key=lambda row: row["val_loss"])
            start = (
                Path(outcome.result["init"]).name if outcome.step.data == "salicon" else "the SALICON training above"
            )
            row = [outcome.step.name, start, str(len(epochs)), f"{best['epoch']:g}", f"{best['val_loss']:.4f}"]
            lines.append(row)
        pictures = [f"![Loss over the epochs on {path.stem.removeprefix('curves_')}]({path.name})" for path in curves]
        return "\n\n".join(["## Learning curves", markdown(lines), *pictures])

    def _pictures(self) -> str:
        lines = [
            "## Best, median and worst images",
            "By NSS, or by CC if there are no fixations; protocol tuebingen. From the left: photograph with "
            "fixations, ground truth, prediction.",
        ]
        for outcome in self.done("evaluate"):
            step, result = outcome.step, outcome.result
            if step.network == "baselines" or step.protocol != "tuebingen" or not result:
                continue
            if Path(result["examples"]).exists():
                words = self._words(outcome)
                lines += [f"### {words}", f"![{words}]({self._link(Path(result['examples']))})"]
        return "\n\n".join(lines if len(lines) > 2 else [*lines, "There are none."])

    def _submissions(self) -> str:
        lines = [["benchmark", "network", "file", "SHA-256"]]
        for outcome in self.outcomes:
            if outcome.step.kind == "submit":
                network = self.options.title(outcome.step.network)
                if not outcome.result:
                    lines.append([outcome.step.data, network, f"failed: {outcome.reason}", ""])
                    continue
                for file in outcome.result["files"]:
                    name = Path(file).name
                    link = f"[{name}]({self._link(Path(file))})"
                    lines.append([outcome.step.data, network, link, outcome.result["sha256"][name]])
        return f"## Files for the benchmarks\n\n{markdown(lines)}"

    def _provenance(self) -> str:
        data = [["dataset", "folder", "train", "validate", "fixations scored", "files", "archives (SHA-256)"]]
        weights = [["weights", "file", "SHA-256", "archive (SHA-256)"]]
        for outcome in self.outcomes:
            step, result = outcome.step, outcome.result
            if step.kind == "data":
                data.append(
                    [step.data, *(self._about(step.data, result) if result else [f"not available: {outcome.reason}"])]
                )
            elif step.kind == "weights":
                row = (
                    [result["path"], result["identity"], _archives(result)]
                    if result
                    else [f"not available: {outcome.reason}"]
                )
                weights.append([step.name, *row])
            elif step.kind == "train" and result:
                weights.append([step.name, result["best"], result["identity"], "–"])
        machine = [["", ""], *([name, text] for name, text in provenance.machine().items())]
        text = (
            "*Files* is a hash of the names, sizes and last bytes of all photographs and maps, and of the fixations. "
            "Archives are only known if this program downloaded them."
        )
        return "\n\n".join(["## Provenance", markdown(data), text, markdown(weights), markdown(machine)])

    def _commands(self) -> str:
        lines = []
        for outcome in self.outcomes:
            if command := command_of(outcome, self.options):
                lines.append(f"# {outcome.step.name}\n{command}")
        text = "\n".join(lines)
        return (
            "## Commands for single rows\n\n"
            "Each command repeats one step with the files above and gives the same numbers.\n\n"
            f"```bash\n{text}\n```"
        )

    def _costs(self) -> str:
        lines = [["step", "seconds", "peak memory of the process, MB"]]
        for outcome in self.outcomes:
            seconds = f"failed: {outcome.reason}" if outcome.reason else f"{outcome.seconds:.1f}"
            lines.append([outcome.step.name, seconds, "–" if outcome.peak_mb is None else f"{outcome.peak_mb:.0f}"])
        return f"## Time and memory\n\n{markdown(lines)}"

    # --- JSON and CSV -------------------------------------------------------------------------------------------------

    def as_json(self) -> dict:
        """Everything on the page, and the scores of each training."""
        return {
            "options": {
                "names": list(self.options.names),
                "weights": self.options.weights,
                "train": self.options.train,
                "contexts": list(self.options.contexts),
                "variant": self.options.variant,
                "init": self.options.init,
                "seeds": self.options.seeds,
                "size": self.options.input_size,
                "parameters": dict(self.options.params),
            },
            "rows": [
                {**asdict(row), "scores": {metric: asdict(score) for metric, score in row.scores.items()}}
                for row in self.rows
            ],
            "references": [
                {
                    **asdict(found.reference),
                    "network": found.row.network,
                    "protocol": found.row.protocol,
                    "ours": found.ours and found.ours.mean,
                    "difference": found.difference,
                    "outside": found.is_outside,
                }
                for found in self.comparisons
            ],
            "steps": [
                {
                    "name": outcome.step.name,
                    "kind": outcome.step.kind,
                    "settings": dict(outcome.step.settings),
                    "key": outcome.key,
                    "reason": outcome.reason,
                    "result": outcome.result,
                    "command": command_of(outcome, self.options),
                    "seconds": outcome.seconds,
                    "peak_mb": outcome.peak_mb,
                }
                for outcome in self.outcomes
            ],
            "machine": provenance.machine(),
        }

    def _write_csv(self, path: Path) -> None:
        """One line per network, dataset, protocol and metric, and one per row that failed."""
        with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(
                [
                    "protocol",
                    "network",
                    "title",
                    "dataset",
                    "metric",
                    "mean",
                    "low",
                    "high",
                    "images",
                    "seeds",
                    "reason",
                ]
            )
            for row in self.rows:
                head = [row.protocol, row.network, row.title, row.dataset]
                for metric, score in row.scores.items():
                    numbers = [score.mean, score.low, score.high, score.images, score.seeds]
                    writer.writerow([*head, metric, *numbers, row.reason])
                if not row.scores:
                    writer.writerow([*head, "", "", "", "", "", "", row.reason])

    # --- Words --------------------------------------------------------------------------------------------------------

    def _words(self, outcome: Outcome) -> str:
        seed = "" if outcome.step.seed is None else f", seed {outcome.step.seed}"
        return f"{DATASETS[outcome.step.data].title}: {self.options.title(outcome.step.network)}{seed}"

    def _about(self, dataset: str, result: dict) -> list[str]:
        """The cells of a dataset in the table of provenance."""
        counts = [str(result["train"]), str(result["valid"]), self._fixations(dataset)]
        return [result["folder"], *counts, result["identity"], _archives(result)]

    def _fixations(self, dataset: str) -> str:
        found = (o.result["fixations"] for o in self.done("evaluate") if o.result and o.step.data == dataset)
        return str(next(found, "–"))

    def _link(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.options.folder)).as_posix().replace(" ", "%20")


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first line is the header. Short lines are filled."""
    columns = len(lines[0])
    filled = [[*line, *[""] * (columns - len(line))] for line in lines]
    cells = [[re.sub(r"\s+", " ", cell).replace("|", r"\|") for cell in line] for line in filled]
    rows = [cells[0], ["---"] * columns, *cells[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _archives(result: dict) -> str:
    words = [f"{archive['file']} {archive['sha256']}" for archive in result["archives"]]
    return "; ".join(words) or "not downloaded by this program"
