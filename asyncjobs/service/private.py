"""Open files and folders that only their owner may touch, and refuse what somebody planted in their place.

Nothing here follows a symbolic link in the last part of a path, and nothing is changed before it was
looked at through an open descriptor. Blocks for as long as the file system does.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from asyncjobs.service.errors import StateRefused

FILE_MODE: int = 0o600
DIRECTORY_MODE: int = 0o700
SMALL: int = 64 * 2**10
"""Bytes that `read_private` reads at most: keys, tokens and addresses are smaller."""

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
# O_NONBLOCK: to open a planted FIFO must not wait for its other end. It means nothing for plain files.
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
    stat.S_IFREG: "a plain file",
}


def kind_of(mode: int) -> str:
    """What a `st_mode` says that something is, for people: ``a symbolic link``."""
    return _KINDS.get(stat.S_IFMT(mode), "no plain file")


def open_private(path: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a plain file that only we may touch; created with mode 0600 where `flags` say O_CREAT.

    Closed on exec. Looked at before it is cut: O_TRUNC is done after the checks.

    Raises:
        StateRefused: there is a link, a FIFO, a folder or a socket, or a file that is another user's, has a
            second name, or that others may read or write. Nothing was changed.
        OSError: as `os.open` does.
    """
    try:
        fd = os.open(path, (flags & ~os.O_TRUNC) | _FLAGS, FILE_MODE)
    except OSError as error:
        raise _refusal(path, error) or error from None
    try:
        check_file(path, os.fstat(fd))
        if flags & os.O_TRUNC:
            os.ftruncate(fd, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_file(path: Path, found: os.stat_result) -> None:
    """Raises StateRefused unless `found`, what `path` is, is a plain file that only we may touch."""
    if not stat.S_ISREG(found.st_mode):
        raise StateRefused(f"{path} is {kind_of(found.st_mode)}, where a plain file belongs: move it away")
    _check_owner(path, found)
    if found.st_nlink > 1:
        raise StateRefused(
            f"{path} has {found.st_nlink} names (hard links): another one may change it, or is not meant to be "
            "changed. Copy it to a file of its own, and put that in its place"
        )
    if found.st_mode & _OTHERS_WRITE:
        raise StateRefused(
            f"{path} may be written by others (mode {_octal(found)}): somebody else may have changed it. Look at it; "
            f"if you trust it: chmod 600 {path}"
        )
    if found.st_mode & _OTHERS:
        raise StateRefused(
            f"{path} may be read by others (mode {_octal(found)}). If nobody else has read it: chmod 600 {path}"
        )


def check_absent_or_file(path: Path) -> bool:
    """Whether `path` exists; what exists is a plain file that only we may touch.

    Raises:
        StateRefused: it exists and is not that.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    check_file(path, found)
    return True


def open_directory(path: Path, *, create: bool, tighten: bool = False) -> int:
    """A descriptor of a folder that only we may enter; with `create` it is made, with mode 0700, if it is missing.

    `tighten` takes the others' rights to read away from a folder that is ours, and that they never could
    write into; without it such a folder is refused.

    Raises:
        StateRefused: it is no folder, is a link to one, is another user's, or others may write into it.
        FileNotFoundError: it is missing, without `create`.
    """
    if create:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, DIRECTORY_MODE)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _refusal(path, error, "folder") or error from None
    try:
        _check_directory(path, fd, tighten)
    except BaseException:
        os.close(fd)
        raise
    return fd


def make_directory(path: Path) -> None:
    """Make the folder `path`, 0700, or check the one that is there; its parent has to exist.

    Raises:
        StateRefused: as `open_directory` does.
    """
    os.close(open_directory(path, create=True))


def check_parents(path: Path) -> None:
    """Raises StateRefused if anybody could put another folder in the place of `path`."""
    for parent in Path(os.path.realpath(path)).parents:
        found = os.stat(parent)
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            raise StateRefused(
                f"everybody may write into {parent} (mode {_octal(found)}), and so could put another folder in the "
                f"place of {path}: choose another place, or chmod o-w {parent}"
            )


def read_private(path: Path) -> bytes:
    """All of a small file that only we may touch.

    Raises:
        StateRefused: as `open_private`, or it is larger than `SMALL`.
        FileNotFoundError: there is none.
    """
    fd = open_private(path)
    with open(fd, "rb") as file:
        content = file.read(SMALL + 1)
    if len(content) > SMALL:
        raise StateRefused(f"{path} is larger than {SMALL} bytes, and so not what belongs there: move it away")
    return content


def write_private(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Put a whole new file, 0600 from birth, in the place of `path`: readers see the old content or the new one.

    Only one process may write a path at a time. `durable`: on disk when this returns.

    Raises:
        StateRefused: what lies there is not a plain file that only we may touch.
    """
    check_absent_or_file(path)
    fresh = path.with_name(f".{path.name}.new")
    if check_absent_or_file(fresh):  # a writer was killed here
        os.unlink(fresh)
    with open(open_private(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(fresh, path)
    if durable:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """What was made, renamed or removed in a folder is on disk when this returns."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def alone_in(fd: int) -> Iterator[None]:
    """Waits until no other process is in here with the same folder; ends with the process."""
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


def _check_directory(path: Path, fd: int, tighten: bool) -> None:
    found = os.fstat(fd)
    _check_owner(path, found)
    if found.st_mode & _OTHERS_WRITE:
        raise StateRefused(
            f"others may write into {path} (mode {_octal(found)}): what lies in it may be theirs. Choose another "
            f"place, or look at what is in it and: chmod 700 {path}"
        )
    if found.st_mode & _OTHERS:
        if not tighten:
            raise StateRefused(
                f"others may look into {path} (mode {_octal(found)}): choose a folder for the service alone; "
                f"if this is one: chmod 700 {path}"
            )
        os.fchmod(fd, DIRECTORY_MODE)


def _check_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise StateRefused(
            f"{path} belongs to user {found.st_uid}, and this is user {os.geteuid()}: choose another place, or start "
            "as that user"
        )


def _refusal(path: Path, error: OSError, wanted: str = "plain file") -> StateRefused | None:
    """What `os.open` says of a path that holds something else; None: another error."""
    if error.errno not in (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO, errno.ENOTDIR):
        return None
    try:
        mode = os.lstat(path).st_mode
    except OSError:  # a part of the path before the last is no folder
        return None
    return StateRefused(f"{path} is {kind_of(mode)}, where a {wanted} belongs: move it away")


def _octal(found: os.stat_result) -> str:
    return f"{stat.S_IMODE(found.st_mode):04o}"
