"""Where numbers come from: the program and the machine."""

import platform
import subprocess

import tensorflow as tf

from ...config import VERSION
from ...installation import IN_CLONE, PACKAGE
from ...utils import cores, processor_name, versions


def machine() -> dict[str, str]:
    """The program and the machine, for people."""
    gpus = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
    return {
        "MSI-Net": f"{VERSION}, git commit {commit()}" if IN_CLONE else VERSION,
        **versions(),
        "system": platform.platform(),
        "processor": f"{processor_name()}, {cores()} cores used",
        "GPUs": ", ".join(names) or "none",
    }


def commit() -> str:
    """The commit of the program, with "-dirty" if its files were changed since; "not known" outside of a repository."""
    command = ["git", "-C", str(PACKAGE), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "not known"
