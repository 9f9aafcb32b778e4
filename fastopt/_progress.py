"""The progress bars, of losses and of bytes, and the rule when one is shown.

What is counted belongs to the callers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from time import perf_counter
from typing import Any

__all__ = ["byte_bar", "loss_bar"]

REFRESH_SECONDS = 0.05


@contextmanager
def loss_bar(
    iterations: int, wanted: bool | None = None
) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Yield what is called after each iteration with its losses by name, and shows their means.

    Parameters
    ----------
    iterations : int
        How many there will be.
    wanted : bool, optional
        Whether to show a bar; by default if somebody can see it. Without a standard error there is
        none in any case.

    Raises
    ------
    ImportError
        `wanted` is True, and tqdm is not installed.
    """
    if wanted is None:
        wanted = _is_seen()
    if not wanted:
        yield lambda losses: None
        return
    tqdm = _tqdm()
    if not (_has_stream() or _is_in_notebook()):
        yield lambda losses: None
        return

    smoothed: dict[str, float] = {}
    done = 0
    shown = perf_counter()

    def show(losses: Mapping[str, float]) -> None:
        nonlocal done, shown
        for name, loss in losses.items():
            before = smoothed.get(name, loss)
            smoothed[name] = before + 0.05 * (loss - before)
        done += 1
        if perf_counter() - shown > REFRESH_SECONDS:
            refresh()

    def refresh() -> None:
        nonlocal done, shown
        text = "  ".join(f"{name} {loss:#.3g}" for name, loss in smoothed.items())
        bar.set_postfix_str(text, refresh=False)
        bar.update(done)
        done, shown = 0, perf_counter()

    with tqdm(
        total=iterations,
        bar_format="{percentage:3.0f}% {bar:10} {remaining} left{postfix}",
        mininterval=0,  # `show` sees to it
        smoothing=0.05,
        dynamic_ncols=True,
        leave=False,
    ) as bar:
        yield show
        refresh()


@contextmanager
def byte_bar(url: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """Yield what is called with numbers of bytes received; no bar, one line says what is fetched.

    Parameters
    ----------
    url : str
        What is being received.
    total : int or None
        Its size in bytes, if that is known.
    """
    if _is_seen():
        with _tqdm()(desc=url.rpartition("/")[2], total=total, unit="B", unit_scale=True) as bar:
            yield bar.update
        return
    if _has_stream():
        print(f"downloading {url}", file=sys.stderr)
    yield lambda size: None


def _is_seen() -> bool:
    """Tell whether a bar can be shown and seen: on a terminal or in a notebook, by tqdm."""
    if find_spec("tqdm") is None:
        return False
    return _is_in_notebook() or (_has_stream() and sys.stderr.isatty())


def _is_in_notebook() -> bool:
    """Tell whether a notebook's kernel runs this, whose output goes to a page."""
    ipython = sys.modules.get("IPython")  # it is there if anybody has one
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def _has_stream() -> bool:
    """Tell whether there is a standard error: pythonw, daemons and `2>&-` leave none."""
    return sys.stderr is not None and not getattr(sys.stderr, "closed", False)


def _tqdm() -> Any:
    try:
        from tqdm.auto import tqdm  # of a terminal, or a notebook's
    except ImportError as error:
        raise ImportError("a progress bar needs tqdm: pip install tqdm") from error
    return tqdm
