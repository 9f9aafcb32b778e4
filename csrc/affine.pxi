# One Affine layer in pieces that threads can share: rows of its output and of the gradient of its
# input, rows of the gradient of its weights. And the one door through which all products go, where
# it is settled whose threads do them.
#
# The rule: a thread that asks BLAS for a product does that product alone, and the package's workers
# share the pieces out (fastopt/_blas.py says why and how BLAS is told). How the pieces are cut
# depends on the sizes and on the number of threads that is set, never on who is free: for a given
# number of threads the results are the same in every run.

from atomic cimport shared_int, store, swap_if
from pool_api cimport Phase, PoolApi, job_function

cdef const PoolApi* pool = <const PoolApi*> PyCapsule_GetPointer(_pool.api, "fastopt.pool_api")

ctypedef int (*get_threads)() noexcept nogil
ctypedef void (*set_threads)(int) noexcept nogil

cdef get_threads blas_get_threads = <get_threads> <size_t> _blas_functions[0]
cdef set_threads blas_set_threads = <set_threads> <size_t> _blas_functions[1]
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
    # A block of rows shorter than this is not worth a thread: BLAS copies all weights for each
    MIN_BLOCK_ROWS = 16
    # Rows of a gradient of weights, for the same reason, and in multiples of BLAS's own blocks
    MIN_SLAB_ROWS = 64
    # Pieces of the gradients of weights for each thread, so that they end together
    SLABS_PER_THREAD = 2

cdef struct Affine:
    int kind           # of the activation behind it
    Matrix W           # D × M
    char* b            # M
    Matrix x           # N × D
    char* out          # N × M, contiguous: f(x·W + b)
    Matrix dout        # N × M: the gradient with respect to x·W + b
    char* dW           # D × M, contiguous
    char* db           # M
    double weight_decay
    char* partial_db   # a row for each block, or NULL if `db` is written at once

cdef struct Slab:
    # rows of the gradient of one layer's weights
    Affine* affine
    Py_ssize_t first
    Py_ssize_t n


def count_fork():
    """Give BLAS its threads back in a child that was forked while another thread was in a product.
    """
    global n_in_products
    store(&is_counting, 0)
    if n_in_products:
        n_in_products = 1
        leave_products()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=count_fork)


cdef void enter_products() noexcept:
    global blas_threads, n_in_products
    begin_counting()
    if n_in_products == 0 and blas_get_threads != NULL:
        blas_threads = blas_get_threads()
        if blas_threads != 1:
            blas_set_threads(1)
    n_in_products += 1
    store(&is_counting, 0)


cdef void leave_products() noexcept:
    global n_in_products
    begin_counting()
    n_in_products -= 1
    if n_in_products == 0 and blas_get_threads != NULL and blas_threads != 1:
        blas_set_threads(blas_threads)
    store(&is_counting, 0)


cdef void begin_counting() noexcept nogil:
    """Wait for a thread that counts itself in or out: it takes some instructions."""
    while swap_if(&is_counting, 0, 1) != 0:
        pass


cdef int threads_for(double operations) noexcept:
    """Return how many threads so many operations are to be cut for."""
    if operations < THREADING_OPERATIONS or blas_get_threads == NULL:
        return 1
    return pool.threads()


cdef void run_products(
    double operations, int n_threads, void* context, const Phase* phases, int n_phases,
) noexcept:
    """Run jobs that call BLAS, on the pool if they were cut for several threads."""
    enter_products()
    n_threads = pool.claim() if n_threads > 1 else 1
    if operations < GIL_OPERATIONS:
        pool.run(n_threads, context, phases, n_phases, True)
    else:
        with nogil:
            pool.run(n_threads, context, phases, n_phases, True)
    leave_products()


cdef Py_ssize_t count_blocks(Py_ssize_t rows, int n_threads) noexcept:
    """Return into how many blocks the rows of a batch are cut."""
    return max(1, min(n_threads, rows // MIN_BLOCK_ROWS))


cdef Py_ssize_t count_slabs(int rows, double share, int n_threads) noexcept:
    """Return into how many slabs the rows of weights are cut that are a share of all the work."""
    cdef Py_ssize_t wanted = <Py_ssize_t> (share * n_threads * SLABS_PER_THREAD + 0.5)
    if n_threads == 1:
        return 1
    return max(1, min(wanted, rows // MIN_SLAB_ROWS))


cdef inline Py_ssize_t cut(Py_ssize_t length, Py_ssize_t pieces, Py_ssize_t piece) noexcept nogil:
    """Return where a piece of a length begins; all but the last are multiples of 16 if long."""
    cdef Py_ssize_t at = length * piece // pieces
    return at if piece == pieces or length < 32 * pieces else at // 16 * 16


cdef inline void affine_rows(
    bint is_double, const Affine* affine, const Matrix* x, char* out,
) noexcept nogil:
    """out = f(x·W + b) for some rows of x."""
    multiply(is_double, x, False, &affine.W, False, out)
    activate(is_double, affine.kind, x.rows, affine.W.columns, affine.b, out)


cdef inline void affine_input_gradient_rows(
    bint is_double, const Affine* affine, const Matrix* dout, char* dx,
) noexcept nogil:
    """dx = dout·Wᵀ for some rows of dout."""
    multiply(is_double, dout, False, &affine.W, True, dx)


cdef inline void affine_weight_gradient_rows(
    bint is_double, int item, const Affine* affine, Py_ssize_t first, Py_ssize_t n,
) noexcept nogil:
    """dW = xᵀ·dout + λ·W, some rows of it."""
    cdef Matrix x = some_columns(&affine.x, item, first, n), W
    cdef char* dW = affine.dW + first * affine.W.columns * item
    multiply(is_double, &x, True, &affine.dout, False, dW)
    if affine.weight_decay:
        W = some_rows(&affine.W, item, first, n)
        add_scaled(is_double, affine.weight_decay, &W, dW)
