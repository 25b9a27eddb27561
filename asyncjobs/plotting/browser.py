"""The one browser of a process that turns figures into images: kaleido's, started at the first one and kept.

To start it takes a second and more, an image a few tenths of one. It lives as long as any `Renderer` that has used it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asyncjobs.errors import RunnerClosed
from asyncjobs.portal import Portal

logger: logging.Logger = logging.getLogger("asyncjobs")

LONGEST = 60.0
"""Seconds that a start or an image may take; then the browser counts as stuck, and is killed."""
LONGEST_CLOSE = 2.0
"""The same for its end."""
MOST = 500
"""Images that one browser makes before another one is started: browsers grow."""

SIZE = (1000, 600)
"""Width and height in pixels of a figure that says nothing of it."""
SCALE = {"png": 2.0}
"""Pixels of the image for one of the figure, where it has pixels: text is sharp on any screen."""


def check_browser() -> None:
    """See that images can be made here; takes some 0.2 s the first time.

    Raises:
        ModuleNotFoundError: kaleido is missing, or older than 1.
        FileNotFoundError: there is no browser.
    """
    try:
        from choreographer.browsers import Chromium
        from kaleido import Kaleido  # noqa: F401  # the versions before 1 have none
    except ImportError:
        raise ModuleNotFoundError("images need kaleido 1 or later: pip install 'asyncjobs-runner[image]'") from None
    found = Chromium.find_browser(skip_local=False)
    if found is None or not Path(found).is_file():
        raise FileNotFoundError(
            f"images need Chrome or Chromium, and there is none{f' at {found}' if found else ''}: install one (such as "
            "`apt-get install chromium`), run `kaleido_get_chrome`, or name one in BROWSER_PATH"
        )


class Renderer:
    """One sink's way to the browser. Any thread may use it."""

    def __init__(self) -> None:
        self._is_closed = False

    def render(self, figure: str, kind: str) -> bytes:
        """Block until the figure, plotly's JSON, is an image of that kind: "png", "svg" or "pdf".

        Raises:
            RunnerClosed: the renderer was closed, before or meanwhile.
            Exception: kaleido could not; the next image gets a new browser.
        """
        return _browser_for(self).render(json.loads(figure), kind)

    def close(self) -> None:
        """Render no more; the last one to be closed ends the browser, which blocks some tenths of a second."""
        global _browser
        with _sharing:
            self._is_closed = True
            _users.discard(self)
            ended = None if _users else _browser
            if ended is not None:
                _browser = None
        if ended is not None:
            ended.close()


class _Browser:
    """A kaleido on a loop of its own: what it has to encode delays nobody else's."""

    def __init__(self) -> None:
        self._portal = Portal("asyncjobs-images")
        self._portal.do(self._portal.loop.set_exception_handler, _note)
        self._turn = asyncio.Lock()
        self._kaleido: Any = None
        self._made = 0
        self._is_over = False

    def render(self, figure: dict[str, Any], kind: str) -> bytes:
        return self._portal.call(self._render, figure, kind)

    def close(self) -> None:
        try:
            self._portal.call(self._end)
        finally:
            self._portal.close(LONGEST_CLOSE)

    async def _render(self, figure: dict[str, Any], kind: str) -> bytes:
        async with self._turn:
            try:
                kaleido = await self._running()
                with _killed_after(LONGEST, kaleido):
                    image: bytes = await kaleido.calc_fig(figure, _options(figure, kind))
            except BaseException:
                await self._stop()
                raise
        self._made += 1
        return image

    async def _running(self) -> Any:
        from kaleido import Kaleido

        if self._made >= MOST:
            await self._stop()
        if self._kaleido is None:
            # MathJax would come from the network.
            self._kaleido, self._made = Kaleido(n=1, mathjax=False, timeout=None), 0
            with _killed_after(LONGEST, self._kaleido):
                await self._kaleido.open()
        if self._is_over:
            raise RunnerClosed("the plot was closed meanwhile")
        return self._kaleido

    async def _end(self) -> None:
        self._is_over = True
        if self._turn.locked():  # nobody waits for that image any more
            _kill(self._kaleido)
        async with self._turn:
            await self._stop()

    async def _stop(self) -> None:
        kaleido, self._kaleido = self._kaleido, None
        if kaleido is not None:
            with _killed_after(LONGEST_CLOSE, kaleido):
                await kaleido.close()


def _note(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """When its browser dies, kaleido forgets tasks of its own; whoever wanted an image has the error already."""
    logger.debug("kaleido: %s: %r", context["message"], context.get("exception"))


def _options(figure: dict[str, Any], kind: str) -> dict[str, Any]:
    layout = figure.get("layout", {})
    width, height = (layout.get(name) or usual for name, usual in zip(("width", "height"), SIZE, strict=True))
    return {"format": kind, "width": width, "height": height, "scale": SCALE.get(kind, 1.0)}


@contextmanager
def _killed_after(seconds: float, kaleido: Any) -> Iterator[None]:
    """What waits for a stuck browser cannot be cancelled, for kaleido tidies up with the same browser's help; without
    its browser it gives up."""
    timer = asyncio.get_running_loop().call_later(seconds, _kill, kaleido)
    try:
        yield
    finally:
        timer.cancel()


def _kill(kaleido: Any) -> None:
    """End its process, and those that this one has started, if it has any yet."""
    process = getattr(kaleido, "subprocess", None)
    if process is None or process.poll() is not None:
        return
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)  # it leads a session of its own
    else:
        process.kill()


# --- sharing ------------------------------------------------------------------------------

_sharing = threading.RLock()
_browser: _Browser | None = None
_users: set[Renderer] = set()


def _browser_for(user: Renderer) -> _Browser:
    global _browser
    with _sharing:
        if user._is_closed:
            raise RunnerClosed("the plot was closed meanwhile")
        _users.add(user)
        if _browser is None:
            _browser = _Browser()
        return _browser


def _begin_anew() -> None:
    """In a forked child: the browser is the parent's, and whoever held the lock is not here."""
    global _sharing, _browser
    _sharing, _browser = threading.RLock(), None
    _users.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_begin_anew)
