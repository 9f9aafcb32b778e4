# NumPy arrays from C: their fields read from bare pointers, without a reference being counted, and
# what follows from these fields. Nothing that raises, allocates or calls Python belongs here.

cimport numpy as cnp

from cpython.ref cimport PyObject

cdef extern from "numpy/arrayobject.h" nogil:
    ctypedef struct PyArrayObject:
        pass
    ctypedef struct PyArray_Descr:
        int type_num
        char kind
        char byteorder
    int PyArray_FLAGS(PyArrayObject*) noexcept
    int PyArray_NDIM(PyArrayObject*) noexcept
    int PyArray_ITEMSIZE(PyArrayObject*) noexcept
    cnp.npy_intp* PyArray_DIMS(PyArrayObject*) noexcept
    cnp.npy_intp* PyArray_STRIDES(PyArrayObject*) noexcept
    void* PyArray_DATA(PyArrayObject*) noexcept
    PyArray_Descr* PyArray_DESCR(PyArrayObject*) noexcept
    bint PyArray_ISNBO(char byteorder) noexcept
    bint PyArray_CheckExact(PyObject*) noexcept
    bint PyArray_Check(PyObject*) noexcept

cdef enum:
    CONTIGUOUS = cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_F_CONTIGUOUS


cdef inline int item_size(bint is_double) noexcept nogil:
    """Return the bytes of a float64 or a float32."""
    return 8 if is_double else 4


cdef inline bint is_native(PyArrayObject* a, int type_num) noexcept nogil:
    """Tell whether an array is of a dtype, in this machine's byte order.

    Comparing descriptors' addresses is not enough: a freed one's can be reused.
    """
    cdef PyArray_Descr* descr = PyArray_DESCR(a)
    return descr.type_num == type_num and PyArray_ISNBO(descr.byteorder)


cdef inline bint is_walkable(PyArrayObject* a, int type_num) noexcept nogil:
    """Tell whether C can read the elements of an array of a dtype in place: native and aligned."""
    return is_native(a, type_num) and PyArray_FLAGS(a) & cnp.NPY_ARRAY_ALIGNED != 0


cdef inline bint is_float32_or_64(int type_num) noexcept nogil:
    return type_num == cnp.NPY_FLOAT32 or type_num == cnp.NPY_FLOAT64


cdef inline bint is_real(PyArrayObject* a) noexcept nogil:
    """Tell whether an array holds floats, integers or bools: what may be cast to a float dtype."""
    return PyArray_DESCR(a).kind in (c"f", c"i", c"u", c"b")


cdef inline Py_ssize_t count(PyArrayObject* a) noexcept nogil:
    """Return the number of elements."""
    cdef Py_ssize_t n = 1
    cdef int d
    for d in range(PyArray_NDIM(a)):
        n *= PyArray_DIMS(a)[d]
    return n


cdef inline bint has_same_shape(PyArrayObject* a, PyArrayObject* b) noexcept nogil:
    cdef int d, ndim = PyArray_NDIM(a)
    if ndim != PyArray_NDIM(b):
        return False
    for d in range(ndim):
        if PyArray_DIMS(a)[d] != PyArray_DIMS(b)[d]:
            return False
    return True


cdef inline bint has_same_steps(PyArrayObject* a, PyArrayObject* b) noexcept nogil:
    """Tell whether arrays of one shape have the same strides wherever they take a step."""
    cdef int d
    for d in range(PyArray_NDIM(a)):
        if PyArray_DIMS(a)[d] > 1 and PyArray_STRIDES(a)[d] != PyArray_STRIDES(b)[d]:
            return False
    return True


cdef inline void find_bounds(PyArrayObject* a, char** low, char** high) noexcept nogil:
    """Find the memory between the first and the last byte of an array, whatever its strides."""
    cdef cnp.npy_intp extent
    cdef int d
    low[0] = high[0] = <char*> PyArray_DATA(a)
    if count(a) == 0:
        return
    high[0] += PyArray_ITEMSIZE(a)
    for d in range(PyArray_NDIM(a)):
        extent = (PyArray_DIMS(a)[d] - 1) * PyArray_STRIDES(a)[d]
        if extent < 0:
            low[0] += extent
        else:
            high[0] += extent


cdef inline bint bounds_overlap(PyArrayObject* a, PyArrayObject* b) noexcept nogil:
    """Tell whether arrays that both have elements may share memory, judged by their bounds."""
    cdef char* a_low
    cdef char* a_high
    cdef char* b_low
    cdef char* b_high
    find_bounds(a, &a_low, &a_high)
    find_bounds(b, &b_low, &b_high)
    return max(a_low, b_low) < min(a_high, b_high)


cdef inline cnp.npy_intp step(PyArrayObject* a, int d) noexcept nogil:
    """Return a stride without its sign."""
    cdef cnp.npy_intp stride = PyArray_STRIDES(a)[d]
    return -stride if stride < 0 else stride


cdef inline bint has_smaller_step(PyArrayObject* a, int d, int e) noexcept nogil:
    """Order dimensions by stride, equal ones by number."""
    return step(a, d) < step(a, e) or (step(a, d) == step(a, e) and d < e)


cdef inline bint has_own_overlap(PyArrayObject* a) noexcept nogil:
    """Tell whether elements of an array may share memory.

    They don't if each stride steps over all that the smaller strides reach; strides of any other
    kind count as overlapping.
    """
    cdef int ndim = PyArray_NDIM(a), d, e
    cdef cnp.npy_intp stride, reach
    if PyArray_FLAGS(a) & CONTIGUOUS:
        return False
    for d in range(ndim):
        if PyArray_DIMS(a)[d] < 2:
            continue
        stride = step(a, d)
        reach = 0
        for e in range(ndim):
            if e != d and PyArray_DIMS(a)[e] > 1 and has_smaller_step(a, e, d):
                reach += (PyArray_DIMS(a)[e] - 1) * step(a, e)
        if stride < reach + PyArray_ITEMSIZE(a):
            return True
    return False
