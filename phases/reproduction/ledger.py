"""The ledger of a reproduction: does each step once, stores its result, and continues after steps that fail."""

import contextlib
import errno
import hashlib
import json
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...config import VERSION
from ...utils import DownloadError, UserError, whole_file, write_json
from .plan import Step
from .provenance import measured

# Steps that only look at files. They are quick and run every time. Their results are part of the keys of the steps that
# need them, so that changed data or weights are scored again.
LOOKING = ("data", "weights")

LONGEST_REASON = 160  # characters in a table


@dataclass
class Outcome:
    """The outcome of a step.

    Attributes:
        step: the step.
        key: the hash of everything that determines its result.
        result: what it found or made; None if it failed. Later steps depend on its "identity".
        reason: why it failed, in a few words.
        cause: the same, if a step that it needs failed.
        seconds, peak_mb: time and peak memory of the process when the step was done.
        done_before: whether an earlier run did it.
        inputs: the results of the steps that it needs, by their names.
    """

    step: Step
    key: str = ""
    result: dict | None = None
    reason: str = ""
    cause: str = ""
    seconds: float | None = None
    peak_mb: float | None = None
    done_before: bool = False
    inputs: Mapping[str, dict] = field(default_factory=dict)


# A step's action: a function of the step, the results of the steps that it needs, and its key; it returns the result.
Action = Callable[[Step, Mapping[str, dict], str], dict]


class Ledger:
    """The finished steps, one file each in `folder/steps/`."""

    def __init__(self, folder: Path, actions: Mapping[str, Action], say: Callable[[str], None] = print):
        self.folder, self.actions, self.say = folder, actions, say

    def do_all(self, steps: Sequence[Step]) -> list[Outcome]:
        """Do all steps that were not done before. A step that fails does not stop the others."""
        outcomes: dict[str, Outcome] = {}
        for number, step in enumerate(steps, 1):
            self.say(f"\n[{number}/{len(steps)}] {step.name}")
            outcome = outcomes[step.name] = self._do(step, [outcomes[need] for need in step.needs])
            if outcome.reason:
                self.say(f"Failed: {outcome.reason}.")
            elif outcome.done_before:
                self.say("Done before.")
        return list(outcomes.values())

    def _do(self, step: Step, needs: Sequence[Outcome]) -> Outcome:
        for need in needs:
            if need.result is None:
                cause = need.cause or f"{need.step.name}: {need.reason}"  # the first failure of a chain
                return Outcome(step, reason=cause, cause=cause)
        inputs = {need.step.name: need.result for need in needs if need.result is not None}
        key = key_of(step, inputs)
        before = self._read(step, key)
        if before and step.kind not in LOOKING:
            return Outcome(step, **before, done_before=True, inputs=inputs)
        outcome = Outcome(step, key, inputs=inputs)
        try:
            with measured() as cost:
                outcome.result = self.actions[step.kind](step, inputs, key)
            outcome.seconds, outcome.peak_mb = cost.seconds, cost.peak_mb
            if before and before["result"] == outcome.result:  # Keep the time of the first look.
                return Outcome(step, **before, done_before=True, inputs=inputs)
            self._write(outcome)
        except Exception as error:  # The other steps must still be done.
            outcome.result, outcome.reason = None, self._explain(step, error)
        return outcome

    def path(self, step: Step, key: str) -> Path:
        """The file that records that a step is done."""
        return self.folder / "steps" / f"{slug(step.name)}_{key[:12]}.json"

    def _read(self, step: Step, key: str) -> dict | None:
        """The record of a step from an earlier run; None if there is none or one of its files is missing."""
        try:
            found = json.loads(self.path(step, key).read_text(encoding="utf-8"))
            whole = found["key"] == key and all(Path(file).exists() for file in found["result"].get("files", []))
            return {name: found[name] for name in ("key", "result", "seconds", "peak_mb")} if whole else None
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return None

    def _write(self, outcome: Outcome) -> None:
        content = {
            "step": outcome.step.name,
            "key": outcome.key,
            "settings": dict(outcome.step.settings),
            "result": outcome.result,
            "seconds": outcome.seconds,
            "peak_mb": outcome.peak_mb,
        }
        write_json(self.path(outcome.step, outcome.key), content)

    def _explain(self, step: Step, error: Exception) -> str:
        """Why a step failed, in a few words. The traceback of an unexpected error is written to a file."""
        if isinstance(error, UserError | OSError | MemoryError):
            self.say(f"error: {error}")
            return brief(error)
        path = self.folder / "failures" / f"{slug(step.name)}.txt"
        with contextlib.suppress(OSError), whole_file(path) as temporary:
            temporary.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        return f"{brief(error)}; see {path}"


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
