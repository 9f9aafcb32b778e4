# The layers and nets, compiled: checks what they were given, calls products and passes with the GIL
# released. What a layer remembers is kept by fastopt/layers.py. The included files, in the order
# of what builds on what: arrays, the passes, products, an Affine layer in pieces, labels, a whole
# net.

cimport numpy as cnp

from cpython.mem cimport PyMem_Free, PyMem_Malloc

import os

import numpy as np

from fastopt import _instruction_sets, _net, _pool

cnp.import_array()

include "matrices.pxi"
include "pass_calls.pxi"
include "products.pxi"
include "affine.pxi"
include "labels.pxi"
include "network.pxi"

cdef dict KINDS = {"relu": RELU, "sigmoid": SIGMOID}


cdef struct AffineCall:
    # a forward or backward of one layer
    bint is_double
    int item
    Affine affine
    char* dx
    Py_ssize_t n_blocks
    Py_ssize_t n_slabs
    char* scratch          # of the products, a part for each thread
    Py_ssize_t scratch_size


cdef tuple check_weights(W, b):
    """Check that W and b are arrays that belong together; return them as plain ones."""
    W, b = as_plain(W), as_plain(b)
    for name, array in (("W", W), ("b", b)):
        if not cnp.PyArray_Check(array):
            raise TypeError(f"{name} must be an array, got {name_of(array)}")
    for name, array, ndim in (("W", W, 2), ("b", b, 1)):
        if array.dtype.type not in (np.float32, np.float64):
            raise TypeError(f"{name} has dtype {array.dtype}, wants float32 or float64")
        if array.ndim != ndim:
            raise ValueError(f"{name} has shape {array.shape}, wants {ndim} dimension(s)")
    if W.dtype.type is not b.dtype.type:
        raise TypeError(f"W has dtype {W.dtype}, b has {b.dtype}; they must be the same")
    if not W.size:
        raise ValueError(f"W has shape {W.shape}, wants at least one row and one column")
    check_shape("b", b, (W.shape[1],))
    return W, b


def affine_forward(x, W, b):
    """Return x·W + b, and x as the (N, D) array that `affine_gradient` wants."""
    x = np.asarray(x)  # may run code of the caller's: before anything is looked at
    W, b = check_weights(W, b)
    cdef int type_num = cnp.PyArray_TYPE(W)
    cdef AffineCall call
    cdef Affine* affine = &call.affine
    cdef cnp.ndarray samples = as_matrix(as_samples(x, W.shape[0], type_num), &affine.x)
    cdef cnp.ndarray _weights = as_matrix(as_floats("W", W, type_num), &affine.W)
    cdef cnp.ndarray bias = as_c_order(as_floats("b", b, type_num))
    cdef cnp.ndarray out = empty_matrix(affine.x.rows, affine.W.columns, type_num)
    affine.kind = LINEAR
    affine.b, affine.out = <char*> cnp.PyArray_DATA(bias), <char*> cnp.PyArray_DATA(out)
    run_affine(&call, type_num, affine_forward_block, NULL, 1)
    return out, samples


def affine_gradient(dout, cnp.ndarray x, W, b, dW=None, db=None):
    """Return dx (N, D), dW and db; the latter two are written into if given, as plain arrays."""
    dout = np.asarray(dout)  # may run code of the caller's: before anything is looked at
    W, b = check_weights(W, b)
    cdef int type_num = cnp.PyArray_TYPE(W)
    cdef AffineCall call
    cdef Affine* affine = &call.affine
    x = as_plain(x)
    cdef tuple inputs = (W, b, dout, x)
    if cnp.PyArray_NDIM(x) != 2 or cnp.PyArray_DIM(x, 0) == 0:
        raise ValueError(f"x was changed since forward: its shape is now {(<object> x).shape}")
    cdef cnp.ndarray dout_array = as_floats("dout", dout, type_num)
    check_shape("dout", dout_array, (cnp.PyArray_DIM(x, 0), W.shape[1]))
    check_shape("W", W, (cnp.PyArray_DIM(x, 1), W.shape[1]))
    x = as_matrix(as_floats("x", x, type_num), &affine.x)
    dout_array = as_matrix(dout_array, &affine.dout)
    cdef cnp.ndarray _weights = as_matrix(as_floats("W", W, type_num), &affine.W)
    cdef cnp.ndarray dW_array = as_output("dW", dW, W, inputs)
    cdef cnp.ndarray db_array = as_output("db", db, b, inputs)
    if np.may_share_memory(dW_array, db_array):
        raise ValueError("dW and db overlap in memory")
    cdef cnp.ndarray dx = empty_matrix(affine.x.rows, affine.x.columns, type_num)
    affine.dW, affine.db = <char*> cnp.PyArray_DATA(dW_array), <char*> cnp.PyArray_DATA(db_array)
    affine.weight_decay = 0
    call.dx = <char*> cnp.PyArray_DATA(dx)
    run_affine(&call, type_num, affine_backward_block, affine_backward_slab, 2)
    return dx, dW_array, db_array


cdef int run_affine(
    AffineCall* call, int type_num, job_function on_blocks, job_function on_slabs, int n_phases,
) except -1:
    cdef Affine* affine = &call.affine
    cdef Phase[2] phases
    cdef double operations = 2.0 * n_phases * affine.x.rows * affine.W.rows * affine.W.columns
    cdef int n_threads = threads_for(operations)
    call.is_double = type_num == cnp.NPY_FLOAT64
    call.item = 8 if call.is_double else 4
    call.n_blocks = count_blocks(affine.x.rows, n_threads)
    call.n_slabs = count_slabs(affine.W.rows, 1, n_threads)
    phases[0] = Phase(on_blocks, call.n_blocks, False)
    phases[1] = Phase(on_slabs, call.n_slabs, False)
    call.scratch_size = affine_scratch(call.is_double, affine, affine.x.rows, affine.x.rows)
    memory = <char*> PyMem_Malloc(n_threads * call.scratch_size + CACHE_LINE)
    if memory == NULL:
        raise MemoryError()
    call.scratch = <char*> padded(<size_t> memory)
    run_products(operations, n_threads, call, phases, n_phases)
    PyMem_Free(memory)
    return 0


cdef void affine_forward_block(void* context, Py_ssize_t block, int thread) noexcept nogil:
    cdef AffineCall* call = <AffineCall*> context
    cdef Affine* affine = &call.affine
    cdef Py_ssize_t first = cut(affine.x.rows, call.n_blocks, block)
    cdef Py_ssize_t n = cut(affine.x.rows, call.n_blocks, block + 1) - first
    cdef Matrix x = some_rows(&affine.x, call.item, first, n)
    affine_rows(
        call.is_double, affine, &x, affine.out + first * affine.W.columns * call.item,
        call.scratch + thread * call.scratch_size,
    )


cdef void affine_backward_block(void* context, Py_ssize_t block, int thread) noexcept nogil:
    cdef AffineCall* call = <AffineCall*> context
    cdef Affine* affine = &call.affine
    cdef Py_ssize_t first = cut(affine.x.rows, call.n_blocks, block)
    cdef Py_ssize_t n = cut(affine.x.rows, call.n_blocks, block + 1) - first
    cdef Matrix dout = some_rows(&affine.dout, call.item, first, n)
    affine_input_gradient_rows(
        call.is_double, affine, &dout, call.dx + first * affine.W.rows * call.item,
        call.scratch + thread * call.scratch_size,
    )


cdef void affine_backward_slab(void* context, Py_ssize_t slab, int thread) noexcept nogil:
    cdef AffineCall* call = <AffineCall*> context
    cdef Affine* affine = &call.affine
    cdef Py_ssize_t first = cut(affine.W.rows, call.n_slabs, slab)
    cdef Py_ssize_t n = cut(affine.W.rows, call.n_slabs, slab + 1) - first
    affine_weight_gradient_rows(
        call.is_double, call.item, affine, first, n, call.scratch + thread * call.scratch_size
    )
    if slab == 0:
        sum_rows(call.is_double, &affine.dout, affine.db)


cdef cnp.ndarray as_samples(x, Py_ssize_t d, int type_num):
    """Return x of any rank as (N, D) of a dtype."""
    cdef cnp.ndarray array = as_floats("x", x, type_num)
    if cnp.PyArray_NDIM(array) == 0 or cnp.PyArray_DIM(array, 0) == 0:
        raise ValueError(f"x of shape {(<object> array).shape} holds no samples; wants (N, {d})")
    if cnp.PyArray_SIZE(array) != cnp.PyArray_DIM(array, 0) * d:
        raise ValueError(
            f"x has shape {(<object> array).shape}, wants (N, {d}), or any rank with N samples of "
            f"{d} values"
        )
    if cnp.PyArray_NDIM(array) == 2:
        return array
    return (<object> array).reshape(array.shape[0], d)


cdef cnp.ndarray as_output(str name, out, like, tuple inputs):
    """Check an array to write a result into, or make one if there is none."""
    dtype = like.dtype.newbyteorder("=")
    if out is None:
        return np.empty(like.shape, dtype)
    out = as_plain(out)
    if not cnp.PyArray_Check(out) or out.dtype != dtype:
        raise TypeError(f"{name} must be a {dtype} array, got {name_of(out)}")
    check_shape(name, out, like.shape)
    if not cnp.PyArray_ISCARRAY(out):
        raise ValueError(f"{name} must be C-contiguous, aligned and writeable")
    for array in inputs:
        if np.may_share_memory(out, array):
            raise ValueError(f"{name} overlaps an input in memory")
    return out


def activation_forward(str activation, x):
    """Return f(x), and a copy of it for `activation_gradient`."""
    cdef cnp.ndarray out = np.array(as_floats("x", x), order="C")
    cdef int kind = KINDS[activation]
    cdef bint is_double = cnp.PyArray_TYPE(out) == cnp.NPY_FLOAT64
    cdef Py_ssize_t size = cnp.PyArray_SIZE(out)
    cdef void* data = cnp.PyArray_DATA(out)
    with nogil:
        activate(is_double, kind, 1, size, NULL, data)
    return out, (<object> out).copy()


def activation_gradient(str activation, dout, cnp.ndarray out):
    """Return dout·f'(x) for what `activation_forward` returned."""
    cdef cnp.ndarray dx = np.array(as_floats("dout", dout, cnp.PyArray_TYPE(out)), order="C")
    check_shape("dout", dx, (<object> out).shape)
    cdef int kind = KINDS[activation]
    cdef bint is_double = cnp.PyArray_TYPE(out) == cnp.NPY_FLOAT64
    cdef Py_ssize_t size = cnp.PyArray_SIZE(out)
    cdef void* data = cnp.PyArray_DATA(dx)
    cdef void* kept = cnp.PyArray_DATA(out)
    with nogil:
        activate_backward(is_double, kind, 1, size, kept, data, NULL)
    return dx


def softmax_loss_forward(x, t):
    """Return the mean cross-entropy, softmax(x), and the labels as class indices."""
    cdef cnp.ndarray y = np.array(as_scores(x), order="C")
    cdef cnp.ndarray labels = class_indices(t, y.shape[0], y.shape[1])
    cdef bint is_double = cnp.PyArray_TYPE(y) == cnp.NPY_FLOAT64
    cdef Py_ssize_t n = cnp.PyArray_DIM(y, 0), m = cnp.PyArray_DIM(y, 1)
    cdef cnp.ndarray losses = np.empty(n)
    cdef void* y_data = cnp.PyArray_DATA(y)
    cdef double* losses_data = <double*> cnp.PyArray_DATA(losses)
    cdef Py_ssize_t* t_data = <Py_ssize_t*> cnp.PyArray_DATA(labels)
    with nogil:
        softmax_loss(is_double, n, m, t_data, y_data, losses_data)
    return mean(n, losses_data), y, labels


def softmax_loss_gradient(cnp.ndarray y, cnp.ndarray labels, Py_ssize_t classes, double dout):
    """Return dout·(y - t)/N, t the labels one-hot, for what `softmax_loss_forward` returned."""
    if (
        cnp.PyArray_NDIM(y) != 2
        or cnp.PyArray_TYPE(y) not in (cnp.NPY_FLOAT32, cnp.NPY_FLOAT64)
        or not cnp.PyArray_ISCARRAY_RO(y)
        or cnp.PyArray_DIM(y, 0) != cnp.PyArray_DIM(labels, 0)
        or cnp.PyArray_DIM(y, 1) != classes
    ):
        raise ValueError(f"y was changed since forward: it is now {y.dtype}{(<object> y).shape}")
    cdef cnp.ndarray dx = (<object> y).copy()
    cdef bint is_double = cnp.PyArray_TYPE(y) == cnp.NPY_FLOAT64
    cdef Py_ssize_t n = cnp.PyArray_DIM(y, 0), m = cnp.PyArray_DIM(y, 1)
    cdef void* data = cnp.PyArray_DATA(dx)
    cdef Py_ssize_t* t_data = <Py_ssize_t*> cnp.PyArray_DATA(labels)
    with nogil:
        softmax_loss_backward(is_double, n, m, t_data, dout / n, data, NULL)
    return dx


cdef double mean(Py_ssize_t n, const double* x) noexcept nogil:
    cdef Py_ssize_t i
    cdef double total = 0
    for i in range(n):
        total += x[i]
    return total / n


def sum_of_squares(W):
    """Return ΣW², summed in float64."""
    cdef Matrix matrix
    cdef cnp.ndarray array = as_floats("W", W)
    if cnp.PyArray_NDIM(array) != 2:
        raise ValueError(f"W has shape {(<object> array).shape}, wants 2 dimensions")
    array = as_matrix(array, &matrix)
    cdef bint is_double = cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT64
    cdef double total
    with nogil:
        total = squares(is_double, &matrix)
    return total
