"""Processor time and memory of the whole program: `test` on a folder of photographs of 800×600, and on one photograph.

    python -m benchmarks.folder [--images 60] [--weights lite] [--programs . ../other-clone] [--stages]

Each row is one process from start to end; programs take turns. CPU seconds (user and system) and peak memory depend
little on the machine's other load, unlike the duration. To imitate a processor with AVX2 only, set
ONEDNN_MAX_CPU_ISA=AVX2. --stages measures the stages one after another in this process instead.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

import msinet
from benchmarks.machine import processor
from msinet.image_files import read_header
from msinet.photographs import sample_photograph

SIZE = (800, 600)  # width and height


def make_photographs(folder: Path, count: int) -> None:
    """Different photographs: the sample photograph, shifted."""
    photograph = Image.open(sample_photograph()).convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
    for i in range(count):
        shifted = Image.new("RGB", SIZE)
        for left in (-i * 10, SIZE[0] - i * 10):
            shifted.paste(photograph, (left, 0))
        shifted.save(folder / f"{i:04d}.jpg", quality=90)


def measure(program: Path, arguments: list[str], log: Path) -> tuple[float, float, float]:
    """CPU seconds, peak MB and seconds of one run of a clone's `main.py`, which writes its messages into `log`."""
    start = time.perf_counter()
    writes = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    process = os.posix_spawn(
        sys.executable,
        [sys.executable, str(program / "main.py"), *arguments],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, str(log), writes, 0o600), (os.POSIX_SPAWN_DUP2, 1, 2)],
    )
    _, status, used = os.wait4(process, 0)
    if status:
        sys.exit(f"{program} failed:\n{log.read_text(encoding='utf-8')}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, time.perf_counter() - start


def print_stages(weights: str, engine: str, folder: Path) -> None:
    """CPU seconds of each stage for all photographs, and the process' peak memory so far."""
    print("| stage | CPU seconds | peak memory so far, MB |\n| --- | --- | --- |")

    def stage(name, function, *columns):
        used = time.process_time()
        results = [function(*row) for row in zip(*columns, strict=True)]
        used, peak = time.process_time() - used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| {name} | {used:.2f} | {peak:.0f} |", flush=True)
        return results

    (network,) = stage("import and load", lambda name: msinet.load(name, engine=engine), [weights])
    files = sorted(folder.iterdir())
    headers = stage("headers", read_header, files)
    pixels = stage("decode", network.read, files, headers)
    fitted = stage("fit", lambda photograph: network.fit(photograph, network.size_for(SIZE[::-1])), pixels)
    del pixels
    with network.alone():
        graph = network.graphs(1)[0]
        stage("first call of the network", lambda image: graph([image]), fitted[:1])
        maps = stage("network", lambda image: graph([image])[0], fitted)
    restored = stage("restore", lambda saliency: network.restore(saliency, SIZE[::-1]), maps)
    if engine == "litert":
        from msinet.litert import encode_map
    else:
        from msinet.images import encode_map
    stage("encode", lambda saliency: encode_map(saliency, ".jpeg"), restored)


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=60, help="photographs in the folder (default: 60)")
    parser.add_argument("--weights", default="lite", help="for test --weights (default: lite)")
    parser.add_argument("--engine", choices=("tensorflow", "litert"), default="tensorflow")
    parser.add_argument("--programs", type=Path, nargs="+", default=[Path(__file__).parents[1]], metavar="CLONE")
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--stages", action="store_true")
    options = parser.parse_args()
    print(f"{options.weights}, {processor()}\n")
    if options.stages:
        with tempfile.TemporaryDirectory() as temporary:
            make_photographs(Path(temporary), options.images)
            return print_stages(options.weights, options.engine, Path(temporary))
    print("| program | photographs | CPU seconds | peak memory, MB | seconds |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as temporary:
        log = Path(temporary) / "log"
        for count in (1, options.images):
            photographs = Path(temporary) / str(count)
            photographs.mkdir(exist_ok=True)
            make_photographs(photographs, count)
            for _ in range(options.repetitions):
                for program in options.programs:
                    results = tempfile.mkdtemp(dir=temporary)
                    arguments = ["test", "-p", str(photographs), "--weights", options.weights, "--results", results]
                    if options.engine != "tensorflow":  # Earlier versions do not know the flag.
                        arguments += ["--engine", options.engine]
                    cpu, memory, seconds = measure(program, arguments, log)
                    print(f"| {program} | {count} | {cpu:.1f} | {memory:.0f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    run()
