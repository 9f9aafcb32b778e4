# Arrays as matrix products take them. What is computed of them does not belong here.
#
# An input that is not a native, aligned float32 or float64 array in a layout that a product or a
# pass can walk is converted once, on the way in.

from libc.limits cimport INT_MAX

cdef struct Matrix:
    # A two-dimensional array as a product takes it: its stored rows are those of the array, or its
    # columns where it is transposed.
    char* data
    int rows
    int columns
    int ld
    bint transposed


cdef inline Py_ssize_t row_stride(const Matrix* a) noexcept nogil:
    return 1 if a.transposed else a.ld


cdef inline Py_ssize_t column_stride(const Matrix* a) noexcept nogil:
    return a.ld if a.transposed else 1


cdef inline Matrix contiguous(void* data, int rows, int columns) noexcept nogil:
    return Matrix(<char*> data, rows, columns, columns, False)


cdef inline Matrix some_rows(
    const Matrix* a, int item, Py_ssize_t first, Py_ssize_t n,
) noexcept nogil:
    """Return rows `first` to `first` + n - 1 of a matrix of elements of `item` bytes."""
    return Matrix(
        a.data + first * row_stride(a) * item, <int> n, a.columns, a.ld, a.transposed
    )


cdef inline Matrix some_columns(
    const Matrix* a, int item, Py_ssize_t first, Py_ssize_t n,
) noexcept nogil:
    return Matrix(
        a.data + first * column_stride(a) * item, a.rows, <int> n, a.ld, a.transposed
    )


# Python's isinstance is not used where a C struct is read afterwards: it believes what an object's
# `__class__` says. Attributes of subclasses are not read either, as they may say anything and may
# run code of the caller's: an array is made a plain one before anything is asked of it.

cdef inline object as_plain(a):
    """Return a plain array of the same memory for one of a subclass, anything else as it is."""
    return np.asarray(a) if cnp.PyArray_Check(a) and not cnp.PyArray_CheckExact(a) else a


cdef inline str name_of(a):
    """Return what an error message calls an object: the dtype of an array, else its type."""
    return str(a.dtype) if cnp.PyArray_CheckExact(a) else type(a).__name__


cdef int check_shape(str name, cnp.ndarray a, tuple wanted) except -1:
    if (<object> a).shape != wanted:
        raise ValueError(f"{name} has shape {(<object> a).shape}, wants {wanted}")
    return 0


cdef int check_real(str name, cnp.ndarray a) except -1:
    if a.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be real numbers, got dtype {a.dtype}")
    return 0


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
    if is_native(array, type_num):
        return array
    check_real(name, array)
    with np.errstate(all="ignore"):
        return np.array(array, dtype=cnp.PyArray_DescrFromType(type_num), order="K")


cdef inline bint is_native(cnp.ndarray array, int type_num) noexcept:
    """Tell whether an array is of a dtype, aligned, and in this machine's byte order."""
    return cnp.PyArray_TYPE(array) == type_num and cnp.PyArray_ISBEHAVED_RO(array)


cdef cnp.ndarray as_c_order(cnp.ndarray x):
    return x if cnp.PyArray_IS_C_CONTIGUOUS(x) else np.array(x, order="C")


cdef cnp.ndarray empty_matrix(Py_ssize_t rows, Py_ssize_t columns, int type_num):
    cdef cnp.npy_intp[2] shape = [rows, columns]
    return cnp.PyArray_EMPTY(2, shape, type_num, 0)


cdef int as_int(Py_ssize_t n) except -1:
    if n > INT_MAX:
        raise ValueError(f"a side of {n} is too large for products, which count to {INT_MAX}")
    return <int> n


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
