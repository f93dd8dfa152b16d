"""What the writer can do to one store of a container. Standard library only.

Each operation takes one step of a request and returns one answer; none knows of
the others, so a store that is refused never costs another one. `perform` turns
every failure that a file system can cause into an outcome.
"""

import errno
import os
import posixpath
import stat
from collections.abc import Callable
from typing import Any

from certs import pem
from certs.inside import SIZE_LIMIT, Found, Inside, StoreError, split, still

type Step = dict[str, Any]
type Answer = dict[str, Any]

_REASONS = {
    errno.ELOOP: "a link on the way leads through /proc, or in a circle",
    errno.ENOSPC: "its file system is full",
    errno.EDQUOT: "its file system's quota is used up",
    errno.ENOSYS: "this kernel has no openat2 (it needs Linux 5.6 or newer)",
    errno.ENOTDIR: "a part of its path is not a directory",
}


def perform(inside: Inside, step: Step) -> Answer:
    """Do one step. Every `OSError` and `StoreError` becomes an answer."""
    path = step.get("path", "")
    try:
        answer = _OPERATIONS[step["do"]](inside, step)
    except StoreError as error:
        answer = {"outcome": error.outcome, "reason": error.reason}
    except FileNotFoundError:
        answer = {"outcome": "not present"}
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EBUSY):
            answer = {"outcome": "mounted", "reason": _what_is_mounted(inside, path)}
        elif error.errno == errno.EROFS:
            answer = {"outcome": "read-only", "reason": "the container's root is read-only"}
        else:
            number = error.errno or 0
            answer = {"outcome": "refused", "reason": _REASONS.get(number) or os.strerror(number)}
    return {"do": step["do"], "path": path} | answer


def text(value: str) -> str:
    """Return text of the container as short ASCII."""
    return value.encode("ascii", "backslashreplace").decode("ascii")[:300]


def _what_is_mounted(inside: Inside, path: str) -> str:
    try:
        return text(inside.mounted(inside.locate(path, restrict=0)))
    except (OSError, StoreError):
        return "a mount on the way"


def _look(inside: Inside, step: Step) -> Answer:
    """Say what is at a path. Reads through mounts as well; changes nothing."""
    path = step["path"]
    try:
        found = inside.locate(path, restrict=0)
    except FileNotFoundError:
        return {"kind": "link that leads nowhere" if inside.dangling(path) else "missing"}
    answer: Answer = {
        "kind": found.kind,
        "real": text(found.path),
        "identity": found.identity,
        "mounted": text(inside.mounted(found)),
    }
    if found.kind == "directory":
        answer["hashed"] = any(_is_hash_link(name) for name in inside.names(found))
    elif found.kind == "file" and inside.harmless(found):
        data = inside.read(found)
        prints = pem.fingerprints(data)
        answer |= {"sha256": pem.sha256(data), "certificates": len(prints)}
        answer["ours"] = not prints.isdisjoint(step["fingerprints"])
    return answer


def _is_hash_link(name: str) -> bool:
    stem, dot, number = name.partition(".")
    return (
        bool(dot) and len(stem) == 8 and set(stem) <= set("0123456789abcdef") and number.isdigit()
    )


def _append(inside: Inside, step: Step) -> Answer:
    """Add our block to an existing PEM file."""
    found = inside.locate(step["path"])
    data = inside.read(found)
    prints = pem.fingerprints(data)
    if not prints.isdisjoint(step["fingerprints"]):
        return {"outcome": "already installed"}
    if data.strip() and not prints:
        raise StoreError("refused", "it holds no PEM certificate")
    if pem.unfinished(data):
        raise StoreError("refused", "its last PEM block is not finished")
    gap = b"" if not data or data.endswith(b"\n") else b"\n"
    added = gap + step["content"].encode("ascii")
    if len(data) + len(added) > SIZE_LIMIT:
        raise StoreError("refused", f"it would be larger than {SIZE_LIMIT >> 20} MiB")
    inside.replace(found, data + added)
    return {
        "outcome": "installed",
        "real": text(found.path),
        "before": pem.sha256(data),
        "after": pem.sha256(data + added),
        "size": len(data),
        "added": added.decode("ascii"),
        "mode": stat.S_IMODE(found.status.st_mode),
        "owner": [found.status.st_uid, found.status.st_gid],
    }


def _create(inside: Inside, step: Step) -> Answer:
    """Make a file that must not exist yet, with the directories above it."""
    path, content = step["path"], step["content"].encode("ascii")
    try:
        prints = pem.fingerprints(inside.read(inside.locate(path)))
    except FileNotFoundError:
        if inside.dangling(path):
            raise StoreError("refused", "it is a link that leads nowhere") from None
    else:
        if not prints.isdisjoint(step["fingerprints"]):
            return {"outcome": "already installed"}
        raise StoreError("refused", "it exists and is not ours")
    folder, name = split(path)
    parent, made = inside.make_folders(folder)
    try:
        temporary = inside.temporary(parent, content)
        try:  # link, not rename: it never replaces what came there in the meantime
            os.link(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        finally:
            os.unlink(temporary, dir_fd=parent)
        os.fsync(parent)
    except BaseException:
        inside.remove_folders(made)
        raise
    return {"outcome": "installed", "after": pem.sha256(content), "created": True, "made": made}


def _link(inside: Inside, step: Step) -> Answer:
    """Make a symbolic link under the first of `candidates` that is free."""
    for path in step["candidates"]:
        folder, name = split(path)
        parent = inside.folder(folder)
        _must_exist(inside, posixpath.join(folder, step["target"]))
        try:
            os.symlink(step["target"], name, dir_fd=parent)
        except FileExistsError:
            if _leads_to(parent, name) == step["target"]:
                return {"outcome": "already installed", "path": path}
            continue
        os.fsync(parent)
        return {"outcome": "installed", "path": path}
    raise StoreError("refused", "all its names are taken")


def _must_exist(inside: Inside, path: str) -> None:
    try:
        inside.locate(path)
    except FileNotFoundError:
        raise StoreError("not present", f"{path}, to which it leads, is not there") from None


def _find_link(inside: Inside, step: Step) -> Answer:
    """Say whether one of `candidates` is a link to our target."""
    for path in step["candidates"]:
        folder, name = split(path)
        if _leads_to(inside.folder(folder), name) == step["target"]:
            return {"outcome": "already installed", "path": path}
    return {"outcome": "not present"}


def _leads_to(parent: int, name: str) -> str:
    try:
        return os.readlink(name, dir_fd=parent)
    except OSError:
        return ""


def _cut(inside: Inside, step: Step) -> Answer:
    """Take our certificate out of a file: byte exact if nobody changed it since."""
    found = inside.locate(step["path"])
    data = inside.read(found)
    kept = pem.without(data, step["fingerprints"], step["marker"].encode("ascii"))
    created, unchanged = step.get("created", False), pem.sha256(data) == step.get("after")
    if unchanged and created:
        kept = b""
    elif unchanged and pem.sha256(data[: step["size"]]) == step["before"]:
        kept = data[: step["size"]]
    if kept == data:
        return {"outcome": "not present"}
    if created and not kept.strip():
        _remove(inside, found, step.get("made", []))
    else:
        inside.replace(found, kept)
    return {"outcome": "removed", "exact": unchanged}


def _remove(inside: Inside, found: Found, made: list[str]) -> None:
    still(found)
    os.unlink(found.name, dir_fd=found.parent)
    os.fsync(found.parent)
    inside.remove_folders(made)


def _unlink(inside: Inside, step: Step) -> Answer:
    """Remove those of `candidates` that are links to our target, and nothing else."""
    outcome = "not present"
    for path in step["candidates"]:
        folder, name = split(path)
        parent = inside.folder(folder)
        if _leads_to(parent, name) == step["target"]:
            os.unlink(name, dir_fd=parent)
            os.fsync(parent)
            outcome = "removed"
    return {"outcome": outcome}


_OPERATIONS: dict[str, Callable[[Inside, Step], Answer]] = {
    "look": _look,
    "append": _append,
    "create": _create,
    "link": _link,
    "find link": _find_link,
    "cut": _cut,
    "unlink": _unlink,
}
