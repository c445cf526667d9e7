"""Where numbers come from: the program, the machine, and the time and memory of a step."""

import contextlib
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...config import VERSION
from ...installation import IN_CLONE, PACKAGE
from ...utils import cores, versions


@dataclass
class Cost:
    """Seconds, and the peak memory of this process in megabytes; None if the system does not provide it."""

    seconds: float = 0.0
    peak_mb: float | None = None


@contextlib.contextmanager
def measured() -> Iterator[Cost]:
    """Measure the time and memory of a block."""
    cost, started = Cost(), time.monotonic()
    with contextlib.suppress(OSError):  # Reset the peak on Linux.
        Path("/proc/self/clear_refs").write_text("5")
    try:
        yield cost
    finally:
        cost.seconds, cost.peak_mb = round(time.monotonic() - started, 1), peak_memory()


def peak_memory() -> float | None:
    """Peak memory of this process in megabytes; on Linux since `measured` began, elsewhere since the process did."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024)
    except (OSError, StopIteration, ValueError):
        pass
    try:
        import resource  # not available on Windows
    except ImportError:
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(used / (2**20 if platform.system() == "Darwin" else 1024))


def machine() -> dict[str, str]:
    """The program and the machine, for people."""
    return {
        "MSI-Net": f"{VERSION}, git commit {commit()}" if IN_CLONE else VERSION,
        **versions(),
        "system": platform.platform(),
        "processor": f"{processor()}, {cores()} cores used",
        "GPUs": ", ".join(gpus()) or "none",
    }


def processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor() or platform.machine() or "not known"


def gpus() -> list[str]:
    import tensorflow as tf

    found = []
    for device in tf.config.list_physical_devices("GPU"):
        found.append(tf.config.experimental.get_device_details(device).get("device_name", device.name))
    return found


def commit() -> str:
    """The commit of the program, and whether its files were changed since; "not known" outside of a repository."""
    try:
        revision, changes = (
            subprocess.run(
                ["git", "-C", str(PACKAGE), *words], capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return "not known"
    return f"{revision}{' with changes' if changes else ''}"
