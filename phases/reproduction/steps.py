"""The actions of a reproduction's steps: each runs the phase that a user would run."""

import csv
import hashlib
import json
from collections.abc import Mapping

from ... import checkpoint, data, download
from .. import evaluate, submit, train
from .commands import request
from .ledger import Action, slug
from .plan import Options, Step


def actions(options: Options) -> dict[str, Action]:
    """The action of each kind of step."""

    def bind(function) -> Action:
        return lambda step, inputs, key: function(options, step, inputs, key)

    return {
        "data": bind(look_at_data),
        "weights": bind(look_at_weights),
        "train": bind(do_training),
        "evaluate": bind(do_evaluation),
        "submit": bind(do_submission),
    }


def look_at_data(options: Options, step: Step, inputs: Mapping[str, dict], key: str) -> dict:
    """Download a dataset if it is missing, and describe its folder."""
    folder = data.find_dataset(step.data, options.path)
    parts = data.load_groups(step.data, folder, options.size_for(step.data))
    samples = [sample for part in parts for sample in part.samples]
    digest = hashlib.sha256(data.files_hash(samples).encode())
    table = folder / "fixations.csv"
    if table.exists():
        digest.update(checkpoint.file_sha256(table).encode())
    else:
        maps = [data.Sample(s.name, s.fixations, s.fixations) for s in samples if s.fixations]
        digest.update(data.files_hash(maps).encode())
    return {
        "folder": str(folder),
        "train": len(parts[0].samples),
        "valid": len(parts[1].samples),
        "split": data.names_hash(*([sample.name for sample in part.samples] for part in parts)),
        "archives": download.origins(step.data, folder.parent),
        "identity": digest.hexdigest(),
    }


def look_at_weights(options: Options, step: Step, inputs: Mapping[str, dict], key: str) -> dict:
    """Download weights if they are missing."""
    which = step.settings["which"]
    choice = checkpoint.vgg16_weights() if which == "vgg16" else checkpoint.choose_weights(step.data, which)
    key = "vgg16_hybrid" if which == "vgg16" else f"model_{step.data}_cpu"
    return {
        "path": str(choice.path),
        "reason": choice.reason,
        "archives": download.origins(key, choice.path.parent) if which in ("vgg16", "published") else [],
        "identity": checkpoint.file_sha256(choice.path),
    }


def do_training(options: Options, step: Step, inputs: Mapping[str, dict], key: str) -> dict:
    """Train in a folder that belongs to these settings, or resume there."""
    results = options.folder / "training" / folder_name("train on", step, key)
    training = request(step, inputs, options, results)
    train.run(training)
    best, history = checkpoint.best_checkpoint(results, step.data), results / "history" / f"{step.data}.csv"
    latest = results / "ckpts" / "latest" / best.name
    with history.open(newline="", encoding="utf-8") as file:
        epochs = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return {
        "best": str(best),
        "init": training.init,
        "epochs": epochs,
        "files": [str(file) for file in (best, latest, history)],
        "identity": checkpoint.file_sha256(best),
    }


def do_evaluation(options: Options, step: Step, inputs: Mapping[str, dict], key: str) -> dict:
    """Score a network, or the baselines, on the validation images."""
    name = folder_name("evaluate", step, key)
    evaluation = request(step, inputs, options, options.folder, name)
    evaluate.run(evaluation)
    target = evaluation.folder_of_runs / name
    summary = json.loads((target / "summary.json").read_text(encoding="utf-8"))
    contender = next(iter(summary["scores"]))
    return {
        "scores": summary["scores"],
        "contender": contender,
        "record": summary["contenders"][contender],
        "images": summary["images"],
        "fixations": summary["fixations"],
        "saliency": summary["saliency"],
        "examples": str(target / f"examples_{contender}.png"),
        "files": [str(target / "summary.json"), str(target / "per_image.csv")],
        "identity": "",
    }


def do_submission(options: Options, step: Step, inputs: Mapping[str, dict], key: str) -> dict:
    """Write the files for a benchmark."""
    results = options.folder / "benchmarks" / folder_name("submit", step, key)
    submit.run(request(step, inputs, options, results))
    files = sorted(file for file in (results / "submissions").iterdir() if file.is_file())
    hashes = {file.name: checkpoint.file_sha256(file) for file in files}
    return {"files": [str(file) for file in files], "sha256": hashes, "identity": ""}


def folder_name(verb: str, step: Step, key: str) -> str:
    return f"{slug(step.name.removeprefix(f'{verb} '))}_{key[:12]}"
