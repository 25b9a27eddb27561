"""A night's parameter sweep that outlives the program: submit it, go home, look at it the next morning.

    python overnight.py                      submits two dozen trainings of a neural network, and ends
    asyncjobs jobs --dir overnight           how far they are, from any terminal
    python overnight.py attach               results, the best one's log and plot, a figure; waits for the rest
    asyncjobs stop --dir overnight           when you are done with the service

Kill what you like in between, the service too: a training goes on with the epoch it had reached. The digits are real
ones that scikit-learn brings along (UCI, 1998: 1,797 images of 8 by 8 pixels).
"""

import argparse
import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import asyncjobs as aj

SERVICE = "overnight"  # the service's directory, here; without one it is that of all your programs
SEEN = 1400


def train(width: int, rate: float, decay: float, epochs: int) -> dict[str, Any]:
    """One training, in a worker of the service; what it needs travels with it."""
    job = aj.current_job()
    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(digits))
    images, digits = images[order] / 16.0, digits[order]
    fresh = MLPClassifier((width,), learning_rate_init=rate, alpha=decay, random_state=0)
    model, curve = job.restore((fresh, []))  # after a crash: where it was
    with aj.plot("training.html", title=job.name) as plot:
        for epoch in range(len(curve), epochs):
            model.partial_fit(images[:SEEN], digits[:SEEN], classes=range(10))
            curve.append(float(model.score(images[SEEN:], digits[SEEN:])))
            plot.log(epoch + 1, loss=model.loss_, right=curve[-1])
            job.checkpoint((model, curve))
            job.progress(epoch + 1, epochs, f"{curve[-1]:.1%} right")
            print(f"epoch {epoch + 1}: {curve[-1]:.1%} of the unseen digits are right, the loss is {model.loss_:.4f}")
    return {"width": width, "rate": rate, "decay": decay, "curve": curve}


async def submit(epochs: int, grid: list[tuple[int, float, float]]) -> None:
    """Hand the sweep over; when this returns, it is on disk."""
    async with aj.connect(SERVICE, start=True) as service:
        for width, rate, decay in grid:
            name = f"width {width}, rate {rate:g}, decay {decay:g}"
            training = service.options(name=name, tags="overnight", retries=2, timeout=3600)
            await training.submit(train, width, rate, decay, epochs)
    print(f"{len(grid)} trainings are on disk; this program ends, they go on")


async def attach() -> None:
    """From another program, the next morning; starts the service again if the machine was, and it goes on."""
    async with aj.connect(SERVICE, start=True) as service:
        jobs = await service.jobs(tag="overnight", limit=None)
        print(f"{len(jobs)} trainings, {sum(job.done() for job in jobs)} of them have ended")
        for job in jobs:
            await job.wait()  # those that go on
            if job.state is not aj.JobState.SUCCEEDED:
                print(f"{job.state}: {job.name}; asyncjobs show {job.id} --dir {SERVICE} says why")
        jobs = [job for job in jobs if job.state is aj.JobState.SUCCEEDED]
        if not jobs:
            return
        results = {job: await job for job in jobs}
        best_first = sorted(jobs, key=lambda job: -results[job]["curve"][-1])
        for job in best_first[:5]:
            print(f"{results[job]['curve'][-1]:.1%}  {job.name}")
        print(f"the log of the best one, {best_first[0].id}:")
        async for line in best_first[0].logs():
            print(" ", line.rstrip())
        plot = await best_first[0].figure("training.html")
    draw(plot, [(job.name, results[job]["curve"]) for job in best_first])


def draw(plot: bytes, curves: list[tuple[str, list[float]]]) -> None:
    """The plot that the best one made, and all curves in one figure, the best one in colour."""
    Path("best.html").write_bytes(plot)
    figure = go.Figure(layout={"title": {"text": "A night of trainings"}, "yaxis": {"tickformat": ".0%"}})
    for place, (name, curve) in enumerate(reversed(curves), 1):
        color = "#d62728" if place == len(curves) else "#cccccc"
        figure.add_scatter(y=curve, x=[*range(1, len(curve) + 1)], name=name, line={"color": color})
    figure.update_xaxes(title="epoch").update_yaxes(title="unseen digits that are right")
    figure.write_html("overnight.html")
    print("open overnight.html, and best.html: what the best one plotted")


warnings.filterwarnings("ignore", module="sklearn")
parser = argparse.ArgumentParser(description="A night's parameter sweep in a service.")
parser.add_argument("what", nargs="?", choices=["submit", "attach"], default="submit")
parser.add_argument("--quick", action="store_true", help="two short trainings")
asked = parser.parse_args()
if asked.what == "attach":
    aj.run(attach())
else:
    widths, rates, decays = [16, 64, 256], [1e-4, 1e-3, 1e-2, 1e-1], [0.0, 0.01]
    if asked.quick:
        widths, rates, decays = [16, 64], [1e-2], [0.0]
    aj.run(submit(3 if asked.quick else 200, [*itertools.product(widths, rates, decays)]))
