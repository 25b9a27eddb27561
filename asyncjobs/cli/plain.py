"""Make text of others harmless before a terminal shows it.

Names, tags, errors and logs come from jobs. An escape sequence in one of them could clear the screen, rename the
window or paint over a line, and U+202E turns the reading direction: what a terminal would obey is written out instead.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable, Iterator

# Control characters, format characters (they turn, join and hide), halves of surrogates, unassigned and private ones,
# and the two separators that some terminals take for ends of lines.
_OBEYED = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"})
_SPOKEN = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
# Most text has none of these and is passed on as it is.
_SUSPECT = re.compile(r"[^ -~\u00a1-\u00ac\u00ae-\u0377\u2010-\u2027\u2190-\u21ff\u2500-\u25ff]")


def line(text: str, most: int = 500) -> str:
    """Text for one line of a table or message: nothing in it moves the cursor, and it has at most `most` characters.

    ``"a\\x1b[2Jb\\n"`` becomes ``a\\x1b[2Jb\\n``, with backslashes that are backslashes.
    """
    short = text if len(text) <= most else text[: most - 1] + "…"
    return _SUSPECT.sub(_written, short)


def lines(text: str) -> str:
    """Text of several lines: ends of lines and tabs stay what they are; a return without a new line becomes one."""
    kept = text.replace("\r\n", "\n").replace("\r", "\n")
    return _SUSPECT.sub(lambda found: found[0] if found[0] in "\n\t" else _written(found), kept)


def stream(chunks: Iterable[bytes]) -> Iterator[str]:
    """Chunks of a log as text for a terminal; characters that are cut in two by a chunk's end are put together."""
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    held = ""
    for chunk in chunks:
        text = held + decoder.decode(chunk)
        # Only the next chunk tells whether a new line follows the return.
        held = "\r" if text.endswith("\r") else ""
        yield lines(text.removesuffix("\r"))
    yield lines(held + decoder.decode(b"", final=True))


def _written(found: re.Match[str]) -> str:
    character = found[0]
    if unicodedata.category(character) not in _OBEYED:
        return character
    number = ord(character)
    if character in _SPOKEN:
        return _SPOKEN[character]
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
