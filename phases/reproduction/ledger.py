"""The ledger of a reproduction: does each step once, stores its result, and continues after steps that fail."""

import contextlib
import errno
import hashlib
import json
import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...config import VERSION
from ...utils import DownloadError, UserError, whole_file, write_json
from .plan import Options, Step

# Steps that only look at files. They are quick and run every time. Their results are part of the keys of the steps that
# need them, so changed data or weights are scored again.
LOOKING = ("data", "weights")

LONGEST_REASON = 160  # characters in a table


@dataclass
class Outcome:
    """The outcome of a step.

    Attributes:
        key: the hash of everything that determines its result; empty if a step that it needs failed.
        result: a dictionary of what it found or made; None if it failed. Later steps depend on its "identity".
        reason: why it failed, in a few words.
        seconds, peak_mb: time and peak memory of the process when the step was done, perhaps in an earlier run.
        inputs: the results of the steps that it needs, by their names.
    """

    step: Step
    key: str = ""
    result: Any = None
    reason: str = ""
    seconds: float | None = None
    peak_mb: float | None = None
    done_before: bool = False
    inputs: Mapping[str, dict] = field(default_factory=dict)


# Does a step: a function of the options, the step, the results of the steps that it needs, and its key.
Action = Callable[[Options, Step, Mapping[str, dict], str], dict]


def do_all(options: Options, steps: Sequence[Step], actions: Mapping[str, Action]) -> list[Outcome]:
    """Do all steps that were not done before, by the action of their kind. Failures do not stop the other steps."""
    outcomes: dict[str, Outcome] = {}
    for number, step in enumerate(steps, 1):
        print(f"\n[{number}/{len(steps)}] {step.name}")
        needs = [outcomes[need] for need in step.needs]
        outcome = outcomes[step.name] = do(options, step, needs, actions[step.kind])
        if outcome.reason:
            print(f"Failed: {outcome.reason}.")
        elif outcome.done_before:
            print("Done before.")
    return list(outcomes.values())


def do(options: Options, step: Step, needs: Sequence[Outcome], action: Action) -> Outcome:
    """Do a step, or read the record of an earlier run in `steps/`."""
    for need in needs:
        if need.result is None:  # Report the first failure of a chain.
            return Outcome(step, reason=f"{need.step.name}: {need.reason}" if need.key else need.reason)
    inputs = {need.step.name: need.result for need in needs}
    key = key_of(step, inputs)
    record = options.folder / "steps" / f"{slug(step.name)}_{key[:12]}.json"
    before = _read(record, key)
    if before and step.kind not in LOOKING:
        return Outcome(step, **before, done_before=True, inputs=inputs)
    started = time.monotonic()
    with contextlib.suppress(OSError):  # Reset the peak of the memory, which only Linux can.
        Path("/proc/self/clear_refs").write_text("5")
    try:
        result = action(options, step, inputs, key)
        if before and before["result"] == result:  # Keep the time of the first look.
            return Outcome(step, **before, done_before=True, inputs=inputs)
        seconds = round(time.monotonic() - started, 1)
        content: dict[str, Any] = {"key": key, "result": result, "seconds": seconds, "peak_mb": _peak_memory()}
        write_json(record, {"step": step.name, "settings": dict(step.settings), **content})
        return Outcome(step, **content, inputs=inputs)
    except Exception as error:  # The other steps must still be done.
        return Outcome(step, key, reason=_explain(options, step, error), inputs=inputs)


def _read(record: Path, key: str) -> dict | None:
    """The record of a step from an earlier run; None if there is none or one of its files is missing."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        whole = found["key"] == key and all(Path(file).exists() for file in found["result"].get("files", []))
        return {name: found[name] for name in ("key", "result", "seconds", "peak_mb")} if whole else None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def _explain(options: Options, step: Step, error: Exception) -> str:
    """Why a step failed, in a few words. The traceback of an unexpected error is written to a file."""
    if isinstance(error, UserError | OSError | MemoryError):
        print(f"error: {error}")
        return brief(error)
    path = options.folder / "failures" / f"{slug(step.name)}.txt"
    with contextlib.suppress(OSError), whole_file(path) as temporary:
        temporary.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return f"{brief(error)}; see {path}"


def _peak_memory() -> float | None:
    """Peak memory of this process in megabytes; None where the system is not Linux."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024)
    except (OSError, StopIteration):
        return None


def key_of(step: Step, inputs: Mapping[str, dict]) -> str:
    """SHA-256 in hexadecimal of everything that determines the result of a step."""
    decisive = {
        "step": step.name,
        "kind": step.kind,
        "data": step.data,
        "settings": dict(step.settings),
        "inputs": {name: result["identity"] for name, result in inputs.items()},
        "version": VERSION,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def brief(error: BaseException) -> str:
    """An error in a few words, without a period."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return "the disk is full"
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    text = (error.brief if isinstance(error, DownloadError) else str(error)).strip() or type(error).__name__
    if not isinstance(error, UserError | OSError):
        text = f"{type(error).__name__}: {text}"
    sentence = re.split(r"[.;] |\n", text)[0].rstrip(".")
    return sentence if len(sentence) <= LONGEST_REASON else f"{sentence[: LONGEST_REASON - 1]}…"


def slug(name: str) -> str:
    """A name in the characters of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:80]
