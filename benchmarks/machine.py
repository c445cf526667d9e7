"""The machine that numbers were measured on. Imports little: a process' peak memory includes its parent's."""

import os
from pathlib import Path

from msinet.utils import processor_instructions


def processor() -> str:
    """The processor's name, cores and vector instructions."""
    known = processor_instructions() & {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"}
    words = [_model_name(), f"{len(os.sched_getaffinity(0))} cores", *sorted(known)]
    if limit := os.environ.get("ONEDNN_MAX_CPU_ISA"):
        words.append(f"oneDNN limited to {limit}")
    return ", ".join(words)


def _model_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
