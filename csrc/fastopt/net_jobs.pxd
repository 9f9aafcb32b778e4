# The jobs of a net's call, or of a single Affine layer's, which is a net of one: pieces of work
# that threads share. They call products and passes; Python, checks and memory management do not
# belong here, nor how a call is cut into jobs (_net.pyx).
#
# gradient: a block of rows goes forward through all layers, through the loss, and back to the
#           gradient of each layer's output; no block needs another one    (phase 1)
#           then slabs of the weights' gradients, each over all rows       (phase 2)
# forward:  each thread takes its share of the rows through all layers, some at a time

from fastopt._products cimport multiply
from fastopt.matrix cimport Matrix, contiguous, some_columns, some_rows
from fastopt.memory cimport prefetch_row
from fastopt.pass_calls cimport (
    activate,
    activate_backward,
    add_scaled,
    softmax_loss,
    softmax_loss_backward,
    sum_rows,
)
from libc.string cimport memcpy

cdef enum:
    # All pieces except the last are cut to multiples of so many rows
    CUT_ROWS = 16
    # Samples that are fetched before they are copied
    GATHER_AHEAD = 2

cdef struct Affine:
    # a layer: out = f(x·W + b)
    int kind           # of its activation f
    Matrix W           # D × M
    char* b            # M
    Matrix x           # N × D
    char* out          # N × M, contiguous
    Matrix dout        # N × M: the gradient with respect to x·W + b
    char* dW           # D × M, contiguous
    char* db           # M
    double weight_decay
    Matrix db_shares   # whose rows add up to db; without rows if db is written in phase 1

cdef struct Slab:
    # rows of the gradient of one layer's weights
    Affine* affine
    Py_ssize_t first
    Py_ssize_t n

cdef struct NetCall:
    # one call, as its jobs see it
    bint is_double
    int item               # bytes of an element
    int n_affines
    Affine* affines
    int n_threads          # that it is cut and has scratch memory for
    Py_ssize_t n           # rows of the batch
    Py_ssize_t n_blocks
    Py_ssize_t rows_at_once  # that a thread takes forward, if that is all there is to do
    Slab* slabs
    Py_ssize_t n_slabs
    Matrix source          # the samples, or what they are taken from
    Py_ssize_t* rows       # which of them to take; NULL: all, in place
    char* gathered
    Py_ssize_t* labels     # NULL if only scores are wanted
    double* losses
    char* scores           # NULL if only losses are wanted
    char* dx               # of a single layer
    char* scratch          # of the products, a part for each thread
    Py_ssize_t scratch_size


cdef inline Py_ssize_t cut(Py_ssize_t length, Py_ssize_t pieces, Py_ssize_t piece) noexcept nogil:
    """Return where a piece of a length begins, for pieces of CUT_ROWS or more on average."""
    return length if piece == pieces else length * piece // pieces // CUT_ROWS * CUT_ROWS


cdef inline Py_ssize_t count_groups(Py_ssize_t n) noexcept nogil:
    """Return how many groups of CUT_ROWS rows there are, the last of which may be shorter."""
    return (n + CUT_ROWS - 1) // CUT_ROWS


cdef inline char* scratch_of(NetCall* call, int thread) noexcept nogil:
    return call.scratch + thread * call.scratch_size


# Phase 1.

cdef inline void gradient_block(void* context, Py_ssize_t block, int thread) noexcept nogil:
    """Take a block of rows forward and back, and write every layer's `out`, `dout` and its db."""
    cdef NetCall* call = <NetCall*> context
    cdef Py_ssize_t first = cut(call.n, call.n_blocks, block)
    cdef Py_ssize_t n = cut(call.n, call.n_blocks, block + 1) - first
    cdef int i = call.n_affines - 1
    cdef Affine* affine = &call.affines[i]
    cdef Matrix dout = some_rows(&affine.dout, call.item, first, n)
    forward_rows(call, first, n, first, dout.data, thread)
    softmax_loss(
        call.is_double, n, dout.columns, call.labels + first, dout.data, call.losses + first
    )
    loss_backward_rows(call, affine, first, n)
    while i > 0:
        i -= 1
        affine = &call.affines[i]
        input_gradient_rows(
            call, affine + 1, &dout, affine.dout.data + first * affine.W.columns * call.item, thread
        )
        dout = some_rows(&affine.dout, call.item, first, n)
        activate_backward_rows(call, affine, first, n)


cdef inline void input_gradient_block(void* context, Py_ssize_t block, int thread) noexcept nogil:
    """Take a block of rows back through a single layer, to dx."""
    cdef NetCall* call = <NetCall*> context
    cdef Py_ssize_t first = cut(call.n, call.n_blocks, block)
    cdef Py_ssize_t n = cut(call.n, call.n_blocks, block + 1) - first
    cdef Affine* affine = &call.affines[0]
    cdef Matrix dout = some_rows(&affine.dout, call.item, first, n)
    input_gradient_rows(
        call, affine, &dout, call.dx + first * affine.W.rows * call.item, thread
    )


cdef inline void forward_block(void* context, Py_ssize_t block, int thread) noexcept nogil:
    """Take a thread's share of the rows forward, to scores or to losses."""
    cdef NetCall* call = <NetCall*> context
    cdef Py_ssize_t first = cut(call.n, call.n_blocks, block)
    cdef Py_ssize_t end = cut(call.n, call.n_blocks, block + 1), n
    cdef Py_ssize_t at = block * call.rows_at_once
    cdef Affine* last = &call.affines[call.n_affines - 1]
    cdef int classes = last.W.columns
    cdef char* scores
    while first < end:
        n = min(end - first, call.rows_at_once)
        if call.scores != NULL:
            scores = call.scores + first * classes * call.item
        else:
            scores = last.out + at * classes * call.item
        forward_rows(call, first, n, at, scores, thread)
        if call.scores == NULL:
            softmax_loss(
                call.is_double, n, classes, call.labels + first, scores, call.losses + first
            )
        first += n


# Phase 2.

cdef inline void gradient_slab(void* context, Py_ssize_t k, int thread) noexcept nogil:
    """Write some rows of a dW; with the first of a layer, add up the shares of its db."""
    cdef NetCall* call = <NetCall*> context
    cdef Slab* slab = &call.slabs[k]
    cdef Affine* affine = slab.affine
    weight_gradient_rows(call, affine, slab.first, slab.n, thread)
    if slab.first == 0 and affine.db_shares.rows:
        sum_rows(call.is_double, &affine.db_shares, affine.db)


# Rows of one layer or of all.

cdef inline void forward_rows(
    NetCall* call, Py_ssize_t first, Py_ssize_t n, Py_ssize_t at, char* scores, int thread,
) noexcept nogil:
    """Take rows through the layers; what lies between begins at row `at` of the workspace."""
    cdef int i, item = call.item
    cdef Affine* affine
    cdef char* out
    cdef Matrix x
    if call.rows == NULL:
        x = some_rows(&call.source, item, first, n)
    else:
        x = contiguous(
            call.gathered + at * call.source.columns * item, <int> n, call.source.columns
        )
        gather(call, first, n, x.data)
    for i in range(call.n_affines):
        affine = &call.affines[i]
        if i + 1 < call.n_affines:
            out = affine.out + at * affine.W.columns * item
        else:
            out = scores
        multiply(call.is_double, &x, False, &affine.W, False, out, scratch_of(call, thread))
        activate(call.is_double, affine.kind, n, affine.W.columns, affine.b, out)
        x = contiguous(out, <int> n, affine.W.columns)


cdef inline void gather(
    NetCall* call, Py_ssize_t first, Py_ssize_t n, char* to,
) noexcept nogil:
    """Copy the wanted rows of the samples to one place, one after the other."""
    cdef Py_ssize_t size = <Py_ssize_t> call.source.columns * call.item, i
    for i in range(n):
        if i + GATHER_AHEAD < n:
            prefetch_row(call.source.data + call.rows[first + i + GATHER_AHEAD] * size, size)
        memcpy(to + i * size, call.source.data + call.rows[first + i] * size, size)


cdef inline void input_gradient_rows(
    NetCall* call, const Affine* affine, const Matrix* dout, char* dx, int thread,
) noexcept nogil:
    """dx = dout·Wᵀ for some rows of dout."""
    multiply(call.is_double, dout, False, &affine.W, True, dx, scratch_of(call, thread))


cdef inline void weight_gradient_rows(
    NetCall* call, const Affine* affine, Py_ssize_t first, Py_ssize_t n, int thread,
) noexcept nogil:
    """dW = xᵀ·dout + λ·W, some rows of it."""
    cdef Matrix x = some_columns(&affine.x, call.item, first, n), W
    cdef char* dW = affine.dW + first * affine.W.columns * call.item
    multiply(call.is_double, &x, True, &affine.dout, False, dW, scratch_of(call, thread))
    if affine.weight_decay:
        W = some_rows(&affine.W, call.item, first, n)
        add_scaled(call.is_double, affine.weight_decay, &W, dW)


# The next two go by groups of rows, each with a share of its own in db, so that the order of db's
# sum does not depend on how the batch is cut into blocks.

cdef inline void loss_backward_rows(
    NetCall* call, Affine* affine, Py_ssize_t first, Py_ssize_t n,
) noexcept nogil:
    """Turn the probabilities of rows into the gradient of the scores, and sum it up for db."""
    cdef Py_ssize_t group, at
    cdef int columns = affine.W.columns
    for group in range(count_groups(n)):
        at = first + group * CUT_ROWS
        softmax_loss_backward(
            call.is_double, min(first + n - at, CUT_ROWS), columns, call.labels + at, 1.0 / call.n,
            affine.dout.data + at * columns * call.item, db_share(call, affine, at),
        )


cdef inline void activate_backward_rows(
    NetCall* call, Affine* affine, Py_ssize_t first, Py_ssize_t n,
) noexcept nogil:
    """Take rows of the gradient back through the activation, and sum it up for db."""
    cdef Py_ssize_t group, at, offset
    cdef int columns = affine.W.columns
    for group in range(count_groups(n)):
        at = first + group * CUT_ROWS
        offset = at * columns * call.item
        activate_backward(
            call.is_double, affine.kind, min(first + n - at, CUT_ROWS), columns,
            affine.out + offset, affine.dout.data + offset, db_share(call, affine, at),
        )


cdef inline char* db_share(NetCall* call, Affine* affine, Py_ssize_t at) noexcept nogil:
    """Return where the group of rows that begins at row `at` puts its share of db."""
    if not affine.db_shares.rows:
        return affine.db
    return affine.db_shares.data + at // CUT_ROWS * affine.W.columns * call.item
