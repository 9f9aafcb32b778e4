# The jobs of a net's call, or of a single layer's: pieces of work that threads share. They call
# products and passes. What a call holds is in net.pxd; how it is cut into jobs and phases, checks
# and memory are in _plan.pyx and its callers. Compiled for each instruction set and dtype.
#
# rows: a block of rows goes through a stretch of ops, forward, through the loss, and back; where an
#       op needs a sum over the batch, a phase ends, and the shares of the groups of rows are joined
# slab: some rows of the gradient of one op's weights, each over the whole batch; the last phase
#
# dtype: NULL; its type says for which dtype a function is compiled

from cython cimport floating
from fastopt.matrix cimport column_stride, contiguous, row_stride, some_columns, some_rows
from fastopt.memory cimport prefetch_row
from fastopt.net cimport (
    ACTIVATION,
    AFFINE,
    DROPOUT,
    GROUP,
    NORM,
    NetCall,
    Dropout,
    Norm,
    Op,
    Slab,
    Stage,
    count_groups,
    cut,
)
from libc.string cimport memcpy

cdef enum:
    # Samples that are fetched before they are copied
    GATHER_AHEAD = 2
    # Elements that are taken through a stretch of ops together: they stay in the first-level cache
    STRETCH = 4096


cdef inline void multiply(
    const floating* _dtype, const NetCall* call, const Matrix* a, bint transpose_a, const Matrix* b,
    bint transpose_b, void* c, int thread,
) noexcept nogil:
    """c = op(a)·op(b) for a contiguous c; op transposes where its flag is set."""
    cdef Py_ssize_t m = a.columns if transpose_a else a.rows
    cdef Py_ssize_t k = a.rows if transpose_a else a.columns
    cdef Py_ssize_t n = b.rows if transpose_b else b.columns
    cdef char* scratch = call.scratch + thread * call.scratch_size
    transpose_a, transpose_b = transpose_a != a.transposed, transpose_b != b.transposed
    if floating is float:
        call.products.float32(
            transpose_a, transpose_b, m, n, k, <const float*> a.data, a.ld, <const float*> b.data,
            b.ld, <float*> c, n, scratch,
        )
    else:
        call.products.float64(
            transpose_a, transpose_b, m, n, k, <const double*> a.data, a.ld,
            <const double*> b.data, b.ld, <double*> c, n, scratch,
        )


# The jobs.

cdef void rows_job(
    const floating* dtype, const Stage* stage, Py_ssize_t block, int thread,
) noexcept nogil:
    """Do with a block of rows what a stage says, some rows at a time."""
    cdef const NetCall* call = stage.call
    cdef Py_ssize_t first = cut(call.n, call.n_blocks, block)
    cdef Py_ssize_t end = cut(call.n, call.n_blocks, block + 1), n
    cdef Py_ssize_t at
    while first < end:
        n = min(end - first, call.rows_at_once)
        at = first if call.trains else block * call.rows_at_once
        if stage.goes_forward:
            forward(dtype, stage, first, n, at, thread)
        if stage.takes_losses or stage.turns:
            loss_of_rows(dtype, stage, first, n, at)
        if stage.goes_back:
            backward(dtype, stage, first, n, thread)
        first += n


cdef void slab_job(
    const floating* dtype, const Stage* stage, Py_ssize_t k, int thread,
) noexcept nogil:
    """dW = xᵀ·dout + λ·W, some rows of it; with the first of an op, db = Σ of its shares."""
    cdef const NetCall* call = stage.call
    cdef const Slab* slab = &call.slabs[k]
    cdef const Op* op = slab.op
    cdef Py_ssize_t columns = op.columns
    cdef Matrix x = some_columns(&op.x, call.item, slab.first, slab.n), W
    cdef floating* dW = <floating*> op.affine.dW + slab.first * columns
    multiply(dtype, call, &x, True, &op.dout, False, dW, thread)
    if op.affine.weight_decay:
        W = some_rows(&op.affine.W, call.item, slab.first, slab.n)
        add_scaled(
            W.rows, columns, op.affine.weight_decay, <const floating*> W.data, row_stride(&W),
            column_stride(&W), dW,
        )
    if slab.first == 0 and op.affine.db_shares != op.affine.db:
        sum_rows(
            count_groups(call.n), columns, <const floating*> op.affine.db_shares, columns, 1,
            <floating*> op.affine.db,
        )


cdef void join_moments_of(const floating* _dtype, const Stage* stage) noexcept nogil:
    """Join the moments of the groups of rows that an op takes, in their order."""
    cdef const NetCall* call = stage.call
    cdef const Norm* norm = &call.ops[stage.moments].norm
    cdef Py_ssize_t m = call.ops[stage.moments].columns, k
    cdef floating* mean = <floating*> norm.mean
    cdef floating* squares = <floating*> norm.scale
    cdef const floating* shares = <const floating*> norm.shares
    memcpy(mean, shares, m * sizeof(floating))
    memcpy(squares, shares + m, m * sizeof(floating))
    for k in range(1, count_groups(call.n)):
        shares += 2 * m
        join_moments(
            k * GROUP, min(call.n - k * GROUP, GROUP), m, shares, shares + m, mean, squares
        )
    end_moments(
        call.n, m, mean, squares, <floating*> norm.running_mean,
        <floating*> norm.running_variance,
    )


cdef void take_running_averages_of(const floating* _dtype, const Stage* stage) noexcept nogil:
    """Let every norm take its running averages in place of a batch's moments."""
    cdef const NetCall* call = stage.call
    cdef const Norm* norm
    cdef int k
    for k in range(call.n_ops):
        norm = &call.ops[k].norm
        if call.ops[k].kind == NORM:
            memcpy(norm.mean, norm.running_mean, call.ops[k].columns * sizeof(floating))
            memcpy(norm.scale, norm.running_variance, call.ops[k].columns * sizeof(floating))
            end_moments(
                1, call.ops[k].columns, <const floating*> norm.mean, <floating*> norm.scale,
                <floating*> NULL, <floating*> NULL,
            )


cdef void join_norm_sums_of(const floating* _dtype, const Stage* stage) noexcept nogil:
    """Add up the sums of the groups of rows that an op gave."""
    cdef const NetCall* call = stage.call
    cdef const Norm* norm = &call.ops[stage.sums].norm
    cdef Py_ssize_t m = call.ops[stage.sums].columns, groups = count_groups(call.n)
    cdef const floating* shares = <const floating*> norm.shares
    sum_rows(groups, m, shares, 2 * m, 1, <floating*> norm.dgamma)
    sum_rows(groups, m, shares + m, 2 * m, 1, <floating*> norm.dbeta)


# Forward.

cdef void forward(
    const floating* dtype, const Stage* stage, Py_ssize_t first, Py_ssize_t n, Py_ssize_t at,
    int thread,
) noexcept nogil:
    """Take rows through the stage's ops; what lies between begins at row `at` of the workspace.

    A product is of all these rows at once; what follows it goes by some rows at a time.
    """
    cdef const NetCall* call = stage.call
    cdef int begin = stage.forward, end
    cdef Py_ssize_t done, some
    if call.rows != NULL and begin == 0:
        gather(call, first, n, call.gathered + at * call.source.columns * call.item)
    while True:
        end = next_product(call, begin + 1, stage.forward_end)
        if begin < end and call.ops[begin].kind == AFFINE:
            multiply_rows(dtype, call, begin, first, n, at, thread)
        done = 0
        while done < n:
            some = min(n - done, rows_together(stage, begin, end))
            forward_some(dtype, stage, begin, end, first + done, some, at + done)
            done += some
        begin = end
        if begin >= stage.forward_end:
            return


cdef inline int next_product(const NetCall* call, int op, int end) noexcept nogil:
    """Return the next product from an op on, or the end."""
    while op < end and call.ops[op].kind != AFFINE:
        op += 1
    return min(op, end)


cdef inline Py_ssize_t rows_together(const Stage* stage, int begin, int end) noexcept nogil:
    """Return how many rows go through a stretch of ops together: some groups of them."""
    cdef Py_ssize_t columns = stage.call.ops[begin].columns
    if end == stage.forward_end and stage.moments >= 0:
        return GROUP
    return max(GROUP, STRETCH // columns // GROUP * GROUP)


cdef void multiply_rows(
    const floating* dtype, const NetCall* call, int k, Py_ssize_t first, Py_ssize_t n,
    Py_ssize_t at, int thread,
) noexcept nogil:
    """out = x·W for rows of op k; its bias is added later."""
    cdef const Op* op = &call.ops[k]
    cdef Matrix x = op.x
    if k == 0 and call.rows == NULL:
        x = some_rows(&call.source, call.item, first, n)
    else:
        x = contiguous(x_of(call, k, first, at), <int> n, x.columns)
    multiply(dtype, call, &x, False, &op.affine.W, False, out_of(call, k, first, at), thread)


cdef void forward_some(
    const floating* dtype, const Stage* stage, int begin, int end, Py_ssize_t first, Py_ssize_t n,
    Py_ssize_t at,
) noexcept nogil:
    """Take rows through a stretch of ops that has no product but the one that it begins with."""
    cdef const NetCall* call = stage.call
    cdef const Op* op
    cdef const floating* x
    cdef floating* out
    cdef Py_ssize_t m
    cdef int k
    for k in range(begin, end):
        op, m = &call.ops[k], call.ops[k].columns
        x, out = <const floating*> x_of(call, k, first, at), <floating*> out_of(call, k, first, at)
        if op.kind == AFFINE:
            add_bias(n, m, <const floating*> op.affine.b, out)
        elif op.kind == NORM:
            normalize(
                n, m, <const floating*> op.norm.mean, <const floating*> op.norm.scale,
                <const floating*> op.norm.gamma, <const floating*> op.norm.beta, x, out,
            )
        elif op.kind == ACTIVATION:
            if floating is float:
                op.activation.forward32(NULL, n * m, x, out)
            else:
                op.activation.forward64(NULL, n * m, x, out)
        elif call.trains:
            drop_rows(call, op, first, n, x, out)
    if end == stage.forward_end and stage.moments >= 0:
        op, m = &call.ops[stage.moments], call.ops[stage.moments].columns
        x = <const floating*> x_of(call, stage.moments, first, at)
        out = <floating*> op.norm.shares + first // GROUP * 2 * m
        group_moments(n, m, x, out, out + m)


cdef inline char* x_of(
    const NetCall* call, int k, Py_ssize_t first, Py_ssize_t at,
) noexcept nogil:
    """Return where rows of what op k takes lie: contiguous, but for a product that comes first."""
    if k > 0:
        return call.ops[k - 1].out + at * call.ops[k - 1].columns * call.item
    if call.rows != NULL:
        return call.gathered + at * call.source.columns * call.item
    return call.source.data + first * call.source.columns * call.item


cdef inline char* out_of(
    const NetCall* call, int k, Py_ssize_t first, Py_ssize_t at,
) noexcept nogil:
    """Return where op k puts its rows; of op -1, where scores lie that no op has made."""
    if k + 1 == call.n_ops and call.scores != NULL:
        return call.scores + first * call.outputs * call.item
    return call.ops[k].out + at * call.ops[k].columns * call.item


cdef inline void gather(
    const NetCall* call, Py_ssize_t first, Py_ssize_t n, char* to,
) noexcept nogil:
    """Copy the wanted rows of the samples to one place, one after the other."""
    cdef Py_ssize_t size = <Py_ssize_t> call.source.columns * call.item, i
    for i in range(n):
        if i + GATHER_AHEAD < n:
            prefetch_row(call.source.data + call.rows[first + i + GATHER_AHEAD] * size, size)
        memcpy(to + i * size, call.source.data + call.rows[first + i] * size, size)


cdef void drop_rows(
    const NetCall* call, const Op* op, Py_ssize_t first, Py_ssize_t n, const floating* x,
    floating* out,
) noexcept nogil:
    """Drop out of rows, and scale what is kept: of what goes forward, or of its gradient."""
    cdef const Dropout* dropout = &op.dropout
    cdef Py_ssize_t i, m = op.columns
    for i in range(n):
        drop(
            m, dropout_key(call.seed, call.step, dropout.layer, first + i), dropout.threshold,
            dropout.scale, x + i * m, out + i * m,
        )


# The loss.

cdef void loss_of_rows(
    const floating* _dtype, const Stage* stage, Py_ssize_t first, Py_ssize_t n, Py_ssize_t at,
) noexcept nogil:
    """Turn scores of rows into predictions and losses; and these into the gradient."""
    cdef const NetCall* call = stage.call
    cdef Py_ssize_t m = call.outputs
    cdef floating* y = <floating*> out_of(call, call.n_ops - 1, first, at)
    cdef const Py_ssize_t* classes = call.targets.classes
    cdef const floating* t = <const floating*> call.targets.values
    cdef double* losses = call.losses
    classes = classes + first if classes != NULL else NULL
    t = t + first * m if t != NULL else NULL
    losses = losses + first if losses != NULL else NULL
    if stage.takes_losses:
        if floating is float:
            call.loss.forward32(NULL, n, m, classes, t, y, losses)
        else:
            call.loss.forward64(NULL, n, m, classes, t, y, losses)
    if stage.turns:
        if floating is float:
            call.loss.backward32(NULL, n, m, classes, t, call.targets.factors + first, y)
        else:
            call.loss.backward64(NULL, n, m, classes, t, call.targets.factors + first, y)


# Back.

cdef void backward(
    const floating* dtype, const Stage* stage, Py_ssize_t first, Py_ssize_t n, int thread,
) noexcept nogil:
    """Take the gradient of rows back through the stage's ops.

    A product is of all these rows at once; what comes before it on the way back, a group at a time.
    """
    cdef const NetCall* call = stage.call
    cdef int top = stage.backward, product
    cdef Py_ssize_t group
    while True:
        product = top
        while product >= stage.backward_end and call.ops[product].kind != AFFINE:
            product -= 1
        for group in range(count_groups(n)):
            backward_group(
                dtype, stage, top, product, first + group * GROUP, min(n - group * GROUP, GROUP)
            )
        if product < stage.backward_end:
            return
        multiply_back(dtype, call, product, first, n, thread)
        top = product - 1
        if top < stage.backward_end and stage.sums < 0:
            return


cdef void backward_group(
    const floating* _dtype, const Stage* stage, int top, int product, Py_ssize_t first,
    Py_ssize_t n,
) noexcept nogil:
    """Take the gradient of a group back to a product, and sum it up for its db, or to a norm."""
    cdef const NetCall* call = stage.call
    cdef const Op* op
    cdef const floating* kept
    cdef const Norm* norm
    cdef Matrix dout
    cdef floating* to
    cdef Py_ssize_t m
    cdef int k
    for k in range(top, product, -1):
        op = &call.ops[k]
        m = op.columns
        to = <floating*> op.dout.data + first * m
        kept = <const floating*> x_of(call, k, first, first)
        if op.kind == NORM:
            norm = &op.norm
            normalize_backward(
                n, m, call.n, <const floating*> norm.mean, <const floating*> norm.scale,
                <const floating*> norm.gamma, <const floating*> norm.dgamma,
                <const floating*> norm.dbeta, kept, to,
            )
        elif op.kind == ACTIVATION:
            if not op.activation.told_from_input:
                kept = <const floating*> out_of(call, k, first, first)
            if floating is float:
                op.activation.backward32(NULL, n * m, kept, to)
            else:
                op.activation.backward64(NULL, n * m, kept, to)
        else:
            drop_rows(call, op, first, n, to, to)
    if product >= stage.backward_end:
        op = &call.ops[product]
        m = op.columns
        dout = some_rows(&op.dout, call.item, first, n)
        to = <floating*> op.affine.db_shares + first // GROUP * m
        sum_rows(
            n, m, <const floating*> dout.data, row_stride(&dout), column_stride(&dout), to
        )
    elif stage.sums >= 0:
        op, m = &call.ops[stage.sums], call.ops[stage.sums].columns
        norm = &op.norm
        to = <floating*> norm.shares + first // GROUP * 2 * m
        group_norm_sums(
            n, m, <const floating*> norm.mean, <const floating*> norm.scale,
            <const floating*> x_of(call, stage.sums, first, first),
            <const floating*> op.dout.data + first * m, to, to + m,
        )


cdef void multiply_back(
    const floating* dtype, const NetCall* call, int k, Py_ssize_t first, Py_ssize_t n, int thread,
) noexcept nogil:
    """dx = dout·Wᵀ for rows of op k, if anybody wants it."""
    cdef const Op* op = &call.ops[k]
    cdef Matrix dout = some_rows(&op.dout, call.item, first, n)
    cdef char* dx = call.ops[k - 1].dout.data if k > 0 else call.dx
    if dx != NULL:
        dx += first * op.x.columns * call.item
        multiply(dtype, call, &dout, False, &op.affine.W, True, dx, thread)


# What the table holds: C knows no fused types.

cdef void rows32(void* stage, Py_ssize_t block, int thread) noexcept nogil:
    rows_job(<const float*> NULL, <const Stage*> stage, block, thread)


cdef void rows64(void* stage, Py_ssize_t block, int thread) noexcept nogil:
    rows_job(<const double*> NULL, <const Stage*> stage, block, thread)


cdef void slab32(void* stage, Py_ssize_t k, int thread) noexcept nogil:
    slab_job(<const float*> NULL, <const Stage*> stage, k, thread)


cdef void slab64(void* stage, Py_ssize_t k, int thread) noexcept nogil:
    slab_job(<const double*> NULL, <const Stage*> stage, k, thread)


cdef void join_moments32(void* stage) noexcept nogil:
    join_moments_of(<const float*> NULL, <const Stage*> stage)


cdef void join_moments64(void* stage) noexcept nogil:
    join_moments_of(<const double*> NULL, <const Stage*> stage)


cdef void take_running_averages32(void* stage) noexcept nogil:
    take_running_averages_of(<const float*> NULL, <const Stage*> stage)


cdef void take_running_averages64(void* stage) noexcept nogil:
    take_running_averages_of(<const double*> NULL, <const Stage*> stage)


cdef void join_norm_sums32(void* stage) noexcept nogil:
    join_norm_sums_of(<const float*> NULL, <const Stage*> stage)


cdef void join_norm_sums64(void* stage) noexcept nogil:
    join_norm_sums_of(<const double*> NULL, <const Stage*> stage)
