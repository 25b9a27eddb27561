"""Functions that tests submit: some useful, most of them vicious. Importable by workers.

Each does one harmful thing and says in its name which. Nothing here knows pytest.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import faulthandler
import json
import mmap
import os
import pickle
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import asyncjobs as aj

KEPT: list[Any] = []
"""What jobs keep in their process."""


# --- harmless ---------------------------------------------------------------------------


def add(a: int, b: int) -> int:
    return a + b


async def async_add(a: int, b: int) -> int:
    return a + b


def pid(*_: object) -> int:
    return os.getpid()


def wait_at(door: str, value: Any = None) -> Any:
    """Arrive at a `Door`, wait until it opens, return `value`."""
    arrive_at(door)
    with open(f"{door}/go", "rb", 0) as go:
        go.read(1)
    return value


def import_from(folder: str, module: str) -> None:
    """Import a module that the test has written."""
    sys.path.insert(0, folder)
    __import__(module)


def arrive_at(door: str, who: int | None = None) -> None:
    with open(f"{door}/arrived", "wb", 0) as arrived:
        arrived.write(b"%d\n" % (who or os.getpid()))


async def wait_for_event(event: asyncio.Event, value: Any) -> Any:
    await event.wait()
    return value


def state_of_process() -> dict[str, Any]:
    """What F26 says that a job may not leave behind."""
    mask = os.umask(0)
    os.umask(mask)
    return {
        "directory": os.getcwd(),
        "umask": mask,
        "environment": dict(os.environ),
        "handlers": {number.name: _name_of_handler(number) for number in (signal.SIGTERM, signal.SIGUSR2)},
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "timer": signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        "recursion": sys.getrecursionlimit(),
        "limit": resource.getrlimit(resource.RLIMIT_FSIZE)[0],
        "niceness": os.nice(0),
        "prints_to": (sys.stdout.fileno(), sys.stderr.fileno()),
        "threads": threading.active_count(),
    }


def _name_of_handler(number: signal.Signals) -> str:
    handler = signal.getsignal(number)
    return getattr(handler, "__qualname__", repr(handler))


# --- deaths -----------------------------------------------------------------------------


def segfault() -> None:
    faulthandler._sigsegv()  # type: ignore[attr-defined]


def read_address_zero() -> None:
    ctypes.string_at(0)


def abort() -> None:
    os.abort()


def kill_itself(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)
    signal.pause()


def kill(number: int) -> None:
    try:
        os.kill(number, signal.SIGKILL)
    except ProcessLookupError:
        return  # somebody else was faster


def exit_at_once(code: int) -> None:
    os._exit(code)


def die_on(item: int, bad: int) -> int:
    if item == bad:
        os._exit(9)
    return item


def last_words_then_die() -> None:
    os.write(2, b"these are my last words\n")
    os._exit(3)


def eat_memory() -> None:
    """Until somebody stops it."""
    while True:
        KEPT.append(b"\1" * (4 * 2**20))


def too_large_an_allocation(room: int) -> int:
    """Ask for a GiB where only `room` bytes are left."""
    limit_address_space(room)
    return len(bytearray(1 << 30))


def limit_address_space(room: int) -> None:
    with open("/proc/self/statm", encoding="ascii") as statm:
        size = int(statm.read().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (size + room, resource.RLIM_INFINITY))


def allocate(nbytes: int) -> int:
    return len(bytearray(nbytes))


def memory_error() -> NoReturn:
    raise MemoryError("no more")


# --- jobs that do not stop --------------------------------------------------------------


def hangs_at_seven(number: int) -> int:
    while number == 7:
        time.sleep(0.01)
    return number


def spin(door: str = "") -> None:
    """For ever, deaf to SIGTERM and to the stop ladder's exception."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if door:
        arrive_at(door)
    while True:
        pass


def stop_itself(door: str) -> None:
    arrive_at(door)
    os.kill(os.getpid(), signal.SIGSTOP)


def catastrophic_match(length: int = 60) -> bool:
    """A regular expression holds the interpreter lock: for ages with 60, seconds with 25."""
    return re.match(r"(a+)+$", "a" * length + "b") is None


def sleep_with_the_lock(seconds: float) -> str:
    """Sleep in C without letting go of the interpreter lock."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return "slept"


async def block_the_loop(seconds: float) -> str:
    time.sleep(seconds)  # noqa: ASYNC251 - the fault itself
    return "blocked"


def wait_for_token(token: aj.CancelToken, door: str) -> str | None:
    arrive_at(door)
    token.wait(30)
    return token.reason


def raise_token(token: aj.CancelToken, reason: str) -> bool:
    return token.cancel(reason)


def swallow_stops(door: str, times: int) -> str:
    """Catch what the stop ladder raises, once or more often, and go on."""
    arrive_at(door)
    caught = 0
    while caught < times:
        try:
            threading.Event().wait(30)
        except BaseException:
            caught += 1
    return "stopped in my own time"


# --- what does not pickle ---------------------------------------------------------------


def boom(message: str = "boom") -> NoReturn:
    raise ValueError(message)


class RaisesWhenPickled:
    def __reduce__(self) -> NoReturn:
        raise ValueError("not to be pickled")


class RaisesUnprintableWhenPickled:
    def __reduce__(self) -> NoReturn:
        raise Unprintable("not to be pickled")

    def __repr__(self) -> NoReturn:
        raise Unprintable("nor shown")


class RaisesWhenUnpickled:
    """Pickles well and cannot be rebuilt, wherever that is tried."""

    def __reduce__(self) -> tuple[Any, ...]:
        return boom, ("not to be unpickled",)


class UnprintableWhenUnpickled:
    def __reduce__(self) -> tuple[Any, ...]:
        return raise_unprintable, ()


class ExitsWhenUnpickled:
    def __init__(self, code: int) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (self.code,)


class SystemExitWhenUnpickled:
    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, (4,)


class SegfaultsWhenUnpickled:
    def __reduce__(self) -> tuple[Any, ...]:
        return segfault, ()


class SegfaultsWhenPickled:
    def __reduce__(self) -> tuple[Any, ...]:
        segfault()
        return add, (1, 2)


class ExitsWhenPickled:
    def __reduce__(self) -> tuple[Any, ...]:
        os._exit(5)
        return add, (1, 2)


class SystemExitWhenPickled:
    def __reduce__(self) -> tuple[Any, ...]:
        sys.exit(6)
        return add, (1, 2)


def make(kind: type[Any], *args: Any) -> Any:
    """Return something vicious."""
    return kind(*args)


def take(*_: object) -> str:
    return "taken"


def lambda_result() -> Callable[[], int]:
    return lambda: 7


def generator_result() -> Iterator[int]:
    return (number for number in range(3))


def socket_result() -> socket.socket:
    return socket.socket()


def nested_list(depth: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    return nested


def big(nbytes: int) -> bytes:
    return bytes(nbytes)


def die_in_the_middle_of_the_answer(nbytes: int) -> bytes:
    """A thread kills the process as soon as the main thread is writing the answer, or copying the value."""
    main = threading.main_thread().ident

    def watch() -> None:
        while True:
            frame = sys._current_frames().get(main or 0)
            if frame is not None and frame.f_code.co_name in ("_send", "write"):
                os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    return bytes(nbytes)


class ExitsWhenCollected:
    """Harmless here; its copy in a worker is armed."""

    def __init__(self, armed: bool = False) -> None:
        self._armed = armed

    def __del__(self) -> None:
        if self._armed:
            os._exit(7)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (True,)


class SegfaultsWhenCollected(ExitsWhenCollected):
    def __del__(self) -> None:
        if self._armed:
            segfault()


# --- exceptions -------------------------------------------------------------------------


class TwoArguments(Exception):
    """Pickles, and cannot be rebuilt from its `args`."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class ReduceRaises(Exception):
    def __reduce__(self) -> NoReturn:
        raise RuntimeError("not this one")


class Unprintable(Exception):
    def __str__(self) -> NoReturn:
        raise RuntimeError("no text")

    def __repr__(self) -> NoReturn:
        raise RuntimeError("no repr")


class WithLock(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock", threading.Lock())


class TextOfAnOddKind(Exception):
    def __str__(self) -> str:
        return OddText("odd")


class OddText(str):
    def __reduce__(self) -> NoReturn:
        raise RuntimeError("not this text")


class NoNotes(Exception):
    def add_note(self, note: str) -> NoReturn:
        raise RuntimeError("no notes here")


class Plain(BaseException):
    """A direct heir of BaseException."""


def raise_unprintable() -> NoReturn:
    raise Unprintable("hidden")


def raise_it(kind: type[BaseException], *args: Any) -> NoReturn:
    raise kind(*args)


async def async_raise_it(kind: type[BaseException], *args: Any) -> NoReturn:
    raise kind(*args)


def raise_in_a_circle() -> NoReturn:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


async def async_raise_in_a_circle() -> NoReturn:
    raise_in_a_circle()


def recurse(depth: int = 0) -> int:
    return recurse(depth + 1)


async def async_recurse() -> int:
    return recurse()


def recurse_in_pickle() -> bytes:
    return pickle.dumps(nested_list(100_000))


async def async_recurse_in_pickle() -> bytes:
    return recurse_in_pickle()


def recurse_in_json() -> Any:
    return json.loads("[" * 100_000)


async def async_recurse_in_json() -> Any:
    return recurse_in_json()


# --- output -----------------------------------------------------------------------------


def flood(nbytes: int) -> str:
    """No newline, no valid UTF-8, NULs."""
    piece = b"\xff\x00\xfe-" * 16384
    for _ in range(nbytes // len(piece)):
        os.write(1, piece)
    return "dry"


def print_both(text: str) -> str:
    print(f"out {text}")
    print(f"err {text}", file=sys.stderr)
    return text


def print_pieces(count: int) -> int:
    for _ in range(count):
        os.write(1, b".")
    return count


def write_lone_byte_then_text() -> None:
    os.write(1, b"caf\xc3")
    os.write(1, b"\xa9\n")


# --- descriptors ------------------------------------------------------------------------


def close_descriptor(number: int) -> str:
    os.close(number)
    return "closed"


def close_stdout_object() -> str:
    sys.stdout.close()
    return "closed"


def lose_stdout() -> str:
    sys.stdout = None  # type: ignore[assignment]
    return "lost"


def close_all() -> str:
    os.closerange(3, 256)
    return "closed"


def channels() -> list[int]:
    """The descriptors of this process that are sockets."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                found.append(int(name))
        except OSError:
            continue  # the one that read the folder
    return found


def put_something_else_over_the_channels(path: str) -> str:
    target = os.open(path, os.O_RDWR | os.O_CREAT)
    for number in channels():
        os.dup2(target, number)
    return "covered"


def write_into_the_channels(data: bytes) -> str:
    for number in channels():
        os.write(number, data)
    return "written"


# --- processes and threads --------------------------------------------------------------


def fork_and_return_twice() -> str:
    os.fork()
    return f"from {os.getpid()}"


def fork_on(item: int, bad: int, log: str) -> int:
    """Both sides of the fork go on; each call writes its item down."""
    if item == bad:
        os.fork()
    with open(log, "a", encoding="ascii") as file:
        file.write(f"{item}\n")
    return item


def fork_and_raise_twice() -> NoReturn:
    os.fork()
    raise ValueError(f"from {os.getpid()}")


def leave_a_forked_child(door: str) -> int:
    child = os.fork()
    if child == 0:
        arrive_at(door)
        while True:
            signal.pause()
    return child


def leave_a_forked_child_and_die(door: str) -> None:
    leave_a_forked_child(door)
    with open(f"{door}/go", "rb", 0) as go:
        go.read(1)
    os._exit(11)


def leave_a_process(new_session: bool) -> int:
    return subprocess.Popen(["sleep", "600"], start_new_session=new_session).pid


def leave_a_process_and_spin(door: str) -> None:
    arrive_at(door, leave_a_process(True))
    spin()


def leave_a_daemon_thread() -> int:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    return os.getpid()


def leave_a_thread() -> int:
    threading.Thread(target=threading.Event().wait, daemon=False).start()
    return os.getpid()


def leave_a_thread_until(door: str) -> str:
    threading.Thread(target=wait_at, args=(door,)).start()
    return "returned"


# --- dirt -------------------------------------------------------------------------------


def change_directory() -> None:
    os.chdir("/")


def change_to_a_lost_directory(path: str) -> None:
    os.mkdir(path)
    os.chdir(path)
    os.rmdir(path)


def change_umask() -> None:
    os.umask(0o777)


def change_environment() -> None:
    os.environ["ASYNCJOBS_TEST_DIRT"] = "1"
    del os.environ["PATH"]


def handle_signals() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, lambda *_: None)


def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})


def set_timer() -> None:
    signal.setitimer(signal.ITIMER_REAL, 600)


def raise_recursion_limit() -> None:
    sys.setrecursionlimit(54_321)


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.RLIM_INFINITY))


def be_nice() -> None:
    os.nice(3)


def replace_stdout() -> None:
    sys.stdout = open(os.devnull, "w", encoding="ascii")  # noqa: SIM115


def register_exit_hook(path: str) -> int:
    atexit.register(os.mkdir, path)
    return os.getpid()


def leak_memory(nbytes: int) -> int:
    KEPT.append(b"\1" * nbytes)
    return os.getpid()


def grow_and_wait(nbytes: int, door: str) -> None:
    KEPT.append(b"\1" * nbytes)
    wait_at(door)


# --- what workers look like -------------------------------------------------------------


def variable(name: str) -> str | None:
    return os.environ.get(name)


def variables(names: tuple[str, ...]) -> list[str | None]:
    return [os.environ.get(name) for name in names]


def is_loaded(*names: str) -> list[bool]:
    return [name in sys.modules for name in names]


def initial_environment(name: str) -> str | None:
    """What the interpreter found when it began, before any Python code could set it."""
    with open("/proc/self/environ", "rb") as file:
        pairs = dict(item.split(b"=", 1) for item in file.read().split(b"\0") if b"=" in item)
    value = pairs.get(name.encode())
    return None if value is None else value.decode()


def remember(*values: Any) -> None:
    """An initializer."""
    KEPT.extend(values)


def kept() -> list[Any]:
    return list(KEPT)


def keep(value: Any) -> int:
    KEPT.append(value)
    return len(KEPT)


def first_bytes(count: int) -> list[bytes]:
    return [bytes(value[:count]) for value in KEPT if isinstance(value, (bytes, bytearray))]


def overwrite(data: bytearray) -> bytes:
    data[:4] = b"over"
    return bytes(data[:4])


def job_facts() -> tuple[str, str, int]:
    job = aj.current_job()
    return job.id, job.name, job.attempt


def steps(count: int, door: str) -> int:
    for done in range(count):
        aj.current_job().progress(done + 1, count, f"step {done + 1}")
    wait_at(door)
    return count


def progress_of(value: Any, door: str) -> None:
    aj.current_job().progress(value, 10)
    wait_at(door)


def submit_from_inside() -> Any:
    return aj.current_job().runner


def tick(item: int) -> int:
    return item


def tick_or_wait(item: int, door: str = "") -> int:
    """Mostly short, sometimes long: nobody can know before."""
    return wait_at(door, item) if door else item


def leave_a_child_in_its_own_session_and_die(door: str) -> None:
    if os.fork() == 0:
        os.setsid()
        arrive_at(door)
        while True:
            signal.pause()
    with open(f"{door}/go", "rb", 0) as go:
        go.read(1)
    os._exit(11)


def hold_the_lock_for_ever(door: str) -> None:
    arrive_at(door)
    ctypes.PyDLL(None).sleep(600)


def map_shared_memory_and_wait(nbytes: int, door: str) -> int:
    """As arenas do: pages of a memory file, touched, count as resident and are not ours."""
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, nbytes)
    with mmap.mmap(descriptor, nbytes) as shared:
        for start in range(0, nbytes, mmap.PAGESIZE):
            shared[start] = 1
        os.close(descriptor)
        wait_at(door)
    return os.getpid()


def loop_until_stopped(door: str) -> int:
    """Python code that never looks at its token."""
    arrive_at(door)
    turns = 0
    while True:
        turns += 1


def clean_up_when_stopped(door: str, path: str) -> None:
    try:
        arrive_at(door)
        threading.Event().wait()
    finally:
        with open(path, "a", encoding="ascii") as file:
            file.write("cleaned up")


def look_at_the_token(door: str) -> str:
    token = aj.current_job().token
    arrive_at(door)
    return "asked" if token.wait(30) else "never asked"


def recurse_a_little(depth: int) -> int:
    """Enough Python code for an interrupt to land in it, before it, or after it."""
    return depth if depth == 0 else recurse_a_little(depth - 1) + 1


def die_before_the_claim() -> None:
    """An initializer: from now on the worker dies when a call arrives, before it says that it took it."""
    from asyncjobs.worker import Worker

    Worker._take = lambda *_: os._exit(9)  # type: ignore[method-assign]


async def swallow_every_cancel() -> None:
    """Never ends."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue
