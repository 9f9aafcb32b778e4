# The types of csrc/fastopt/_products.pyx; stubtest holds the two to each other.

uses_blas: bool

def after_fork() -> None: ...
