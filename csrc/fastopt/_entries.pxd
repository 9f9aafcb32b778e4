# What a step was given, an entry for each parameter: found, recognised, checked and described. The
# comparisons that every step makes for every array stand here, to be inlined; the rest in
# _entries.pyx.

cimport numpy as cnp

from cpython.dict cimport PyDict_Next
from cpython.ref cimport PyObject
from cython cimport final
from fastopt.kernels.table cimport MAX_OPERANDS
from fastopt.ndarray cimport (
    CONTIGUOUS,
    PyArray_CheckExact,
    PyArray_DATA,
    PyArray_DESCR,
    PyArray_Descr,
    PyArray_DIMS,
    PyArray_FLAGS,
    PyArray_ISNBO,
    PyArray_NDIM,
    PyArray_STRIDES,
    PyArrayObject,
)
from fastopt.spans cimport Spans

cdef extern from "Python.h":
    bint PyUnicode_CheckExact(PyObject*) noexcept
    int PyUnicode_Compare(PyObject*, PyObject*) noexcept

cdef enum:
    PARAM = 0  # the operands of an entry
    GRAD = 1
    STATE = 2
    # Arrays of more dimensions are checked anew in each step
    MAX_KNOWN_NDIM = 4

cdef struct Operand:
    # one cache line
    PyObject* array   # what the dict holds; for a plain number its 0-d copy. Owned where the
    #                   entries own references, else borrowed; stale between steps
    PyObject* packed  # owned or NULL: the contiguous copy that stands in for it
    char* origin      # the array's own memory
    PyArray_Descr* descr  # NumPy's one descriptor of its dtype; NULL where it has another
    char* low         # the first byte that it occupies, and the one after its last
    char* high
    int flags         # NumPy's
    int type_num
    bint is_native    # in this machine's byte order
    bint is_packed    # stands in need of a packed copy

ctypedef cnp.npy_intp[MAX_KNOWN_NDIM] Strides

cdef struct Entry:
    PyObject* key      # held by `keys` of the entries
    PyObject* value    # what the mapping holds for it, while it is checked; owned or NULL
    Operand* operands  # parameter, gradient, states
    char** data        # what the kernel works on: the arrays' own memory, or the packed copies'
    Strides* strides   # of each array
    Py_ssize_t size
    Py_ssize_t head    # elements before the parameter's first aligned one
    Py_ssize_t row     # of the coefficients and options
    double squares     # the sum of its gradient's, where that was measured
    double factor      # with which its gradient is multiplied then
    cnp.npy_intp[MAX_KNOWN_NDIM] dims
    int ndim
    unsigned int new_states  # a bit for each state that is not in its dict yet
    # truth values, small for the cache's sake
    char is_double
    char is_number     # the mapping holds a plain number, to be rebound
    char is_packed     # some operand needs a packed copy
    char is_frozen     # its gradient is None, or it is held
    char is_held       # by its group, as long as that stays
    char is_described  # what stands here is what a check found
    char is_comparable  # and can tell whether a later step's arrays are like it
    char is_known      # and this step's are


@final
cdef class Entries:
    cdef readonly tuple state_names
    cdef int n_operands
    cdef Entry* items          # of the step under way, or the last one
    cdef Py_ssize_t n
    cdef Py_ssize_t capacity
    cdef Operand* operands     # of all entries
    cdef char** data           # likewise
    cdef Strides* strides
    cdef list keys
    cdef bint owns_references
    cdef bint has_others         # than arrays that were recognised
    cdef bint has_packed         # some entry may need packed copies
    cdef bint has_other_members  # than when overlaps were checked: some froze, came or went
    cdef Spans written         # what the last step wrote that was checked for overlaps

    cdef Py_ssize_t find(self, params, grads, tuple states) except -1
    cdef Py_ssize_t recognise(self, params, grads, tuple states) noexcept
    cdef bint recognise_entry(self, Entry* entry) noexcept
    cdef int gather(self, params, grads, tuple states) except -1
    cdef int gather_entry(self, Py_ssize_t i, dict grads, tuple states) except -1
    cdef void set_frozen(self, Entry* entry, bint is_frozen) noexcept
    cdef bint check(
        self, Py_ssize_t i, tuple states, owner, Py_ssize_t n_rows, bint has_groups,
    ) except -1
    cdef int pack_arrays(self) except -1
    cdef int pack_gradients(self, bint has_sums) except -1
    cdef int pack(self, Entry* entry, int k) except -1
    cdef int check_unchanged(self) except -1
    cdef int copy_back(self, int first) except -1
    cdef void own(self) noexcept
    cdef void release(self) noexcept
    cdef void forget(self) noexcept
    cdef int reserve(self, Py_ssize_t n) except -1
    cdef str name_of(self, Py_ssize_t i, int k)
    cdef bint is_consistent(self) noexcept


cdef inline bint is_same_key(PyObject* a, PyObject* b) noexcept:
    """Tell whether keys are one object or equal strings; runs no Python code."""
    return a == b or (
        a != NULL
        and PyUnicode_CheckExact(a)
        and PyUnicode_CheckExact(b)
        and PyUnicode_Compare(a, b) == 0
    )


cdef inline PyObject* next_value(dict items, Py_ssize_t* position, PyObject* key) noexcept:
    """Return the next value of a dict if it stands under the given key, else NULL and stay."""
    cdef PyObject* own_key
    cdef PyObject* value
    cdef Py_ssize_t before = position[0]
    if PyDict_Next(items, position, &own_key, &value):
        if is_same_key(own_key, key):
            return value
        position[0] = before
    return NULL


cdef inline bint is_known_operand(const Entry* entry, int k) noexcept:
    """Tell whether an operand's array has the memory, shape, dtype and flags that were checked."""
    cdef const Operand* operand = &entry.operands[k]
    return (
        PyArray_CheckExact(operand.array)
        and <char*> PyArray_DATA(<PyArrayObject*> operand.array) == operand.origin
        and is_like_operand(entry, k)
    )


cdef inline bint is_like_operand(const Entry* entry, int k) noexcept:
    """Tell the same of all except the memory."""
    cdef const Operand* operand = &entry.operands[k]
    cdef PyArrayObject* a = <PyArrayObject*> operand.array
    cdef int d
    if (
        PyArray_FLAGS(a) != operand.flags
        or PyArray_DESCR(a) != operand.descr and not has_known_dtype(operand)
        or PyArray_NDIM(a) != entry.ndim
    ):
        return False
    for d in range(entry.ndim):
        if PyArray_DIMS(a)[d] != entry.dims[d]:
            return False
    return operand.flags & CONTIGUOUS != 0 or has_known_strides(entry, k)


cdef inline bint has_known_dtype(const Operand* operand) noexcept:
    """Compare dtypes by what they say: a freed descriptor's address can be another one's now."""
    cdef PyArray_Descr* descr = PyArray_DESCR(<PyArrayObject*> operand.array)
    return (
        descr.type_num == operand.type_num
        and PyArray_ISNBO(descr.byteorder) == operand.is_native
    )


cdef inline bint has_known_strides(const Entry* entry, int k) noexcept:
    cdef PyArrayObject* a = <PyArrayObject*> entry.operands[k].array
    cdef int d
    for d in range(entry.ndim):
        if PyArray_STRIDES(a)[d] != entry.strides[k][d]:
            return False
    return True
