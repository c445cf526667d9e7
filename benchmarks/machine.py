"""The machine that numbers were measured on. Imports little: a process' peak memory includes its parent's."""

import os

from msinet.utils import processor_instructions, processor_name


def processor() -> str:
    """The processor's name, cores and vector instructions."""
    known = processor_instructions() & {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"}
    words = [processor_name(), f"{len(os.sched_getaffinity(0))} cores", *sorted(known)]
    if limit := os.environ.get("ONEDNN_MAX_CPU_ISA"):
        words.append(f"oneDNN limited to {limit}")
    return ", ".join(words)
