"""The lane for CPU-bound kernels: a row of process slots and the settings they share."""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from types import ModuleType
from typing import Any

from asyncjobs.errors import NotSendable
from asyncjobs.lanes.base import Capabilities, Host, Plan
from asyncjobs.lanes.body import Body
from asyncjobs.lanes.freight import Freight
from asyncjobs.lanes.outbox import Outbox
from asyncjobs.lanes.resident import Recipe
from asyncjobs.lanes.slot import Slot
from asyncjobs.lanes.supply import VISIBLE, Devices, Supply, declared
from asyncjobs.lanes.vocabulary import KNOWN_FUNCTIONS, Vocabulary
from asyncjobs.options import check_count, check_initializer
from asyncjobs.processors import usable_processors
from asyncjobs.spawning import START_METHODS
from asyncjobs.wire import codec
from asyncjobs.wire.parcel import Parcel

resource: ModuleType | None
try:
    import resource
except ImportError:  # not on Windows
    resource = None

THREAD_CAPS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""What numerical libraries read to choose their number of threads."""
DESCRIPTORS_PER_SLOT = 20
"""Sockets, pipes, memory files; each mapping holds one more, and there are few."""


class ProcessLane:
    """Runs plain functions in worker processes, each call alone in its worker.

    Args:
        workers: how many processes; the processors that may be used if not given. They
            start when they are first needed.
        initializer: called with `initargs` in each worker before its first job.
        env: environment variables for the workers. ``LD_*``, ``MALLOC_*`` and ``PYTHON*``
            are read before any code of ours runs, so with them the lane uses ``spawn``.
        preload: modules that each worker imports when it starts.
        start_method: ``"forkserver"`` (default) or ``"spawn"``; never ``"fork"``.
        recycle_after: a worker is replaced after so many jobs.
        max_rss: bytes of private memory; a worker above it is replaced, killed if need be.
        output: ``"pass"`` on what workers print, or let them ``"inherit"`` our own output.
        resources: what the lane's jobs may hold at once, by name; see `JobOptions.resources`. What is left
            out, the machine says: the processors (``cpu``) and the ``memory`` that this process may use, and the
            devices of ``CUDA_VISIBLE_DEVICES`` (``gpu``; none where it is not set).

    Numerical libraries are told to use so many threads that all workers together do not
    use more than the processors, unless `env` or the environment says otherwise.
    """

    kind = "process"
    capabilities: Capabilities = Capabilities(
        kills=True,
        encodes=True,
        groups=True,
        shares="once, in shared memory: workers map it",
        resources="processors, memory and devices of this machine",
        falls_with_it="nothing",
    )

    def __init__(
        self,
        workers: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        env: Mapping[str, str] | None = None,
        preload: Sequence[str] = (),
        start_method: str | None = None,
        recycle_after: int | None = None,
        max_rss: int | None = None,
        output: str = "pass",
        resources: Mapping[str, float | str] | None = None,
    ) -> None:
        for name, value in (("workers", workers), ("recycle_after", recycle_after), ("max_rss", max_rss)):
            check_count(name, value, 1, or_none=True)
        if start_method is not None and start_method not in START_METHODS:
            raise ValueError(f"start_method={start_method!r} is not allowed; allowed: {', '.join(START_METHODS)}")
        if output not in ("pass", "inherit"):
            raise ValueError(f"output={output!r} is not allowed; allowed: 'pass' or 'inherit'")
        check_initializer(initializer, initargs)
        _check_preload(preload)
        if not (env is None or isinstance(env, Mapping)):
            raise TypeError(f"env={env!r} is not allowed; allowed: a mapping of variables to their values")
        self._workers = workers or usable_processors()
        self._initializer = (initializer, tuple(initargs)) if initializer is not None else None
        self._env = {str(name): str(value) for name, value in (env or {}).items()}
        self.supply: Supply = Supply(declared(resources), self._env.get(VISIBLE, os.environ.get(VISIBLE)))
        self.supply.seats = lambda: [slot.fitting.devices for slot in self._slots if slot.is_idle]
        self._preload = tuple(preload)
        self._start_method = start_method
        self.recycle_after = recycle_after
        self.max_rss = max_rss
        self._inherit_output = output == "inherit"
        self._slots: list[Slot] = []
        self._made = 0
        self.is_full: bool = False
        """The front of the queue waits for shared memory."""
        self._numbers = 0
        self._contents: OrderedDict[tuple[bytes, str, int | None], int] = OrderedDict()
        self.name: str = "process"
        self.host: Host

    # --- the lane -----------------------------------------------------------------------

    def open(self, name: str, host: Host) -> None:
        """Make the slots; their workers start when they are needed."""
        self.name = name
        self.host = host
        self.is_full = False
        host.memory.room_makers.append(self._make_room)
        self.recipe: Recipe = self._make_recipe()
        _raise_descriptor_limit(self._workers * DESCRIPTORS_PER_SLOT)
        self._slots = [self._new_slot() for _ in range(self._workers)]

    def _new_slot(self) -> Slot:
        self._made += 1
        return Slot(f"{self.name}-{self._made - 1}", self)

    def new_body(self, slot: Slot) -> tuple[Body, Outbox]:
        """A worker for `slot`, not yet started, and what is on its way to it."""
        host = self.host
        freight = Freight(host.loop, host.memory, slot.trim)
        files = freight, host.shares.file, host.memory.cap
        recipe = self.recipe
        if slot.fitting.devices:
            recipe = recipe._replace(env=recipe.env | {VISIBLE: ",".join(slot.fitting.devices)})
        body = Body(host.loop, recipe, *files, slot.on_frames, slot.on_text, slot.on_change)
        vocabulary = Vocabulary(host.loop, self.number_for)
        return body, Outbox(host.loop, body, vocabulary, host.shares, host.threads, lambda: slot.changed())

    def _make_recipe(self) -> Recipe:
        cap = str(max(1, usable_processors() // self._workers))
        # Ours by name: a forkserver that has run for a while does not know what was set since.
        env = {name: os.environ.get(name, cap) for name in THREAD_CAPS} | self._env
        early = {name: value for name, value in self._env.items() if name.startswith(("LD_", "MALLOC_", "PYTHON"))}
        method = self._start_method or ("spawn" if early or sys.platform == "darwin" else "forkserver")
        if early and method == "forkserver":
            raise ValueError(
                f"env sets {', '.join(early)}, read before any code runs: use start_method='spawn', or none"
            )
        initializer = None
        if self._initializer is not None:
            try:
                pickled = codec.encode_parcel(self._initializer)
            except Exception as error:
                raise NotSendable(f"initializer or initargs cannot be sent to a process: {error}") from error
            # Kept for as long as workers may be started.
            self._initial = self.host.shares.hold(pickled)
            initializer = self._initial.body
        return Recipe(method, self.host.runner_id, early, env, self._preload, initializer, self._inherit_output)

    def places(self) -> Sequence[Slot]:
        """The slots."""
        return tuple(self._slots)

    def size(self) -> int:
        """How many workers there may be."""
        return self._workers

    def resize(self, size: int) -> None:
        """Change the number of workers; surplus ones leave after what they run."""
        check_count("size", size, 1)
        self._workers = size
        while len(self._slots) < size:
            self._slots.append(self._new_slot())
        for slot in self._slots[size:]:
            slot.leaving = True
            slot.changed()
        del self._slots[size:]

    def busy(self) -> int:
        """How many workers run something, dying ones included."""
        return sum(1 for slot in self._slots if slot.count)

    def abandoned(self) -> int:
        """None: what does not stop is killed."""
        return 0

    def check(self, plan: Plan) -> None:
        """Any function that can be pickled, unless it needs more resources than there are."""
        if plan.needs is not None:
            self.supply.require(plan.name, self.name, plan.needs)

    def pids(self) -> list[int]:
        """The process ids of the workers that live now."""
        return [slot.pid for slot in self._slots if slot.pid]

    # --- what slots ask -----------------------------------------------------------------

    def has_idle_slot(self) -> bool:
        """Whether some worker waits for a call."""
        for slot in self._slots:  # noqa: SIM110 - asked before each call that joins a window
            if slot.is_idle:
                return True
        return False

    def has_spare_slot(self) -> bool:
        """Whether some worker waits for a call, or could be started for one."""
        return any(slot.is_idle or slot.is_cold for slot in self._slots)

    def seat_for(self, devices: Devices, taker: Slot) -> Slot:
        """The best for a call with these devices: an idle worker that sees just them; else a slot that has no worker
        yet; else one whose worker was never given any."""
        free = [slot for slot in self._slots if slot.is_cold or (slot.is_idle and slot.hungry)]

        def worth(slot: Slot) -> tuple[bool, bool, bool]:
            return slot.is_idle and slot.fitting.devices == devices, slot.is_cold, not slot.fitting.devices

        return max([taker, *free], key=worth)

    def number_for(self, plan: Plan, by_value: Parcel | None) -> int:
        """A number for a function on the wire.

        Functions by name have one per plan; by-value ones have one per content, so that the
        same lambda submitted twice is unpickled once.
        """
        is_fixed = by_value is None or plan.function is not None
        if is_fixed and plan.number:
            return plan.number
        key = (b"" if by_value is None else by_value.stream, plan.name, plan.options.max_result)
        keep = not is_fixed and by_value is not None and not by_value.is_large
        if keep and key in self._contents:
            self._contents.move_to_end(key)
            return self._contents[key]
        self._numbers += 1
        if keep:
            self._contents[key] = self._numbers
            if len(self._contents) > KNOWN_FUNCTIONS:
                self._contents.popitem(last=False)
        return self._numbers

    # --- shared memory ------------------------------------------------------------------

    def may_wait(self) -> bool:
        """Whether room will come by itself: some worker has yet to answer what it gives back, or runs
        a call that looks at its arguments in shared memory."""
        self._make_room()
        return any(slot.may_free_memory for slot in self._slots)

    def wait_for_room(self) -> None:
        """A call does not fit now: no slot takes any until room has come."""
        if not self.is_full:
            self.is_full = True
            self.host.memory.waiting.append(self._look_again)

    def _look_again(self) -> None:
        self.is_full = False
        for slot in tuple(self._slots):
            slot.changed()

    def _make_room(self) -> None:
        for slot in self._slots:
            slot.trim()

    def could_not_start(self, error: Exception) -> None:
        """A slot gave up: without any other that is up, or on its way, what waits cannot run."""
        if all(slot.is_cold for slot in self._slots):
            self.host.refuse(error)


def _check_preload(preload: object) -> None:
    names = preload if isinstance(preload, Collection) and not isinstance(preload, (str, bytes)) else (None,)
    if not all(isinstance(name, str) and name for name in names):
        raise TypeError(f"preload={preload!r} is not allowed; allowed: a sequence of module names")


def _raise_descriptor_limit(needed: int) -> None:
    """Lift the soft limit of descriptors towards the hard one; a slot takes `DESCRIPTORS_PER_SLOT`."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = len(os.listdir("/proc/self/fd")) + needed + 64 if os.path.isdir("/proc/self/fd") else needed + 256
    ceiling = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < ceiling:
        resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))
