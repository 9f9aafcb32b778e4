# The layers, compiled: checks what a layer was given, calls BLAS and the passes with the GIL
# released, and returns fresh arrays. What a layer remembers is kept by fastopt/layers.py; the
# formulas of the passes are in passes.pxi.
#
# An input that is not a native, aligned float32 or float64 array in a layout that BLAS or the pass
# can walk is converted once, on the way in.

cimport numpy as cnp
from blas cimport gemm
from libc.limits cimport INT_MAX

import numpy as np

cnp.import_array()

include "passes.pxi"

cdef struct Matrix:
    # A two-dimensional array as BLAS takes it: its stored rows are those of the array, or its
    # columns where it is transposed.
    void* data
    int rows
    int columns
    int ld
    bint transposed


cdef cnp.ndarray as_floats(str name, x, int type_num=-1):
    """Return x as a native float array of a dtype; by default its own, or float64 if it has none.
    """
    cdef cnp.ndarray array
    if not cnp.PyArray_CheckExact(x):
        x = np.asarray(x)
    array = x
    if type_num < 0:
        type_num = cnp.PyArray_TYPE(array)
        if type_num != cnp.NPY_FLOAT32:
            type_num = cnp.NPY_FLOAT64
    if cnp.PyArray_TYPE(array) == type_num and cnp.PyArray_ISBEHAVED_RO(array):
        return array
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}")
    with np.errstate(all="ignore"):
        return np.array(array, dtype=cnp.PyArray_DescrFromType(type_num), order="K")


cdef cnp.ndarray as_c_order(cnp.ndarray x):
    return x if cnp.PyArray_IS_C_CONTIGUOUS(x) else np.array(x, order="C")


cdef cnp.ndarray empty_like(cnp.ndarray x):
    return cnp.PyArray_EMPTY(
        cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), 0
    )


cdef cnp.ndarray empty_matrix(Py_ssize_t rows, Py_ssize_t columns, int type_num):
    cdef cnp.npy_intp[2] shape = [rows, columns]
    return cnp.PyArray_EMPTY(2, shape, type_num, 0)


cdef int as_int(Py_ssize_t n) except -1:
    if n > INT_MAX:
        raise ValueError(f"a side of {n} is too large for BLAS, which counts to {INT_MAX}")
    return <int> n


cdef cnp.ndarray as_matrix(cnp.ndarray a, Matrix* matrix):
    """Describe a two-dimensional array, or a copy of one whose strides BLAS can't walk.

    The array that was described is returned: the caller must hold on to it.
    """
    cdef Py_ssize_t item = cnp.PyArray_ITEMSIZE(a)
    cdef Py_ssize_t row = cnp.PyArray_STRIDE(a, 0), column = cnp.PyArray_STRIDE(a, 1)
    matrix.rows = as_int(cnp.PyArray_DIM(a, 0))
    matrix.columns = as_int(cnp.PyArray_DIM(a, 1))
    matrix.transposed = False
    if cnp.PyArray_IS_C_CONTIGUOUS(a):
        matrix.ld = matrix.columns
    elif cnp.PyArray_IS_F_CONTIGUOUS(a):
        matrix.ld = matrix.rows
        matrix.transposed = True
    elif column == item and is_ld(row, matrix.columns, item):
        matrix.ld = <int> (row // item)
    elif row == item and is_ld(column, matrix.rows, item):
        matrix.ld = <int> (column // item)
        matrix.transposed = True
    else:
        a = np.array(a, order="C")
        matrix.ld = matrix.columns
    matrix.data = cnp.PyArray_DATA(a)
    return a


cdef bint is_ld(Py_ssize_t stride, Py_ssize_t length, Py_ssize_t item) noexcept:
    """Tell whether BLAS can step from one stored row of a length to the next by a stride."""
    return stride % item == 0 and length * item <= stride <= INT_MAX * item


cdef void multiply(
    Matrix* a, bint transpose_a, Matrix* b, bint transpose_b, floating beta, floating* c,
) noexcept nogil:
    """c := op(a)·op(b) + beta·c for a contiguous c; op transposes where its flag is set."""
    cdef int m = a.columns if transpose_a else a.rows
    cdef int k = a.rows if transpose_a else a.columns
    cdef int n = b.rows if transpose_b else b.columns
    gemm(
        transpose_a != a.transposed, transpose_b != b.transposed, m, n, k,
        <floating*> a.data, a.ld, <floating*> b.data, b.ld, beta, c, n,
    )


cdef int check_shape(str name, cnp.ndarray a, tuple wanted) except -1:
    if (<object> a).shape != wanted:
        raise ValueError(f"{name} has shape {(<object> a).shape}, wants {wanted}")
    return 0


cdef int check_weights(W, b) except -1:
    """Check that W and b are arrays that belong together; return their type number."""
    for name, array, ndim in (("W", W, 2), ("b", b, 1)):
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name} must be an array, got {type(array).__name__}")
        if array.dtype.type not in (np.float32, np.float64):
            raise TypeError(f"{name} has dtype {array.dtype}, wants float32 or float64")
        if array.ndim != ndim:
            raise ValueError(f"{name} has shape {array.shape}, wants {ndim} dimension(s)")
    if W.dtype.type is not b.dtype.type:
        raise TypeError(f"W has dtype {W.dtype}, b has {b.dtype}; they must be the same")
    if not W.size:
        raise ValueError(f"W has shape {W.shape}, wants at least one row and one column")
    check_shape("b", b, (W.shape[1],))
    return cnp.PyArray_TYPE(W)


def affine_forward(x, W, b):
    """Return x·W + b, and x as the (N, D) array that `affine_gradient` wants."""
    cdef int type_num = check_weights(W, b)
    cdef Matrix x_matrix, W_matrix
    cdef cnp.ndarray samples = as_matrix(as_samples(x, W, type_num), &x_matrix)
    cdef cnp.ndarray _weights = as_matrix(as_floats("W", W, type_num), &W_matrix)
    cdef cnp.ndarray bias = as_c_order(as_floats("b", b, type_num))
    cdef cnp.ndarray out = empty_matrix(x_matrix.rows, W_matrix.columns, type_num)
    cdef void* bias_data = cnp.PyArray_DATA(bias)
    cdef void* out_data = cnp.PyArray_DATA(out)
    with nogil:
        if type_num == cnp.NPY_FLOAT32:
            affine(&x_matrix, &W_matrix, <float*> bias_data, <float*> out_data)
        else:
            affine(&x_matrix, &W_matrix, <double*> bias_data, <double*> out_data)
    return out, samples


def affine_gradient(dout, cnp.ndarray x, W, b, dW=None, db=None):
    """Return dx (N, D), dW and db; the latter two are written into if given."""
    cdef int type_num = check_weights(W, b)
    cdef Matrix dout_matrix, x_matrix, W_matrix
    cdef cnp.ndarray dout_array = as_floats("dout", dout, type_num)
    check_shape("dout", dout_array, (cnp.PyArray_DIM(x, 0), W.shape[1]))
    x = as_matrix(as_floats("x", x, type_num), &x_matrix)
    check_shape("W", W, (x_matrix.columns, W.shape[1]))
    dout_array = as_matrix(dout_array, &dout_matrix)
    cdef cnp.ndarray _weights = as_matrix(as_floats("W", W, type_num), &W_matrix)
    cdef tuple inputs = (dout_array, x, _weights)
    cdef cnp.ndarray dW_array = as_output("dW", dW, W, inputs)
    cdef cnp.ndarray db_array = as_output("db", db, b, inputs)
    cdef cnp.ndarray dx = empty_matrix(x_matrix.rows, x_matrix.columns, type_num)
    cdef void* dx_data = cnp.PyArray_DATA(dx)
    cdef void* dW_data = cnp.PyArray_DATA(dW_array)
    cdef void* db_data = cnp.PyArray_DATA(db_array)
    with nogil:
        if type_num == cnp.NPY_FLOAT32:
            affine_backward(
                &dout_matrix, &x_matrix, &W_matrix,
                <float*> dx_data, <float*> dW_data, <float*> db_data,
            )
        else:
            affine_backward(
                &dout_matrix, &x_matrix, &W_matrix,
                <double*> dx_data, <double*> dW_data, <double*> db_data,
            )
    return dx, dW_array, db_array


cdef void affine(Matrix* x, Matrix* W, const floating* b, floating* out) noexcept nogil:
    """out = x·W + b."""
    fill_rows(x.rows, W.columns, b, out)
    multiply(x, False, W, False, <floating> 1, out)


cdef void affine_backward(
    Matrix* dout, Matrix* x, Matrix* W, floating* dx, floating* dW, floating* db,
) noexcept nogil:
    """dx = dout·Wᵀ; dW = xᵀ·dout; db = Σ dout over the samples."""
    multiply(dout, False, W, True, <floating> 0, dx)
    multiply(x, True, dout, False, <floating> 0, dW)
    sum_rows(
        dout.rows, dout.columns, <floating*> dout.data,
        1 if dout.transposed else dout.ld, dout.ld if dout.transposed else 1, db,
    )


cdef cnp.ndarray as_samples(x, W, int type_num):
    """Return x of any rank as (N, D) of a dtype."""
    cdef cnp.ndarray array = as_floats("x", x, type_num)
    cdef Py_ssize_t d = W.shape[0]
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
    if out is None:
        return empty_like(like)
    if not isinstance(out, np.ndarray) or out.dtype != like.dtype.newbyteorder("="):
        got = out.dtype if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(f"{name} must be a {like.dtype.newbyteorder('=')} array, got {got}")
    check_shape(name, out, like.shape)
    if not cnp.PyArray_ISCARRAY(out):
        raise ValueError(f"{name} must be C-contiguous, aligned and writeable")
    for array in (like, *inputs):
        if np.may_share_memory(out, array):
            raise ValueError(f"{name} overlaps an input in memory")
    return out


def relu_forward(x):
    """Return max(x, 0), and the mask of what became 0."""
    cdef cnp.ndarray array = as_c_order(as_floats("x", x))
    cdef cnp.ndarray out = empty_like(array)
    cdef cnp.ndarray mask = cnp.PyArray_EMPTY(
        cnp.PyArray_NDIM(array), cnp.PyArray_DIMS(array), cnp.NPY_BOOL, 0
    )
    cdef int type_num = cnp.PyArray_TYPE(array)
    cdef Py_ssize_t size = cnp.PyArray_SIZE(array)
    cdef void* x_data = cnp.PyArray_DATA(array)
    cdef void* out_data = cnp.PyArray_DATA(out)
    cdef char* mask_data = <char*> cnp.PyArray_DATA(mask)
    with nogil:
        if type_num == cnp.NPY_FLOAT32:
            relu(size, <float*> x_data, <float*> out_data, mask_data)
        else:
            relu(size, <double*> x_data, <double*> out_data, mask_data)
    return out, mask


def relu_gradient(dout, cnp.ndarray mask):
    """Return dout, 0 where masked."""
    cdef cnp.ndarray array = as_floats("dout", dout)
    check_shape("dout", array, (<object> mask).shape)
    array = as_c_order(array)
    cdef cnp.ndarray dx = empty_like(array)
    cdef int type_num = cnp.PyArray_TYPE(array)
    cdef Py_ssize_t size = cnp.PyArray_SIZE(array)
    cdef void* dout_data = cnp.PyArray_DATA(array)
    cdef void* dx_data = cnp.PyArray_DATA(dx)
    cdef char* mask_data = <char*> cnp.PyArray_DATA(mask)
    with nogil:
        if type_num == cnp.NPY_FLOAT32:
            relu_backward(size, <float*> dout_data, mask_data, <float*> dx_data)
        else:
            relu_backward(size, <double*> dout_data, mask_data, <double*> dx_data)
    return dx


def sigmoid_forward(x):
    """Return 1 / (1 + exp(-x)), and a copy for `sigmoid_gradient`."""
    cdef cnp.ndarray array = as_c_order(as_floats("x", x))
    cdef cnp.ndarray out = empty_like(array), kept = empty_like(array)
    cdef int type_num = cnp.PyArray_TYPE(array)
    cdef Py_ssize_t size = cnp.PyArray_SIZE(array)
    cdef void* x_data = cnp.PyArray_DATA(array)
    cdef void* out_data = cnp.PyArray_DATA(out)
    cdef void* kept_data = cnp.PyArray_DATA(kept)
    with nogil:
        if type_num == cnp.NPY_FLOAT32:
            sigmoid(size, <float*> x_data, <float*> out_data, <float*> kept_data)
        else:
            sigmoid(size, <double*> x_data, <double*> out_data, <double*> kept_data)
    return out, kept


def sigmoid_gradient(dout, cnp.ndarray out):
    """Return dout·(1 - out)·out."""
    cdef int type_num = cnp.PyArray_TYPE(out)
    cdef cnp.ndarray array = as_floats("dout", dout, type_num)
    check_shape("dout", array, (<object> out).shape)
    array = as_c_order(array)
    cdef cnp.ndarray dx = empty_like(array)
    cdef Py_ssize_t size = cnp.PyArray_SIZE(array)
    cdef void* dout_data = cnp.PyArray_DATA(array)
    cdef void* out_data = cnp.PyArray_DATA(out)
    cdef void* dx_data = cnp.PyArray_DATA(dx)
    with nogil:
        if type_num == cnp.NPY_FLOAT32:
            sigmoid_backward(size, <float*> dout_data, <float*> out_data, <float*> dx_data)
        else:
            sigmoid_backward(size, <double*> dout_data, <double*> out_data, <double*> dx_data)
    return dx


def softmax_loss_forward(x, t):
    """Return the mean cross-entropy, softmax(x), and the labels as class indices."""
    cdef cnp.ndarray scores = as_c_order(as_scores(x))
    cdef cnp.ndarray labels = class_indices(t, scores)
    cdef cnp.ndarray y = empty_like(scores)
    cdef int type_num = cnp.PyArray_TYPE(scores)
    cdef Py_ssize_t n = cnp.PyArray_DIM(scores, 0), m = cnp.PyArray_DIM(scores, 1)
    cdef void* x_data = cnp.PyArray_DATA(scores)
    cdef void* y_data = cnp.PyArray_DATA(y)
    cdef Py_ssize_t* t_data = <Py_ssize_t*> cnp.PyArray_DATA(labels)
    cdef double loss
    with nogil:
        if type_num == cnp.NPY_FLOAT32:
            loss = softmax_loss(n, m, <float*> x_data, t_data, <float*> y_data)
        else:
            loss = softmax_loss(n, m, <double*> x_data, t_data, <double*> y_data)
    return loss, y, labels


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
    cdef cnp.ndarray dx = empty_like(y)
    cdef int type_num = cnp.PyArray_TYPE(y)
    cdef Py_ssize_t n = cnp.PyArray_DIM(y, 0), m = cnp.PyArray_DIM(y, 1)
    cdef void* y_data = cnp.PyArray_DATA(y)
    cdef void* dx_data = cnp.PyArray_DATA(dx)
    cdef Py_ssize_t* t_data = <Py_ssize_t*> cnp.PyArray_DATA(labels)
    with nogil:
        if type_num == cnp.NPY_FLOAT32:
            softmax_loss_backward(n, m, <float*> y_data, t_data, dout / n, <float*> dx_data)
        else:
            softmax_loss_backward(n, m, <double*> y_data, t_data, dout / n, <double*> dx_data)
    return dx


def count_correct(scores, t):
    """Return how many rows of the scores (N, C) have their largest entry at the label."""
    cdef cnp.ndarray array = as_c_order(as_scores(scores))
    cdef cnp.ndarray labels = class_indices(t, array)
    cdef int type_num = cnp.PyArray_TYPE(array)
    cdef Py_ssize_t n = cnp.PyArray_DIM(array, 0), m = cnp.PyArray_DIM(array, 1), total
    cdef void* data = cnp.PyArray_DATA(array)
    cdef Py_ssize_t* t_data = <Py_ssize_t*> cnp.PyArray_DATA(labels)
    with nogil:
        if type_num == cnp.NPY_FLOAT32:
            total = correct_rows(n, m, <float*> data, t_data)
        else:
            total = correct_rows(n, m, <double*> data, t_data)
    return total


cdef cnp.ndarray as_scores(x):
    cdef cnp.ndarray array = as_floats("x", x)
    if cnp.PyArray_NDIM(array) != 2:
        raise ValueError(f"scores have shape {(<object> array).shape}, want (N, C)")
    if cnp.PyArray_SIZE(array) == 0:
        raise ValueError(f"scores of shape {(<object> array).shape} hold no samples or no classes")
    return array


cdef cnp.ndarray class_indices(t, cnp.ndarray scores):
    """Return labels, integers (N,) or one-hot (N, C), as checked class indices (N,)."""
    cdef Py_ssize_t n = cnp.PyArray_DIM(scores, 0), classes = cnp.PyArray_DIM(scores, 1), i
    cdef cnp.ndarray labels, given = np.asarray(t)
    cdef Py_ssize_t* data
    if (<object> given).shape == (n, classes):
        return one_hot_indices(given)
    if (<object> given).shape != (n,):
        raise ValueError(
            f"labels have shape {(<object> given).shape}, want ({n},) or one-hot ({n}, {classes})"
        )
    if given.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers or one-hot rows, got dtype {given.dtype}")
    labels = np.array(given, dtype=np.intp, order="C")
    data = <Py_ssize_t*> cnp.PyArray_DATA(labels)
    for i in range(n):
        if not 0 <= data[i] < classes:
            raise ValueError(f"label {given[i]} of sample {i} is outside 0 to {classes - 1}")
    return labels


cdef cnp.ndarray one_hot_indices(cnp.ndarray given):
    cdef Py_ssize_t n = cnp.PyArray_DIM(given, 0), classes = cnp.PyArray_DIM(given, 1), i, j
    cdef Py_ssize_t ones
    cdef cnp.ndarray rows = as_c_order(as_floats("labels", given, cnp.NPY_FLOAT64))
    cdef cnp.ndarray labels = np.empty(n, dtype=np.intp)
    cdef double* row
    cdef Py_ssize_t* data = <Py_ssize_t*> cnp.PyArray_DATA(labels)
    for i in range(n):
        row = <double*> cnp.PyArray_DATA(rows) + i * classes
        ones = 0
        for j in range(classes):
            if row[j] == 1:
                data[i] = j
                ones += 1
            elif row[j] != 0:
                ones = -classes  # anything but 0 and 1 spoils the row
        if ones != 1:
            raise ValueError(
                f"one-hot labels of sample {i} must hold a single 1, else 0; got {given[i]}"
            )
    return labels


def sum_of_squares(W):
    """Return ΣW², summed in float64."""
    cdef cnp.ndarray array = as_c_order(as_floats("W", W))
    cdef int type_num = cnp.PyArray_TYPE(array)
    cdef Py_ssize_t size = cnp.PyArray_SIZE(array)
    cdef void* data = cnp.PyArray_DATA(array)
    cdef double total
    with nogil:
        if type_num == cnp.NPY_FLOAT32:
            total = squares(size, <float*> data)
        else:
            total = squares(size, <double*> data)
    return total


def add_weight_decay(cnp.ndarray dW, W, double weight_decay_lambda):
    """dW += λ·W, in place, for a contiguous dW of W's shape and dtype."""
    cdef int type_num = cnp.PyArray_TYPE(dW)
    cdef cnp.ndarray weights = as_c_order(as_floats("W", W, type_num))
    check_shape("dW", dW, W.shape)
    if not cnp.PyArray_ISCARRAY(dW) or type_num not in (cnp.NPY_FLOAT32, cnp.NPY_FLOAT64):
        raise ValueError("dW must be a C-contiguous, writeable float32 or float64 array")
    cdef Py_ssize_t size = cnp.PyArray_SIZE(dW)
    cdef void* dW_data = cnp.PyArray_DATA(dW)
    cdef void* W_data = cnp.PyArray_DATA(weights)
    with nogil:
        if type_num == cnp.NPY_FLOAT32:
            add_scaled(size, weight_decay_lambda, <float*> W_data, <float*> dW_data)
        else:
            add_scaled(size, weight_decay_lambda, <double*> W_data, <double*> dW_data)
