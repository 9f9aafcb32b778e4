# The types of csrc/fastopt/_kernels.pyx; stubtest holds the two to each other.

available: list[str]
variant: str
