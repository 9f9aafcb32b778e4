# What a step was given: an entry for each parameter, with its gradient and its states as operands.
# Here they are found in the mappings, recognised as those of the last step, or checked, which
# raises every error that concerns one array, and described for the kernels. What concerns two
# arrays stands in _overlaps.pyx, what is done with them in _step.pyx.
#
# find:  the dicts are walked side by side: no references, no Python code, a few ns an array
#        where keys or their order differ from the last step, every key is looked up (gather)
# check: an entry that was not recognised costs its own check, and no other one's
#
# Where all operands of an entry are native arrays of one dtype, one shape and one contiguous
# layout, the kernel works on them directly. For one that is not (strided, unaligned, byte-swapped,
# another dtype, a plain number), a packed copy stands in, which is copied back after the step.
#
# Entries outlive the step: a later one over arrays of the same memory, shape, strides, dtype and
# flags needs no further check, whichever objects they are.

from cpython.dict cimport PyDict_GetItemWithError, PyDict_Next
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.ref cimport Py_INCREF, Py_XDECREF, Py_XINCREF, PyObject
from fastopt.kernels.table cimport MAX_OPERANDS
from fastopt.memory cimport CACHE_LINE
from fastopt.ndarray cimport (
    CONTIGUOUS,
    PyArray_Check,
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
    count,
    find_bounds,
    has_same_shape,
    is_float32_or_64,
    is_real,
    item_size,
)
from fastopt.spans cimport Span, Spans, is_apart
from libc.math cimport signbit
from libc.string cimport memcpy, memset

from collections.abc import Mapping

cimport numpy as cnp

import numpy as np

cnp.import_array()

# NumPy's own descriptors of the two dtypes, which are never freed; nearly all arrays have these
_float32, _float64 = np.dtype("f4"), np.dtype("f8")
cdef PyArray_Descr* FLOAT32 = <PyArray_Descr*> <PyObject*> _float32
cdef PyArray_Descr* FLOAT64 = <PyArray_Descr*> <PyObject*> _float64

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject*) noexcept

cdef enum:
    # In place of a row: the group's parameters are left alone
    HELD = -1
    # Shorter arrays are not worth a second call for their head
    MIN_ALIGNED_BYTES = 1024


cdef class Entries:
    """The entries of a rule's steps; those of the last one, to begin with.

    Parameters
    ----------
    state_names : tuple of str
        What the states are called, in the order of the rule's operands; error messages name them.
    """

    def __cinit__(self, tuple state_names):
        self.state_names = state_names
        self.n_operands = STATE + len(state_names)
        self.keys = []

    def __dealloc__(self):
        PyMem_Free(self.items)
        PyMem_Free(self.operands)
        PyMem_Free(self.data)
        PyMem_Free(self.strides)
        PyMem_Free(self.written.sorted)

    cdef Py_ssize_t find(self, params, grads, tuple states) except -1:
        """Find all arrays of a step; return how many entries need a check.

        If there are any, or packed copies are needed, the entries own references afterwards.
        """
        cdef Py_ssize_t n_unknown = self.recognise(params, grads, states), i
        if n_unknown < 0:
            self.gather(params, grads, states)
            n_unknown = 0
            for i in range(self.n):
                n_unknown += not self.recognise_entry(&self.items[i])
        elif n_unknown or self.has_packed:
            self.own()
        return n_unknown

    cdef Py_ssize_t recognise(self, params, grads, tuple states) noexcept:
        """Walk the dicts side by side; return how many entries need a check.

        -1 where not all are dicts whose keys are those of the last step, in its order. A parameter
        whose gradient is None has no state if it never had another gradient.
        """
        cdef Py_ssize_t i = 0, n_unknown = 0, at_param = 0, at_grad = 0
        cdef Py_ssize_t[MAX_OPERANDS] at_state
        cdef int k
        cdef bint is_known
        cdef PyObject* key
        cdef PyObject* value
        cdef PyObject* array
        cdef Entry* entry
        if type(params) is not dict or type(grads) is not dict:
            return -1
        for k in range(STATE, self.n_operands):
            at_state[k] = 0
            if type(states[k - STATE]) is not dict:
                return -1
        self.has_others = False
        while PyDict_Next(params, &at_param, &key, &value):
            if i == self.n:
                return -1
            entry = &self.items[i]
            i += 1
            array = next_value(grads, &at_grad, key)
            if array == NULL or not is_same_key(key, entry.key):
                return -1
            if array == <PyObject*> None or entry.is_frozen:
                self.set_frozen(entry, array == <PyObject*> None or entry.is_held)
                if entry.is_frozen:
                    entry.is_known = self.has_others = True
                    for k in range(STATE, self.n_operands):
                        next_value(states[k - STATE], &at_state[k], key)
                    continue
            entry.operands[PARAM].array = value
            entry.operands[GRAD].array = array
            is_known = entry.is_comparable and is_known_operand(entry, PARAM) and (
                is_known_operand(entry, GRAD) or is_new_gradient(entry, &self.written)
            )
            for k in range(STATE, self.n_operands):
                array = next_value(states[k - STATE], &at_state[k], key)
                if array == NULL:
                    return -1
                entry.operands[k].array = array
                is_known = is_known and is_known_operand(entry, k)
            entry.is_known = is_known
            if not is_known:
                self.has_others = True
                n_unknown += 1
        return n_unknown if i == self.n else -1

    cdef bint recognise_entry(self, Entry* entry) noexcept:
        """Tell whether an entry whose arrays were looked up needs no check."""
        cdef int k
        cdef Operand* operands = entry.operands
        entry.is_known = entry.is_frozen or entry.is_comparable
        if entry.is_frozen or not entry.is_comparable:
            return entry.is_known
        for k in range(self.n_operands):
            entry.is_known &= operands[k].array != NULL and (
                is_known_operand(entry, k)
                or k == GRAD and is_new_gradient(entry, &self.written)
            )
        return entry.is_known

    cdef int gather(self, params, grads, tuple states) except -1:
        """Look up what a step is over, key by key; what was described of the same keys stays."""
        cdef Py_ssize_t i, position = 0, n_before = self.n
        cdef PyObject* key
        cdef PyObject* value
        cdef dict items, gradients
        items = params if type(params) is dict else dict(as_mapping("params", params).items())
        as_mapping("grads", grads)
        # From here to the last value no code of the caller's runs; lookups and mappings may run
        # some
        keys = list(items)
        self.has_other_members |= len(keys) != n_before
        self.reserve(len(keys))
        self.n = len(keys)
        self.owns_references = self.has_others = True
        for i in range(self.n):
            if i >= n_before or not is_same_key(<PyObject*> keys[i], self.items[i].key):
                self.items[i].is_described = self.items[i].is_comparable = False
                self.items[i].is_held, self.items[i].factor = False, 1.0
            self.items[i].key = <PyObject*> keys[i]
            self.items[i].value = NULL
            for k in range(self.n_operands):  # left over only from before a fork
                self.items[i].operands[k].array = self.items[i].operands[k].packed = NULL
        i = 0
        while i < self.n and PyDict_Next(items, &position, &key, &value):
            Py_XINCREF(value)
            self.items[i].value = value
            i += 1
        self.keys = keys
        if type(grads) is dict:
            gradients = grads
        else:
            gradients = {name: grads[name] for name in keys if name in grads}
        for i in range(self.n):
            self.gather_entry(i, gradients, states)
        return 0

    cdef void set_frozen(self, Entry* entry, bint is_frozen) noexcept:
        if entry.is_frozen != is_frozen:
            entry.is_frozen = is_frozen
            self.has_other_members = True

    cdef int gather_entry(self, Py_ssize_t i, dict grads, tuple states) except -1:
        """Find the gradient and the states of a parameter; a state may be missing."""
        cdef Entry* entry = &self.items[i]
        cdef int k
        cdef PyObject* found
        key = <object> entry.key
        found = PyDict_GetItemWithError(grads, key)
        if found == NULL:
            raise KeyError(
                f"no gradient for parameter {key!r}; grads has "
                f"{', '.join(map(repr, grads)) or 'no keys'}"
            )
        self.set_frozen(entry, found == <PyObject*> None or entry.is_held)
        if entry.is_frozen:
            return 0
        own_array(&entry.operands[GRAD], found)
        own_array(&entry.operands[PARAM], entry.value)
        for k in range(STATE, self.n_operands):
            if not isinstance(states[k - STATE], dict):
                raise TypeError(
                    f"state {self.state_names[k - STATE]} must be a dict, got "
                    f"{type(states[k - STATE]).__name__}"
                )
            own_array(&entry.operands[k], PyDict_GetItemWithError(states[k - STATE], key))
        return 0

    cdef bint check(
        self, Py_ssize_t i, tuple states, owner, Py_ssize_t n_rows, bint has_groups,
    ) except -1:
        """Check and describe one entry; return whether it writes memory that it did not before.

        One that its group holds is frozen from here on, and nothing else is asked of it.
        """
        cdef Entry* entry = &self.items[i]
        cdef Entry entry_before = entry[0]
        cdef Operand[MAX_OPERANDS] before
        cdef Strides[MAX_OPERANDS] strides_before
        cdef bint was_described = entry.is_described, was_number = entry.is_number
        cdef int k
        for k in range(self.n_operands):
            before[k] = entry.operands[k]
            memcpy(strides_before[k], entry.strides[k], sizeof(Strides))
        entry.is_described = entry.is_comparable = False
        entry.row = 0
        if (n_rows > 1 or has_groups) and owner is not None:
            entry.row = owner._row_of(<object> entry.key)
            if not -1 <= entry.row < n_rows:
                raise IndexError(
                    f"{<object> entry.key!r} is of row {entry.row}, there are {n_rows}"
                )
            if entry.row == HELD:
                entry.is_held = entry.is_known = True
                self.set_frozen(entry, True)
                return True
        check_parameter(entry)
        check_gradient(entry)
        entry.new_states = 0
        for k in range(STATE, self.n_operands):
            if entry.operands[k].array == NULL:
                state = new_state(entry, self.state_names[k - STATE], owner)
                own_array(&entry.operands[k], <PyObject*> state)
                entry.new_states |= 1u << k
            else:
                check_state(entry, k, self.state_names[k - STATE])
        describe(entry, self.n_operands)
        self.has_packed |= entry.is_packed
        if entry.is_number:
            for k in range(self.n_operands):
                self.pack(entry, k)
        entry.is_described = entry.ndim <= MAX_KNOWN_NDIM
        entry.is_comparable = entry.is_described and not entry.is_number
        if not was_described or entry.is_number != was_number:
            return True
        for k in range(self.n_operands):
            if k == GRAD or k == PARAM and entry.is_number:
                continue
            if not is_same_place(entry, &entry_before, k, &before[k], strides_before[k]):
                return True
        return False

    cdef int pack_arrays(self) except -1:
        """Make the packed copies of arrays, as late as can be; plain numbers have theirs."""
        cdef Py_ssize_t i
        cdef int k
        cdef const Entry* entry
        for i in range(self.n):
            entry = &self.items[i]
            if entry.is_packed and not (entry.is_frozen or entry.is_number):
                for k in range(self.n_operands):
                    self.pack(&self.items[i], k)
        return 0

    cdef int pack_gradients(self, bint has_sums) except -1:
        """Make those that are measured: of gradients, and of their sums, the last operands."""
        cdef Py_ssize_t i
        for i in range(self.n):
            if self.items[i].is_packed and not self.items[i].is_frozen:
                self.pack(&self.items[i], GRAD)
                if has_sums:
                    self.pack(&self.items[i], self.n_operands - 1)
        return 0

    cdef int pack(self, Entry* entry, int k) except -1:
        """Give an operand that the kernel can't take as it is a packed copy, if it has none."""
        cdef Operand* operand = &entry.operands[k]
        cdef PyArrayObject* p = <PyArrayObject*> entry.operands[PARAM].array
        if operand.is_packed and operand.packed == NULL:
            operand.packed = packed(operand.array, entry.is_double, p)
            entry.data[k] = <char*> PyArray_DATA(<PyArrayObject*> operand.packed)
            if k == PARAM:
                entry.head = unaligned_head(entry)
        return 0

    cdef int check_unchanged(self) except -1:
        """Find what code of the caller's has changed since it was checked."""
        cdef Py_ssize_t i
        cdef int k
        for i in range(self.n):
            for k in range(0 if self.items[i].is_frozen else self.n_operands):
                if not is_unchanged(&self.items[i], k):
                    raise RuntimeError(f"{self.name_of(i, k)} was changed while it was checked")
        return 0

    cdef int copy_back(self, int first) except -1:
        """Copy what the kernels wrote into packed copies, from an operand on, back."""
        cdef Py_ssize_t i
        cdef int k
        cdef Operand* operand
        for i in range(self.n):
            if self.items[i].is_packed and not self.items[i].is_frozen:
                for k in range(first, self.n_operands):
                    operand = &self.items[i].operands[k]
                    if operand.is_packed and k != GRAD:
                        cnp.PyArray_CopyInto(
                            <cnp.ndarray> operand.array, <cnp.ndarray> operand.packed
                        )
        return 0

    cdef void own(self) noexcept:
        """Hold on to the arrays that were found: without the GIL others may let go of them."""
        cdef Py_ssize_t i
        cdef int k
        cdef Entry* entry
        for i in range(self.n if self.has_others else 0):
            entry = &self.items[i]
            if entry.is_frozen:
                for k in range(self.n_operands):
                    entry.operands[k].array = NULL
            elif not entry.is_known:
                entry.value = entry.operands[PARAM].array
                Py_XINCREF(entry.value)
        for i in range(self.n * self.n_operands):
            Py_XINCREF(self.operands[i].array)
        self.owns_references = True

    cdef void release(self) noexcept:
        """Give references and packed copies back; what was found of the arrays stays."""
        cdef Py_ssize_t i
        self.owns_references = False
        for i in range(self.n * self.n_operands):
            drop(&self.operands[i].array)
        for i in range(self.n * self.n_operands if self.has_packed else 0):
            drop(&self.operands[i].packed)
        for i in range(self.n if self.has_others else 0):
            drop(&self.items[i].value)

    cdef void forget(self) noexcept:
        """Have every entry checked anew, and what follows from them."""
        self.n = 0
        self.has_other_members = True

    cdef int reserve(self, Py_ssize_t n) except -1:
        """Make room for so many entries and their spans."""
        cdef Py_ssize_t i
        if n <= self.capacity:
            return 0
        self.forget()  # until all of it stands in the new memory
        items = <Entry*> PyMem_Realloc(self.items, n * sizeof(Entry))
        if items == NULL:
            raise MemoryError()
        self.items = items
        operands = <Operand*> PyMem_Realloc(self.operands, n * self.n_operands * sizeof(Operand))
        if operands == NULL:
            raise MemoryError()
        self.operands = operands
        data = <char**> PyMem_Realloc(self.data, n * self.n_operands * sizeof(char*))
        if data == NULL:
            raise MemoryError()
        self.data = data
        strides = <Strides*> PyMem_Realloc(self.strides, n * self.n_operands * sizeof(Strides))
        if strides == NULL:
            raise MemoryError()
        self.strides = strides
        written = <Span*> PyMem_Realloc(
            self.written.sorted, n * (self.n_operands - 1) * sizeof(Span)
        )
        if written == NULL:
            raise MemoryError()
        self.written.sorted = written
        memset(&items[self.capacity], 0, (n - self.capacity) * sizeof(Entry))
        memset(
            &operands[self.capacity * self.n_operands], 0,
            (n - self.capacity) * self.n_operands * sizeof(Operand),
        )
        for i in range(n):
            items[i].operands = &operands[i * self.n_operands]
            items[i].data = &data[i * self.n_operands]
            items[i].strides = &strides[i * self.n_operands]
        self.capacity = n
        return 0

    cdef str name_of(self, Py_ssize_t i, int k):
        key = <object> self.items[i].key
        if k == PARAM:
            return f"parameter {key!r}"
        if k == GRAD:
            return f"the gradient of {key!r}"
        return f"state {self.state_names[k - STATE]}[{key!r}]"

    cdef bint is_consistent(self) noexcept:
        """Tell whether what the kernels are about to touch is what the arrays occupy."""
        cdef Py_ssize_t i, extent
        cdef int k
        cdef Entry* entry
        cdef Operand* operand
        for i in range(self.n):
            entry = &self.items[i]
            if entry.is_frozen:
                continue
            extent = entry.size * item_size(entry.is_double)
            for k in range(self.n_operands):
                operand = &entry.operands[k]
                if operand.array == NULL or Py_REFCNT(operand.array) <= 0:
                    return False
                if (operand.packed != NULL) != operand.is_packed:
                    return False
                if operand.packed == NULL and (
                    operand.low != entry.data[k] or operand.high != entry.data[k] + extent
                ):
                    return False
        return True


cdef bint is_new_gradient(Entry* entry, const Spans* written) noexcept:
    """Tell whether a gradient is the same except for its memory, which the step does not write."""
    cdef Operand* g = &entry.operands[GRAD]
    cdef char* low
    cdef char* high
    if not PyArray_CheckExact(g.array) or not is_like_operand(entry, GRAD):
        return False
    find_bounds(<PyArrayObject*> g.array, &low, &high)
    if not is_apart(written, low, high):
        return False
    g.low, g.high = low, high
    g.origin = <char*> PyArray_DATA(<PyArrayObject*> g.array)
    if not g.is_packed:
        entry.data[GRAD] = g.origin
    return True


cdef bint is_unchanged(const Entry* entry, int k) noexcept:
    """Tell whether an operand's array is still what was described; of many dimensions the first."""
    cdef const Operand* operand = &entry.operands[k]
    cdef PyArrayObject* a = <PyArrayObject*> operand.array
    cdef char* low
    cdef char* high
    cdef int d
    find_bounds(a, &low, &high)
    if (
        low != operand.low
        or high != operand.high
        or PyArray_FLAGS(a) != operand.flags
        or PyArray_NDIM(a) != entry.ndim
        or not has_known_dtype(operand)
    ):
        return False
    for d in range(min(entry.ndim, <int> MAX_KNOWN_NDIM)):
        if PyArray_DIMS(a)[d] != entry.dims[d] or (
            not operand.flags & CONTIGUOUS and PyArray_STRIDES(a)[d] != entry.strides[k][d]
        ):
            return False
    return True


cdef inline void drop(PyObject** reference) noexcept:
    """Give a reference back, after it is gone from where it stood: that may run Python code."""
    cdef PyObject* object = reference[0]
    reference[0] = NULL
    Py_XDECREF(object)


cdef void own_array(Operand* operand, PyObject* array) noexcept:
    """Replace an operand's array, or what is yet to be checked as one."""
    cdef PyObject* before = operand.array
    Py_XINCREF(array)
    operand.array = array
    Py_XDECREF(before)


cdef object as_mapping(str name, mapping):
    if type(mapping) is not dict and not isinstance(mapping, Mapping):
        raise TypeError(
            f"{name} must be a mapping of names to arrays, got {type(mapping).__name__}"
        )
    return mapping


cdef int check_parameter(Entry* entry) except -1:
    """Find the array to update; it is a new one, 0-d, for a plain number."""
    cdef PyArrayObject* p
    entry.is_number = not is_array(entry.value)
    if entry.is_number:
        number = number_as_array(<object> entry.key, <object> entry.value)
        own_array(&entry.operands[PARAM], <PyObject*> number)
    p = <PyArrayObject*> entry.operands[PARAM].array
    if not is_float32_or_64(PyArray_DESCR(p).type_num):
        raise TypeError(
            f"parameter {<object> entry.key!r} has dtype {(<object> p).dtype}, "
            "wants float32 or float64"
        )
    if not PyArray_FLAGS(p) & cnp.NPY_ARRAY_WRITEABLE:
        raise ValueError(f"parameter {<object> entry.key!r} is read-only")
    return 0


cdef bint is_array(PyObject* value) except -1:
    """Tell whether a value is a plain array: a masked one also carries a mask.

    Its type tells, not isinstance, which believes what an object says its class is.
    """
    if PyArray_CheckExact(value):
        return True
    return PyArray_Check(value) and not isinstance(<object> value, np.ma.MaskedArray)


cdef object number_as_array(key, value):
    if issubclass(type(value), (float, np.floating)):
        return np.array(value)
    if issubclass(type(value), int):
        raise TypeError(f"parameter {key!r} is the integer {value!r}, wants a float such as 1.0")
    raise TypeError(
        f"parameter {key!r} must be a float32 or float64 array or a float, "
        f"got {type(value).__name__}"
    )


cdef int check_gradient(Entry* entry) except -1:
    cdef PyArrayObject* p = <PyArrayObject*> entry.operands[PARAM].array
    cdef PyArrayObject* g
    if not is_array(entry.operands[GRAD].array):
        value = <object> entry.operands[GRAD].array
        if not issubclass(type(value), (float, int, np.generic)):
            raise TypeError(
                f"gradient of {<object> entry.key!r} must be an array or a number, "
                f"got {type(value).__name__}"
            )
        number = np.asarray(value)
        own_array(&entry.operands[GRAD], <PyObject*> number)
    g = <PyArrayObject*> entry.operands[GRAD].array
    if PyArray_DESCR(g).type_num != PyArray_DESCR(p).type_num:
        if not is_real(g):
            raise TypeError(
                f"gradient of {<object> entry.key!r} has dtype {(<object> g).dtype}, "
                "wants real numbers"
            )
    if not has_same_shape(g, p):
        raise ValueError(
            f"gradient of {<object> entry.key!r} has shape {(<object> g).shape}, "
            f"the parameter has shape {(<object> p).shape}"
        )
    return 0


cdef int check_state(Entry* entry, int k, str name) except -1:
    cdef PyObject* value = entry.operands[k].array
    cdef PyArrayObject* p = <PyArrayObject*> entry.operands[PARAM].array
    cdef PyArrayObject* s = <PyArrayObject*> value
    key = <object> entry.key
    if not is_array(value):
        kind = type(<object> value).__name__
        raise TypeError(f"state {name}[{key!r}] must be an array, got {kind}")
    if PyArray_DESCR(s).type_num != PyArray_DESCR(p).type_num or not has_same_shape(s, p):
        raise ValueError(
            f"state {name}[{key!r}] has shape {(<object> s).shape} and dtype {(<object> s).dtype}, "
            f"the parameter now has shape {(<object> p).shape} and dtype {(<object> p).dtype}; "
            f"delete the state of {key!r} to start it anew"
        )
    if not PyArray_FLAGS(s) & cnp.NPY_ARRAY_WRITEABLE:
        raise ValueError(f"state {name}[{key!r}] is read-only")
    return 0


cdef object new_state(Entry* entry, str name, owner):
    """Return a state of the shape, dtype and layout of p, as its owner says that it begins.

    Pages of zeros are first touched by the kernel.
    """
    cdef PyArrayObject* p = <PyArrayObject*> entry.operands[PARAM].array
    cdef bint fortran = PyArray_FLAGS(p) & CONTIGUOUS == cnp.NPY_ARRAY_F_CONTIGUOUS
    begins = 0.0 if owner is None else owner._beginning_of(name, <object> entry.key)
    state = cnp.PyArray_ZEROS(
        PyArray_NDIM(p), PyArray_DIMS(p), PyArray_DESCR(p).type_num, fortran
    )
    if begins is None:
        np.copyto(state, <object> p)
    elif begins or signbit(begins):
        state.fill(begins)
    return state


cdef int describe(Entry* entry, int n_operands) except -1:
    """Note all that a later step's arrays are compared with, and which need packed copies."""
    cdef PyArrayObject* p = <PyArrayObject*> entry.operands[PARAM].array
    cdef PyArrayObject* a
    cdef int type_num = PyArray_DESCR(p).type_num
    cdef int layout = PyArray_FLAGS(p) & CONTIGUOUS, d, k
    cdef Operand* operand
    if not layout:
        layout = cnp.NPY_ARRAY_C_CONTIGUOUS
    entry.is_double = type_num == cnp.NPY_FLOAT64
    entry.size = count(p)
    entry.ndim = PyArray_NDIM(p)
    entry.is_packed = False
    for d in range(min(entry.ndim, <int> MAX_KNOWN_NDIM)):
        entry.dims[d] = PyArray_DIMS(p)[d]
    for k in range(n_operands):
        operand = &entry.operands[k]
        a = <PyArrayObject*> operand.array
        find_bounds(a, &operand.low, &operand.high)
        operand.origin = entry.data[k] = <char*> PyArray_DATA(a)
        operand.flags = PyArray_FLAGS(a)
        operand.type_num = PyArray_DESCR(a).type_num
        operand.is_native = PyArray_ISNBO(PyArray_DESCR(a).byteorder)
        operand.descr = PyArray_DESCR(a) if PyArray_DESCR(a) in (FLOAT32, FLOAT64) else NULL
        for d in range(min(entry.ndim, <int> MAX_KNOWN_NDIM)):
            entry.strides[k][d] = PyArray_STRIDES(a)[d]
        operand.is_packed = (
            operand.flags & (layout | cnp.NPY_ARRAY_ALIGNED) != layout | cnp.NPY_ARRAY_ALIGNED
            or operand.type_num != type_num
            or not operand.is_native
            or entry.is_number and k >= STATE  # may yet have to stay as it is
        )
        if operand.is_packed:
            entry.is_packed = True
    entry.head = unaligned_head(entry)
    return 0


cdef bint is_same_place(
    const Entry* entry, const Entry* before, int k, const Operand* a, const cnp.npy_intp* strides,
) noexcept:
    """Tell whether an operand's elements are where an earlier description of it had them."""
    cdef const Operand* b = &entry.operands[k]
    cdef int d
    if a.low != b.low or a.high != b.high or a.origin != b.origin or a.type_num != b.type_num:
        return False
    if a.flags & CONTIGUOUS and b.flags & CONTIGUOUS:
        return True  # all that lies between the bounds
    if entry.ndim != before.ndim or entry.ndim > MAX_KNOWN_NDIM:
        return False
    for d in range(entry.ndim):
        if entry.dims[d] != before.dims[d] or entry.strides[k][d] != strides[d]:
            return False
    return True


cdef PyObject* packed(PyObject* a, bint is_double, PyArrayObject* p) except NULL:
    """Return a native copy of a, of a dtype and in the order of p, owned by the caller.

    The dtype is not asked of p: a subclass may answer anything.
    """
    order = "F" if PyArray_FLAGS(p) & CONTIGUOUS == cnp.NPY_ARRAY_F_CONTIGUOUS else "C"
    with np.errstate(all="ignore"):
        copy = np.array(<object> a, dtype=_float64 if is_double else _float32, order=order)
    Py_INCREF(copy)
    return <PyObject*> copy


cdef Py_ssize_t unaligned_head(Entry* entry) noexcept:
    """Return how many elements of a long parameter lie before its first whole cache line.

    malloc returns large arrays 16 bytes past one. Starting there makes every access of the widest
    registers straddle two lines, and loads wait for stores 4096 bytes away: up to twice the time
    with AVX-512 (bench/alignment.py).
    """
    cdef Py_ssize_t item = item_size(entry.is_double)
    if entry.size * item < MIN_ALIGNED_BYTES:
        return 0
    return (-<size_t> entry.data[PARAM]) % CACHE_LINE // item
