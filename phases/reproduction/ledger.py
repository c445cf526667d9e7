"""The ledger of a reproduction: does each step once, remembers what came of it, and goes on after any that fails."""

import contextlib
import errno
import hashlib
import json
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from config import VERSION
from phases.reproduction.plan import Step
from phases.reproduction.provenance import measured
from utils import DownloadError, UserError, whole_file, write_json

# Steps that look at what is there: that is quick, and they do nothing again. Whatever they find decides the keys of
# the steps that need them, so that no score is taken for one of data or weights that have changed.
LOOKING = ("data", "weights")

LONGEST_REASON = 160  # letters, in a row of a table


@dataclass
class Outcome:
    """What came of a step.

    Attributes:
        step, key: which, and the hash of all that decides its result.
        result: what it found or made; None if it failed. "identity" in it is what later steps depend on.
        reason: why it failed, in a few words.
        cause: the same, if it was for a step that it needs.
        seconds, peak_mb: that it took, when it was done; megabytes of memory of this process at most.
        done_before: whether an earlier run did it.
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


# A step's action: from the step, what came of the steps that it needs, and its key, to its result.
Action = Callable[[Step, Mapping[str, dict], str], dict]


class Ledger:
    """What is done, in `folder/steps/`: a file for each step, which is there when it is done."""

    def __init__(self, folder: Path, actions: Mapping[str, Action], say: Callable[[str], None] = print):
        self.folder, self.actions, self.say = folder, actions, say

    def do_all(self, steps: Sequence[Step]) -> list[Outcome]:
        """Do every step that can be done and was not; none that fails keeps another from being done."""
        outcomes: dict[str, Outcome] = {}
        for number, step in enumerate(steps, 1):
            self.say(f"\n[{number}/{len(steps)}] {step.name}")
            outcome = outcomes[step.name] = self._do(step, [outcomes[need] for need in step.needs])
            if outcome.reason:
                self.say(f"Not done: {outcome.reason}.")
            elif outcome.done_before:
                self.say("Done before.")
        return list(outcomes.values())

    def _do(self, step: Step, needs: Sequence[Outcome]) -> Outcome:
        for need in needs:
            if need.result is None:
                cause = need.cause or f"{need.step.name}: {need.reason}"  # Of a chain, the first that failed.
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
            if before and before["result"] == outcome.result:  # The time that counts is that of the first look.
                return Outcome(step, **before, done_before=True, inputs=inputs)
            self._write(outcome)
        except Exception as error:  # Whatever it is, the others are not to blame.
            outcome.result, outcome.reason = None, self._explain(step, error)
        return outcome

    def path(self, step: Step, key: str) -> Path:
        """The file that says that a step is done."""
        return self.folder / "steps" / f"{slug(step.name)}_{key[:12]}.json"

    def _read(self, step: Step, key: str) -> dict | None:
        """What an earlier run wrote of a step; None unless all that it made is still there."""
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
        """Why a step failed, in a few words; what nobody foresaw goes whole into a file."""
        if isinstance(error, UserError | OSError | MemoryError):
            self.say(f"error: {error}")
            return brief(error)
        path = self.folder / "failures" / f"{slug(step.name)}.txt"
        with contextlib.suppress(OSError), whole_file(path) as temporary:
            temporary.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        return f"{brief(error)}; see {path}"


def key_of(step: Step, inputs: Mapping[str, dict]) -> str:
    """SHA-256 in hexadecimal of all that decides what comes of a step."""
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
    """An error in a few words, without a full stop."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return "the disk is full"
    if isinstance(error, MemoryError):
        return "the memory is too small"
    text = (error.brief if isinstance(error, DownloadError) else str(error)).strip() or type(error).__name__
    if not isinstance(error, UserError | OSError):
        text = f"{type(error).__name__}: {text}"
    sentence = re.split(r"[.;] |\n", text)[0].rstrip(".")
    return sentence if len(sentence) <= LONGEST_REASON else f"{sentence[: LONGEST_REASON - 1]}…"


def slug(name: str) -> str:
    """A name as that of a file."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:80]
