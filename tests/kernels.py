"""A real Jupyter kernel for tests: which cell got what, and who lives in it."""

from __future__ import annotations

import os
import select
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from pauses import LOOK, PauseClock

ROOT = Path(__file__).resolve().parents[1]
BOUND = 15.0
"""Seconds after which a message that has to come is missed."""

Message = dict[str, Any]


class Kernel:
    """One kernel and all that it published, by the message id of the cell that it belongs to; "" is no cell."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self._client = client
        self._published: defaultdict[str, list[Message]] = defaultdict(list)
        self._idle: set[str] = set()

    # --- cells --------------------------------------------------------------------------

    def begin(self, code: str, cell_id: str | None = None) -> str:
        """Have a cell executed, and do not wait; its message id. Front ends say which cell it is, by `cell_id`."""
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        metadata = {} if cell_id is None else {"cellId": cell_id}
        request = self._client.session.msg("execute_request", content, metadata=metadata)
        self._client.shell_channel.send(request)
        return str(request["header"]["msg_id"])

    def run(self, code: str) -> str:
        """Execute a cell that must not fail; its message id."""
        cell = self.end(self.begin(code))
        assert self.error(cell) is None, "\n".join(self.of(cell, "error")[0]["content"]["traceback"])
        return cell

    def is_busy(self, cell: str) -> bool:
        """Whether the kernel has not said yet that the cell has ended."""
        return cell not in self._idle

    def end(self, cell: str) -> str:
        """Wait until the kernel has said that the cell has ended, with all that came before."""
        self.wait_until(lambda: cell in self._idle)
        return cell

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Take in what the kernel publishes until `is_so()`."""
        while not is_so():
            message = self._client.get_iopub_msg(timeout=BOUND)
            cell = message["parent_header"].get("msg_id", "")
            self._published[cell].append(message)
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                self._idle.add(cell)

    # --- what came ----------------------------------------------------------------------

    def of(self, cell: str, *kinds: str) -> list[Message]:
        """All messages of these kinds that belong to the cell."""
        return [message for message in self._published[cell] if message["msg_type"] in kinds]

    @property
    def cells(self) -> list[str]:
        """The message ids of all cells that got anything."""
        return list(self._published)

    def text(self, cell: str, stream: str = "stdout") -> str:
        """What was printed into the cell."""
        found = [message["content"] for message in self.of(cell, "stream")]
        return "".join(content["text"] for content in found if content["name"] == stream)

    def lines(self, cell: str, stream: str = "stdout") -> list[str]:
        """The same, sorted."""
        return sorted(self.text(cell, stream).splitlines())

    def value(self, cell: str) -> str | None:
        """What the last line of the cell gave."""
        found = self.of(cell, "execute_result")
        return found[0]["content"]["data"]["text/plain"] if found else None

    def error(self, cell: str) -> str | None:
        """The name of the exception that the cell ended by."""
        found = self.of(cell, "error")
        return found[0]["content"]["ename"] if found else None

    def shown(self, cell: str) -> list[str]:
        """What was displayed in the cell, as text."""
        return [message["content"]["data"].get("text/plain", "") for message in self.of(cell, "display_data")]

    def widget_values(self, cell: str) -> list[Any]:
        """The values that widgets took, by messages that belong to the cell."""
        states = [message["content"]["data"].get("state", {}) for message in self.of(cell, "comm_msg")]
        return [state["value"] for state in states if "value" in state]

    # --- life ---------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The kernel's process id."""
        return int(self.manager.provisioner.pid)

    def family(self) -> list[int]:
        """The ids of all processes that the kernel started, and theirs."""
        return [child.pid for child in psutil.Process(self.pid).children(recursive=True)]


@contextmanager
def all_gone(pids: list[int]) -> Iterator[Callable[[float], bool]]:
    """``gone(seconds)``: whether the processes have ended by then. Nobody need have reaped them."""
    with ExitStack() as ends:
        descriptors = [os.pidfd_open(pid) for pid in pids]
        for descriptor in descriptors:
            ends.callback(os.close, descriptor)

        def gone(seconds: float) -> bool:
            clock, left = PauseClock(), descriptors
            while left and clock() < seconds:
                ended, _, _ = select.select(left, [], [], LOOK)
                left = [descriptor for descriptor in left if descriptor not in ended]
            clock.close()
            return not left

        yield gone


@contextmanager
def new_kernel(code: str = "") -> Iterator[Kernel]:
    """A kernel that has executed `code`, and ends with the block; all that it started is gone then."""
    with tempfile.TemporaryDirectory() as folder:
        manager = KernelManager(transport="ipc", ip=f"{folder}/kernel")
        manager.start_kernel(env={**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": folder})
        client = manager.client()
        client.start_channels()
        kernel = Kernel(manager, client)
        try:
            client.wait_for_ready(timeout=BOUND)
            kernel.run(code)
            yield kernel
        finally:
            client.stop_channels()
            if manager.is_alive():
                with all_gone(kernel.family()) as gone:
                    manager.shutdown_kernel()
                    assert gone(BOUND)
            manager.cleanup_resources()
