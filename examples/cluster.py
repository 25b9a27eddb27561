"""The same two computations on threads, on processes, on a Dask cluster or on a Ray cluster: one argument says which.

1. A density at one point by Parzen's method, for many widths of its window: a kernel in plain Python.
2. A sweep over the parameters of a support vector machine that reads digits, each judged by cross-validation. The
   images are shared: they go to each worker once, not with every job.

    pip install "asyncjobs-runner[examples,dask,ray]"
    python cluster.py threads
    python cluster.py processes
    python cluster.py dask --address tcp://scheduler:8786
    python cluster.py ray --address auto

Without an address a small cluster is started on this machine.
"""

import argparse
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC

import asyncjobs as aj

SAMPLES = np.random.default_rng(123).multivariate_normal([0, 0], np.eye(2), 2_000)
WIDTHS = [round(0.1 * step, 1) for step in range(1, 21)]
GRID = list(itertools.product((0.1, 1.0, 10.0), (0.0001, 0.001, 0.01)))
TRUE_DENSITY = 1 / (2 * np.pi)
Lane = aj.ThreadLane | aj.ProcessLane | aj.DaskLane | aj.RayLane


def density(samples: np.ndarray, width: float) -> float:
    """The share of the samples in a square of that width around the origin, over its area."""
    inside = 0
    for x, y in samples:
        if abs(x) <= width / 2 and abs(y) <= width / 2:
            inside += 1
    return inside / (len(samples) * width**2)


def accuracy(data: tuple[np.ndarray, np.ndarray], penalty: float, gamma: float) -> float:
    """The share of unseen digits that are read right."""
    images, digits = data
    return float(cross_val_score(SVC(C=penalty, gamma=gamma), images, digits, cv=3).mean())


@contextmanager
def lane_for(where: str, address: str | None) -> Iterator[Lane]:
    """The lane that the argument asks for. Nothing else in this program knows where its jobs run."""
    if where == "threads":
        yield aj.ThreadLane(2)
    elif where == "processes":
        yield aj.ProcessLane(2)
    elif where == "ray":
        yield aj.RayLane(address, workers=None if address else 2)
    elif address:
        yield aj.DaskLane(address)
    else:
        from distributed import LocalCluster

        here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
        with LocalCluster(n_workers=2, threads_per_worker=1, **here) as cluster:
            yield aj.DaskLane(cluster)


async def parzen(runner: aj.Runner) -> str:
    """Find the width whose estimate is best."""
    estimates = await runner.map(density, itertools.repeat(SAMPLES), WIDTHS).collect()
    best = min(range(len(WIDTHS)), key=lambda index: abs(estimates[index] - TRUE_DENSITY))
    return f"Parzen: {len(WIDTHS)} widths, the best is {WIDTHS[best]} with {estimates[best]:.4f} of {TRUE_DENSITY:.4f}"


async def sweep(runner: aj.Runner) -> str:
    """Find the parameters that read most digits right."""
    bunch = load_digits()
    with runner.share((bunch.data, bunch.target)) as shared:
        jobs = [await runner.submit(accuracy, shared.argument, penalty, gamma) for penalty, gamma in GRID]
    scores = await aj.gather(jobs)
    best = max(range(len(GRID)), key=scores.__getitem__)
    return f"sweep: {len(GRID)} machines, the best is C={GRID[best][0]:g}, gamma={GRID[best][1]:g}: {scores[best]:.1%}"


async def main(lane: Lane) -> None:
    async with aj.Runner(lanes={"work": lane}, options={"lane": "work", "retries": 1}) as runner:
        for work in (parzen, sweep):
            began = perf_counter()
            print(await work(runner), f"({perf_counter() - began:.1f} s)")


if __name__ == "__main__":  # a cluster's workers may import this file
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("where", choices=("threads", "processes", "dask", "ray"))
    parser.add_argument("--address", help="of a cluster that is there")
    chosen = parser.parse_args()
    with lane_for(chosen.where, chosen.address) as lane:
        aj.run(main(lane))
