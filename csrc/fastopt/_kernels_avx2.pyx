# The kernels for x86-64 with AVX2; nothing but the include belongs here.
include "kernels/kernels.pxi"
