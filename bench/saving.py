"""What saving costs beside the disk: 100 MB of arrays, one way after the other, several rounds.

    python bench/saving.py                      # into the current folder's disk
    python bench/saving.py --folder /mnt/disk --megabytes 1000 --arrays 1000 --rounds 21

All ways write the same arrays to a new file of the same folder and wait until it is on the disk.
Where "replacing" is said it then takes the place of an old file, whose blocks are freed, which a
file system does at that moment. The checksum is CRC-32 over the same bytes. The ways take turns,
the first of them another one in each round; a time is the median over the rounds, and so is a
ratio, of times of one round. The last lines are the goal: at most 1.25 times the slower of writing
and the checksum.
"""

from __future__ import annotations

import argparse
import os
import pickle
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, BinaryIO

import numpy as np
from rounds import markdown

import fastopt

Arrays = dict[str, Any]
WRITE, WRITE_OVER, CHECKSUM = "write and sync", "write and sync, replacing", "CRC-32"
SAVE, SAVE_OVER = "fastopt.save", "fastopt.save, replacing"


def write(file: BinaryIO, arrays: Arrays) -> None:
    for array in arrays.values():
        file.write(array.data)


def synced(dump: Callable[[BinaryIO, Arrays], object], path: Path, arrays: Arrays) -> None:
    with path.open("wb") as file:
        dump(file, arrays)
        file.flush()
        os.fsync(file.fileno())


def replaced(path: Path, arrays: Arrays) -> None:
    part = path.with_name("part")
    synced(write, part, arrays)
    part.replace(path)


WAYS: dict[str, Callable[[Path, Arrays], object]] = {
    WRITE: lambda path, arrays: synced(write, path, arrays),
    WRITE_OVER: replaced,
    CHECKSUM: lambda path, arrays: [zlib.crc32(array) for array in arrays.values()],
    SAVE: lambda path, arrays: fastopt.save(path, params=arrays),
    SAVE_OVER: lambda path, arrays: fastopt.save(path, params=arrays),
    "np.savez": lambda path, arrays: synced(lambda f, a: np.savez(f, **a), path, arrays),
    "pickle": lambda path, arrays: synced(lambda f, a: pickle.dump(a, f, 5), path, arrays),
}


def seconds(name: str, path: Path, arrays: Arrays) -> float:
    if name not in (WRITE_OVER, SAVE_OVER):
        path.unlink(missing_ok=True)
    start = time.perf_counter()
    WAYS[name](path, arrays)
    return time.perf_counter() - start


def measure(folder: Path, arrays: Arrays, rounds: int) -> dict[str, list[float]]:
    """Return the time of each way in each round; one round before them is not counted."""
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for i in range(-1, rounds):
        names = [*WAYS][i % len(WAYS) :] + [*WAYS][: i % len(WAYS)]
        for name in names:
            took = seconds(name, folder / f"{[*WAYS].index(name)}", arrays)
            times[name] += [took] * (i >= 0)
    return times


def main() -> None:
    """Parse the arguments; measure; print the table and the ratio to the goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--arrays", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    size = args.megabytes * 10**6 // 8 // args.arrays
    arrays = {f"W{i}": rng.standard_normal(size) for i in range(args.arrays)}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        times = measure(Path(folder), arrays, args.rounds)

    def ratio(name: str, *others: str) -> float:
        slower = map(max, zip(*(times[other] for other in others), strict=True))
        return median(own / other for own, other in zip(times[name], slower, strict=True))

    rows = [
        [name, f"{median(each) * 1e3:.1f} ms", f"{ratio(name, WRITE):.2f}"]
        for name, each in times.items()
    ]
    print(markdown(["way", "time", "to write and sync"], rows))
    for name, base in ((SAVE, WRITE), (SAVE_OVER, WRITE_OVER)):
        print(f"{name}: {ratio(name, base, CHECKSUM):.2f} of the slower of {base} and CRC-32")


if __name__ == "__main__":
    main()
