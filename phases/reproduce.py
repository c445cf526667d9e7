"""The reproduction phase: from nothing to the paper's experiments, one step after the other, and the page of them.

It is a phase made of phases: every step is done by the function that the command of that phase calls, so that each row
of the page can be repeated alone by that command.
"""

import contextlib
import csv
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

import checkpoint
import data
import download
from phases import evaluate, submit, train
from phases.reproduction import measure, page, reference
from phases.reproduction.ledger import Action, Ledger, slug
from phases.reproduction.plan import Options, Step, make_plan
from utils import UserError, check_writable, count


def run(options: Options) -> int:
    """Tell the plan, do it, and write the page of what came of it.

    Returns:
        0, or 1 if a row of the page could not be made.

    Raises:
        UserError: before anything is done, if the folders or the file of references are not as they should be.
    """
    # Many networks in one process are what TensorFlow warns of, as if one were compiled again and again.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    check_folders(options)
    references = reference.read(options.reference) if options.reference else []
    steps = make_plan(options)
    print(measure.table(options, steps))
    if options.dry_run:
        return 0
    check_writable(options.folder)
    with alone(options.folder):
        outcomes = Ledger(options.folder, actions(options)).do_all(steps)
        report = page.Report(options, outcomes, references)
        print(f"\n{report.summary()}")
        try:
            report.write()
            print(f"\nThe page with the pictures is {options.folder / 'README.md'}.")
        except OSError as error:  # The numbers must be seen even so.
            print(f"error: the page cannot be written into {options.folder} ({error.strerror or error}).")
            return 1
    failed = [outcome for outcome in outcomes if outcome.reason]
    if failed:
        print(f"{count(len(failed), 'step')} of {len(outcomes)} could not be done; the same command tries them again.")
    return 1 if failed else 0


def check_folders(options: Options) -> None:
    """Check that each dataset has a folder of its own."""
    if (options.path / "stimuli").is_dir() and len(options.names) > 1:
        raise UserError(
            f"{options.path} is the folder of one dataset, expected the one that all of {', '.join(options.names)} are "
            f"in, or go to. Name it with -p."
        )


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes from the same reproduction. The lock of a process that dies is free."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"Another process is at work in {folder}. Wait until it ends, or name another --results folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def actions(options: Options) -> dict[str, Action]:
    """What does each kind of step."""

    def bind(function) -> Action:
        return lambda step, inputs, key: function(options, step, inputs, key)

    return {
        "data": bind(look_at_data),
        "weights": bind(look_at_weights),
        "train": bind(do_training),
        "evaluate": bind(do_evaluation),
        "submit": bind(do_submission),
    }


# --- The steps --------------------------------------------------------------------------------------------------------


def look_at_data(options: Options, step: Step, inputs: Mapping[str, dict], key: str) -> dict:
    """Fetch a dataset if it is missing, and say what is in its folder."""
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
    """Fetch weights if they are missing."""
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
    """Train, in a folder that only these settings have, or go on with it."""
    settings, dataset = step.settings, inputs[step.needs[0]]
    results = options.folder / "training" / f"{slug(step.name.removeprefix('train on '))}_{key[:12]}"
    start = inputs[step.needs[1]] if len(step.needs) > 1 else None
    init = start["best"] if start and "best" in start else settings["init"]
    params = {**options.params, "seed": step.seed, "results": str(results)}
    train.train(
        step.data,
        [data.load_groups(step.data, Path(dataset["folder"]), settings["size"])],
        params,
        variant=settings["variant"],
        context=settings["context"],
        init=init,
    )
    best, history = checkpoint.best_checkpoint(results, step.data), results / "history" / f"{step.data}.csv"
    latest = results / "ckpts" / "latest" / best.name
    with history.open(newline="", encoding="utf-8") as file:
        epochs = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return {
        "best": str(best),
        "init": init,
        "epochs": epochs,
        "files": [str(file) for file in (best, latest, history)],
        "identity": checkpoint.file_sha256(best),
    }


def do_evaluation(options: Options, step: Step, inputs: Mapping[str, dict], key: str) -> dict:
    """Score a network on the validation images, or without one the baselines, by `evaluate`."""
    dataset = inputs[step.needs[0]]
    folder = Path(dataset["folder"])
    source = inputs[step.needs[1]] if len(step.needs) > 1 else None
    groups = data.load_groups(step.data, folder, options.size_for(step.data))
    name = f"{slug(step.name.removeprefix('evaluate '))}_{key[:12]}"
    request = evaluate.Options(
        step.data,
        folder,
        groups[1].samples,
        part="valid",
        params={**options.params, "results": str(options.folder)},
        size=options.size,
        weights=[source.get("best") or source["path"]] if source else None,
        maps=[] if source else [folder / "saliency"],  # They show what the baselines stand between.
        protocol=step.protocol,
        baselines=source is None,
        name=name,
    )
    evaluate.run(request)
    target = request.folder_of_runs / name
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
    """Write the files that a benchmark takes, by `submit`."""
    (source,) = inputs.values()
    results = options.folder / "benchmarks" / f"{slug(step.name.removeprefix('submit '))}_{key[:12]}"
    submit.run(
        step.data,
        Path(step.settings["folder"]),
        {**options.params, "results": str(results)},
        weights=source.get("best") or source["path"],
        size=options.size,
    )
    files = sorted(file for file in (results / "submissions").iterdir() if file.is_file())
    hashes = {file.name: checkpoint.file_sha256(file) for file in files}
    return {"files": [str(file) for file in files], "sha256": hashes, "identity": ""}
