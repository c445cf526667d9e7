"""The page of a reproduction: tables, pictures and provenance, as Markdown, CSV, JSON and LaTeX."""

import os
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from ...acquisition.datasets import DATASETS
from ...bundled import BUNDLED
from ...config import PROTOCOLS
from ...scoring import protocols
from ...utils import count, whole_file, write_csv, write_json
from ..curves import draw_losses
from . import latex, provenance
from .ledger import Outcome
from .plan import Options
from .rows import Reference, Row, compare, make_rows, metrics_of
from .steps import command_of

DATASET_WIDTH, CELL_WIDTH = 9, 10  # characters in the terminal's tables
COLUMNS = ("protocol", "network", "title", "dataset", "metric", "mean", "low", "high", "images", "seeds", "reason")


class Report:
    """The results of a reproduction: `summary` for the terminal, `write` for the folder."""

    def __init__(self, options: Options, outcomes: Sequence[Outcome], references: Sequence[Reference]):
        self.options, self.outcomes = options, outcomes
        self.rows = make_rows(options, outcomes)
        self.comparisons = compare(self.rows, references)
        self.machine = provenance.machine()

    def summary(self, width: int = 80) -> str:
        """The means as text for a terminal, in lines of at most so many characters; the page has the intervals."""
        return "\n\n".join(f"Protocol {name}, means\n\n{for_terminal(self.rows, name, width)}" for name in PROTOCOLS)

    def write(self) -> None:
        """Write every file of the page."""
        folder = self.options.folder
        self._draw_curves()
        self._write_csv(folder / "results.csv")
        write_json(folder / "results.json", self.as_json())
        for name, text in (("tables.tex", latex.document(self.rows)), ("README.md", self.page())):
            with whole_file(folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")

    def done(self, kind: str) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.step.kind == kind and outcome.result]

    # --- The page -----------------------------------------------------------------------------------------------------

    def page(self) -> str:
        """README.md."""
        sections = {f"Scores, protocol {name}": self._scores(name) for name in PROTOCOLS}
        sections |= {
            "Published and reproduced": self._references(),
            "Learning curves": self._trainings(),
            "Best, median and worst images": self._pictures(),
            "Files for the benchmarks": self._submissions(),
            "Provenance": self._provenance(),
            "Commands for single rows": self._commands(),
            "Time and memory": self._costs(),
        }
        texts = [f"## {title}\n\n{text}" for title, text in sections.items() if text]
        return "\n\n".join([self._head(), *texts]) + "\n"

    def _head(self) -> str:
        options, failed = self.options, [row for row in self.rows if row.reason]
        lines = [
            "# MSI-Net: a reproduction",
            "Contextual encoder–decoder network for visual saliency prediction (Kroner, Senden, Driessens, Goebel; "
            "Neural Networks 129, 2020, 261–270, doi:10.1016/j.neunet.2020.05.004), scored on the validation images of "
            f"{count(len(options.names), 'dataset')}: {', '.join(DATASETS[name].title for name in options.names)}.",
        ]
        if options.weights != "published":
            stand_in = f"the {options.weights} network" if options.weights in BUNDLED else options.weights
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
        if protocol == "mit":
            text += (
                " This protocol blurs fixations more than the datasets do, so these maps are too narrow: a network "
                "that is less certain can have a better KLD, which punishes missing mass most."
            )
        if protocol == "mit" and "EMD" not in metrics_of(protocol, self.rows):
            text += " EMD is missing because the library POT is not installed."
        return f"{text}\n\n{self.table(protocol)}"

    def table(self, protocol: str) -> str:
        """One row per network and dataset, one column per metric, in Markdown."""
        metrics = metrics_of(protocol, self.rows)
        arrow = protocols.PROTOCOLS[protocol].arrow
        lines = []
        for row in self.rows:
            if row.protocol == protocol and row.scores:
                title = f"{row.title} ({row.reason})" if row.reason else row.title
                lines.append([title, row.dataset, *(row.scores.get(metric, "–") for metric in metrics)])
            elif row.protocol == protocol:
                lines.append([row.title, row.dataset, f"failed: {row.reason}"])
        return markdown(["network", "dataset", *(f"{metric} {arrow(metric)}" for metric in metrics)], lines)

    def _references(self) -> str:
        if not self.comparisons:
            return ""
        lines = []
        for found in self.comparisons:
            row, reference = found.row, found.reference
            ours = found.ours or f"failed: {row.reason or 'no value'}"
            difference = "" if found.difference is None else f"{found.difference:+.3f}"
            outside = "**outside**" if found.is_outside else ""
            head = [row.dataset, reference.metric, row.protocol, row.title, f"{reference.value:g}"]
            lines.append([*head, ours, difference, outside, reference.source])
        head = ["dataset", "metric", "protocol", "network", "published", "ours", "difference", "", "source"]
        return (
            "Published numbers next to ours; *outside* marks those outside our interval. They can only be compared "
            f"if protocol, ground truth and images are the same.\n\n{markdown(head, lines)}"
        )

    def _trainings(self) -> str:
        lines = []
        for outcome in self.done("train"):
            epochs, start = outcome.result["epochs"], "the SALICON training above"
            best = min(epochs, key=lambda row: row["val_loss"])
            if outcome.step.data == "salicon":
                start = Path(outcome.result["init"]).name
            lines.append([outcome.step.name, start, len(epochs), f"{best['epoch']:g}", f"{best['val_loss']:.4f}"])
        if not lines:
            return ""
        names = dict.fromkeys(outcome.step.data for outcome in self.done("train"))
        pictures = [f"![Loss over the epochs on {name}](curves_{name}.png)" for name in names]
        head = ["training", "starts from", "epochs", "best epoch", "best validation loss"]
        return "\n\n".join([markdown(head, lines), *pictures])

    def _draw_curves(self) -> None:
        """Draw `curves_<dataset>.png` for each dataset with finished trainings, with all of them on it."""
        histories: dict[str, dict[str, list]] = {}
        for outcome in self.done("train"):
            label = f"{self.options.title(outcome.step.network)}, seed {outcome.step.seed}"
            histories.setdefault(outcome.step.data, {})[label] = outcome.result["epochs"]
        for name, found in histories.items():
            draw_losses(self.options.folder / f"curves_{name}.png", found, f"{name}: ")

    def _pictures(self) -> str:
        lines = []
        for outcome in self.done("evaluate"):
            step, path = outcome.step, Path(outcome.result["examples"])
            if step.network != "baselines" and step.protocol == "tuebingen" and path.exists():
                seed = "" if step.seed is None else f", seed {step.seed}"
                words = f"{DATASETS[step.data].title}: {self.options.title(step.network)}{seed}"
                lines += [f"### {words}", f"![{words}]({self._link(path)})"]
        text = (
            "By NSS, or by CC if there are no fixations; protocol tuebingen. From the left: photograph with fixations, "
            "ground truth, prediction."
        )
        return "\n\n".join([text, *(lines or ["There are none."])])

    def _submissions(self) -> str:
        lines = []
        for outcome in self.outcomes:
            if outcome.step.kind != "submit":
                continue
            head = [outcome.step.data, self.options.title(outcome.step.network)]
            if not outcome.result:
                lines.append([*head, f"failed: {outcome.reason}"])
                continue
            for file in map(Path, outcome.result["files"]):
                lines.append([*head, f"[{file.name}]({self._link(file)})", outcome.result["sha256"][file.name]])
        return markdown(["benchmark", "network", "file", "SHA-256"], lines) if lines else ""

    def _provenance(self) -> str:
        data, weights = [], []
        for outcome in self.outcomes:
            step, result = outcome.step, outcome.result
            cells = [f"not available: {outcome.reason}"]
            if step.kind == "data":
                if result:
                    scored = (o.result["fixations"] for o in self.done("evaluate") if o.step.data == step.data)
                    counts = [result["train"], result["valid"], next(scored, "–")]
                    cells = [result["folder"], *counts, result["identity"], _archives(result)]
                data.append([step.data, *cells])
            elif step.kind == "weights":
                cells = [result["path"], result["identity"], _archives(result)] if result else cells
                weights.append([step.name, *cells])
            elif step.kind == "train" and result:
                weights.append([step.name, result["best"], result["identity"], "–"])
        head = ["dataset", "folder", "train", "validate", "fixations scored", "files", "archives (SHA-256)"]
        text = (
            "*Files* is a hash of the names, sizes and last bytes of all photographs and maps, and of the fixations. "
            "Archives are only known if this program downloaded them."
        )
        of_weights = markdown(["weights", "file", "SHA-256", "archive (SHA-256)"], weights)
        return "\n\n".join([markdown(head, data), text, of_weights, markdown(["", ""], self.machine.items())])

    def _commands(self) -> str:
        commands = {outcome.step.name: command_of(outcome, self.options) for outcome in self.outcomes}
        text = "\n".join(f"# {name}\n{command}" for name, command in commands.items() if command)
        return f"Each command repeats one step with the files above and gives the same numbers.\n\n```bash\n{text}\n```"

    def _costs(self) -> str:
        lines = []
        for outcome in self.outcomes:
            seconds = f"failed: {outcome.reason}" if outcome.reason else f"{outcome.seconds:.1f}"
            lines.append([outcome.step.name, seconds, "–" if outcome.peak_mb is None else f"{outcome.peak_mb:.0f}"])
        return markdown(["step", "seconds", "peak memory of the process, MB"], lines)

    def _link(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.options.folder)).as_posix().replace(" ", "%20")

    # --- JSON and CSV -------------------------------------------------------------------------------------------------

    def as_json(self) -> dict:
        """Everything on the page, and the scores of each training."""
        options = {
            name: getattr(self.options, name)
            for name in ("names", "weights", "train", "contexts", "variant", "init", "seeds")
        }
        references = [
            {
                **asdict(found.reference),
                "network": found.row.network,
                "protocol": found.row.protocol,
                "ours": found.ours and found.ours.mean,
                "difference": found.difference,
                "outside": found.is_outside,
            }
            for found in self.comparisons
        ]
        steps = [
            {
                **{name: getattr(outcome.step, name) for name in ("name", "kind", "settings")},
                "command": command_of(outcome, self.options),
                **{name: getattr(outcome, name) for name in ("key", "reason", "result", "seconds", "peak_mb")},
            }
            for outcome in self.outcomes
        ]
        return {
            "options": {**options, "size": self.options.input_size, "parameters": dict(self.options.params)},
            "rows": [asdict(row) for row in self.rows],
            "references": references,
            "steps": steps,
            "machine": self.machine,
        }

    def _write_csv(self, path: Path) -> None:
        """One line per network, dataset, protocol and metric, and one per row that failed."""
        lines = (
            {**vars(row), "metric": metric, **(vars(score) if score else {})}
            for row in self.rows
            for metric, score in row.scores.items() or [("", None)]
        )
        write_csv(path, COLUMNS, ({name: line[name] for name in COLUMNS if name in line} for line in lines))


def for_terminal(every: Sequence[Row], protocol: str, width: int) -> str:
    """One paragraph per network, with a line per dataset; metrics that do not fit go below the first ones."""
    metrics, lines = metrics_of(protocol, every), []
    most = max((width - DATASET_WIDTH) // CELL_WIDTH, 1)
    blocks = [metrics[first : first + most] for first in range(0, len(metrics), most)]
    for title in dict.fromkeys(row.title for row in every if row.protocol == protocol):
        rows = [row for row in every if (row.protocol, row.title) == (protocol, title)]
        scored = [row for row in rows if row.scores]
        lines += ["", *textwrap.wrap(title, width)]
        for block in blocks if scored else []:
            lines.append("".join([" " * DATASET_WIDTH, *(f"{metric:>{CELL_WIDTH}}" for metric in block)]))
            for row in scored:
                means = [f"{row.scores[name].mean:.3f}" if name in row.scores else "–" for name in block]
                cells = [f"{row.dataset:<{DATASET_WIDTH}}", *(f"{mean:>{CELL_WIDTH}}" for mean in means)]
                lines.append("".join(cells))
        for row in rows:
            if row.reason:
                lines += textwrap.wrap(f"{row.dataset}: failed, {row.reason}", width, subsequent_indent="  ")
    return "\n".join(lines[1:])


def markdown(head: Sequence[str], lines: Iterable[Iterable]) -> str:
    """A table in Markdown. Short lines are filled."""
    rows = [" | ".join(head), " | ".join(["---"] * len(head))]
    for line in lines:
        cells = [re.sub(r"\s+", " ", str(cell)).replace("|", r"\|") for cell in line]
        rows.append(" | ".join([*cells, *[""] * (len(head) - len(cells))]))
    return "\n".join(f"| {row} |" for row in rows)


def _archives(result: dict) -> str:
    words = [f"{archive['file']} {archive['sha256']}" for archive in result["archives"]]
    return "; ".join(words) or "not downloaded by this program"
