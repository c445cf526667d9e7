"""Speed and memory of the `test` phase on a clip, compared with the network alone on the same frames.

    python benchmarks/video.py [--weights lite] [--size 240 320] [--frames 500] [--rounds 3]

The clip is a noisy scene that moves, in H.264. A row "network" predicts frames from memory, as `Network.predictions`
does; a row "phase" also decodes the clip and encodes the video of maps. They take turns, and the shortest of each are
compared. With lite, expect a quarter more time; on a busy machine, compare the CPU time. The last column is the growth
of memory from the first quarter of a row to its end.
"""

import argparse
import itertools
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np

import msinet
from msinet.config import defaults
from msinet.phases import clips
from msinet.photographs import Options, Photograph
from msinet.videos.reading import Clip
from msinet.videos.writing import write_clip


def frames(height: int, width: int, count: int):
    generator = np.random.default_rng(0)
    scene = np.kron(generator.integers(0, 230, (height // 8 + 1, width // 8 + 40, 3)), np.ones((8, 8, 1)))
    grain = generator.normal(0, 4, (16, height, width, 3))
    for i in range(count):
        left = i % 300
        yield np.clip(scene[:height, left : left + width] + grain[i % 16], 0, 255).astype(np.uint8)


def memory() -> float:
    """Megabytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def timed(name: str, run, count: int) -> tuple[float, float]:
    """Print a row; `run` takes a function to call after each frame. Returns the seconds that passed and CPU time."""
    used = []
    counter = itertools.count()

    def step():
        if next(counter) in (count // 4, count - 1):
            used.append(memory())

    start, cpu = time.perf_counter(), time.process_time()
    run(step)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    per_frame = f"{1e3 * seconds / count:8.2f} ms, CPU {1e3 * cpu / count:8.2f} ms per frame"
    print(f"{name:8} {seconds:8.1f} s, {per_frame}, {used[1] - used[0]:+8.1f} MB")
    return seconds, cpu


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", default="lite")
    parser.add_argument("--size", type=int, nargs=2, default=(240, 320))
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    network = msinet.load(options.weights)
    shape = (*options.size, options.frames)
    network.predict(next(frames(*shape)))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "a.mp4")
        with write_clip(source, Clip("", Fraction(25), Fraction(1, 25), end=Fraction(options.frames, 25))) as writer:
            for i, pixels in enumerate(frames(*shape)):
                writer.add(pixels, Fraction(i, 25))
        settings = Options({**defaults(), "results": folder})

        def alone(step):
            decoded = itertools.cycle(list(frames(*options.size, 50)))
            for _ in network.predictions(itertools.islice(decoded, options.frames)):
                step()

        def phase(step):
            def watched(rows, *arguments, **flags):
                for row in rows:
                    step()
                    yield row

            clips.ProgressBar = watched
            clips.predict_clip(network, Photograph(str(source), "b.mp4", "c.mp4"), settings)

        rounds = [
            (timed("network", alone, options.frames), timed("phase", phase, options.frames))
            for _ in range(options.rounds)
        ]
        best = [[min(times) for times in zip(*rows, strict=True)] for rows in zip(*rounds, strict=True)]
        more = [100 * (after / before - 1) for before, after in zip(*best, strict=True)]
        print(f"The phase takes {more[0]:.1f} % more time, and {more[1]:.1f} % more CPU time.")


if __name__ == "__main__":
    main()
