"""The classic case: a bidirectional LSTM, fed in three ways, and how much of the waiting each of them saves.

A training loop that prepares each batch itself leaves the model idle meanwhile. Here the model learns whether the sum
of a random sequence is positive, and its batches are prepared

1. in between, by the thread that trains,
2. ahead, by a `QueueRunner` that fills a `FIFOQueue(4)`,
3. ahead, by a `Pipeline`.

Published for (1) and (2), with TensorFlow: 58.94 s and 37.25 s, 36.8 % saved. To save as much, preparing has to take
0.582 of the time of training, and here it is made to (``--ratio``).

    python blstm.py                       one or two minutes, on two cores with nothing else to do
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


async def measured(task: Task, rounds: int) -> list[dict[str, Pass]]:
    """All ways in turn, again and again, so that none of them has the better moments of the machine."""
    ways = {TRAINING: training_alone, PREPARING: preparing_alone, **WAYS}
    return [{name: await passed(task, way) for name, way in ways.items()} for _ in range(rounds)]


def seconds_of(rounds: list[dict[str, Pass]], name: str) -> float:
    """The median."""
    return median(passes[name].seconds for passes in rounds)


class Saved(NamedTuple):
    """What one way of feeding the model saves."""

    share: float
    """Of the sequential time."""
    possible: float
    """The same at best."""

    @property
    def of_possible(self) -> float:
        """What is saved of what can be saved; all of it where nothing can be, as on one core."""
        return self.share / self.possible if self.possible > 0 else 1.0


def by_the_clock(passes: dict[str, Pass], name: str) -> Saved:
    """Against the way in between, and the least that any way can take, measured in the same round."""
    # Three limits: training, preparing, and the cores that both of them keep busy.
    processor = passes[TRAINING].processor + passes[PREPARING].processor
    first_begun, first_ended = passes[PREPARING].preparing[0]  # before the first step there has to be a batch
    limits = passes[TRAINING].seconds, passes[PREPARING].seconds, processor / cores()
    least = first_ended - first_begun + max(limits)
    sequential = passes["in between"].seconds
    return Saved(1 - passes[name].seconds / sequential, 1 - least / sequential)


def by_its_own_pieces(passes: dict[str, Pass], name: str) -> Saved:
    """Against the very batches and steps of this pass, one after the other, and side by side without any loss.

    Where the machine is faster now and slower then, this is what can be compared. What it does not show is that a step
    takes longer while batches are prepared beside it.
    """
    one = passes[name]
    assert one.trained is not None
    made = ended = total = 0.0
    for prepared, step in zip(one.preparing, one.trained.steps, strict=True):
        preparing, training = prepared[1] - prepared[0], step[1] - step[0]
        total += preparing + training
        made += preparing
        # A step begins once its batch is there and the step before it has ended.
        ended = max(made, ended) + training
    taken = one.trained.steps[-1][1] - one.preparing[0][0]
    return Saved(1 - taken / total, 1 - ended / total)


JUDGES = {"by the clock": by_the_clock, "by its own pieces": by_its_own_pieces}


def judged(rounds: list[dict[str, Pass]], judge: Callable[[dict[str, Pass], str], Saved], name: str) -> Saved:
    """The medians of what was found in each round."""
    found = [judge(passes, name) for passes in rounds]
    possible = median(one.possible for one in found)
    return Saved(possible * median(one.of_possible for one in found), possible)


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- telling ----------------------------------------------------------------------------


def said(task: Task, rounds: list[dict[str, Pass]]) -> Iterator[str]:
    """The tables, and what is to be seen in them."""
    step = seconds_of(rounds, TRAINING) / task.steps
    ratio = median(passes[PREPARING].seconds / passes[TRAINING].seconds for passes in rounds)
    yield f"{task.steps} steps of {step * 1e3:.1f} ms on {task.device}, preparing takes {ratio:.3f} of that"
    yield f"\n{'':17} {'':10} {'seconds':>8} {'saved':>7} {'at best':>8} {'of that':>8}"
    yield f"{'':17} {'in between':10} {seconds_of(rounds, 'in between'):8.3f}"
    for title, judge in JUDGES.items():
        for name in AHEAD_OF_IT:
            found = judged(rounds, judge, name)
            reached = "reached" if found.of_possible >= GOAL else "missed"
            yield (
                f"{title:17} {name:10} {seconds_of(rounds, name):8.3f} {found.share:7.1%} {found.possible:8.1%} "
                f"{found.of_possible:8.1%}  {GOAL:.0%} wanted: {reached}"
            )
    yield "TensorFlow, published: in between 58.94 s, by its queue 37.25 s, 36.8% saved\n"
    yield from doubts(task, rounds)
    models = [passes[name].trained for name in WAYS for passes in rounds]
    losses = models[0].losses if models[0] is not None else []
    first, last = (sum(some) / len(some) for some in (losses[:10], losses[-10:]))
    same = len({tuple(model.weights.tolist()) for model in models if model is not None}) == 1
    yield f"loss {first:.4f} in the first ten steps, {last:.4f} in the last; the same weights from all ways: {same}"


def doubts(task: Task, rounds: list[dict[str, Pass]]) -> Iterator[str]:
    """What makes the figures worth less."""
    if task.device.type != "cpu":
        return
    others = 1 - median(passes[TRAINING].processor / passes[TRAINING].seconds for passes in rounds)
    if others > 0.03:
        yield f"other programs had {others:.0%} of the core that trains: measure again when they are gone"
    times = sorted(passes[TRAINING].seconds for passes in rounds)
    spread = times[len(times) * 3 // 4] / times[len(times) // 4] - 1
    if spread > 0.05:
        yield f"the same training took {spread:.0%} longer in some rounds than in others: the clock says little here"


def draw(path: str, rounds: list[dict[str, Pass]]) -> None:
    """A page with two pictures."""
    from asyncjobs.report import write_html

    write_html(
        {"Seconds": bars(rounds), "A few steps of each": timelines(rounds[-1])},
        path,
        title="A bidirectional LSTM, fed in three ways",
    )


def bars(rounds: list[dict[str, Pass]]) -> "Figure":
    """How long each way takes, and how long any would take at least."""
    from asyncjobs.report import LANE_COLORS, dress, graph_objects

    names = [*reversed(WAYS)]
    seconds = {name: seconds_of(rounds, name) for name in names}
    possible = judged(rounds, by_the_clock, "Pipeline").possible
    least = (1 - possible) * seconds["in between"]
    trace = graph_objects().Bar(
        orientation="h",
        y=names,
        x=list(seconds.values()),
        text=[told(rounds, name) for name in names],
        textposition="inside",
        marker={"color": [LANE_COLORS[name == "in between"] for name in names]},
        hoverinfo="skip",
    )
    caption = (
        f"The dashed line is the least that any way can take, {least:.2f} s: the training itself, and the first "
        f"batch. That is {possible:.1%} less than preparing in between."
    )
    figure = dress(graph_objects().Figure(trace), "Seconds", caption)
    figure.add_vline(x=least, line={"dash": "dash", "width": 2})
    return figure.update_xaxes(title="seconds (shorter bars are better)", rangemode="tozero").update_layout(height=250)


def told(rounds: list[dict[str, Pass]], name: str) -> str:
    """What stands in a bar."""
    seconds = f"{seconds_of(rounds, name):.2f} s"
    return f"{seconds}, {judged(rounds, by_the_clock, name).share:.1%} saved" if name in AHEAD_OF_IT else seconds


def timelines(passes: dict[str, Pass]) -> "Figure":
    """The first steps of each way: when a batch was prepared, and when the model was trained with it."""
    from asyncjobs.report import LANE_COLORS, dress, graph_objects, panels

    caption = (
        "Each bar is a batch that is prepared, or a step of training with one. In between, one waits for the other. By "
        "the queue and the pipeline they go on side by side, and there is always a batch ready."
    )
    figure = dress(panels(list(WAYS), gap=0.14), "A few steps of each", caption)
    for row, name in enumerate(WAYS, start=1):
        one = passes[name]
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
    sizes = {"steps": 40, "rounds": 15, "time": 150, "batch": 32, "features": 8, "hidden": 32}
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
    rounds = await measured(task, given.rounds)
    for line in said(task, rounds):
        print(line)
    if given.html:
        draw(given.html, rounds)


aj.run(main())
