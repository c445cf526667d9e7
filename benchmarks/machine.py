"""The machine that numbers were measured on, in words."""

import os

from msinet.phases.reproduction import provenance
from msinet.utils import processor_instructions


def processor() -> str:
    """The processor's name, cores and vector instructions."""
    known = processor_instructions() & {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"}
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    words = ", ".join(sorted(known)) or "unknown instructions"
    return f"{provenance.processor()}, {len(os.sched_getaffinity(0))} cores, {words}" + (
        f", oneDNN limited to {limit}" if limit else ""
    )
