"""The classic case: a bidirectional LSTM, fed in three ways, and how much of the waiting each of them saves.

A training loop that prepares each batch itself leaves the model idle meanwhile. Here the model learns whether the sum
of a random sequence is positive, and its batches are prepared

1. in between, by the thread that trains,
2. ahead, by a `QueueRunner` that fills a `FIFOQueue(4)`,
3. ahead, by a `Pipeline`.

Published for (1) and (2), with TensorFlow: 58.94 s and 37.25 s, 36.8 % saved. To save as much, preparing has to take
0.582 of the time of training, and here it is made to (``--ratio``).

    python blstm.py                       some 40 seconds, on two cores with nothing else to do
    python blstm.py --html blstm.html     with pictures
    python blstm.py --device cuda         through pinned memory, with a stream of its own for the copies

It needs torch, and plotly for the pictures. What is there for CUDA has not been run on a GPU so far.
"""

import argparse
import asyncio
import dataclasses
import itertools
import math
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from statistics import median
from time import perf_counter, process_time
from typing import TYPE_CHECKING, NamedTuple

# Before torch is there: with it, cuDNN's LSTM gives the same numbers in each run.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:2")

import numpy as np
import torch

import asyncjobs as aj

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SEED = 6
RATE = 0.01
AHEAD = 4
GOAL = 0.95
"""The share of what can be saved that is to be saved."""
SHOWN = 16
"""Steps in the picture."""

Batch = tuple[torch.Tensor, torch.Tensor]
Prepare = Callable[[int], Batch]
Span = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained, on what, for how long."""

    steps: int
    time: int
    batch: int
    features: int
    hidden: int
    device: torch.device
    draws: int = 1
    """How much work preparing is: so many random numbers are added up for each number of a sequence."""

    def prepare(self, number: int) -> Batch:
        """Batch `number`: sequences of shape (time, batch, features), and a 1 for each with a positive sum, else a 0.

        Numpy lets go of the GIL while it draws and adds, so a thread can do this while another one trains.
        """
        noise = np.random.default_rng([SEED, number]).standard_normal(
            (self.draws, self.time, self.batch, self.features), dtype=np.float32
        )
        sequences = noise.sum(axis=0) / np.float32(math.sqrt(self.draws))
        labels = (sequences.sum(axis=(0, 2)) > 0).astype(np.float32)
        inputs, wanted = torch.from_numpy(sequences), torch.from_numpy(labels)
        if self.device.type == "cuda":
            # Only out of pinned memory can a GPU fetch a batch while it computes.
            inputs, wanted = inputs.pin_memory(), wanted.pin_memory()
        return inputs, wanted


# --- training ---------------------------------------------------------------------------


class Trained(NamedTuple):
    """What has become of a model."""

    losses: list[float]
    weights: torch.Tensor
    steps: list[Span]
    """When each step began and ended; on a GPU, when it was asked for."""


def train(task: Task, batches: Iterable[Batch]) -> Trained:
    """A new model, trained with a step for each batch; the same batches make the same model."""
    torch.manual_seed(SEED)
    lstm = torch.nn.LSTM(task.features, task.hidden, bidirectional=True).to(task.device)
    head = torch.nn.Linear(2 * task.hidden, 1).to(task.device)
    weights = [*lstm.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(weights, lr=RATE)
    losses, steps = [], []
    for sequences, labels in on_device(batches, task.device):
        began = perf_counter()
        states, _ = lstm(sequences)  # of shape (time, batch, 2 * hidden)
        scores = head(states.mean(dim=0)).squeeze(1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())  # to read it here would wait for the GPU
        steps.append((began, perf_counter()))
    final = torch.cat([weight.detach().flatten() for weight in weights]).cpu()
    return Trained(torch.stack(losses).tolist(), final, steps)


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches where the model is. On a GPU each is copied while the step before it is still computed."""
    if device.type == "cpu":
        yield from batches
        return
    copies = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(copies):
            inputs, wanted = (part.to(device, non_blocking=True) for part in batch)
        computes = torch.cuda.current_stream(device)
        computes.wait_stream(copies)  # what is asked for from now on waits for the copy; this thread does not
        for part in (inputs, wanted):
            part.record_stream(computes)  # `copies`, whose memory it is, may use that again only after the step
        yield inputs, wanted


# --- three ways to feed it --------------------------------------------------------------


async def in_between(task: Task, prepare: Prepare) -> Trained:
    """The thread that trains prepares each batch itself."""

    def batches() -> Iterator[Batch]:
        for number in range(task.steps):
            if task.device.type == "cuda":
                torch.cuda.synchronize(task.device)  # as `Session.run` did: a step is over when it returns
            yield prepare(number)

    return await asyncio.to_thread(train, task, batches())


async def by_queue(task: Task, prepare: Prepare) -> Trained:
    """A queue runner's thread prepares, at most four batches ahead."""
    queue = aj.FIFOQueue[Batch](AHEAD)
    coord = aj.Coordinator()
    numbers = iter(range(task.steps))

    def enqueue() -> Awaitable[None]:
        number = next(numbers, None)
        if number is None:
            raise aj.OutOfRangeError("no more batches")
        return queue.enqueue(prepare(number))  # prepared in this thread, awaited on the loop

    aj.QueueRunner(queue, [enqueue]).start(coord)
    with coord.stop_on_exception():
        trained = await asyncio.to_thread(train, task, aj.SyncQueue(queue))
    await coord.join()
    return trained


async def by_pipeline(task: Task, prepare: Prepare) -> Trained:
    """A pipeline's thread does."""
    batches = aj.Pipeline(range(task.steps)).map(prepare).prefetch(AHEAD)
    return await asyncio.to_thread(train, task, batches)


WAYS = {"in between": in_between, "FIFOQueue": by_queue, "Pipeline": by_pipeline}
AHEAD_OF_IT = ("FIFOQueue", "Pipeline")
TRAINING, PREPARING = "training alone", "preparing alone"


# --- measuring --------------------------------------------------------------------------


class Pass(NamedTuple):
    """One way, gone once."""

    seconds: float
    processor: float
    """Seconds that the cores were busy, all of them together."""
    preparing: list[Span]
    trained: Trained | None = None


async def passed(task: Task, way: Callable[[Task, Prepare], Awaitable[Trained | None]]) -> Pass:
    """Go it, and look at the clocks."""
    preparing: list[Span] = []

    def prepare(number: int) -> Batch:
        began = perf_counter()
        batch = task.prepare(number)
        preparing.append((began, perf_counter()))
        return batch

    began, busy = perf_counter(), process_time()
    trained = await way(task, prepare)
    return Pass(perf_counter() - began, process_time() - busy, preparing, trained)


async def training_alone(task: Task, prepare: Prepare) -> Trained:
    """As many steps with one batch, again and again."""
    return await asyncio.to_thread(train, task, itertools.repeat(task.prepare(0), task.steps))


async def preparing_alone(task: Task, prepare: Prepare) -> None:
    """All batches, and nobody who trains."""
    batches = aj.Pipeline(range(task.steps)).map(prepare).prefetch(AHEAD)
    await asyncio.to_thread(lambda: [None for _ in batches])


async def calibrated(task: Task, ratio: float) -> Task:
    """The task with as many draws as make preparing take `ratio` of the time of training."""
    short = dataclasses.replace(task, steps=min(task.steps, 40), draws=16)
    await passed(short, training_alone)  # the first steps are slow
    training, drawing = [], []
    for _ in range(5):
        training.append((await passed(short, training_alone)).seconds)
        drawing.append((await passed(short, preparing_alone)).seconds / short.draws)
        short = dataclasses.replace(short, draws=max(1, round(ratio * median(training) / median(drawing))))
    return dataclasses.replace(task, draws=short.draws)


async def measured(task: Task, rounds: int) -> dict[str, list[Pass]]:
    """All ways in turn, again and again, so that none of them has the better moments of the machine."""
    passes: dict[str, list[Pass]] = {name: [] for name in (*WAYS, TRAINING, PREPARING)}
    for _ in range(rounds):
        passes[TRAINING].append(await passed(task, training_alone))
        passes[PREPARING].append(await passed(task, preparing_alone))
        for name, way in WAYS.items():
            passes[name].append(await passed(task, way))
    return passes


class Outcome(NamedTuple):
    """Seconds, each the median over all rounds."""

    seconds: dict[str, float]
    least: float
    """No way of feeding the model can take less."""

    def saved(self, seconds: float) -> float:
        """The share of the sequential time that is not needed any more."""
        return 1 - seconds / self.seconds["in between"]

    def of_possible(self, seconds: float) -> float:
        """What is saved, as a share of what can be saved; all of it where nothing can be, as on one core."""
        possible = self.saved(self.least)
        return self.saved(seconds) / possible if possible > 0 else 1.0


def outcome(passes: dict[str, list[Pass]]) -> Outcome:
    """What can be saved has three limits: training, preparing, and the cores that both of them keep busy."""
    seconds = {name: median(one.seconds for one in found) for name, found in passes.items()}
    processor = sum(median(one.processor for one in passes[name]) for name in (TRAINING, PREPARING))
    first = median(end - start for start, end in (one.preparing[0] for one in passes[PREPARING]))
    # And before the first step there has to be a batch.
    return Outcome(seconds, first + max(seconds[TRAINING], seconds[PREPARING], processor / cores()))


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- telling ----------------------------------------------------------------------------


def said(task: Task, found: Outcome, passes: dict[str, list[Pass]]) -> Iterator[str]:
    """The table, and what is to be seen in it."""
    step = found.seconds[TRAINING] / task.steps
    ratio = found.seconds[PREPARING] / found.seconds[TRAINING]
    yield f"{task.steps} steps of {step * 1e3:.1f} ms on {task.device}, preparing takes {ratio:.3f} of that"
    yield f"\n{'':10} {'seconds':>8} {'saved':>7} {'efficiency':>11}"
    for name in WAYS:
        seconds = found.seconds[name]
        yield f"{name:10} {seconds:8.3f} {found.saved(seconds):7.1%} {found.least / seconds:11.3f}"
    yield f"{'at best':10} {found.least:8.3f} {found.saved(found.least):7.1%} {1:11.3f}"
    yield "TensorFlow, published: in between 58.94 s, by its queue 37.25 s, 36.8% saved\n"
    for name in AHEAD_OF_IT:
        share = found.of_possible(found.seconds[name])
        reached = "reached" if share >= GOAL else "missed"
        yield f"{name} saves {share:.1%} of what can be saved; {GOAL:.0%} wanted: {reached}"
    others = 1 - median(one.processor / one.seconds for one in passes[TRAINING])
    if others > 0.03 and task.device.type == "cpu":
        yield f"other programs had {others:.0%} of the core that trains: measure again when they are gone"
    models = [one.trained for name in WAYS for one in passes[name] if one.trained is not None]
    first, last = (sum(some) / len(some) for some in (models[0].losses[:10], models[0].losses[-10:]))
    same = all(torch.equal(model.weights, models[0].weights) for model in models)
    yield f"loss {first:.4f} in the first ten steps, {last:.4f} in the last; the same weights from all ways: {same}"


def draw(path: str, found: Outcome, passes: dict[str, list[Pass]]) -> None:
    """A page with two pictures."""
    from asyncjobs.report import write_html

    write_html(
        {"Seconds": bars(found), "A few steps of each": timelines(passes)},
        path,
        title="A bidirectional LSTM, fed in three ways",
    )


def bars(found: Outcome) -> "Figure":
    """How long each way takes, and how long any would take at least."""
    from asyncjobs.report import LANE_COLORS, dress, graph_objects

    names = [*reversed(WAYS)]
    trace = graph_objects().Bar(
        orientation="h",
        y=names,
        x=[found.seconds[name] for name in names],
        text=[told(found, name) for name in names],
        textposition="inside",
        marker={"color": [LANE_COLORS[name == "in between"] for name in names]},
        hoverinfo="skip",
    )
    caption = (
        f"The dashed line is the least that any way can take, {found.least:.2f} s: the training itself, and the first "
        f"batch. That is {found.saved(found.least):.1%} less than preparing in between."
    )
    figure = dress(graph_objects().Figure(trace), "Seconds", caption)
    figure.add_vline(x=found.least, line={"dash": "dash", "width": 2})
    return figure.update_xaxes(title="seconds (shorter bars are better)", rangemode="tozero").update_layout(height=250)


def told(found: Outcome, name: str) -> str:
    """What stands in a bar."""
    seconds = f"{found.seconds[name]:.2f} s"
    return f"{seconds}, {found.saved(found.seconds[name]):.1%} saved" if name in AHEAD_OF_IT else seconds


def timelines(passes: dict[str, list[Pass]]) -> "Figure":
    """The first steps of each way: when a batch was prepared, and when the model was trained with it."""
    from asyncjobs.report import LANE_COLORS, dress, graph_objects, panels

    caption = (
        "Each bar is a batch that is prepared, or a step of training with one. In between, one waits for the other. By "
        "the queue and the pipeline they go on side by side, and there is always a batch ready."
    )
    figure = dress(panels(list(WAYS), gap=0.14), "A few steps of each", caption)
    for row, name in enumerate(WAYS, start=1):
        one = passes[name][-1]
        assert one.trained is not None
        start = one.preparing[0][0]
        for label, spans, color in (("training", one.trained.steps, 0), ("preparing", one.preparing, 1)):
            trace = graph_objects().Bar(
                orientation="h",
                y=[label] * SHOWN,
                base=[(began - start) * 1e3 for began, _ in spans[:SHOWN]],
                x=[(ended - began) * 1e3 for began, ended in spans[:SHOWN]],
                marker={"color": LANE_COLORS[color], "line": {"color": "white", "width": 1}},
                hovertemplate="%{x:.1f} ms<extra></extra>",
            )
            figure.add_trace(trace, row=row, col=1)
    figure.update_xaxes(title="milliseconds since the first batch was begun", row=len(WAYS), col=1)
    return figure.update_layout(height=470, showlegend=False, barmode="overlay")


def arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where to train (default: %(default)s)"
    )
    parser.add_argument("--html", metavar="PATH", help="write a page with pictures")
    parser.add_argument("--quick", action="store_true", help="a few seconds: to see that it runs, not how fast")
    parser.add_argument("--ratio", type=float, default=0.582, help="preparing over training (default: %(default)s)")
    sizes = {"steps": 150, "rounds": 7, "time": 50, "batch": 32, "features": 8, "hidden": 32}
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"default: {size}")
    given = parser.parse_args()
    quick = {"steps": 30, "rounds": 1, "time": 10} if given.quick else {}
    for name, size in (sizes | quick).items():
        if getattr(given, name) is None:
            setattr(given, name, size)
        if getattr(given, name) < 1:
            parser.error(f"--{name} {getattr(given, name)} is not allowed; allowed: a whole number from 1")
    if not 0 < given.ratio < 100:
        parser.error(f"--ratio {given.ratio} is not allowed; allowed: a number above 0 and below 100")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda is not allowed: torch finds no GPU; allowed: --device cpu")
    return given


async def main() -> None:
    given = arguments()
    torch.set_num_threads(1)  # the other core is for preparing
    sizes = (given.steps, given.time, given.batch, given.features, given.hidden)
    task = await calibrated(Task(*sizes, torch.device(given.device)), given.ratio)
    passes = await measured(task, given.rounds)
    found = outcome(passes)
    for line in said(task, found, passes):
        print(line)
    if given.html:
        draw(given.html, found, passes)


aj.run(main())
