# One Affine layer in pieces that threads can share: rows of its output and of the gradient of its
# input, rows of the gradient of its weights.

cdef enum:
    CACHE_LINE = 64
    # A block of rows shorter than this is not worth a thread: each copies all weights. Not less
    # than CUT_ROWS
    MIN_BLOCK_ROWS = 16
    # Rows of a gradient of weights, for the same reason
    MIN_SLAB_ROWS = 64
    # Pieces of the gradients of weights for each thread, so that they end together
    SLABS_PER_THREAD = 2
    # All pieces but the last are cut to multiples of so many rows
    CUT_ROWS = 16

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
    char* partial_db   # a row for each group of CUT_ROWS rows of dout

cdef struct Slab:
    # rows of the gradient of one layer's weights
    Affine* affine
    Py_ssize_t first
    Py_ssize_t n


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
    """Return where a piece of a length begins, for pieces of CUT_ROWS or more on average."""
    return length if piece == pieces else length * piece // pieces // CUT_ROWS * CUT_ROWS


cdef Py_ssize_t affine_scratch(
    bint is_double, const Affine* affine, Py_ssize_t rows, Py_ssize_t n,
) noexcept:
    """Return how many bytes of scratch memory the products of up to so many rows of n want."""
    cdef Py_ssize_t D = affine.W.rows, M = affine.W.columns
    cdef Py_ssize_t forward = product_scratch(is_double, rows, M, D)
    cdef Py_ssize_t input_gradient = product_scratch(is_double, rows, D, M)
    cdef Py_ssize_t weight_gradient = product_scratch(is_double, D, M, n)
    return padded(max(forward, input_gradient, weight_gradient))


cdef inline size_t padded(size_t size) noexcept:
    """Return a size in whole cache lines."""
    return (size + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE


cdef inline void affine_rows(
    bint is_double, const Affine* affine, const Matrix* x, char* out, void* scratch,
) noexcept nogil:
    """out = f(x·W + b) for some rows of x."""
    multiply(is_double, x, False, &affine.W, False, out, scratch)
    activate(is_double, affine.kind, x.rows, affine.W.columns, affine.b, out)


cdef inline void affine_input_gradient_rows(
    bint is_double, const Affine* affine, const Matrix* dout, char* dx, void* scratch,
) noexcept nogil:
    """dx = dout·Wᵀ for some rows of dout."""
    multiply(is_double, dout, False, &affine.W, True, dx, scratch)


cdef inline void affine_weight_gradient_rows(
    bint is_double, int item, const Affine* affine, Py_ssize_t first, Py_ssize_t n, void* scratch,
) noexcept nogil:
    """dW = xᵀ·dout + λ·W, some rows of it."""
    cdef Matrix x = some_columns(&affine.x, item, first, n), W
    cdef char* dW = affine.dW + first * affine.W.columns * item
    multiply(is_double, &x, True, &affine.dout, False, dW, scratch)
    if affine.weight_decay:
        W = some_rows(&affine.W, item, first, n)
        add_scaled(is_double, affine.weight_decay, &W, dW)
