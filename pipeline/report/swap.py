"""A folder replaced in one atomic step: a reader, or a kill at any moment, sees the old one whole or the new one whole.

Linux exchanges two folders in one call. Where the file system cannot, the folder is a symbolic link from the beginning,
and one rename turns it to the next version. What killed writers leave is swept by the next one.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import logging
import os
import re
import secrets
import shutil
import time
from pathlib import Path

from pipeline.store.scratch import ABANDONED_AFTER_S, is_abandoned, owner, sync

_LOG = logging.getLogger(__name__)
_EXCHANGE, _HERE = 2, -100  # RENAME_EXCHANGE and AT_FDCWD of <linux/fs.h> and <fcntl.h>
_UNABLE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)


def fresh_path(target: Path) -> Path:
    """A name beside `target` to write the next version at; it tells whose it is."""
    return target.with_name(f".{target.name}.{owner()}-{secrets.token_hex(4)}.tmp")


def replace_folder(fresh: Path, target: Path) -> None:
    """Gives the finished folder `fresh` the name `target`, in place of the folder that may be there."""
    sync_tree(fresh)
    if target.is_symlink() or not (target.exists() or can_exchange(target.parent)):
        _turn_link(fresh, target)
    elif not target.exists():
        fresh.rename(target)
    elif exchange(fresh, target):
        remove(fresh)  # which is the old version now
    else:
        _replace_in_two(fresh, target)
    sync(target.parent)


def replace_file(fresh: Path, target: Path) -> None:
    """Gives the finished file `fresh` the name `target`, in one step."""
    sync(fresh)
    fresh.replace(target)
    sync(target.parent)


def exchange(one: Path, other: Path) -> bool:
    """Swaps two paths in one step; False where the kernel or the file system cannot."""
    if _renameat2() is None:
        return False
    if _renameat2()(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNABLE:
        return False
    raise OSError(code, os.strerror(code), str(other))


@functools.cache
def _renameat2():  # type: ignore[no-untyped-def]  # a function of libc, typed by its argtypes
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return function


def can_exchange(folder: Path) -> bool:
    """Whether two folders inside `folder` can be exchanged, tried on two empty ones."""
    one, other = (fresh_path(folder / "exchange") for _ in range(2))
    try:
        one.mkdir()
        other.mkdir()
        return exchange(one, other)
    finally:
        remove(one)
        remove(other)


def _turn_link(fresh: Path, target: Path) -> None:
    """Makes `target` a link to the new version; the one that it led to goes after."""
    older = Path(os.path.realpath(target)) if target.is_symlink() else None
    version = target.with_name(f".{target.name}.{time.time_ns():016x}")
    fresh.rename(version)
    link = fresh_path(target)
    link.symlink_to(version.name)
    link.replace(target)
    if older is not None and _is_version(older, target):
        remove(older)


def _replace_in_two(fresh: Path, target: Path) -> None:
    """The only way from a plain folder where nothing can be exchanged: from now on it is a link."""
    older = fresh_path(target)
    target.rename(older)
    try:
        _turn_link(fresh, target)
    except OSError:
        older.rename(target)
        raise
    remove(older)


def _is_version(path: Path, target: Path) -> bool:
    return path.parent == target.parent.resolve() and (
        re.fullmatch(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}", path.name) is not None
    )


def sweep(target: Path) -> None:
    """Removes what killed writers of `target` left beside it, and versions that nothing leads to."""
    if not target.parent.is_dir():
        return
    current = Path(os.path.realpath(target)).name if target.is_symlink() else None
    for path in target.parent.glob(f".{_literal(target.name)}.*"):
        rest = path.name.removeprefix(f".{target.name}.")
        if re.fullmatch(r"[0-9a-f]{16}", rest):
            unused = path.name != current and _age(path) > 60  # a moment ago a reader may have been led there
        elif re.fullmatch(r"[0-9a-f]{8}\.(tmp|old)", rest):  # of an older varve, which noted no owner
            unused = _age(path) > ABANDONED_AFTER_S
        else:
            unused = rest.endswith(".tmp") and is_abandoned(path, rest.removesuffix(".tmp"))
        if unused:
            remove(path)


def _literal(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _age(path: Path) -> float:
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def remove(path: Path) -> None:
    """Removes a leftover. One that cannot be removed is no failure: the next writer tries again."""
    try:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    except OSError as error:
        _LOG.warning("cannot remove %s: %s", path, error)


def sync_tree(folder: Path) -> None:
    """fsync of every file and folder below."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync(Path(parent) / name)
        sync(Path(parent))
