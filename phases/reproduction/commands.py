"""The phases that do the steps of a reproduction: their options, and the commands that repeat one step alone."""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ... import installation
from ...config import PARAMS
from .. import download, evaluate, submit, train
from .ledger import Outcome
from .plan import Options, Step, has_flag

SHORT = {"data": "-d", "path": "-p"}


def request(step: Step, inputs: Mapping[str, dict], options: Options, results: Path, name: str | None = None) -> Any:
    """The options of the phase that trains, evaluates or submits.

    Args:
        step: what to do.
        inputs: the results of the steps that it needs, by their names.
        options: of the reproduction.
        results: the folder of the phase's results.
        name: of an evaluation's folder.
    """
    found = [inputs[need] for need in step.needs]
    params, size = {**options.params, "results": str(results)}, options.input_size
    if step.kind == "submit":
        return submit.Options(step.data, Path(step.settings["folder"]), params, weights_of(found[0]), input_size=size)
    folder, source = Path(found[0]["folder"]), found[1] if len(found) > 1 else None
    if step.kind == "train":
        init = source["best"] if source and "best" in source else step.settings["init"]
        return train.Options(
            [step.data],
            folder,
            {**params, "seed": step.seed},
            init=init,
            variant=step.settings["variant"],
            context=step.settings["context"],
            input_size=size,
        )
    return evaluate.Options(
        step.data,
        folder,
        params,
        weights=[weights_of(source)] if source else None,
        maps=[] if source else [folder / "saliency"],  # scored for comparison with the baselines
        protocol=step.protocol,
        baselines=source is None,
        name=name,
        input_size=size,
    )


def weights_of(source: Mapping) -> str:
    """The file of the weights that a step found or trained."""
    return source.get("best") or source["path"]


def command_of(outcome: Outcome, options: Options) -> str:
    """The command that repeats a step; empty if the step was not done or only looked at a file of weights.

    Results go to a separate folder, so that the command does not change the reproduction.
    """
    step = outcome.step
    if not outcome.result:
        return ""
    if step.kind == "data":
        return command("download", download.Options(step.data, options.path, False, None, False, {}))
    if step.kind == "weights":
        published = step.settings["which"] in ("published", "vgg16")
        fetch = download.Options(step.data or "salicon", None, True, None, False, {})
        return command("download", fetch) if published else ""
    return command(step.kind, request(step, outcome.inputs, options, options.folder / "again"))


def command(phase: str, options: Any) -> str:
    """The command that runs a phase with these options, whose names are those of the flags."""
    words = [*installation.command().split(), phase]
    for field in dataclasses.fields(options):
        value, flag = getattr(options, field.name), SHORT.get(field.name) or f"--{field.name.replace('_', '-')}"
        if field.name == "params":
            words += flags_of(phase, value)
        elif value is True:
            words.append(flag)
        elif isinstance(value, list | tuple) and value:
            words += [flag, *map(str, value)]
        elif value not in (None, False, [], ()):
            words += [flag, str(value)]
    return shlex.join(words)


def flags_of(phase: str, params: Mapping) -> list[str]:
    """The flags of a phase's parameters that differ from their defaults."""
    flags = []
    for key, value in params.items():
        if not has_flag(phase, key) or value == PARAMS[key].value:
            continue
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", *map(str, value if isinstance(value, list | tuple) else [value])]
    return flags
