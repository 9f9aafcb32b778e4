# The one door through which all matrix products go: the kernels' own, or BLAS's where they have
# none; and whose threads do them. What a product is made of stands in product.h.
#
# The rule: a thread that asks for a product does that product alone, and the package's workers
# share the pieces out. BLAS must be told so (fastopt/_blas.py says why and how); the kernels' own
# products know of no threads. How the pieces are cut depends on the sizes and on the number of
# threads that is set, never on who is free: for a given number of threads the results are the same
# in every run. The kernels' own products give the same bits however they are cut.

from atomic cimport shared_int, store, swap_if
from kernel_table cimport Products
from pool_api cimport Phase, PoolApi, job_function

cdef const PoolApi* pool = <const PoolApi*> PyCapsule_GetPointer(_pool.api, "fastopt.pool_api")

ctypedef int (*get_threads)() noexcept nogil
ctypedef void (*set_threads)(int) noexcept nogil

cdef get_threads blas_get_threads = NULL
cdef set_threads blas_set_threads = NULL
cdef const Products* products = &kernels.products
uses_blas = products.float32 == NULL
if uses_blas:
    from fastopt import _blas, _blas_products

    products = <const Products*> PyCapsule_GetPointer(_blas_products.table, "fastopt.products")
    _blas_functions = _blas.thread_functions()
    blas_get_threads = <get_threads> <size_t> _blas_functions[0]
    blas_set_threads = <set_threads> <size_t> _blas_functions[1]
# Whether products are done by the threads that ask for them, and by no others
cdef bint is_single = not uses_blas or blas_get_threads != NULL

# What follows is one thread's at a time, also where there is no GIL: that of who set `is_counting`
cdef shared_int is_counting = 0
cdef int blas_threads = 0   # what BLAS is given back
cdef int n_in_products = 0  # calls that are in their products

cdef enum:
    # Products of fewer operations stay on the calling thread: they take less time than a worker
    # takes to wake
    THREADING_OPERATIONS = 8_000_000
    # Fewer keep the GIL: they are over sooner than another thread could take it up
    GIL_OPERATIONS = 500_000


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


def count_fork():
    """Give BLAS its threads back in a child that was forked while another thread was in a product.
    """
    global n_in_products
    store(&is_counting, 0)
    if n_in_products:
        n_in_products = 1
        leave_products()


if uses_blas and hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=count_fork)


cdef void enter_products() noexcept:
    global blas_threads, n_in_products
    if blas_get_threads == NULL:
        return
    begin_counting()
    if n_in_products == 0:
        blas_threads = blas_get_threads()
        if blas_threads != 1:
            blas_set_threads(1)
    n_in_products += 1
    store(&is_counting, 0)


cdef void leave_products() noexcept:
    global n_in_products
    if blas_get_threads == NULL:
        return
    begin_counting()
    n_in_products -= 1
    if n_in_products == 0 and blas_threads != 1:
        blas_set_threads(blas_threads)
    store(&is_counting, 0)


cdef void begin_counting() noexcept nogil:
    """Wait for a thread that counts itself in or out: it takes some instructions."""
    while swap_if(&is_counting, 0, 1) != 0:
        pass


cdef int threads_for(double operations) noexcept:
    """Return how many threads so many operations are to be cut for."""
    if operations < THREADING_OPERATIONS or not is_single:
        return 1
    return pool.threads()


cdef void run_products(
    double operations, int n_threads, void* context, const Phase* phases, int n_phases,
) noexcept:
    """Run jobs with products in them, on the pool if they were cut for several threads.

    More threads than those they were cut for take no part: there is no scratch memory for them.
    """
    enter_products()
    n_threads = pool.claim(n_threads) if n_threads > 1 else 1
    if operations < GIL_OPERATIONS:
        pool.run(n_threads, context, phases, n_phases, True)
    else:
        with nogil:
            pool.run(n_threads, context, phases, n_phases, True)
    leave_products()
