"""The commands that repeat the steps of a reproduction alone."""

import shlex
from pathlib import Path

from phases.reproduction.ledger import Outcome
from phases.reproduction.plan import Options, flags_of


def command_of(outcome: Outcome, options: Options) -> str:
    """What to type; empty for a step that was not done."""
    if not outcome.result:
        return ""
    return shlex.join(["python", "main.py", *ARGUMENTS[outcome.step.kind](outcome, options)])


def _data(outcome: Outcome, options: Options) -> list[str]:
    return ["download", "-d", outcome.step.data, "-p", str(options.path)]


def _weights(outcome: Outcome, options: Options) -> list[str]:
    which = outcome.step.settings["which"]
    if which in ("published", "vgg16"):
        return ["download", "-d", outcome.step.data or "salicon", "--weights"]
    return ["test", "--weights", which]


def _train(outcome: Outcome, options: Options) -> list[str]:
    step, result = outcome.step, outcome.result
    assert result
    params = {**options.params, "seed": step.seed}
    words = ["train", "-d", step.data, "-p", _folder(outcome), "--init", result["init"]]
    words += ["--variant", step.settings["variant"], "--context", step.settings["context"]]
    size = _size(options) if options.size else []
    return [*words, *size, *flags_of(params, ("results",)), "--results", _again(options)]


def _evaluate(outcome: Outcome, options: Options) -> list[str]:
    step = outcome.step
    words = ["evaluate", "-d", step.data, "-p", _folder(outcome), "--protocol", step.protocol]
    if step.network == "baselines":
        words += ["--maps", str(Path(_folder(outcome), "saliency")), "--baselines"]
    else:
        words += ["--weights", _weights_file(outcome, step.needs[1])]
    return [*words, *_size(options), *_shared(options, "seed"), "--results", _again(options)]


def _submit(outcome: Outcome, options: Options) -> list[str]:
    step = outcome.step
    words = [
        "submit",
        "-d",
        step.data,
        "-p",
        step.settings["folder"],
        "--weights",
        _weights_file(outcome, step.needs[0]),
    ]
    return [*words, *_size(options), *_shared(options), "--results", _again(options)]


ARGUMENTS = {"data": _data, "weights": _weights, "train": _train, "evaluate": _evaluate, "submit": _submit}


def _folder(outcome: Outcome) -> str:
    return outcome.inputs[outcome.step.needs[0]]["folder"]


def _weights_file(outcome: Outcome, need: str) -> str:
    source = outcome.inputs[need]
    return source.get("best") or source["path"]


def _size(options: Options) -> list[str]:
    return ["--input-size", *map(str, options.size)] if options.size else []


def _shared(options: Options, *keys: str) -> list[str]:
    """The flags of parameters that are not of training alone."""
    return flags_of({key: options.params[key] for key in ("device", "batch_size", *keys)})


def _again(options: Options) -> str:
    """A folder of its own, so that nothing of the reproduction is touched."""
    return str(options.folder / "again")
