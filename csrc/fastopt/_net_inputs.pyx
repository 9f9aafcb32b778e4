# What layers and nets are given, checked and described: arrays as products take them, samples, row
# numbers, labels, a layer's parameters and outputs. What is computed with them does not belong
# here. A net's parameters and outputs are recognised in _net.pyx, refused by fastopt/_contract.py.
#
# An input that is not a native, aligned float32 or float64 array in a layout that a product or a
# pass can walk is converted once, on the way in.
#
# Where a C struct is read afterwards, isinstance is not used: it believes what an object's
# `__class__` says. Nor are attributes of subclasses, which may say anything and run code of the
# caller's: an array is made a plain one before anything is asked of it.

cimport numpy as cnp

from fastopt.matrix cimport Matrix, contiguous
from fastopt.ndarray cimport PyArrayObject, is_float32_or_64, is_real, is_walkable
from fastopt.net cimport NetCall, Targets
from libc.limits cimport INT_MAX, LLONG_MIN
from libc.math cimport INFINITY, NAN
from libc.string cimport memcpy

import numpy as np

from fastopt import _targets
from fastopt._contract import name_of

cnp.import_array()

cdef double ROUNDING = _targets.ROUNDING


# Arrays.

cdef object as_plain(a):
    """Return a plain array of the same memory for one of a subclass, anything else as it is."""
    return np.asarray(a) if cnp.PyArray_Check(a) and not cnp.PyArray_CheckExact(a) else a


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
    if is_walkable(<PyArrayObject*> array, type_num):
        return array
    check_real(name, array)
    with np.errstate(all="ignore"):
        return np.array(array, dtype=cnp.PyArray_DescrFromType(type_num), order="K")


cdef cnp.ndarray as_c_order(cnp.ndarray x):
    return x if cnp.PyArray_IS_C_CONTIGUOUS(x) else np.array(x, order="C")


cdef cnp.ndarray as_matrix(cnp.ndarray a, Matrix* matrix):
    """Describe a two-dimensional array, or a copy of one whose strides a product can't walk.

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
    matrix.data = <char*> cnp.PyArray_DATA(a)
    return a


cdef bint is_ld(Py_ssize_t stride, Py_ssize_t length, Py_ssize_t item) noexcept:
    """Tell whether a product can step from one stored row of a length to the next by a stride."""
    return stride % item == 0 and length * item <= stride <= INT_MAX * item


cdef cnp.ndarray empty_matrix(Py_ssize_t rows, Py_ssize_t columns, int type_num):
    cdef cnp.npy_intp[2] shape = [rows, columns]
    return cnp.PyArray_EMPTY(2, shape, type_num, 0)


cdef int as_int(Py_ssize_t n) except -1:
    if n > INT_MAX:
        raise ValueError(f"a side of {n} is too large for products, which count to {INT_MAX}")
    return <int> n


cdef int check_real(str name, cnp.ndarray a) except -1:
    if not is_real(<PyArrayObject*> a):
        raise TypeError(f"{name} must be real numbers, got dtype {a.dtype}")
    return 0


cdef int check_shape(str name, cnp.ndarray a, tuple wanted) except -1:
    if (<object> a).shape != wanted:
        raise ValueError(f"{name} has shape {(<object> a).shape}, wants {wanted}")
    return 0


cdef int check_matrix(str name, cnp.ndarray a, Py_ssize_t rows, Py_ssize_t columns) except -1:
    if (
        cnp.PyArray_NDIM(a) != 2
        or cnp.PyArray_DIM(a, 0) != rows
        or cnp.PyArray_DIM(a, 1) != columns
    ):
        check_shape(name, a, (rows, columns))
    return 0


# Parameters and outputs of a single layer.

cdef tuple check_weights(W, b):
    """Check that W and b are arrays that belong together; return them as plain ones."""
    W, b = as_plain(W), as_plain(b)
    if are_weights(W, b):
        return W, b
    for name, array in (("W", W), ("b", b)):
        if not cnp.PyArray_Check(array):
            raise TypeError(f"{name} must be an array, got {name_of(array)}")
    for name, array, ndim in (("W", W, 2), ("b", b, 1)):
        if not is_float32_or_64(cnp.PyArray_TYPE(array)):
            raise TypeError(f"{name} has dtype {array.dtype}, wants float32 or float64")
        if array.ndim != ndim:
            raise ValueError(f"{name} has shape {array.shape}, wants {ndim} dimension(s)")
    if W.dtype.type is not b.dtype.type:
        raise TypeError(f"W has dtype {W.dtype}, b has {b.dtype}; they must be the same")
    if not W.size:
        raise ValueError(f"W has shape {W.shape}, wants at least one row and one column")
    check_shape("b", b, (W.shape[1],))
    return W, b


cdef bint are_weights(W, b) noexcept:
    """Tell whether W and b belong together, without the words for what is wrong if they don't."""
    return (
        cnp.PyArray_Check(W)
        and cnp.PyArray_Check(b)
        and is_float32_or_64(cnp.PyArray_TYPE(W))
        and cnp.PyArray_TYPE(W) == cnp.PyArray_TYPE(b)
        and cnp.PyArray_NDIM(W) == 2
        and cnp.PyArray_NDIM(b) == 1
        and cnp.PyArray_SIZE(W) > 0
        and cnp.PyArray_DIM(W, 1) == cnp.PyArray_DIM(b, 0)
    )


cdef cnp.ndarray as_output(str name, out, like, tuple inputs):
    """Check an array to write a result into, or make one if there is none."""
    cdef cnp.ndarray array_like = like
    if out is None:
        return cnp.PyArray_EMPTY(
            cnp.PyArray_NDIM(array_like), cnp.PyArray_DIMS(array_like),
            cnp.PyArray_TYPE(array_like), 0,
        )
    dtype = like.dtype.newbyteorder("=")
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


# Samples and row numbers.

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


cdef cnp.ndarray as_row_numbers(cnp.ndarray numbers):
    """Return row numbers as an integer array (N,), N at least 1, that `read_rows` can read."""
    if cnp.PyArray_NDIM(numbers) == 1 and cnp.PyArray_DIM(numbers, 0) == 0:
        raise ValueError("batch is empty, wants one row number at least")
    if not cnp.PyArray_ISINTEGER(numbers):
        raise TypeError(f"batch must be row numbers, got dtype {numbers.dtype}")
    if cnp.PyArray_NDIM(numbers) != 1:
        raise ValueError(f"batch has shape {(<object> numbers).shape}, wants (N,)")
    return as_integers(numbers)


cdef int read_rows(cnp.ndarray numbers, Py_ssize_t n_samples, Py_ssize_t* to) except -1:
    """Copy row numbers, each checked; as in NumPy, negative ones count from the end."""
    cdef const char* data = <const char*> cnp.PyArray_DATA(numbers)
    cdef Py_ssize_t stride = cnp.PyArray_STRIDE(numbers, 0), i
    cdef int type_num = cnp.PyArray_TYPE(numbers)
    cdef long long row
    for i in range(cnp.PyArray_DIM(numbers, 0)):
        row = integer_at(data + i * stride, type_num)
        if not -n_samples <= row < n_samples:
            raise IndexError(f"batch[{i}] is {numbers[i]}, x holds {n_samples} samples")
        to[i] = <Py_ssize_t> (row + n_samples if row < 0 else row)
    return 0


cdef cnp.ndarray take_rows(cnp.ndarray x, cnp.ndarray numbers):
    """Copy rows of x by numbers that were checked; NumPy 1 itself takes none of uint64."""
    return (<object> x).take((<object> numbers).astype(np.intp), axis=0)


cdef cnp.ndarray find_samples(
    NetCall* call, cnp.ndarray samples, cnp.ndarray numbers, Py_ssize_t n_samples, Py_ssize_t d,
    int type_num,
):
    """Describe what the rows of a batch are taken from; copy them here if the jobs can't do it.

    The jobs can if each sample is a stretch of memory that a product can take as it is.
    """
    if (
        is_walkable(<PyArrayObject*> samples, type_num)
        and cnp.PyArray_IS_C_CONTIGUOUS(samples)
        and cnp.PyArray_SIZE(samples) == n_samples * d
    ):
        call.source = contiguous(cnp.PyArray_DATA(samples), 0, d)
        return samples
    samples = as_samples(take_rows(samples, numbers), d, type_num)
    samples = as_matrix(samples, &call.source)
    if call.source.rows != call.n:
        raise ValueError("batch was changed while its rows were taken")
    call.rows = NULL
    return samples


# Scores and labels.

cdef cnp.ndarray as_scores(x):
    cdef cnp.ndarray array = as_floats("x", x)
    if cnp.PyArray_NDIM(array) != 2:
        raise ValueError(f"scores have shape {(<object> array).shape}, want (N, C)")
    if cnp.PyArray_SIZE(array) == 0:
        raise ValueError(f"scores of shape {(<object> array).shape} hold no samples or no classes")
    return array


cdef cnp.ndarray as_integers(cnp.ndarray given):
    """Return an integer array that `integer_at` can read."""
    return given if cnp.PyArray_ISBEHAVED_RO(given) else np.array(given, given.dtype.type)


cdef inline long long integer_at(const char* at, int type_num) noexcept:
    """Return an integer of any of NumPy's types.

    A value too large for long long is returned as LLONG_MIN, which no check accepts.
    """
    cdef unsigned long long big
    if type_num == cnp.NPY_LONG:
        return (<long*> at)[0]
    if type_num == cnp.NPY_INT:
        return (<int*> at)[0]
    if type_num == cnp.NPY_UBYTE:
        return (<unsigned char*> at)[0]
    if type_num == cnp.NPY_LONGLONG:
        return (<long long*> at)[0]
    if type_num == cnp.NPY_BYTE:
        return (<signed char*> at)[0]
    if type_num == cnp.NPY_SHORT:
        return (<short*> at)[0]
    if type_num == cnp.NPY_USHORT:
        return (<unsigned short*> at)[0]
    if type_num == cnp.NPY_UINT:
        return (<unsigned int*> at)[0]
    big = (<unsigned long*> at)[0] if type_num == cnp.NPY_ULONG else (<unsigned long long*> at)[0]
    return <long long> big if big < (<unsigned long long> 1 << 63) else LLONG_MIN


cdef int read_labels(
    cnp.ndarray labels, Py_ssize_t n, const Py_ssize_t* rows, Py_ssize_t classes, Py_ssize_t* to,
) except -1:
    """Copy n labels, those of the given rows if there are any, each checked to be a class."""
    cdef const char* data = <const char*> cnp.PyArray_DATA(labels)
    cdef Py_ssize_t stride = cnp.PyArray_STRIDE(labels, 0), i, row
    cdef int type_num = cnp.PyArray_TYPE(labels)
    cdef long long label
    for i in range(n):
        row = i if rows == NULL else rows[i]
        label = integer_at(data + row * stride, type_num)
        if not 0 <= label < classes:
            raise ValueError(
                f"label {labels[row]} of sample {row} is outside 0 to {classes - 1}"
            )
        to[i] = <Py_ssize_t> label
    return 0


# Targets and sample weights. What is as the jobs want it is taken as it is, or copied by rows; all
# else goes through fastopt/_targets.py, which converts it, or says what is wrong with it.

cdef Range range_of(str loss):
    """Return the range of a loss's targets: NaN where there is none, and it takes any number."""
    least, largest = _targets.RANGES.get(loss, (NAN, NAN))
    return Range(least, largest, loss == "softmax")


cdef int find_targets(
    NetCall* call, str loss, Range wanted, cnp.ndarray given, Py_ssize_t n_samples, int type_num,
) except -1:
    """Copy the targets of a batch: as classes where they are, else as a matrix.

    Where both are wanted, there is room for both; what there isn't becomes NULL.
    """
    cdef Targets* targets = &call.targets
    if (
        wanted.are_shares
        and cnp.PyArray_NDIM(given) == 1
        and cnp.PyArray_DIM(given, 0) == n_samples
        and cnp.PyArray_ISINTEGER(given)
    ):
        targets.values = NULL
        return read_labels(as_integers(given), call.n, call.rows, call.outputs, targets.classes)
    if not take_values(call, wanted, given, n_samples, type_num) or not are_in_range(call, wanted):
        given = _targets.checked_targets(
            loss, given, n_samples, call.outputs, cnp.PyArray_DescrFromType(type_num),
            rows_of(call),
        )
        memcpy(targets.values, cnp.PyArray_DATA(given), call.n * call.outputs * call.item)
    if wanted.are_shares and are_classes(call):
        targets.values = NULL
    else:
        targets.classes = NULL
    return 0


cdef bint take_values(
    NetCall* call, Range wanted, cnp.ndarray given, Py_ssize_t n_samples, int type_num,
) noexcept:
    """Copy a matrix of targets; False if it is not as it must be."""
    cdef Py_ssize_t size = call.outputs * call.item, i
    cdef char* data = <char*> cnp.PyArray_DATA(given)
    cdef int n_dim = cnp.PyArray_NDIM(given)
    if not (
        is_walkable(<PyArrayObject*> given, type_num)
        and cnp.PyArray_IS_C_CONTIGUOUS(given)
        and (n_dim == 2 or (n_dim == 1 and call.outputs == 1 and not wanted.are_shares))
        and cnp.PyArray_DIM(given, 0) == n_samples
        and cnp.PyArray_SIZE(given) == n_samples * call.outputs
    ):
        return False
    if call.rows == NULL:
        memcpy(call.targets.values, data, call.n * size)
    else:
        for i in range(call.n):
            memcpy(call.targets.values + i * size, data + call.rows[i] * size, size)
    return True


cdef bint are_in_range(const NetCall* call, Range wanted) noexcept:
    """Tell whether all targets are in the range of a loss; NaN is in none."""
    cdef Py_ssize_t i, j
    cdef double t, total
    if wanted.least != wanted.least:
        return True
    for i in range(call.n):
        total = 0
        for j in range(i * call.outputs, (i + 1) * call.outputs):
            t = value_at(call, j)
            total += t
            if not wanted.least <= t <= wanted.largest:
                return False
        if wanted.are_shares and not -ROUNDING <= total - 1 <= ROUNDING:
            return False
    return True


cdef bint are_classes(NetCall* call) noexcept:
    """Tell whether each row of targets holds a single 1, else 0, and write down where."""
    cdef Py_ssize_t i, j
    cdef double t
    for i in range(call.n):
        call.targets.classes[i] = -1
        for j in range(call.outputs):
            t = value_at(call, i * call.outputs + j)
            if t == 1:
                call.targets.classes[i] = j
            elif t != 0:
                return False
    return True


cdef inline double value_at(const NetCall* call, Py_ssize_t k) noexcept:
    if call.is_double:
        return (<const double*> call.targets.values)[k]
    return (<const float*> call.targets.values)[k]


cdef int find_weights(NetCall* call, cnp.ndarray given, Py_ssize_t n_samples) except -1:
    """Write down by what the losses of the batch's rows are multiplied: shares of their weights.

    Without weights, None, each has the same.
    """
    cdef double* factors = call.targets.factors
    cdef Py_ssize_t i
    cdef double total
    if given is None:
        for i in range(call.n):
            factors[i] = 1.0 / call.n
        return 0
    total = take_weights(call, given, n_samples)
    if not 0 < total < INFINITY:
        given = _targets.checked_weights(given, n_samples, rows_of(call))
        memcpy(factors, cnp.PyArray_DATA(given), call.n * sizeof(double))
        total = sum_of(call.n, factors)
    for i in range(call.n):
        factors[i] /= total
    return 0


cdef double take_weights(NetCall* call, cnp.ndarray given, Py_ssize_t n_samples) noexcept:
    """Copy the weights of a batch and return their sum; NaN if they are not as they must be."""
    cdef Py_ssize_t i, row, stride
    cdef double* factors = call.targets.factors
    cdef const char* data = <const char*> cnp.PyArray_DATA(given)
    if not (
        cnp.PyArray_NDIM(given) == 1
        and cnp.PyArray_DIM(given, 0) == n_samples
        and is_walkable(<PyArrayObject*> given, cnp.NPY_FLOAT64)
    ):
        return NAN
    stride = cnp.PyArray_STRIDE(given, 0)
    for i in range(call.n):
        row = i if call.rows == NULL else call.rows[i]
        factors[i] = (<const double*> (data + stride * row))[0]
        if not 0 <= factors[i] < INFINITY:
            return NAN
    return sum_of(call.n, factors)


cdef double sum_of(Py_ssize_t n, const double* x) noexcept:
    cdef Py_ssize_t i
    cdef double total = 0
    for i in range(n):
        total += x[i]
    return total


cdef object rows_of(const NetCall* call):
    """Return the row numbers of a batch as an array, or None if it is all rows."""
    if call.rows == NULL:
        return None
    rows = np.empty(call.n, np.intp)
    memcpy(cnp.PyArray_DATA(<cnp.ndarray> rows), call.rows, call.n * sizeof(Py_ssize_t))
    return rows
