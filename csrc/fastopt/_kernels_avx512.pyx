# The kernels for x86-64 with AVX-512 (F, DQ, BW, VL); nothing but the include belongs here.
include "kernels/kernels.pxi"
