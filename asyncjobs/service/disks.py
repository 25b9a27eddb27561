"""Say on which kind of file system a folder lies, and whether a database may live there.

Linux tells through /proc; elsewhere nothing is known, and nothing is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from asyncjobs.service.errors import StateRefused

_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(r"\\([0-7]{3})")

NETWORK: frozenset[str] = frozenset(
    {
        "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs", "gfs2", "glusterfs", "gpfs", "lustre",
        "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs", "virtiofs", "wekafs",
    }
)  # fmt: skip
"""Where a lock may mean nothing to another machine, and shared memory does not cross: several machines
see the same files. ``fuse.NAME`` counts as NAME; `NETWORK_FUSE` are the others."""

NETWORK_FUSE: frozenset[str] = frozenset(
    {"blobfuse", "gcsfuse", "gluster", "juicefs", "mfs", "mount.seaweedfs", "rclone", "s3fs", "sshfs", "goofys"}
)

VOLATILE: frozenset[str] = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"})
"""In memory: gone when the machine restarts."""

LAYERED: frozenset[str] = frozenset({"overlay", "overlayfs", "aufs", "unionfs"})
"""A container's own layer: gone with the container."""


class Mount(NamedTuple):
    """One mounted file system."""

    point: str
    kind: str


def parse_mounts(lines: Iterable[str]) -> list[Mount]:
    """The lines of ``/proc/self/mountinfo``; what cannot be read is left out."""
    mounts = []
    for line in lines:
        before, dash, after = line.partition(" - ")
        fields = before.split()
        if dash and len(fields) > 4 and after.split():
            point = _ESCAPE.sub(lambda found: chr(int(found.group(1), 8)), fields[4])
            mounts.append(Mount(point, after.split()[0]))
    return mounts


def kind_at(path: str, mounts: Iterable[Mount]) -> str | None:
    """The kind of the file system that holds `path` (absolute, without links): that of the longest mount point.

    Of two at one point the later one counts: it covers the other.
    """
    best: Mount | None = None
    for mount in mounts:
        point = mount.point.rstrip("/")
        holds = path == point or path.startswith(point + "/")
        if holds and (best is None or len(point) >= len(best.point.rstrip("/"))):
            best = mount
    return best.kind if best else None


def warnings_for(path: Path, kind: str | None) -> tuple[str, ...]:
    """What people should know of a database at `path`, one line each.

    Raises:
        StateRefused: `kind` is a network file system: locks and the write-ahead log do not hold there.
    """
    if kind is None:
        return ()
    bare = kind.removeprefix("fuse.").removeprefix("fuseblk.")
    if bare in NETWORK or (kind.startswith("fuse.") and bare in NETWORK_FUSE):
        raise StateRefused(
            f"{path} lies on a network file system ({kind}), where neither the lock nor the database's log can be "
            "relied on: two machines could serve the same jobs. Choose a folder on a local disk (--dir)"
        )
    if bare in VOLATILE:
        return (f"{path} lies in memory ({kind}): accepted jobs do not outlive a restart of the machine",)
    if bare in LAYERED:
        return (f"{path} lies in a container's own layer ({kind}): accepted jobs do not outlive the container",)
    return ()


def examine(path: Path) -> tuple[str, ...]:
    """`warnings_for` the file system that holds `path` now. Reads a few kilobytes of /proc."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # not Linux, or no /proc
        return ()
    return warnings_for(path, kind_at(os.path.realpath(path), parse_mounts(lines)))
