# Single layers, a call each: nets of one op, or of a loss alone, described for the driver that nets
# have, too (_plan.pyx). Names, documentation and what a layer remembers are in fastopt/layers.py.
#
# A call goes in this order, as in _net.pyx: first all that may run code of the caller's, then all
# that describes arrays by pointers and sizes, then the jobs.

cimport numpy as cnp

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from fastopt._kernels cimport kernels
from fastopt._net cimport activation_row, dropout_of, loss_row
from fastopt._net_inputs cimport (
    as_c_order,
    as_floats,
    as_int,
    as_matrix,
    as_output,
    as_plain,
    as_samples,
    as_scores,
    check_matrix,
    check_shape,
    check_weights,
    empty_matrix,
    find_targets,
    range_of,
)
from fastopt._plan cimport (
    Way,
    cut_blocks,
    cut_slabs,
    mean_loss,
    measure_scratch,
    most_slabs,
    run_call,
)
from fastopt._pool cimport Phase
from fastopt.matrix cimport Matrix, contiguous
from fastopt.memory cimport CACHE_LINE, padded
from fastopt.ndarray cimport is_float32_or_64, item_size
from fastopt.net cimport (
    ACTIVATION,
    AFFINE,
    DROPOUT,
    NORM,
    NetCall,
    Op,
    OpKind,
    Slab,
    Stage,
    count_groups,
)
from libc.limits cimport INT_MAX
from libc.stdint cimport uint64_t
from libc.string cimport memset

import numpy as np

cnp.import_array()

cdef enum:
    # An array of fewer columns goes through an elementwise op as a single row
    MIN_COLUMNS = 64

cdef Way FORWARD = Way(True, False, False, False)
cdef Way BACK = Way(False, False, False, True)
cdef Way LOSSES = Way(False, True, False, False)
cdef Way TURN = Way(False, False, True, False)

cdef struct Layer:
    NetCall call
    Op op
    Stage[3] stages
    Phase[4] phases


cdef int begin_layer(Layer* layer, OpKind kind, int type_num, bint trains) except -1:
    """Begin to describe a net of one op: a call that keeps what it makes, or one that does not."""
    memset(layer, 0, sizeof(Layer))
    layer.op.kind = kind
    layer.call.ops, layer.call.n_ops = &layer.op, 1
    layer.call.is_double = type_num == cnp.NPY_FLOAT64
    layer.call.item = item_size(layer.call.is_double)
    layer.call.trains = trains
    return 0


cdef int describe(Layer* layer, cnp.ndarray x, void* out, bint is_elementwise) except -1:
    """Describe what an op takes, a C-contiguous array, and where it puts as much.

    A row is a sample; where rows are no matter, and short, all are one.
    """
    cdef Py_ssize_t rows = cnp.PyArray_DIM(x, 0) if cnp.PyArray_NDIM(x) > 0 else 1
    cdef Py_ssize_t columns = cnp.PyArray_SIZE(x) // max(rows, 1)
    if is_elementwise and not (MIN_COLUMNS <= columns <= INT_MAX and rows <= INT_MAX):
        rows, columns = 1, cnp.PyArray_SIZE(x)
    if rows > 1:
        as_int(columns)  # by which rows are found
    layer.call.n, layer.call.outputs, layer.op.columns = rows, columns, columns
    layer.op.x = contiguous(cnp.PyArray_DATA(x), <int> rows, <int> columns)
    layer.op.out = <char*> out
    if not layer.call.trains:
        layer.call.scores = layer.op.out
    return 0


cdef int run_layer(Layer* layer, Way way) except -1:
    """Cut and run a call whose arrays are described."""
    cdef NetCall* call = &layer.call
    cdef Py_ssize_t slabs
    cdef char* memory
    if call.n == 0 or (call.n_ops > 0 and layer.op.columns == 0):
        return 0
    call.source = layer.op.x
    cut_blocks(call, way)
    call.rows_at_once = call.n
    measure_scratch(call, call.n)
    slabs = padded(most_slabs(call) * sizeof(Slab))
    memory = <char*> PyMem_Malloc(slabs + call.n_threads * call.scratch_size + CACHE_LINE)
    if memory == NULL:
        raise MemoryError()
    call.slabs = <Slab*> padded(<size_t> memory)
    call.scratch = <char*> call.slabs + slabs
    if way.back:
        cut_slabs(call)
    run_call(call, way, layer.stages, layer.phases)
    PyMem_Free(memory)
    return 0


cdef cnp.ndarray empty_like(cnp.ndarray a):
    return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), cnp.PyArray_TYPE(a), 0)


cdef cnp.ndarray copy(cnp.ndarray a):
    """Return a C-contiguous copy."""
    return cnp.PyArray_NewCopy(a, cnp.NPY_CORDER)


# Affine.

def affine_forward(x, W, b):
    """Return x·W + b, and x as the (N, D) array that `affine_gradient` wants."""
    x = np.asarray(x)  # may run code of the caller's: before anything is looked at
    W, b = check_weights(W, b)
    cdef int type_num = cnp.PyArray_TYPE(W)
    cdef Layer layer
    begin_layer(&layer, AFFINE, type_num, False)
    cdef Op* op = &layer.op
    cdef cnp.ndarray samples = as_matrix(
        as_samples(x, cnp.PyArray_DIM(W, 0), type_num), &op.x
    )
    cdef cnp.ndarray _weights = as_matrix(as_floats("W", W, type_num), &op.affine.W)
    cdef cnp.ndarray bias = as_c_order(as_floats("b", b, type_num))
    cdef cnp.ndarray out = empty_matrix(op.x.rows, op.affine.W.columns, type_num)
    op.affine.b = <char*> cnp.PyArray_DATA(bias)
    layer.call.n, op.columns = op.x.rows, op.affine.W.columns
    layer.call.outputs, layer.call.scores = op.columns, <char*> cnp.PyArray_DATA(out)
    run_layer(&layer, FORWARD)
    return out, samples


def affine_gradient(dout, cnp.ndarray x, W, b, dW=None, db=None):
    """Return dx (N, D), dW and db; the latter two are written into if given, as plain arrays."""
    dout = np.asarray(dout)  # may run code of the caller's: before anything is looked at
    W, b = check_weights(W, b)
    cdef int type_num = cnp.PyArray_TYPE(W)
    cdef Layer layer
    begin_layer(&layer, AFFINE, type_num, True)
    cdef Op* op = &layer.op
    x = as_plain(x)
    cdef tuple inputs = (W, b, dout, x)
    if cnp.PyArray_NDIM(x) != 2 or cnp.PyArray_DIM(x, 0) == 0:
        raise ValueError(f"x was changed since forward: its shape is now {(<object> x).shape}")
    cdef cnp.ndarray dout_array = as_floats("dout", dout, type_num)
    check_matrix("dout", dout_array, cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(b, 0))
    check_matrix("W", W, cnp.PyArray_DIM(x, 1), cnp.PyArray_DIM(b, 0))
    x = as_matrix(as_floats("x", x, type_num), &op.x)
    dout_array = as_matrix(dout_array, &op.dout)
    cdef cnp.ndarray _weights = as_matrix(as_floats("W", W, type_num), &op.affine.W)
    cdef cnp.ndarray dW_array = as_output("dW", dW, W, inputs)
    cdef cnp.ndarray db_array = as_output("db", db, b, inputs)
    if dW is not None and db is not None and np.may_share_memory(dW_array, db_array):
        raise ValueError("dW and db overlap in memory")
    cdef cnp.ndarray dx = empty_matrix(op.x.rows, op.x.columns, type_num), shares = db_array
    op.affine.dW = <char*> cnp.PyArray_DATA(dW_array)
    op.affine.db = <char*> cnp.PyArray_DATA(db_array)
    if count_groups(op.x.rows) > 1:
        shares = empty_matrix(count_groups(op.x.rows), op.affine.W.columns, type_num)
    op.affine.db_shares = <char*> cnp.PyArray_DATA(shares)
    layer.call.n, op.columns = op.x.rows, op.affine.W.columns
    layer.call.dx = <char*> cnp.PyArray_DATA(dx)
    run_layer(&layer, BACK)
    return dx, dW_array, db_array


# Activations and dropout.

def activation_forward(str activation, x):
    """Return f(x), and what `activation_gradient` wants of it: a copy of f(x), or of x."""
    cdef cnp.ndarray array = as_c_order(as_floats("x", x)), out = empty_like(array)
    cdef Layer layer
    begin_layer(&layer, ACTIVATION, cnp.PyArray_TYPE(array), False)
    layer.op.activation = activation_row(activation)
    describe(&layer, array, cnp.PyArray_DATA(out), True)
    run_layer(&layer, FORWARD)
    return out, copy(array if layer.op.activation.told_from_input else out)


def activation_gradient(str activation, dout, cnp.ndarray kept):
    """Return dout·f'(x) for what `activation_forward` kept."""
    cdef cnp.ndarray dx = copy(as_floats("dout", dout, cnp.PyArray_TYPE(kept)))
    check_shape("dout", dx, (<object> kept).shape)
    cdef Layer layer
    begin_layer(&layer, ACTIVATION, cnp.PyArray_TYPE(kept), True)
    layer.op.activation = activation_row(activation)
    describe(&layer, kept, cnp.PyArray_DATA(kept), True)
    layer.op.dout = layer.op.x
    layer.op.dout.data = <char*> cnp.PyArray_DATA(dx)
    run_layer(&layer, BACK)
    return dx


def dropout(x, double ratio, uint64_t seed, uint64_t step):
    """Return x with a share of its values set to zero, the others divided by what is left."""
    cdef cnp.ndarray array = as_c_order(as_floats("x", x)), out = empty_like(array)
    cdef Layer layer
    begin_layer(&layer, DROPOUT, cnp.PyArray_TYPE(array), True)
    layer.op.dropout = dropout_of(ratio, 0)
    layer.call.seed, layer.call.step = seed, step
    describe(&layer, array, cnp.PyArray_DATA(out), False)
    run_layer(&layer, FORWARD)
    return out


# Batch normalization.

def batchnorm_forward(
    x, cnp.ndarray gamma, cnp.ndarray beta, cnp.ndarray running_mean, cnp.ndarray running_var,
    bint train,
):
    """Return gamma·x̂ + beta, and what `batchnorm_gradient` wants: x, mean, 1/√(variance + eps).

    x is (N, D), D values in gamma; all are C-contiguous, of one dtype. With `train` x̂ is of the
    batch's mean and variance, which move the running averages; else it is of these.
    """
    cdef int type_num = cnp.PyArray_TYPE(gamma)
    cdef cnp.ndarray samples = as_c_order(as_samples(x, cnp.PyArray_DIM(gamma, 0), type_num))
    cdef cnp.ndarray mean = empty_like(gamma), scale = empty_like(gamma)
    cdef cnp.ndarray out = empty_like(samples)
    cdef Layer layer
    begin_layer(&layer, NORM, type_num, train)
    describe(&layer, samples, cnp.PyArray_DATA(out), False)
    cdef cnp.ndarray _shares = describe_norm(&layer, gamma, mean, scale)
    layer.op.norm.beta = <char*> cnp.PyArray_DATA(beta)
    layer.op.norm.running_mean = <char*> cnp.PyArray_DATA(running_mean)
    layer.op.norm.running_variance = <char*> cnp.PyArray_DATA(running_var)
    run_layer(&layer, FORWARD)
    return out, (samples, mean, scale)


def batchnorm_gradient(dout, tuple kept, cnp.ndarray gamma):
    """Return dx, dgamma and dbeta for what `batchnorm_forward` kept in training."""
    cdef cnp.ndarray samples, mean, scale
    samples, mean, scale = kept
    cdef int type_num = cnp.PyArray_TYPE(samples)
    cdef cnp.ndarray dx = copy(as_floats("dout", dout, type_num))
    cdef cnp.ndarray dgamma = empty_like(mean), dbeta = empty_like(mean)
    check_shape("dout", dx, (<object> samples).shape)
    cdef Layer layer
    begin_layer(&layer, NORM, type_num, True)
    describe(&layer, samples, NULL, False)
    cdef cnp.ndarray _shares = describe_norm(&layer, gamma, mean, scale)
    layer.op.norm.dgamma = <char*> cnp.PyArray_DATA(dgamma)
    layer.op.norm.dbeta = <char*> cnp.PyArray_DATA(dbeta)
    layer.op.dout = layer.op.x
    layer.op.dout.data = <char*> cnp.PyArray_DATA(dx)
    run_layer(&layer, BACK)
    return dx, dgamma, dbeta


cdef cnp.ndarray describe_norm(
    Layer* layer, cnp.ndarray gamma, cnp.ndarray mean, cnp.ndarray scale,
):
    """Describe what both ways have in common; return the sums of groups, to be held on to."""
    cdef cnp.ndarray shares = empty_matrix(
        count_groups(layer.call.n), 2 * layer.op.columns, cnp.PyArray_TYPE(gamma)
    )
    layer.op.norm.gamma = <char*> cnp.PyArray_DATA(gamma)
    layer.op.norm.mean = <char*> cnp.PyArray_DATA(mean)
    layer.op.norm.scale = <char*> cnp.PyArray_DATA(scale)
    layer.op.norm.shares = <char*> cnp.PyArray_DATA(shares)
    return shares


# Losses.

def softmax_loss_forward(x, t):
    """Return the mean cross-entropy, softmax(x), and the targets: class numbers, or a matrix."""
    t = np.asarray(t)  # may run code of the caller's: before anything is looked at
    cdef cnp.ndarray y = copy(as_scores(x)), values = empty_like(y)
    cdef cnp.npy_intp n = cnp.PyArray_DIM(y, 0)
    cdef cnp.ndarray losses = cnp.PyArray_EMPTY(1, &n, cnp.NPY_FLOAT64, 0)
    cdef cnp.ndarray classes = cnp.PyArray_EMPTY(1, &n, cnp.NPY_INTP, 0)
    cdef Layer layer
    begin_loss(&layer, "softmax", y)
    layer.call.losses = <double*> cnp.PyArray_DATA(losses)
    layer.call.targets.classes = <Py_ssize_t*> cnp.PyArray_DATA(classes)
    layer.call.targets.values = <char*> cnp.PyArray_DATA(values)
    find_targets(&layer.call, "softmax", range_of("softmax"), t, n, cnp.PyArray_TYPE(y))
    run_layer(&layer, LOSSES)
    kept = values if layer.call.targets.classes == NULL else classes
    return mean_loss(&layer.call, False), y, kept


def softmax_loss_gradient(cnp.ndarray y, cnp.ndarray kept, Py_ssize_t classes, double dout):
    """Return dout·(y - t)/N for what `softmax_loss_forward` returned."""
    if (
        cnp.PyArray_NDIM(y) != 2
        or not is_float32_or_64(cnp.PyArray_TYPE(y))
        or not cnp.PyArray_ISCARRAY_RO(y)
        or cnp.PyArray_DIM(y, 0) != cnp.PyArray_DIM(kept, 0)
        or cnp.PyArray_DIM(y, 1) != classes
        or (cnp.PyArray_NDIM(kept) == 2 and cnp.PyArray_TYPE(kept) != cnp.PyArray_TYPE(y))
    ):
        raise ValueError(f"y was changed since forward: it is now {y.dtype}{(<object> y).shape}")
    cdef cnp.ndarray dx = copy(y)
    cdef cnp.npy_intp n = cnp.PyArray_DIM(y, 0), i
    cdef cnp.ndarray factors = cnp.PyArray_EMPTY(1, &n, cnp.NPY_FLOAT64, 0)
    cdef Layer layer
    for i in range(n):
        (<double*> cnp.PyArray_DATA(factors))[i] = dout / n
    begin_loss(&layer, "softmax", dx)
    layer.call.targets.factors = <double*> cnp.PyArray_DATA(factors)
    if cnp.PyArray_NDIM(kept) == 1:
        layer.call.targets.classes = <Py_ssize_t*> cnp.PyArray_DATA(kept)
    else:
        layer.call.targets.values = <char*> cnp.PyArray_DATA(kept)
    run_layer(&layer, TURN)
    return dx


def predictions(str loss, scores):
    """Return what a loss takes scores (N, C) to predict: probabilities, or means."""
    cdef cnp.ndarray y = copy(as_scores(scores))
    cdef Layer layer
    begin_loss(&layer, loss, y)
    run_layer(&layer, LOSSES)
    return y


cdef int begin_loss(Layer* layer, str loss, cnp.ndarray y) except -1:
    """Begin to describe a net of no op, whose scores are there."""
    begin_layer(layer, ACTIVATION, cnp.PyArray_TYPE(y), False)
    layer.call.n_ops = 0
    layer.call.loss = loss_row(loss)
    layer.call.n, layer.call.outputs = cnp.PyArray_DIM(y, 0), cnp.PyArray_DIM(y, 1)
    layer.call.scores = <char*> cnp.PyArray_DATA(y)
    return 0


# What is asked of parameters and scores.

def sum_of_squares(W):
    """Return ΣW², summed in float64, over the stored rows: the order of this sum is free."""
    cdef Matrix matrix
    cdef cnp.ndarray array = as_floats("W", W)
    cdef double total
    if cnp.PyArray_NDIM(array) != 2:
        raise ValueError(f"W has shape {(<object> array).shape}, wants 2 dimensions")
    array = as_matrix(array, &matrix)
    cdef Py_ssize_t n = matrix.columns if matrix.transposed else matrix.rows
    cdef Py_ssize_t m = matrix.rows if matrix.transposed else matrix.columns
    cdef bint is_double = cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT64
    with nogil:
        if is_double:
            total = kernels.squares_double(n, m, <const double*> matrix.data, matrix.ld)
        else:
            total = kernels.squares_float(n, m, <const float*> matrix.data, matrix.ld)
    return total
