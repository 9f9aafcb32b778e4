"""The documentation's pages, and the code on them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
needs_sources = pytest.mark.skipif(
    not README.is_file(), reason="the tests are away from the sources"
)

BLOCK = re.compile(r"^```(python|pycon)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(path):
    """Return language and code of every block of a page that runs."""
    return BLOCK.findall(path.read_text(encoding="utf-8"))
