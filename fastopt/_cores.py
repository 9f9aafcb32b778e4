"""How many cores this process may use: its affinity mask, and the CPU quotas of its cgroups.

What is made of the number belongs in fastopt/_threads.py.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["usable_cores"]


def usable_cores(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may use, at least 1.

    Parameters
    ----------
    root : Path
        Where /proc and the cgroups are looked for.

    Notes
    -----
    A quota of one and a half cores counts as two: more threads than that would only be stopped for
    longer. What is no Linux, or shows no quota, has none.
    """
    return min([scheduled_cores(), *map(math.ceil, quotas(root))])


def scheduled_cores() -> int:
    """Return the number of cores that the system may put this process on."""
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quotas(root: Path) -> Iterator[float]:
    """Yield the quotas, in cores, of the cgroups that this process is in, and of those around them.

    A container's is found whether it sees the cgroups of the machine or only its own.
    """
    for line in lines(root / "proc/self/mountinfo"):
        mount, _, kind = line.partition(" - ")
        kind, _, options = kind.split(" ", 2)
        *_, top, folder = mount.split(" ")[:5]
        path = None
        if kind == "cgroup2":
            path = membership(root, "")
        elif kind == "cgroup" and "cpu" in options.split(","):
            path = membership(root, "cpu")
        if path is not None:
            yield from quotas_upwards(root / unescaped(folder)[1:], inside(path, unescaped(top)))


def membership(root: Path, controller: str) -> str | None:
    """Return the cgroup of this process under a controller; "" is that of version 2."""
    for line in lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return None


def inside(path: str, top: str) -> str:
    """Return a cgroup's path below the one that is mounted; "" if it is not below."""
    top = top.rstrip("/")
    return path[len(top) :].strip("/") if f"{path}/".startswith(f"{top}/") else ""


def quotas_upwards(mounted: Path, path: str) -> Iterator[float]:
    """Yield the quotas of a cgroup and of all that it is part of, up to the one mounted."""
    folder = mounted / path
    while True:
        for quota, period in quota_and_period(folder):
            if quota > 0 and period > 0:
                yield quota / period
        if folder == mounted:
            return
        folder = folder.parent


def quota_and_period(folder: Path) -> Iterator[tuple[int, int]]:
    """Yield the microseconds that a cgroup has in each period, if it is limited."""
    for line in lines(folder / "cpu.max"):  # version 2: "max 100000" if it is not
        quota, period = line.split()
        if quota != "max":
            yield int(quota), int(period)
    for line in lines(folder / "cpu.cfs_quota_us"):  # version 1: "-1"
        for period in lines(folder / "cpu.cfs_period_us"):
            yield int(line), int(period)


def lines(path: Path) -> list[str]:
    """Return the lines of a file of the kernel's, none if there is no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []


def unescaped(text: str) -> str:
    """Undo what mountinfo does to white space in names."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text
