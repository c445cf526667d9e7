"""The networks that ship with the program: each is a `.npz` of weights and a `.json` of facts in `weights/`.

The facts are stored only there. `python bundled.py [SUMMARY ...]` updates the JSON files (file size, SHA-256, and the
scores in the `summary.json` of `evaluate --baselines`) and the generated parts of the model card, `weights/README.md`.
To add a network, add its two files and its name in `BUNDLED`, evaluate it, and run that command.
"""

import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "weights"
CARD = FOLDER / "README.md"

# By the name that --weights and --init accept. It is also the network's variant in `config.VARIANTS`.
BUNDLED = {name: FOLDER / f"msinet_{name}.npz" for name in ("medium", "lite")}

# What `evaluate` writes into `summary.json` under "scores": by metric a mean and its 95 % interval.
Scores = Mapping[str, Mapping[str, float]]

# The network input that scores are stated for first, and the default: as many pixels as 240×320, in the image's shape.
BY_SHAPE = "by shape"


@dataclass(frozen=True)
class Choice:
    """The weights that a run uses, and the reason for the choice."""

    path: Path
    reason: str


def facts(name: str) -> dict:
    """The facts about a bundled network, from its JSON file.

    Returns:
        "name", "description", "version" (of the program that first shipped it), "variant", "parameters", "bytes" and
        "sha256" of the weights file, "license", "data" (what trained it), "training", and "scores": by dataset, network
        input ("by shape" or "<height>x<width>") and contender, of which "network" is this network; see `Scores`.
    """
    return json.loads(BUNDLED[name].with_suffix(".json").read_text(encoding="utf-8"))


def name_of(path: Path) -> str | None:
    """The name of the bundled network at this path, if it is one."""
    return next((name for name, bundled in BUNDLED.items() if path.resolve() == bundled.resolve()), None)


def choice(name: str) -> Choice:
    """A bundled network as the weights of a run."""
    return Choice(BUNDLED[name], f"the included {name} network")


def scored_on(network: dict, dataset: str) -> str:
    """The images that a network was scored on, in words."""
    return f"{dataset.upper()}'s {network['scores'][dataset][BY_SHAPE]['network']['NSS']['images']} validation images"


# --- Model card -------------------------------------------------------------------------------------------------------


def updated_card(card: str) -> str:
    """The model card with the parts between `<!-- begin NAME -->` and `<!-- end -->` generated from the JSON files."""
    networks = [facts(name) for name in BUNDLED]
    parts = {"facts": _facts_table, "training": _training, "scores": _scores, "inputs": _inputs}

    def generate(found: re.Match) -> str:
        return f"<!-- begin {found[1]} -->\n\n{parts[found[1]](networks)}\n\n<!-- end -->"

    return re.sub(r"<!-- begin (\w+) -->\n.*?<!-- end -->", generate, card, flags=re.DOTALL)


def _table(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])


def _facts_table(networks: list[dict]) -> str:
    return _table(
        [
            ["", *(network["name"] for network in networks)],
            ["File", *(f"`{BUNDLED[network['name']].name}`, {network['bytes']:,} bytes" for network in networks)],
            ["Parameters", *(f"{network['parameters']:,}" for network in networks)],
            ["First in version", *(network["version"] for network in networks)],
            ["License", *(network["license"]["text"] for network in networks)],
            ["SHA-256", *(f"`{network['sha256']}`" for network in networks)],
        ]
    )


def _training(networks: list[dict]) -> str:
    chapters = []
    for network in networks:
        rows = [
            [row["name"], str(row["images"]), row["maps"], row["license"], row["citation"]] for row in network["data"]
        ]
        table = _table([["data", "images", "maps", "license", "citation"], *rows])
        commands = "\n".join(["```bash", *network["training"]["commands"], "```"])
        chapters.append(f"### {network['name'].capitalize()}\n\n{table}\n\n{network['training']['text']}\n\n{commands}")
    return "\n\n".join(chapters)


def _scores(networks: list[dict]) -> str:
    """A table for each dataset: metrics down; the networks, the baselines and the gold standard across."""
    tables = []
    for dataset, inputs in networks[0]["scores"].items():
        columns = {network["name"]: network["scores"][dataset][BY_SHAPE]["network"] for network in networks}
        columns |= {name: scores for name, scores in inputs[BY_SHAPE].items() if name != "network"}
        rows = [[metric, *(_interval(scores[metric]) for scores in columns.values())] for metric in columns["uniform"]]
        tables.append(f"On {scored_on(networks[0], dataset)}:\n\n{_table([['metric', *columns], *rows])}")
    return "\n\n".join(tables)


def _interval(score: Mapping[str, float]) -> str:
    mean, low, high = score["mean"], score["low"], score["high"]
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]" if low < high else f"{mean:.3f}"


def _inputs(networks: list[dict]) -> str:
    """One table with the means at every input size."""
    metrics = ("AUC", "sAUC", "NSS", "CC", "KLD", "IG")
    rows = [["network", "images", "input", *metrics]]
    for network in networks:
        for dataset, inputs in network["scores"].items():
            for size, contenders in inputs.items():
                scores = [contenders["network"].get(metric) for metric in metrics]
                means = [f"{score['mean']:.3f}" if score else "–" for score in scores]
                rows.append([network["name"], dataset.upper(), size.replace("x", "×"), *means])
    return _table(rows)


# --- Updates ----------------------------------------------------------------------------------------------------------


def update(summaries: Sequence[Path]) -> None:
    """Update file size, SHA-256, parameter count and scores in the JSON files, and the model card with all facts."""
    import numpy as np  # Here, because the command line imports this module and must start fast.

    for name, path in BUNDLED.items():
        content, contents = facts(name), path.read_bytes()
        with np.load(path) as arrays:
            content["parameters"] = sum(
                arrays[key].size for key in arrays.files if "/" in key and not key.endswith("/scale")
            )
        sha256 = hashlib.sha256(contents).hexdigest()
        if sha256 != content.get("sha256"):
            if not summaries:
                sys.exit(f"{path.name} has changed: name the summary.json files of its new evaluations.")
            content["scores"] = {}
        content |= {"bytes": len(contents), "sha256": sha256}
        for summary in summaries:
            _add_scores(content, path.stem, json.loads(summary.read_text(encoding="utf-8")))
        text = json.dumps(content, indent=2, ensure_ascii=False)
        # Each score on one line.
        text = re.sub(r'\{\s+("mean"[^{}]*?)\s+\}', lambda found: f"{{{' '.join(found[1].split())}}}", text)
        path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    CARD.write_text(updated_card(CARD.read_text(encoding="utf-8")), encoding="utf-8")


def _add_scores(content: dict, contender: str, run: Mapping) -> None:
    """Copy a network's scores, and by shape those of the baselines too, from a summary that has them."""
    model = run["models"].get(contender)
    if model is None or model["sha256"] != content["sha256"]:
        return
    by_shape = model["fit_shape"]
    columns = {"network": contender}
    columns |= {name: name for name, row in run["contenders"].items() if by_shape and "baseline" in row}
    size = BY_SHAPE if by_shape else "{}x{}".format(*model["input_size"])
    content["scores"].setdefault(run["data"], {})[size] = {
        column: {
            metric: {key: round(value, 3) for key, value in score.items()}
            for metric, score in run["scores"][name].items()
        }
        for column, name in columns.items()
    }


if __name__ == "__main__":
    update([Path(argument) for argument in sys.argv[1:]])
