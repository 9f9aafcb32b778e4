# The types of csrc/fastopt/_cpu.pyx; stubtest holds the two to each other.

compiler: str
can_flush_subnormals: bool

def supports() -> list[str]: ...
