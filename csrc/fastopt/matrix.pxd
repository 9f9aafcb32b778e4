# A matrix as products and passes take it: an address, sizes and a stride. Nothing that calls Python
# or computes with elements belongs here; how a NumPy array becomes a Matrix is in _net_inputs.pyx.

cdef struct Matrix:
    # Its stored rows are the array's rows, or, if it is transposed, the array's columns.
    char* data
    int rows
    int columns
    int ld           # elements from one stored row to the next
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
    """Return columns `first` to `first` + n - 1 of a matrix of elements of `item` bytes."""
    return Matrix(
        a.data + first * column_stride(a) * item, a.rows, <int> n, a.ld, a.transposed
    )
