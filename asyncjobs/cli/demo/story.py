"""Tell the demo as one page: what was done, what came out, and how to read the pictures."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

from asyncjobs import report
from asyncjobs.bench.plotserver import ANSWER_SECONDS
from asyncjobs.cli.demo import findings, pictures
from asyncjobs.cli.demo.descent import EVERY, Problem
from asyncjobs.cli.demo.findings import Training
from asyncjobs.cli.demo.windows import Outcome
from asyncjobs.page import Code, Part, write_html
from asyncjobs.processors import usable_processors

_TRAINING_CODE = """
for step in descend(data):                              # waiting for each upload
    if step.number % 10 == 0:
        upload(plot(step))

async with Runner() as runner:                          # uploads in the background
    for step in descend(data):
        if step.number % 10 == 0:
            await runner.submit(upload, plot(step))
"""

_WINDOWS_CODE = """
[estimate(width) for width in widths]                   # serial

async with Runner(processes=4) as runner:               # on worker processes
    await runner.options(lane="process").map(estimate, widths).collect()
"""


def write_story(path: Path, problem: Problem, training: Training, outcome: Outcome, widths: int) -> None:
    """Write the page; nothing is measured here."""
    cores = usable_processors()
    intro = (
        "This page was written by the command asyncjobs demo. It shows two things that asyncjobs is for: a loop that "
        "goes on while its plots upload, and a computation that uses all cores. Point at a picture to read its "
        "values, drag to zoom, double-click to zoom out.\n\n"
        f"Made with Python {platform.python_version()} on {platform.system()} with "
        f"{findings.counted(cores, 'usable core')}. Your own figures will differ; run the command again to see yours."
    )
    sections: dict[str, Part | Sequence[Part]] = {
        "1. Training that does not wait for its uploads": _training(training),
        "When the steps and the uploads happened": [
            pictures.timelines(training.blocking, training.background),
            pictures.enlarged(training.background),
        ],
        "What was fitted": pictures.fit(problem, training.background),
        "The error on the way": pictures.loss(training.blocking, training.background),
        "2. A computation on several cores": _windows(outcome, widths, cores),
        "Are the estimates right?": [pictures.estimates(outcome.estimates), findings.estimate_table(outcome.estimates)],
        "3. What the runner tells about itself": _runner(outcome),
    }
    for heading, figure in report.figures(outcome.stats).items():
        sections[f"The runner: {heading.lower()}"] = figure
    write_html(sections, path, title="asyncjobs demo", intro=intro)


def _training(training: Training) -> list[Part]:
    return [
        "A line is fitted by gradient descent, and after every "
        f"{EVERY} steps a plot goes to a plot server, which takes {ANSWER_SECONDS:g} s to answer. Once the training "
        "loop waits for each upload; once it hands the upload to the runner, which makes the call in a thread, and "
        "goes on. This is the whole difference:",
        Code(_TRAINING_CODE),
        findings.training_table(training),
        findings.training_text(training),
        "Training is the time until the last step was done, last answer the time until the server had answered the "
        "last upload, both from the start of the run.",
    ]


def _windows(outcome: Outcome, widths: int, cores: int) -> list[Part]:
    return [
        "How dense are 10,000 random points around the origin? A Parzen window counts those inside a square of a given "
        "width. The loop is plain Python, so one process uses one core; the runner gives the widths to worker "
        "processes, which use all of them.",
        Code(_WINDOWS_CODE),
        findings.timing_text(outcome.timings, widths, cores),
        pictures.window_times(outcome.timings, cores),
        findings.timing_table(outcome.timings),
    ]


def _runner(outcome: Outcome) -> list[Part]:
    return [
        f"runner.stats() counts, runner.report() draws. Here is the last runner of the second part, the one with "
        f"{findings.workers(outcome.timings[-1])}. It did three things: a short round that starts the workers, "
        "the estimates that were timed, and the two columns of estimates in the table above.",
        report.summary(outcome.stats),
    ]
