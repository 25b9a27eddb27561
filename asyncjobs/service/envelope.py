"""Seal bytes so that only who has the service's key can have made them, and for one job alone.

    b"AJ1\\n" | length, 8 bytes | HMAC-SHA256(key, id | length | body), 32 bytes | body

A sealed call can be stored, moved and sent by those who must not unpickle it; whoever is about to load
it opens the seal first. Pure: no files.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from typing import TYPE_CHECKING

from asyncjobs.service.errors import NotAllowed

if TYPE_CHECKING:
    from hashlib import _Hash

MAGIC: bytes = b"AJ1\n"
OVERHEAD: int = len(MAGIC) + 8 + hashlib.sha256().digest_size
"""Bytes that a seal adds."""

_MAC_AT = len(MAGIC) + 8
_BLOCK = 64
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


def seal(key: bytes, job_id: str, body: bytes) -> bytes:
    """`body`, sealed for the job `job_id`; it is copied once."""
    length = len(body).to_bytes(8, "big")
    return b"".join((MAGIC, length, _mac(key, job_id, length, body), body))


def open(key: bytes, job_id: str, sealed: bytes) -> bytes:  # noqa: A001 - envelope.open is the opposite of envelope.seal
    """What was sealed with `key` for `job_id`.

    Raises:
        NotAllowed: it was not, or has been changed since.
    """
    if len(sealed) < OVERHEAD or sealed[: len(MAGIC)] != MAGIC:
        raise NotAllowed(f"job {job_id}: the call or outcome carries no seal")
    length, mac, body = sealed[len(MAGIC) : _MAC_AT], sealed[_MAC_AT:OVERHEAD], sealed[OVERHEAD:]
    if int.from_bytes(length, "big") != len(body) or not hmac.compare_digest(mac, _mac(key, job_id, length, body)):
        raise NotAllowed(f"job {job_id}: the seal is not this service's, or what it holds was changed")
    return body


def _mac(key: bytes, job_id: str, length: bytes, body: bytes) -> bytes:
    # HMAC (RFC 2104): H(outer pad | H(inner pad | text)), both pads hashed once per key: 2 us where `hmac` takes 5.
    # Not `hmac.digest`: that lets go of the interpreter's lock, and waits some 50 us for it where another thread
    # computes; this does so for large bodies only.
    pads = _pads(key)
    inner, outer = pads[0].copy(), pads[1].copy()
    inner.update(job_id.encode() + length)
    inner.update(body)
    outer.update(inner.digest())
    return outer.digest()


@functools.lru_cache(maxsize=16)
def _pads(key: bytes) -> tuple[_Hash, _Hash]:
    if len(key) > _BLOCK:
        key = hashlib.sha256(key).digest()
    block = key.ljust(_BLOCK, b"\0")
    return hashlib.sha256(block.translate(_INNER)), hashlib.sha256(block.translate(_OUTER))
