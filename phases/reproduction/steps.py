"""The steps of a reproduction: each runs the phase that a user would run, and has a command that repeats it alone."""

import csv
import dataclasses
import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ... import checkpoint, data, installation
from ... import download as archives
from ...config import PARAMS
from .. import download, evaluate, submit, train
from .ledger import Action, Outcome, slug
from .plan import Options, Step, has_flag

# --- Actions ----------------------------------------------------------------------------------------------------------


def look_at_data(options: Options, step: Step, inputs: Mapping[str, dict], key: str) -> dict:
    """Download a dataset if it is missing, and describe its folder."""
    folder = data.find_dataset(step.data, options.path)
    parts = data.load_groups(step.data, folder, options.size_for(step.data))
    samples = [sample for part in parts for sample in part.samples]
    table = folder / "fixations.csv"
    maps = [data.Sample(s.name, s.fixations, s.fixations) for s in samples if s.fixations]
    fixations = checkpoint.file_sha256(table) if table.exists() else data.files_hash(maps)
    return {
        "folder": str(folder),
        "train": len(parts[0].samples),
        "valid": len(parts[1].samples),
        "split": data.names_hash(*([sample.name for sample in part.samples] for part in parts)),
        "archives": archives.origins(step.data, folder.parent),
        "identity": hashlib.sha256(f"{data.files_hash(samples)}{fixations}".encode()).hexdigest(),
    }


def look_at_weights(options: Options, step: Step, inputs: Mapping[str, dict], key: str) -> dict:
    """Download weights if they are missing."""
    which = step.settings["which"]
    choice = checkpoint.vgg16_weights() if which == "vgg16" else checkpoint.choose_weights(step.data, which)
    name = {"vgg16": "vgg16_hybrid", "published": f"model_{step.data}_cpu"}.get(which)
    return {
        "path": str(choice.path),
        "reason": choice.reason,
        "archives": archives.origins(name, choice.path.parent) if name else [],
        "identity": checkpoint.file_sha256(choice.path),
    }


def do_training(options: Options, step: Step, inputs: Mapping[str, dict], key: str) -> dict:
    """Train in a folder that belongs to these settings, or resume there."""
    results = options.folder / "training" / _folder_name("train on", step, key)
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
    name = _folder_name("evaluate", step, key)
    evaluation = request(step, inputs, options, options.folder, name)
    evaluate.run(evaluation)
    target = evaluation.folder_of_runs / name
    summary = json.loads((target / "summary.json").read_text(encoding="utf-8"))
    contender = next(iter(summary["scores"]))
    return {
        **{part: summary[part] for part in ("scores", "images", "fixations", "saliency")},
        "contender": contender,
        "record": summary["contenders"][contender],
        "examples": str(target / f"examples_{contender}.png"),
        "files": [str(target / "summary.json"), str(target / "per_image.csv")],
        "identity": "",
    }


def do_submission(options: Options, step: Step, inputs: Mapping[str, dict], key: str) -> dict:
    """Write the files for a benchmark."""
    results = options.folder / "benchmarks" / _folder_name("submit", step, key)
    submit.run(request(step, inputs, options, results))
    files = sorted(file for file in (results / "submissions").iterdir() if file.is_file())
    hashes = {file.name: checkpoint.file_sha256(file) for file in files}
    return {"files": [str(file) for file in files], "sha256": hashes, "identity": ""}


ACTIONS: Mapping[str, Action] = {
    "data": look_at_data,
    "weights": look_at_weights,
    "train": do_training,
    "evaluate": do_evaluation,
    "submit": do_submission,
}


def _folder_name(verb: str, step: Step, key: str) -> str:
    return f"{slug(step.name.removeprefix(f'{verb} '))}_{key[:12]}"


# --- Phases and their commands ----------------------------------------------------------------------------------------


def request(step: Step, inputs: Mapping[str, dict], options: Options, results: Path, name: str | None = None) -> Any:
    """The options of the phase that trains, evaluates or submits; `name` is that of an evaluation's folder."""
    found = [inputs[need] for need in step.needs]
    params, size = {**options.params, "results": str(results)}, options.input_size
    weights = found[-1].get("best") or found[-1].get("path")  # None if only a dataset is needed
    if step.kind == "submit":
        return submit.Options(step.data, Path(step.settings["folder"]), params, weights, input_size=size)
    folder = Path(found[0]["folder"])
    if step.kind == "train":
        init = found[-1].get("best") or step.settings["init"]
        network = {"init": init, **{name: step.settings[name] for name in ("variant", "context")}}
        return train.Options([step.data], folder, {**params, "seed": step.seed}, **network, input_size=size)
    return evaluate.Options(
        step.data,
        folder,
        params,
        weights=[weights] if weights else None,
        maps=[] if weights else [folder / "saliency"],  # scored for comparison with the baselines
        protocol=step.protocol,
        baselines=not weights,
        name=name,
        input_size=size,
    )


def command_of(outcome: Outcome, options: Options) -> str:
    """The command that repeats a step; empty if the step was not done or only looked at a file of weights.

    Results go to a separate folder, so the command does not change the reproduction.
    """
    step = outcome.step
    if not outcome.result:
        return ""
    if step.kind == "data":
        return _command("download", download.Options(step.data, options.path, False, None, False, {}))
    if step.kind != "weights":
        return _command(step.kind, request(step, outcome.inputs, options, options.folder / "again"))
    if step.settings["which"] in ("published", "vgg16"):
        return _command("download", download.Options(step.data or "salicon", None, True, None, False, {}))
    return ""


def _command(phase: str, options: Any) -> str:
    """The command that runs a phase with these options, whose names are those of the flags."""
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    params = values.pop("params")
    values |= {key: value for key, value in params.items() if has_flag(phase, key) and value != PARAMS[key].value}
    words = [*installation.command().split(), phase]
    for name, value in values.items():
        flag = {"data": "-d", "path": "-p"}.get(name) or f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            if value or name in params:
                words.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, list | tuple):
            words += [flag, *map(str, value)] if value else []
        elif value is not None:
            words += [flag, str(value)]
    return shlex.join(words)
