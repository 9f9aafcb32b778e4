# What is done with gradients before a rule takes them: sums over several calls, and what a step is
# decided by. Compiled for each instruction set, like the rules; which arrays, and in how many
# pieces, does not belong here.

from cython cimport floating
from libc.math cimport isfinite

cdef enum:
    # Of a sum of squares: part of its order, like the length of a block
    LANES = 32


cdef void add(Py_ssize_t n, const floating* g, floating* total) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        total[i] = total[i] + g[i]


cdef void clear(Py_ssize_t n, floating* total) noexcept nogil:
    """Have a sum hold -0.0, to which adding is exact."""
    cdef Py_ssize_t i
    for i in range(n):
        total[i] = <floating> -0.0


cdef double sum_of_squares(
    Py_ssize_t n, const floating* g, const floating* total,
) noexcept nogil:
    """Return the sum of the squares of a block, or of total + g where there is a total.

    In double, element i in lane i mod LANES, then the halves of the lanes, lane by lane.
    """
    cdef double[LANES] lanes
    cdef double x
    cdef Py_ssize_t first = 0, k
    for k in range(LANES):
        lanes[k] = 0
    while first + LANES <= n:
        for k in range(LANES):
            x = total[first + k] + g[first + k] if total != NULL else g[first + k]
            lanes[k] = lanes[k] + x * x
        first += LANES
    for k in range(n - first):
        x = total[first + k] + g[first + k] if total != NULL else g[first + k]
        lanes[k] = lanes[k] + x * x
    k = LANES // 2
    while k > 0:
        for first in range(k):
            lanes[first] = lanes[first] + lanes[first + k]
        k //= 2
    return lanes[0]


cdef bint is_finite(Py_ssize_t n, const floating* g) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        if not isfinite(<double> g[i]):
            return False
    return True
