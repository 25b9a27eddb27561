"""Files elsewhere: whatever fsspec has a file system for, ``s3://``, ``gs://``, ``sftp://`` and fifty more."""

from __future__ import annotations

import posixpath

from asyncjobs.plotting.edition import Edition
from asyncjobs.plotting.sinks.forms import Form, form_of
from asyncjobs.plotting.sinks.web import shown


class RemoteFile:
    """A file in a file system of fsspec, put whole; and others beside it if its form asks for them.

    Where files are objects, readers see the old one or the new one; over sftp and the like they may see half of one.
    Who may write there, the file system finds out by itself: from the environment, or its own configuration.
    """

    def __init__(self, address: str, form: Form) -> None:
        self.target: str = shown(address)
        self.every: float = form.every
        self._address = address
        self._form = form

    def send(self, edition: Edition) -> None:
        from fsspec.core import url_to_fs

        # Only now, for some connect at once; fsspec keeps them.
        filesystem, path = url_to_fs(self._address)
        stem, suffix = posixpath.splitext(path)
        for ending, content in self._form.contents(edition):
            try:
                filesystem.pipe_file(stem + ending + suffix, content)
            except FileNotFoundError:  # it is one that has folders
                filesystem.makedirs(posixpath.dirname(path), exist_ok=True)
                filesystem.pipe_file(stem + ending + suffix, content)

    def close(self) -> None:
        self._form.close()


def open_remote(address: str, *, inline: bool) -> RemoteFile | None:
    """The sink of an address ``scheme://…``; None: fsspec does not know the scheme, or is not installed.

    Raises:
        ModuleNotFoundError: it knows the scheme, but a package for it is missing; names the package.
        ValueError: the address does not end as any form does.
    """
    scheme, separator, path = address.partition("://")
    if not separator:
        return None
    try:
        import fsspec
    except ImportError:
        return None
    if scheme not in fsspec.available_protocols():
        return None
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise ModuleNotFoundError(f"{shown(address)}: fsspec says: {error}") from None
    return RemoteFile(address, form_of(path, inline=inline))
