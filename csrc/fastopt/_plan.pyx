# How a call of a net, or of a single layer, is cut into jobs and phases, and run. What it computes
# is in kernels/net_jobs.pxi, what it holds in net.pxd; arrays, their checks and memory belong to
# those who describe a call (_net.pyx, _layers.pyx).
#
# gradient: a block of rows goes forward through all ops, through the loss, and back to the gradient
#           of each op's output; then slabs of the weights' gradients, each over all rows. Where an
#           op needs a sum over the batch, forward and again on the way back, a phase ends
# forward:  each thread takes its share of the rows through all ops, some at a time

from fastopt._kernels cimport kernels
from fastopt._pool cimport Phase
from fastopt._products cimport product_scratch, products, run_products, threads_for
from fastopt.kernels.table cimport NetJobs
from fastopt.memory cimport padded
from fastopt.net cimport AFFINE, NORM, NetCall, Op, Slab, Stage, cut

cdef enum:
    # A block of rows shorter than this is not worth a thread: each thread packs all weights for
    # itself. Not less than GROUP
    MIN_BLOCK_ROWS = 16
    # Rows of a gradient of weights, for the same reason
    MIN_SLAB_ROWS = 64
    # Pieces of the gradients of weights for each thread, so that they end together
    SLABS_PER_THREAD = 2
    # What an op without products costs for each of its numbers, in operations of a product
    ELEMENT_OPERATIONS = 30


cdef void cut_blocks(NetCall* call, Way way) noexcept:
    call.products = products
    call.n_threads = threads_for(operations(call, way))
    call.n_blocks = max(1, min(call.n_threads, call.n // MIN_BLOCK_ROWS))
    if call.trains:  # blocks that a core's own cache can hold, a whole number for each thread
        call.n_blocks *= 1 + (call.n - 1) // (call.n_blocks * BACKWARD_ROWS)
        call.rows_at_once = call.n
    else:
        call.rows_at_once = FORWARD_ROWS


cdef double operations(const NetCall* call, Way way) noexcept:
    """Return how many additions and multiplications a call is worth.

    A net goes forward, and back by two products an op, except to the samples' own gradient. A
    single layer goes back by two products: as many.
    """
    cdef const Op* op
    cdef double multiplied = 0, first = 0, elements = 0
    cdef int k
    for k in range(call.n_ops):
        op = &call.ops[k]
        if op.kind == AFFINE:
            multiplied += multiplications(op)
            first = multiplications(op) if k == 0 else first
        else:
            elements += op.columns
    multiplied *= 1.0 + 2.0 * way.back if way.forward else 2.0 * way.back
    if way.back and call.dx == NULL:
        multiplied -= first
    return call.n * (2 * multiplied + ELEMENT_OPERATIONS * elements)


cdef double multiplications(const Op* op) noexcept:
    """Return how many multiplications take one sample through a product."""
    return <double> op.affine.W.rows * <double> op.affine.W.columns


cdef Py_ssize_t most_slabs(const NetCall* call) noexcept:
    """All shares are 1 together, and each is rounded."""
    return 2 * call.n_ops + SLABS_PER_THREAD * call.n_threads


cdef void cut_slabs(NetCall* call) noexcept:
    cdef Py_ssize_t i, pieces
    cdef Slab* slab
    cdef Op* op
    cdef double total = 0
    cdef int k
    for k in range(call.n_ops):
        if call.ops[k].kind == AFFINE:
            total += multiplications(&call.ops[k])
    call.n_slabs = 0
    for k in range(call.n_ops):
        op = &call.ops[k]
        if op.kind != AFFINE:
            continue
        pieces = count_slabs(op.affine.W.rows, multiplications(op) / total, call.n_threads)
        for i in range(pieces):
            slab = &call.slabs[call.n_slabs]
            slab.op, slab.first = op, cut(op.affine.W.rows, pieces, i)
            slab.n = cut(op.affine.W.rows, pieces, i + 1) - slab.first
            call.n_slabs += 1


cdef Py_ssize_t count_slabs(int rows, double share, int n_threads) noexcept:
    """Return how many slabs to cut these rows into, given their share of the total work."""
    cdef Py_ssize_t wanted = <Py_ssize_t> (share * n_threads * SLABS_PER_THREAD + 0.5)
    if n_threads == 1:
        return 1
    return max(1, min(wanted, rows // MIN_SLAB_ROWS))


cdef void measure_scratch(NetCall* call, Py_ssize_t rows) noexcept:
    cdef const Op* op
    cdef Py_ssize_t D, M
    cdef int k
    call.scratch_size = 0
    for k in range(call.n_ops):
        op = &call.ops[k]
        if op.kind == AFFINE:
            D, M = op.affine.W.rows, op.affine.W.columns
            call.scratch_size = max(
                call.scratch_size,
                product_scratch(call.is_double, rows, M, D),
                product_scratch(call.is_double, rows, D, M),
                product_scratch(call.is_double, D, M, call.n),
            )
    call.scratch_size = padded(call.scratch_size)


cdef int most_stages(int n_norms) noexcept:
    return 2 * n_norms + 1


cdef void run_call(NetCall* call, Way way, Stage* stages, Phase* phases) noexcept:
    """Plan the phases of a call that is described, and run them."""
    cdef int n = plan_stages(call, way, stages), k
    cdef const NetJobs* jobs = &kernels.net64 if call.is_double else &kernels.net32
    for k in range(n):
        phases[k] = Phase(jobs.rows, &stages[k], call.n_blocks, False, NULL)
        if stages[k].moments >= 0:
            phases[k].finish = jobs.join_moments
        elif stages[k].sums >= 0:
            phases[k].finish = jobs.join_norm_sums
    if way.forward and not call.trains:
        jobs.take_running_averages(&stages[0])
    if way.back and call.n_slabs > 0:
        phases[n] = Phase(jobs.slab, &stages[0], call.n_slabs, True, NULL)
        n += 1
    run_products(operations(call, way), call.n_threads, phases, n)


cdef int plan_stages(NetCall* call, Way way, Stage* stages) noexcept:
    """Cut the way of a block of rows where an op needs a sum over the batch."""
    cdef Stage* stage = first_stage(call, stages)
    cdef int k
    if way.forward:
        stage.goes_forward = True
        for k in range(call.n_ops):
            if call.trains and call.ops[k].kind == NORM:
                stage.forward_end = stage.moments = k
                stage = first_stage(call, stage + 1)
                stage.goes_forward, stage.forward = True, k
        stage.forward_end = call.n_ops
    stage.takes_losses, stage.turns = way.losses, way.turns
    if way.back:
        stage.goes_back, stage.backward = True, call.n_ops - 1
        for k in reversed(range(call.n_ops)):
            if call.ops[k].kind == NORM:
                stage.backward_end, stage.sums = k + 1, k
                stage = first_stage(call, stage + 1)
                stage.goes_back, stage.backward = True, k
        stage.backward_end = 0
    return <int> (stage - stages) + 1


cdef Stage* first_stage(NetCall* call, Stage* stage) noexcept:
    """Return a stage that does nothing yet."""
    stage[0] = Stage(call, False, 0, 0, -1, False, False, False, 0, 0, -1)
    return stage


cdef double mean_loss(const NetCall* call, bint is_weighted) noexcept:
    """Sum the losses in order; a row of factor 0 counts for nothing, even if it has no number."""
    cdef Py_ssize_t i
    cdef double total = 0
    if not is_weighted:
        for i in range(call.n):
            total += call.losses[i]
        return total / call.n
    for i in range(call.n):
        if call.targets.factors[i] != 0:
            total += call.targets.factors[i] * call.losses[i]
    return total


cdef double largest_loss(const NetCall* call) noexcept:
    """Return the largest loss of a row whose factor is not 0, or 0."""
    cdef Py_ssize_t i
    cdef double largest = 0
    for i in range(call.n):
        if call.losses[i] > largest and call.targets.factors[i] != 0:
            largest = call.losses[i]
    return largest
