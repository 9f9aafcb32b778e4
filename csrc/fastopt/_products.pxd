# What _products.pyx offers: a product, called by dtype, and the run of jobs with products in them.
# Who does the products, and on which threads, is decided there.

from fastopt._pool cimport Phase
from fastopt.kernels.table cimport Products
from fastopt.matrix cimport Matrix

cdef const Products* products

# Return how many threads so many operations are to be cut for.
cdef int threads_for(double operations) noexcept

# Run jobs with products in them, on the pool if they were cut for several threads.
cdef void run_products(
    double operations, int n_threads, void* context, const Phase* phases, int n_phases,
) noexcept


cdef inline void multiply(
    bint is_double, const Matrix* a, bint transpose_a, const Matrix* b, bint transpose_b, void* c,
    void* scratch,
) noexcept nogil:
    """c = op(a)·op(b) for a contiguous c; op transposes where its flag is set."""
    cdef Py_ssize_t m = a.columns if transpose_a else a.rows
    cdef Py_ssize_t k = a.rows if transpose_a else a.columns
    cdef Py_ssize_t n = b.rows if transpose_b else b.columns
    if is_double:
        products.float64(
            transpose_a != a.transposed, transpose_b != b.transposed, m, n, k,
            <const double*> a.data, a.ld, <const double*> b.data, b.ld, <double*> c, n, scratch,
        )
    else:
        products.float32(
            transpose_a != a.transposed, transpose_b != b.transposed, m, n, k,
            <const float*> a.data, a.ld, <const float*> b.data, b.ld, <float*> c, n, scratch,
        )


cdef inline Py_ssize_t product_scratch(
    bint is_double, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
) noexcept nogil:
    """Return how many bytes of scratch memory a product of m × k and k × n wants."""
    return products.scratch64(m, n, k) if is_double else products.scratch32(m, n, k)
