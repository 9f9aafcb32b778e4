# What _products.pyx offers: the products that were chosen, and the run of jobs with products in
# them. Who does the products, and on which threads, is decided there.

from fastopt._pool cimport Phase
from fastopt.kernels.table cimport Products

cdef const Products* products

# Return how many threads so many operations are to be cut for.
cdef int threads_for(double operations) noexcept

# Run jobs with products in them, on the pool if they were cut for several threads.
cdef void run_products(
    double operations, int n_threads, const Phase* phases, int n_phases,
) noexcept


cdef inline Py_ssize_t product_scratch(
    bint is_double, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
) noexcept nogil:
    """Return how many bytes of scratch memory a product of m × k and k × n wants."""
    return products.scratch64(m, n, k) if is_double else products.scratch32(m, n, k)
