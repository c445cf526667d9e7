"""How long a large run takes: a simulation of listing, reading, predicting and writing on many machines.

    python benchmarks/cluster_simulation.py [--images 1e9] [--machines 1000] [--cores 16] [--rate 23.5]

Portions of photographs go to workers as in Ray Data: a free worker takes the next one. Delays are added one after
another: the list, which is one stream; the store, which answers a limited number of requests per second; slow machines;
and lost machines, whose unfinished portions are predicted again at the end.
"""

import argparse
import heapq

import numpy as np

PORTION = 256  # photographs, `CHUNK` in phases/distributed/cluster.py
REQUESTS = 3  # per photograph: its size, its contents, its map
ASSIGNED = 2  # portions per worker: one running and one waiting
HOUR = 3600.0


def simulate(options, *, listing=False, store=False, slow=False, losses=False) -> tuple[float, int]:
    """Simulate one run.

    Args:
        options: see `parse`.
        listing, store, slow, losses: which delays to include.

    Returns:
        Seconds until the last map is written, and how many photographs were predicted again.
    """
    random = np.random.default_rng(options.seed)
    speed = np.full(options.machines, options.rate)  # photographs per second and core
    if slow:
        spread = random.normal(1, 0.05, options.machines).clip(0.8)
        speed *= spread / spread.mean()
        speed[random.random(options.machines) < options.slow_share] /= 2
    # When each machine is lost, until long after the end of the run.
    horizon = 4 * options.images / (options.machines * options.cores * options.rate) + HOUR
    often = random.poisson(options.loss * horizon / HOUR * losses, options.machines)
    lost_at = [sorted(random.uniform(0, horizon, number)) for number in often]

    free = [(0.0, worker) for worker in range(options.machines * options.cores)]
    heapq.heapify(free)
    store_free, end, again = 0.0, 0.0, 0
    portions = int(options.images / PORTION)
    for portion in range(portions):
        now, worker = heapq.heappop(free)
        machine = worker // options.cores
        if listing:
            now = max(now, portion * PORTION / options.listing)
        if store:
            store_free = max(store_free, now) + (REQUESTS * PORTION + 1) / options.requests
        done = max(now + PORTION / speed[machine], store_free)
        for lost in lost_at[machine]:
            if now < lost < done:  # The worker continues on the replacement machine.
                again += ASSIGNED * PORTION
                done = lost + options.replacement + options.start
        end = max(end, done)
        heapq.heappush(free, (done, worker))
    # The second pass: one photograph at a time, on all workers, which start again.
    if again:
        end += options.start + again / speed.sum() / options.cores
    return end, again


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=float, default=1e9, help="photographs (default: a billion)")
    parser.add_argument("--machines", type=int, default=1000, help="(default: 1000)")
    parser.add_argument("--cores", type=int, default=16, help="per machine, one worker each (default: 16)")
    parser.add_argument("--rate", type=float, default=23.5, help="photographs per second and core (default: 23.5)")
    parser.add_argument("--listing", type=float, default=400_000, help="listed per second (default: 400000)")
    parser.add_argument("--requests", type=float, default=1_000_000, help="that the store answers per second")
    parser.add_argument("--slow-share", type=float, default=0.01, help="of machines at half the speed (default: 0.01)")
    parser.add_argument("--loss", type=float, default=0.001, help="share of machines lost per hour (default: 0.001)")
    parser.add_argument("--replacement", type=float, default=300, help="seconds until one is replaced (default: 300)")
    parser.add_argument("--start", type=float, default=60, help="seconds for all workers to start (default: 60)")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def run() -> None:
    options = parse()
    ideal = options.images / (options.machines * options.cores * options.rate)
    print(f"{options.images:.0f} photographs, {options.machines} machines of {options.cores} cores, "
          f"{options.rate} photographs per second and core\n")  # fmt: skip
    print("| delays included | hours | relative to the ideal | predicted again |\n| --- | --- | --- | --- |")
    print(f"| nothing: images / (machines · cores · rate) | {ideal / HOUR:.2f} | 1.000 | 0 |")
    included = {}
    for name in ("listing", "store", "slow", "losses"):
        included[name] = True
        seconds, again = simulate(options, **included)
        print(f"| {' + '.join(included)} | {seconds / HOUR:.2f} | {seconds / ideal:.3f} | {again} |")


if __name__ == "__main__":
    run()
