"""Where numbers come from: the program, the machine, and what a step took of it."""

import contextlib
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from config import VERSION
from utils import cores, versions

ROOT = Path(__file__).parents[2]


@dataclass
class Cost:
    """Seconds, and the most memory in megabytes that this process had; None where the system does not tell."""

    seconds: float = 0.0
    peak_mb: float | None = None


@contextlib.contextmanager
def measured() -> Iterator[Cost]:
    """What the block takes."""
    cost, started = Cost(), time.monotonic()
    with contextlib.suppress(OSError):  # Linux forgets the peak so far.
        Path("/proc/self/clear_refs").write_text("5")
    try:
        yield cost
    finally:
        cost.seconds, cost.peak_mb = round(time.monotonic() - started, 1), peak_memory()


def peak_memory() -> float | None:
    """The most memory in megabytes that this process had, on Linux since `measured` began, elsewhere since its own."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024)
    except (OSError, StopIteration, ValueError):
        pass
    try:
        import resource  # It is not on Windows.
    except ImportError:
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(used / (2**20 if platform.system() == "Darwin" else 1024))


def machine() -> dict[str, str]:
    """The program and the machine, in words."""
    return {
        "MSI-Net": f"{VERSION}, git commit {commit()}",
        **versions(),
        "system": platform.platform(),
        "processor": f"{processor()}, {cores()} cores of it used",
        "GPUs": ", ".join(gpus()) or "none",
    }


def processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor() or platform.machine() or "not known"


def gpus() -> list[str]:
    found = []
    for device in tf.config.list_physical_devices("GPU"):
        found.append(tf.config.experimental.get_device_details(device).get("device_name", device.name))
    return found


def commit() -> str:
    """The commit of the program, and whether its files have changed since; "not known" outside of a repository."""
    try:
        revision, changes = (
            subprocess.run(
                ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return "not known"
    return f"{revision}{' with changes' if changes else ''}"
