"""Judge what `machine` found: warn of what will hurt a runner, and say what to do about it.

The judgement is pure (`check(facts)`); `show` and `as_json` put it where people and
programs read it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Literal, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from asyncjobs.cli.machine import Facts
from asyncjobs.lanes.process import DESCRIPTORS_PER_SLOT

# Two threads in the parent; the worker, its control thread and its output; some for the job itself.
SLOT_PIDS = 8
# A worker with numpy imported, before it has done anything.
SLOT_MEMORY = 100 * 2**20
# sun_path holds 107 bytes, and multiprocessing adds "/pymp-xxxxxxxx/listener-xxxxxxxx".
_TEMP_LENGTH = 107 - 32
_SMALL_SHM = 64 * 2**20


class Finding(NamedTuple):
    """One thing that is not as it should be."""

    level: Literal["warning", "note"]
    """A warning will hurt; a note explains what you may see."""
    what: str
    to_do: str


def check(facts: Facts) -> list[Finding]:
    """All findings, the warnings first; an empty list: nothing stands in the way."""
    return in_order(finding for rule in _RULES if (finding := rule(facts)) is not None)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The warnings first."""
    return sorted(findings, key=lambda finding: finding.level != "warning")


def process_slots(files: int | None, files_open: int = 0) -> int | None:
    """About how many process slots a limit on descriptors allows; None: no limit.

    40 with 8 open -> 2.
    """
    return None if files is None else max(0, (files - files_open) // DESCRIPTORS_PER_SLOT)


def as_json(facts: Facts, findings: list[Finding], **more: object) -> str:
    """Both as one JSON object: ``{"facts": {...}, "findings": [...]}``, and what more there is to say."""
    values = {**asdict(facts), "usable_cores": facts.usable_cores}
    return json.dumps({"facts": values, **more, "findings": [finding._asdict() for finding in findings]}, indent=2)


def show(facts: Facts, findings: list[Finding], console: Console, more: Iterable[tuple[str, str]] = ()) -> None:
    """Print both for people, and further (label, value) lines, so that they survive being pasted into a report."""
    table = Table.grid(padding=(0, 2))
    for label, value in (*describe(facts), *more):
        table.add_row(Text(label, style="dim"), Text(value))
    console.print(table)
    console.print()
    if not findings:
        console.print("[green]Nothing here stands in the way of a runner.[/green]")
    for finding in findings:
        color = "yellow" if finding.level == "warning" else "cyan"
        console.print(f"[bold {color}]{finding.level}:[/] {escape(finding.what)}", highlight=False)
        console.print(f"    {escape(finding.to_do)}", highlight=False)


def describe(facts: Facts) -> Iterator[tuple[str, str]]:
    """The facts as (label, value) lines."""
    yield "asyncjobs", facts.asyncjobs
    yield "Python", facts.python
    yield "packages", ", ".join(f"{name} {version or 'MISSING'}" for name, version in facts.versions.items())
    yield "platform", facts.platform
    yield (
        "cores",
        (
            f"{facts.usable_cores} usable of {facts.cores} "
            f"(affinity {_or(facts.affinity)}, container quota {_or(facts.quota)})"
        ),
    )
    yield "start methods", f"{', '.join(facts.start_methods)} (the first is multiprocessing's default)"
    yield "memory", f"{_size(facts.memory)}, {_size(facts.memory_available)} available"
    yield "container memory", f"limit {_size(facts.container_memory)}, {_size(facts.container_memory_used)} used"
    yield "/dev/shm", f"{_size(facts.shm_size)}, {_size(facts.shm_free)} free"
    yield (
        "descriptors",
        (
            f"soft limit {_or(facts.files_soft)}, hard {_or(facts.files_hard)}: room for about "
            f"{_or(process_slots(facts.files_soft, facts.files_open))} process slots, "
            f"{_or(process_slots(facts.files_hard, facts.files_open))} after raising it"
        ),
    )
    yield (
        "processes, threads",
        (
            f"container limit {_or(facts.pids_limit)}, {_or(facts.pids_used)} used; "
            f"user limit {_or(facts.processes_limit)}"
        ),
    )
    yield "memory files, pidfd", f"{_yes(facts.memory_files)}, {_yes(facts.pidfd)}"
    variables = " ".join(f"{name}={value}" for name, value in facts.thread_variables.items())
    yield "thread variables", variables or "none set"
    yield "Jupyter", _yes(facts.jupyter)
    yield "temporary files", f"{facts.temp or 'nowhere'} ({'writable' if facts.temp_writable else 'NOT writable'})"


# -- the rules: each looks at one thing --------------------------------------------------------------------


def _uvloop(facts: Facts) -> Finding | None:
    if facts.system == "Windows" or facts.versions.get("uvloop"):
        return None
    return Finding(
        "warning",
        "uvloop is missing: asyncio's own loop does the work, and tiny jobs go through it more slowly.",
        "pip install uvloop",
    )


def _plotly(facts: Facts) -> Finding | None:
    if facts.versions.get("plotly"):
        return None
    return Finding(
        "note", "plotly is missing: runner.report() has nothing to draw with.", 'pip install "asyncjobs-runner[plot]"'
    )


def _windows(facts: Facts) -> Finding | None:
    if facts.system != "Windows":
        return None
    return Finding("note", "asyncjobs is not tested on Windows.", "Use WSL where it matters.")


def _start_method(facts: Facts) -> Finding | None:
    if facts.system != "Windows" and "forkserver" not in facts.start_methods:
        return Finding(
            "warning",
            "this Python has no forkserver: each worker starts as a fresh interpreter, several times slower.",
            "Keep runners open for long, and avoid recycle_after with small numbers.",
        )
    if facts.start_methods[:1] != ("fork",):
        return None
    return Finding(
        "note",
        "multiprocessing forks by default here. asyncjobs never does; a Pool of your own beside a runner would fork a "
        "process that has threads, which can hang.",
        'multiprocessing.set_start_method("forkserver"), or give the work to the process lane.',
    )


def _cores(facts: Facts) -> Finding | None:
    usable = facts.usable_cores
    if usable == 1:
        return Finding(
            "note",
            "one core is usable: the process lane isolates crashes and can be stopped, but makes nothing faster.",
            "Give the container or the process more cores if computing time matters.",
        )
    if usable >= facts.cores:
        return None
    return Finding(
        "warning",
        f"{usable} of {facts.cores} cores are usable, but os.cpu_count() says {facts.cores}: libraries that believe it "
        "start too many threads and slow each other down.",
        f"Runner(processes={usable}); tell other libraries by their own settings (torch.set_num_threads, n_jobs).",
    )


def _thread_variables(facts: Facts) -> Finding | None:
    usable = facts.usable_cores
    values = {name: int(value) for name, value in facts.thread_variables.items() if value.isdigit()}
    high = {name: value for name, value in values.items() if value > 1}
    if not high:
        return None
    listed = ", ".join(f"{name}={value}" for name, value in high.items())
    return Finding(
        "warning",
        f"{listed} holds in every worker process too: one worker per core makes "
        f"{max(high.values()) * usable} threads for {usable} usable core{'s' if usable > 1 else ''}.",
        "Unset it: a process lane then gives each worker its share of the cores.",
    )


def _files(facts: Facts) -> Finding | None:
    soft, hard = (process_slots(limit, facts.files_open) for limit in (facts.files_soft, facts.files_hard))
    if hard is not None and hard < facts.usable_cores:
        return Finding(
            "warning",
            f"the hard limit of {facts.files_hard} descriptors holds about {hard} process slots, fewer than the "
            f"{facts.usable_cores} usable cores.",
            "Raise it: ulimit -Hn 65536 as root, LimitNOFILE= in systemd, --ulimit nofile=65536 in docker.",
        )
    if soft is not None and soft < facts.usable_cores:
        return Finding(
            "note",
            f"the soft limit of {facts.files_soft} descriptors holds about {soft} process slots. A runner raises it "
            f"to the hard limit of {_or(facts.files_hard)} when it needs to.",
            "ulimit -n 65536 before starting does the same for other libraries.",
        )
    return None


def _pids(facts: Facts) -> Finding | None:
    need = facts.usable_cores * SLOT_PIDS
    rooms = [facts.processes_limit] if facts.processes_limit is not None else []
    if facts.pids_limit is not None:
        rooms.append(facts.pids_limit - (facts.pids_used or 0))
    if not rooms or min(rooms) >= need:
        return None
    return Finding(
        "warning",
        f"room for {max(0, min(rooms))} more processes and threads; {facts.usable_cores} process slots take about "
        f"{need}. Workers and threads will fail to start.",
        "Raise it: --pids-limit in docker, TasksMax= in systemd, ulimit -u. Or run with fewer processes and threads.",
    )


def _memory(facts: Facts) -> Finding | None:
    rooms = [facts.memory_available] if facts.memory_available is not None else []
    if facts.container_memory is not None:
        rooms.append(facts.container_memory - (facts.container_memory_used or 0))
    if not rooms or min(rooms) >= facts.usable_cores * SLOT_MEMORY:
        return None
    fit = max(1, min(rooms) // SLOT_MEMORY)
    return Finding(
        "warning",
        f"{_size(max(0, min(rooms)))} of memory are free; a worker that imports numpy takes about "
        f"{_size(SLOT_MEMORY)}, and the system kills what goes beyond.",
        f"Runner(processes={fit}), ProcessLane(max_rss=...), or more memory for the container.",
    )


def _shared_memory(facts: Facts) -> Finding | None:
    if facts.memory_files:
        return _small_shm(facts)
    if facts.system != "Linux":
        return Finding(
            "note",
            f"{facts.system} has no memory files: arrays go through named shared memory.",
            "Close runners properly; this path is tested less.",
        )
    return Finding(
        "warning",
        f"memory files do not work here (an old kernel or a sandbox): arrays go through /dev/shm, "
        f"{_size(facts.shm_free)} free.",
        "Give /dev/shm room for the arrays in flight: --shm-size=2g in docker.",
    )


def _small_shm(facts: Facts) -> Finding | None:
    if facts.system != "Linux" or (facts.shm_size or 0) > _SMALL_SHM:
        return None
    return Finding(
        "note",
        f"/dev/shm has {_size(facts.shm_size)}. asyncjobs does not use it for arrays, but other libraries "
        "do (multiprocessing.shared_memory, loky, data loaders) and die with SIGBUS when it is full.",
        "--shm-size=2g in docker.",
    )


def _pidfd(facts: Facts) -> Finding | None:
    if facts.pidfd or facts.system != "Linux":
        return None
    return Finding(
        "note",
        "no pidfd (Linux before 5.3, or a sandbox): the death of a worker whose job left a child process behind is "
        "noticed only when that child ends.",
        "A newer kernel, or jobs that wait for the processes they start.",
    )


def _temp(facts: Facts) -> Finding | None:
    if not facts.temp_writable:
        return Finding(
            "warning",
            f"temporary files cannot be written ({facts.temp or 'no folder found'}): workers cannot start.",
            "Point TMPDIR at a folder that can be written.",
        )
    if facts.temp_wanted and facts.temp_wanted.rstrip("/") != facts.temp.rstrip("/"):
        return Finding(
            "warning",
            f"TMPDIR={facts.temp_wanted} cannot be used; Python takes {facts.temp} instead.",
            "Make that folder, or unset TMPDIR.",
        )
    if len(facts.temp.encode()) > _TEMP_LENGTH and facts.system != "Windows":
        return Finding(
            "warning",
            f"the name of the folder for temporary files has {len(facts.temp.encode())} bytes: the sockets through "
            "which workers are started would have names beyond the system's 107.",
            f"Point TMPDIR at a folder with a name of at most {_TEMP_LENGTH} bytes.",
        )
    return None


_RULES: tuple[Callable[[Facts], Finding | None], ...] = (
    _temp,
    _files,
    _pids,
    _memory,
    _cores,
    _thread_variables,
    _start_method,
    _shared_memory,
    _pidfd,
    _uvloop,
    _plotly,
    _windows,
)


# -- words -------------------------------------------------------------------------------------------------


def _or(value: float | None, otherwise: str = "none") -> str:
    return otherwise if value is None else f"{value:,g}" if isinstance(value, float) else f"{value:,}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _size(nbytes: int | None) -> str:
    if nbytes is None:
        return "none"
    if nbytes >= 2**30:
        return f"{nbytes / 2**30:.1f} GiB"
    return f"{nbytes / 2**20:.0f} MiB"
