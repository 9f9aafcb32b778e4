# The kernels for any processor of the architecture; nothing but the include belongs here.
include "kernels/kernels.pxi"
