"""What makes fastopt's threads known to threadpoolctl, if that is imported, before or afterwards.

fastopt never imports it: that takes 3 ms, and few programs use it. What the number means is in
fastopt/_threads.py.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from fastopt import _pool
from fastopt._version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["register_when_imported"]

NAME = "threadpoolctl"


def register_when_imported() -> None:
    """Register fastopt's threads with threadpoolctl now, or as soon as that is imported."""
    if NAME in sys.modules:
        register(sys.modules[NAME])
    else:
        sys.meta_path.insert(0, _Finder())


def register(threadpoolctl: Any) -> None:
    """Register a controller of fastopt's threads; versions before 3.2 take none."""
    if hasattr(threadpoolctl, "register"):
        bases = (_Controller, threadpoolctl.LibController)
        threadpoolctl.register(type("FastoptController", bases, {}))


class _Controller:
    """What threadpoolctl calls to read and to limit fastopt's threads, beside its own base class.

    It looks for a loaded library whose file has this name, and takes it if `dynlib` has one of the
    symbols. Other packages may have a file of this name, so `dynlib` is taken away from theirs.
    """

    user_api = internal_api = "fastopt"
    filename_prefixes = (os.path.basename(_pool.__file__).lower(),)  # noqa: PTH119 (cheap)
    check_symbols = ("PyInit__pool",)
    filepath: str
    dynlib: Any

    def set_additional_attributes(self) -> None:
        if not os.path.samefile(self.filepath, _pool.__file__):  # noqa: PTH121
            self.dynlib = None

    def get_num_threads(self) -> int:
        return _pool.get_num_threads()

    def set_num_threads(self, num_threads: int) -> None:
        _pool.set_num_threads(max(1, min(num_threads, _pool.max_threads)))

    def get_version(self) -> str:
        return __version__


class _Finder:
    """Finds threadpoolctl where the finders after it do, and registers once it is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != NAME:
            return None
        # Only those after it: one before it may ask this one in turn
        finders = iter(list(sys.meta_path))
        for finder in finders:
            if finder is self:
                break
        for finder in finders:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                loader: Any = spec.loader and _Loader(spec.loader, self)
                spec.loader = loader
                return spec
        return None


class _Loader:
    """Loads threadpoolctl by its own loader, and then registers."""

    def __init__(self, loader: Any, finder: _Finder) -> None:
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: Any) -> None:
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
            register(module)
