# The types of csrc/fastopt/_entries.pyx; stubtest holds the two to each other.

from typing import final

from typing_extensions import Self

@final
class Entries:
    @property
    def state_names(self) -> tuple[str, ...]: ...
    def __new__(cls, state_names: tuple[str, ...]) -> Self: ...
