"""Whose files are whose: what somebody else could have written is no spool and no token of ours."""

from __future__ import annotations

import os


def is_mine(about: os.stat_result) -> bool:
    """Whether only this user, and root, can have written it; everything, where files have no owners."""
    if not hasattr(os, "geteuid"):  # Windows
        return True
    user = os.geteuid()
    # A group of the user's own, which most systems make with each user, has the user's number.
    others = 0o002 if about.st_gid == user else 0o022
    return about.st_uid == user and not about.st_mode & others
