"""What to say where the compiled modules are missing, as in a folder of sources.

Imported only when importing one has failed.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

__all__ = ["require_compiled"]


def require_compiled(folders: Iterable[str]) -> None:
    """Raise an error that says what to do if a compiled module is in none of the package's folders.

    Raises
    ------
    ImportError
        One is missing.
    """
    folders = list(folders)
    stubs = [stub for folder in folders for stub in Path(folder).glob("_*.pyi")]
    for module in sorted(stub.stem for stub in stubs):
        names = [Path(folder, module + end) for folder in folders for end in EXTENSION_SUFFIXES]
        if not any(name.is_file() for name in names):
            raise ImportError(
                f"fastopt is not compiled for this Python in {Path(folders[0]).parent}: run "
                "`pip install -e .` there, or start Python in another folder, so that an installed "
                "fastopt is found",
                name="fastopt",
                path=folders[0],
            ) from None
