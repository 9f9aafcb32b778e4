# Scores and the labels that go with them: class numbers or one-hot rows, checked and made class
# indices.

from libc.limits cimport LLONG_MIN


cdef cnp.ndarray as_scores(x):
    cdef cnp.ndarray array = as_floats("x", x)
    if cnp.PyArray_NDIM(array) != 2:
        raise ValueError(f"scores have shape {(<object> array).shape}, want (N, C)")
    if cnp.PyArray_SIZE(array) == 0:
        raise ValueError(f"scores of shape {(<object> array).shape} hold no samples or no classes")
    return array


cdef cnp.ndarray class_indices(t, Py_ssize_t n, Py_ssize_t classes):
    """Return labels, integers (N,) or one-hot (N, C), as checked class indices (N,)."""
    cdef cnp.ndarray labels, given = np.asarray(t)
    if given.dtype.kind not in "fiub":
        raise TypeError(f"labels must be integers or one-hot rows, got dtype {given.dtype}")
    if (<object> given).shape == (n, classes):
        return one_hot_indices(given)
    if (<object> given).shape != (n,):
        raise ValueError(
            f"labels have shape {(<object> given).shape}, want ({n},) or one-hot ({n}, {classes})"
        )
    if given.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers or one-hot rows, got dtype {given.dtype}")
    labels = np.empty(n, dtype=np.intp)
    read_labels(as_integers(given), n, NULL, classes, <Py_ssize_t*> cnp.PyArray_DATA(labels))
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


cdef cnp.ndarray as_integers(cnp.ndarray given):
    """Return an integer array that `integer_at` can read."""
    return given if cnp.PyArray_ISBEHAVED_RO(given) else np.array(given, given.dtype.type)


cdef inline long long integer_at(const char* at, int type_num) noexcept:
    """Return an integer of any of NumPy's types; one that is too large as the least of all."""
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


def count_correct(scores, t):
    """Return how many rows of the scores (N, C) have their largest entry at the label.

    The first one of equals, or of NaN, counts as the largest, as in NumPy.
    """
    cdef cnp.ndarray array = as_scores(scores)
    labels = class_indices(t, array.shape[0], array.shape[1])
    return int(np.count_nonzero(array.argmax(axis=1) == labels))
