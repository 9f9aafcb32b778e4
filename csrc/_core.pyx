# The core: one call takes a whole dict of parameters through one rule. It checks every array before
# the first write, raises every error, finds the pointers and calls the kernels with the GIL
# released. Formulas belong in rules.pxi, hyper-parameters in fastopt/optimizers.py.
#
# Stepper.step:  is it the last step again?                       (GIL, a few ns an array)
#                else gather -> check each entry -> check overlaps
#                -> cut into jobs
#                -> enter new states, rebind plain numbers
#                -> look once more: does all stand as it was checked?  (GIL, can raise)
#                -> kernels, on this thread or on the pool's      (no GIL if it is long)
#                -> copy back what was packed                     (GIL)
#
# An entry is one parameter with its operands: the parameter, its gradient, its states. Where all of
# them are native arrays of one dtype, one shape and one contiguous layout, the kernel works on them
# directly. Where one is not (strided, unaligned, byte-swapped, another dtype, a plain number), a
# packed copy stands in for it and is written back afterwards.
#
# Mappings, keys and plain numbers can run code of the caller's, which can change anything: a last
# look, after which no such code runs, finds what no longer stands as it was checked. Plain numbers
# are computed and rebound before that, so that a mapping that refuses one leaves all as it was.
#
# The entries outlive the step. A later step over arrays of the same memory, shape, dtype and flags
# needs no further check, whichever objects they are: `is_known_step` compares just that, on the
# objects that the dicts hold now. It runs no Python code and takes no references.
#
# Threads: a step claims its Stepper first and gives it back last, so that of two at once one is an
# error. Without a GIL the dicts could change while they are walked, and arrays in them vanish:
# there a step begins with copies of the dicts, which nobody else has.

from atomic cimport load, shared_int, store, swap_if
from cpython.dict cimport (
    PyDict_Copy,
    PyDict_GetItemWithError,
    PyDict_Next,
    PyDict_SetItem,
    PyDict_Size,
)
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport Py_INCREF, Py_XDECREF, Py_XINCREF, PyObject
from float_mode cimport CAN_FLUSH, FLUSH, float_mode, get_float_mode, set_float_mode
from kernel_table cimport MAX_COEFFICIENTS, MAX_STATES, KernelTable, Rule
from libc.stdlib cimport qsort
from libc.string cimport memcmp, memset, strcmp
from pool_api cimport Phase, PoolApi

import os
from collections.abc import Mapping
from contextlib import suppress

cimport numpy as cnp

import numpy as np

from fastopt import _instruction_sets, _overlaps, _pool

cnp.import_array()

cdef extern from "numpy/arrayobject.h" nogil:
    # NumPy's accessors on bare pointers: no reference is counted on the way to a field
    ctypedef struct PyArrayObject:
        pass
    ctypedef struct PyArray_Descr:
        int type_num
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

cdef extern from "assert.h" nogil:
    # C's own: aborts in a debug build (setup.py), costs nothing in any other
    void check_that "assert"(bint) noexcept

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject*) noexcept
    bint PyUnicode_CheckExact(PyObject*) noexcept
    int PyUnicode_Compare(PyObject*, PyObject*) noexcept
    unsigned long PyThread_get_thread_ident() noexcept

cdef extern from *:
    """
    #if defined(__clang__)
    #define FASTOPT_COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
    #define FASTOPT_COMPILER "gcc " __VERSION__
    #elif defined(_MSC_VER)
    #define FASTOPT_STR_(x) #x
    #define FASTOPT_STR(x) FASTOPT_STR_(x)
    #define FASTOPT_COMPILER "msvc " FASTOPT_STR(_MSC_VER)
    #else
    #define FASTOPT_COMPILER "unknown"
    #endif
    #ifdef Py_GIL_DISABLED
    #define FASTOPT_FREE_THREADED 1
    #elif !defined(FASTOPT_FREE_THREADED)  /* may be defined, to test that path with a GIL */
    #define FASTOPT_FREE_THREADED 0
    #endif
    """
    const char* FASTOPT_COMPILER
    const bint FASTOPT_FREE_THREADED

compiler = FASTOPT_COMPILER.decode()

cdef const KernelTable* kernel_table = <const KernelTable*> PyCapsule_GetPointer(
    _instruction_sets.kernels.table, "fastopt.kernel_table"
)

cdef const PoolApi* pool = <const PoolApi*> PyCapsule_GetPointer(_pool.api, "fastopt.pool_api")

cdef enum:
    # Elements of one job: some microseconds of work, and few enough for a core's own cache
    CHUNK = 16384
    # A step that moves fewer bytes stays on the calling thread. Measured with bench/threads.py on
    # two Zen 4 cores: Adam over 300,000 floats, 8.4 MB, takes 116 µs on one thread and 78 on two;
    # over half as many the two are equal, and SGD gains from some 15 MB on
    THREADING_BYTES = 8_000_000
    # The same where a worker is awake, as it is behind the gradient of a net
    AWAKE_THREADING_BYTES = 1_000_000
    # One that moves fewer keeps the GIL: it is over sooner than another thread could take it up
    GIL_BYTES = 200_000
    # The widest register and a cache line. Arrays of the system's own making begin 16 bytes into
    # one; stepping over them from there splits every access in two and makes loads wait for stores
    # 4096 bytes away: up to twice the time with AVX-512 (bench/alignment.py)
    ALIGNMENT = 64
    # Shorter arrays are not worth a second call
    MIN_ALIGNED_BYTES = 1024
    # Arrays of more dimensions are checked anew in each step
    MAX_KNOWN_NDIM = 4
    # Interleaved views are compared two by two, or all at once by their elements' addresses if
    # there are fewer elements for each pair than this: a pair takes about 2 µs, an element 0.1
    ELEMENTS_PER_PAIR = 20
    # So few pairs are compared two by two in any case
    FEW_PAIRS = 64

cdef enum:
    PARAM = 0  # the operands of an entry
    GRAD = 1
    STATE = 2
    MAX_OPERANDS = STATE + MAX_STATES

cdef struct Operand:
    PyObject* array   # the array to read or update; for a plain number its 0-d copy. Owned during a
    #                   checked step, borrowed during a known one, stale between steps
    PyObject* packed  # owned or NULL: the contiguous copy that stands in for it
    char* data        # what the kernel works on; for a state that the rule does not have, what it
    #                   never looks at
    char* low         # first byte it occupies in memory, and the one behind its last
    char* high
    int flags         # NumPy's

cdef struct Entry:
    PyObject* key     # owned or NULL, as the next
    PyObject* value   # what the mapping holds for the key
    Operand[MAX_OPERANDS] operands
    Py_ssize_t size
    Py_ssize_t head   # elements before the parameter's first aligned one
    int ndim
    cnp.npy_intp[MAX_KNOWN_NDIM] dims
    bint is_double
    bint is_number    # the mapping holds a plain number, to be rebound
    bint is_packed    # some operand has a packed copy
    bint[MAX_STATES] is_new_state

cdef struct Job:
    # a stretch of one entry
    Entry* entry
    Py_ssize_t first
    Py_ssize_t size

cdef struct Step:
    # what a job needs to know of the step that it is part of
    const Rule* rule
    const double* coefficients
    Job* jobs
    float_mode mode  # that of the calling thread, and perhaps flushing

cdef struct Span:
    # the memory of one array that a step writes
    char* low
    char* high
    char* reach       # the highest `high` of this span and of all sorted before it
    Py_ssize_t entry
    int operand


# Which process this is, counted in forks: of the threads that were in a step only the one that
# forked is there in the child. All of it is written where a process has one thread.
cdef long long generation = 1
cdef unsigned long forking_thread = 0
cdef long long forked_since = 0  # the generation from which on all forks were that thread's


def after_fork():
    """Begin anew in a forked child."""
    global generation, forking_thread, forked_since
    if PyThread_get_thread_ident() != forking_thread:
        forking_thread = PyThread_get_thread_ident()
        forked_since = generation
    generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=after_fork)


# Whether kernels flush subnormal numbers; a step reads it once.
cdef shared_int flushes = 0
can_flush_subnormals = bool(CAN_FLUSH)


def set_flush_subnormals(bint flush):
    """Set whether kernels flush subnormal numbers; fastopt/_subnormals.py checks that they can."""
    store(&flushes, flush)


def get_flush_subnormals():
    """Return whether kernels flush subnormal numbers."""
    return load(&flushes) != 0


cdef class Stepper:
    """Takes the parameters of one optimizer through its rule, a call a step.

    Parameters
    ----------
    rule : str
        Name of the rule in rules.pxi.
    state_names : tuple of str
        What the optimizer calls its state dicts; error messages name them.
    """

    cdef const Rule* rule
    cdef readonly str rule_name
    cdef readonly tuple state_names
    cdef int n_operands
    cdef shared_int n_steps    # completed
    cdef shared_int n_known    # those of them that needed no further check
    cdef shared_int busy       # the process generation in which a step began, or 0
    cdef unsigned long owner   # the thread that is in it
    cdef Entry* entries        # of the step under way, or the last one
    cdef Py_ssize_t n_entries
    cdef bint is_known         # the entries are those of a step that may be compared with
    cdef bint owns_references  # the entries hold references
    cdef Py_ssize_t bytes_moved
    cdef Py_ssize_t capacity
    cdef Job* jobs             # of the step under way, if it is for several threads
    cdef Py_ssize_t n_jobs
    cdef Py_ssize_t jobs_capacity
    cdef Span* written         # of the last step whose overlaps were checked, sorted
    cdef Py_ssize_t n_written
    cdef bint is_disjoint      # no two of `written` have overlapping bounds

    def __cinit__(self, str rule, tuple state_names, long long steps=0):
        self.rule = find_rule(rule)
        if len(state_names) != self.rule.n_states:
            raise ValueError(f"rule {rule} has {self.rule.n_states} states, not {state_names}")
        self.rule_name = rule
        self.state_names = state_names
        self.n_operands = STATE + self.rule.n_states
        self.n_steps = steps

    def __dealloc__(self):
        PyMem_Free(self.entries)
        PyMem_Free(self.jobs)
        PyMem_Free(self.written)

    def __reduce__(self):
        return Stepper, (self.rule_name, self.state_names, self.steps)

    @property
    def steps(self):
        """How many steps have been completed."""
        return load(&self.n_steps)

    @property
    def known_steps(self):
        """How many of them needed no further check."""
        return load(&self.n_known)

    def set_steps(self, long long steps):
        """Set how many steps count as completed."""
        self.claim()
        store(&self.n_steps, steps)
        store(&self.busy, 0)

    def step(self, params, grads, tuple states, tuple coefficients, long long steps=-1):
        """Update all parameters and states in place.

        Parameters
        ----------
        params, grads : mapping
            What `update` of the optimizers takes.
        states : tuple of dict
            One for each of `state_names`; entries for new keys are added, as zeros.
        coefficients : tuple of float
            In the order in which the rule reads them.
        steps : int, optional
            How many steps had been completed when the coefficients were computed, if they depend
            on it. It is an error if another thread has completed one since.
        """
        cdef double[MAX_COEFFICIENTS] c
        cdef Py_ssize_t i
        if len(coefficients) != self.rule.n_coefficients or len(states) != self.rule.n_states:
            raise TypeError(f"rule {self.rule_name} was called with the wrong number of arguments")
        for i in range(len(coefficients)):
            c[i] = coefficients[i]
        self.claim()
        try:
            if steps >= 0 and steps != load(&self.n_steps):
                raise_busy()
            self.take(params, grads, states, c)
            store(&self.n_steps, load(&self.n_steps) + 1)
        finally:
            if self.owns_references:
                self.release()
            store(&self.busy, 0)

    cdef int claim(self) except -1:
        """Refuse a step within a step, unless that one was left behind in a parent process."""
        cdef long long before = swap_if(&self.busy, 0, generation)
        if before == 0:
            self.owner = PyThread_get_thread_ident()
            return 0
        if self.is_under_way(before) or swap_if(&self.busy, before, generation) != before:
            raise_busy()
        self.owner = PyThread_get_thread_ident()
        self.n_entries = 0  # its references are those of a thread that does not exist here
        self.is_known = self.owns_references = False
        return 0

    cdef bint is_under_way(self, long long began) noexcept:
        """Tell whether a step that began in a generation is one of this process."""
        return began == generation or (
            self.owner == forking_thread and began >= forked_since
        )

    cdef int take(self, params, grads, tuple states, const double* c) except -1:
        """Update all, once everything is known or checked."""
        seen_params, seen_grads, seen_states = params, grads, states
        if FASTOPT_FREE_THREADED:
            seen_params = PyDict_Copy(params) if type(params) is dict else params
            seen_grads = PyDict_Copy(grads) if type(grads) is dict else grads
            seen_states = tuple([
                PyDict_Copy(state) if isinstance(state, dict) else state for state in states
            ])
        if self.is_known_step(seen_params, seen_grads, seen_states):
            self.execute(c)
            store(&self.n_known, load(&self.n_known) + 1)
            return 0
        self.check_step(seen_params, seen_grads, seen_states)
        self.settle_dicts(params, states, c)
        self.is_known = self.is_disjoint and self.is_plain()
        self.execute(c)
        self.copy_back()
        return 0

    cdef int check_step(self, params, grads, tuple states) except -1:
        """Find and check all that a step reads and writes; nothing is written."""
        self.is_known = False
        self.n_entries = 0
        self.owns_references = True
        self.gather(params)
        self.check(self.gradients(grads), states)
        self.check_overlaps()
        self.cut_into_jobs()
        return 0

    cdef int execute(self, const double* c) except -1:
        """Call the kernels: here and now if that is short, else without the GIL."""
        cdef Step context
        cdef Phase phase
        cdef int n_threads
        cdef bint is_awake
        cdef float_mode mode = self.mode()
        check_that(self.is_consistent())
        if self.bytes_moved < GIL_BYTES:
            self.run(c, mode)
            return 0
        if not self.owns_references:
            self.own_references()
        check_that(self.owns_references)
        context = Step(self.rule, c, self.jobs, mode)
        phase = Phase(run_job, self.n_jobs, False)
        is_awake = pool.is_awake()
        n_threads = 1
        if self.n_jobs > 1 and (is_awake or self.bytes_moved >= THREADING_BYTES):
            n_threads = pool.claim(pool.threads())
        with nogil:
            if n_threads > 1:
                pool.run(n_threads, &context, &phase, 1, is_awake)
            else:
                self.run(c, mode)
        return 0

    cdef bint is_consistent(self) noexcept:
        """Tell whether what the kernels are about to touch is what the arrays occupy."""
        cdef Py_ssize_t i, extent
        cdef int k
        cdef Entry* entry
        cdef Operand* operand
        for i in range(self.n_entries):
            entry = &self.entries[i]
            extent = entry.size * (8 if entry.is_double else 4)
            for k in range(self.n_operands):
                operand = &entry.operands[k]
                if operand.array == NULL or Py_REFCNT(operand.array) <= 0:
                    return False
                if operand.packed == NULL and (
                    operand.low != operand.data or operand.high != operand.data + extent
                ):
                    return False
        return True

    cdef bint is_plain(self) noexcept:
        """Tell whether the entries can be recognised in a later step."""
        cdef Py_ssize_t i
        cdef Entry* entry
        for i in range(self.n_entries):
            entry = &self.entries[i]
            if entry.is_number or entry.is_packed or entry.ndim > MAX_KNOWN_NDIM:
                return False
        return self.n_entries > 0

    cdef bint is_known_step(self, params, grads, tuple states) noexcept:
        """Tell whether a step is over the same memory as the last one; find its arrays if so.

        The dicts are walked side by side: their keys must be the same objects, or equal strings, in
        the same order. A parameter whose gradient is None has no entry, and no state if it never
        had another gradient.
        """
        cdef Py_ssize_t i = 0, at_param = 0, at_grad = 0
        cdef Py_ssize_t[MAX_STATES] at_state
        cdef int k
        cdef PyObject* key
        cdef PyObject* param
        cdef PyObject* array
        cdef Entry* entry
        if not self.is_known or type(params) is not dict or type(grads) is not dict:
            return False
        for k in range(self.rule.n_states):
            at_state[k] = 0
            if type(states[k]) is not dict:
                return False
        while PyDict_Next(params, &at_param, &key, &param):
            array = next_value(grads, &at_grad, key)
            if array == <PyObject*> None:
                continue
            if array == NULL or i == self.n_entries:
                return False
            entry = &self.entries[i]
            if not is_known_operand(entry, PARAM, param) or not (
                is_known_operand(entry, GRAD, array) or self.is_new_gradient(entry, array)
            ):
                return False
            for k in range(self.rule.n_states):
                array = next_value(states[k], &at_state[k], key)
                if array == NULL or not is_known_operand(entry, STATE + k, array):
                    return False
            i += 1
        return i == self.n_entries

    cdef bint is_new_gradient(self, Entry* entry, PyObject* array) noexcept:
        """Tell whether a gradient is like the last but for its memory, which nothing writes to."""
        cdef Operand* g = &entry.operands[GRAD]
        cdef Py_ssize_t j
        cdef char* data
        if not PyArray_CheckExact(array):
            return False
        data = <char*> PyArray_DATA(<PyArrayObject*> array)
        j = self.first_reaching_beyond(data)
        if j < self.n_written and self.written[j].low < data + (g.high - g.low):
            return False
        g.high += data - g.low
        g.low = g.data = data
        return is_known_operand(entry, GRAD, array)

    cdef void own_references(self) noexcept:
        """Hold on to the arrays of a known step: without the GIL others may let go of them."""
        cdef Py_ssize_t i
        cdef int k
        for i in range(self.n_entries):
            for k in range(self.n_operands):
                Py_XINCREF(self.entries[i].operands[k].array)
        self.owns_references = True

    cdef int gather(self, params) except -1:
        """Make an entry of every item; no Python code runs while the dict is walked."""
        cdef dict items
        if type(params) is dict:
            items = params
        else:
            items = dict(as_mapping("params", params).items())
        cdef PyObject* key
        cdef PyObject* value
        cdef Py_ssize_t position = 0
        cdef Entry* entry
        self.reserve(PyDict_Size(items))
        while PyDict_Next(items, &position, &key, &value):
            check_that(self.n_entries < self.capacity)
            entry = &self.entries[self.n_entries]
            self.n_entries += 1
            memset(entry, 0, sizeof(Entry))
            Py_XINCREF(key)
            entry.key = key
            Py_XINCREF(value)
            entry.value = value
        return 0

    cdef dict gradients(self, grads):
        """Return the gradients as an exact dict; another mapping is asked for each parameter's."""
        cdef Py_ssize_t i
        if type(grads) is dict:
            return grads
        as_mapping("grads", grads)
        keys = [<object> self.entries[i].key for i in range(self.n_entries)]
        return {key: grads[key] for key in keys if key in grads}

    cdef int reserve(self, Py_ssize_t n) except -1:
        if n <= self.capacity:
            return 0
        entries = <Entry*> PyMem_Realloc(self.entries, n * sizeof(Entry))
        if entries == NULL:
            raise MemoryError()
        self.entries = entries
        written = <Span*> PyMem_Realloc(
            self.written, n * (1 + self.rule.n_states) * sizeof(Span)
        )
        if written == NULL:
            raise MemoryError()
        self.written = written
        self.capacity = n
        return 0

    cdef int check(self, dict grads, tuple states) except -1:
        """Check every entry; drop those whose gradient is None."""
        cdef Py_ssize_t i, kept = 0
        cdef PyObject* grad
        cdef Entry* entry
        for i in range(self.n_entries):
            entry = &self.entries[i]
            grad = PyDict_GetItemWithError(grads, <object> entry.key)
            if grad == NULL:
                raise_missing_gradient(<object> entry.key, grads)
            if grad == <PyObject*> None:
                release_entry(entry)
                continue
            set_array(&entry.operands[GRAD], grad)
            if kept != i:
                self.entries[kept] = entry[0]
                memset(entry, 0, sizeof(Entry))
            self.check_entry(&self.entries[kept], states)
            kept += 1
        self.n_entries = kept
        return 0

    cdef int check_entry(self, Entry* entry, tuple states) except -1:
        cdef int k
        cdef PyObject* state
        check_parameter(entry)
        check_gradient(entry)
        for k in range(self.rule.n_states):
            if not isinstance(states[k], dict):
                raise TypeError(
                    f"state {self.state_names[k]} must be a dict, got {type(states[k]).__name__}"
                )
            state = PyDict_GetItemWithError(states[k], <object> entry.key)
            if state == NULL:
                new = zeros_like(<PyArrayObject*> entry.operands[PARAM].array)
                set_array(&entry.operands[STATE + k], <PyObject*> new)
                entry.is_new_state[k] = True
            else:
                set_array(&entry.operands[STATE + k], state)
                check_state(entry, k, self.state_names[k])
        self.settle_layout(entry)
        return 0

    cdef int settle_layout(self, Entry* entry) except -1:
        """Give every operand that the kernel can't take as it is a packed copy."""
        cdef PyArrayObject* p = <PyArrayObject*> entry.operands[PARAM].array
        cdef PyArrayObject* a
        cdef int type_num = PyArray_DESCR(p).type_num
        cdef int layout, k
        if PyArray_FLAGS(p) & (cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_F_CONTIGUOUS):
            layout = PyArray_FLAGS(p) & (
                cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_F_CONTIGUOUS
            )
        else:
            layout = cnp.NPY_ARRAY_C_CONTIGUOUS
        entry.is_double = type_num == cnp.NPY_FLOAT64
        entry.size = count(p)
        entry.ndim = PyArray_NDIM(p)
        for k in range(min(entry.ndim, <int> MAX_KNOWN_NDIM)):
            entry.dims[k] = PyArray_DIMS(p)[k]
        for k in range(self.n_operands):
            a = <PyArrayObject*> entry.operands[k].array
            find_bounds(a, &entry.operands[k].low, &entry.operands[k].high)
            entry.operands[k].flags = PyArray_FLAGS(a)
            if (
                PyArray_FLAGS(a) & (layout | cnp.NPY_ARRAY_ALIGNED)
                != layout | cnp.NPY_ARRAY_ALIGNED
                or not is_native(a, type_num)
                or entry.is_number and k >= STATE  # may yet have to stay as it is
            ):
                entry.operands[k].packed = pack(a, p, layout)
                entry.is_packed = True
                a = <PyArrayObject*> entry.operands[k].packed
            entry.operands[k].data = <char*> PyArray_DATA(a)
        for k in range(self.n_operands, <int> MAX_OPERANDS):
            entry.operands[k].data = entry.operands[PARAM].data
        entry.head = unaligned_head(entry)
        return 0

    cdef int check_overlaps(self) except -1:
        """Refuse arrays whose update would depend on the order in which they are updated."""
        cdef Py_ssize_t i
        cdef int k
        for i in range(self.n_entries):
            for k in range(self.n_operands):
                if k != GRAD:
                    self.check_own_overlap(i, k)
        if not self.has_same_spans():
            self.n_written = 0  # nothing is known until all of the following has passed
            self.collect_spans()
        self.check_gradient_overlaps()
        return 0

    cdef bint has_same_spans(self) noexcept:
        """Tell whether this step writes the memory that the last one was found disjoint in."""
        cdef Py_ssize_t i, n_each = 1 + self.rule.n_states
        cdef Span* span
        cdef Operand* operand
        if not self.is_disjoint or self.n_written != self.n_entries * n_each:
            return False
        for i in range(self.n_written):
            span = &self.written[i]
            operand = &self.entries[span.entry].operands[span.operand]
            if operand.low != span.low or operand.high != span.high:
                return False
        return True

    cdef int collect_spans(self) except -1:
        """Sort what is written by address and check that no two arrays share memory."""
        cdef Py_ssize_t i, j, n = 0
        cdef int k
        cdef Operand* operand
        cdef Span* span
        self.is_disjoint = True
        for i in range(self.n_entries):
            for k in range(self.n_operands):
                if k == GRAD:
                    continue
                operand = &self.entries[i].operands[k]
                check_that(n < self.capacity * (1 + self.rule.n_states))
                self.written[n] = Span(operand.low, operand.high, NULL, i, k)
                n += 1
        if n > 1:
            qsort(self.written, n, sizeof(Span), compare_spans)
        for i in range(n):
            span = &self.written[i]
            span.reach = span.high
            if i > 0:
                span.reach = max(span.high, self.written[i - 1].reach)
        i = 0
        while i < n:
            j = i + 1
            while j < n and self.written[j].low < self.written[j - 1].reach:
                j += 1
            if j - i > 1:
                self.is_disjoint = False
                self.check_interleaved(i, j)
            i = j
        self.n_written = n
        return 0

    cdef int check_interleaved(self, Py_ssize_t first, Py_ssize_t end) except -1:
        """Refuse spans that share memory among some whose bounds overlap."""
        cdef Py_ssize_t i, j, pairs = (end - first) * (end - first - 1) // 2
        if pairs > FEW_PAIRS and self.elements_of(first, end) < pairs * ELEMENTS_PER_PAIR:
            found = _overlaps.within(self.written_arrays(first, end))
            if found is not None:
                self.raise_written_overlap(first + found[0], first + found[1])
            return 0
        for i in range(first, end):
            j = i + 1
            while j < end and self.written[j].low < self.written[i].high:
                if self.share_memory(self.array_of(i), self.array_of(j)):
                    self.raise_written_overlap(i, j)
                j += 1
        return 0

    cdef list written_arrays(self, Py_ssize_t first, Py_ssize_t end):
        return [np.asarray(<object> self.array_of(i)) for i in range(first, end)]

    cdef PyObject* array_of(self, Py_ssize_t i) noexcept:
        """Return the array of a span."""
        return self.entries[self.written[i].entry].operands[self.written[i].operand].array

    cdef Py_ssize_t elements_of(self, Py_ssize_t first, Py_ssize_t end) noexcept:
        cdef Py_ssize_t i, n = 0
        for i in range(first, end):
            n += self.entries[self.written[i].entry].size
        return n

    cdef int check_own_overlap(self, Py_ssize_t i, int k) except -1:
        """Refuse an array two of whose elements are one place in memory."""
        if has_own_overlap(<PyArrayObject*> self.entries[i].operands[k].array):
            raise ValueError(f"elements of {self.name_of(i, k)} overlap in memory")
        return 0

    cdef int check_gradient_overlaps(self) except -1:
        """Refuse a gradient in memory that the step writes, unless it is its own parameter."""
        cdef Py_ssize_t i, j, first = self.n_written, end = 0, pairs = 0, elements = 0
        cdef Operand* g
        near = []  # gradients that lie within the bounds of something written
        for i in range(self.n_entries):
            g = &self.entries[i].operands[GRAD]
            j = self.first_reaching_beyond(g.low)
            if j == self.n_written or self.written[j].low >= g.high or self.is_own_gradient(i):
                continue
            near.append(i)
            elements += self.entries[i].size
            first = min(first, j)
            while j < self.n_written and self.written[j].low < g.high:
                j += 1
                pairs += 1
            end = max(end, j)
        if pairs > FEW_PAIRS and (
            elements + self.elements_of(first, end) < pairs * ELEMENTS_PER_PAIR
        ):
            found = _overlaps.between(
                self.written_arrays(first, end),
                [np.asarray(<object> self.entries[i].operands[GRAD].array) for i in near],
            )
            if found is not None:
                self.raise_gradient_overlap(first + found[0], near[found[1]])
            return 0
        for i in near:
            g = &self.entries[i].operands[GRAD]
            j = self.first_reaching_beyond(g.low)
            while j < self.n_written and self.written[j].low < g.high:
                if self.written[j].high > g.low and self.share_memory(g.array, self.array_of(j)):
                    self.raise_gradient_overlap(j, i)
                j += 1
        return 0

    cdef Py_ssize_t first_reaching_beyond(self, char* address) noexcept:
        """Return the first of the sorted spans that, or one before it, ends beyond an address."""
        cdef Py_ssize_t low = 0, high = self.n_written, middle
        while low < high:
            middle = (low + high) // 2
            if self.written[middle].reach > address:
                high = middle
            else:
                low = middle + 1
        return low

    cdef bint is_own_gradient(self, Py_ssize_t i) noexcept:
        """Tell whether parameter and gradient are one array, which the kernels allow."""
        cdef Entry* entry = &self.entries[i]
        cdef PyArrayObject* p = <PyArrayObject*> entry.operands[PARAM].array
        cdef PyArrayObject* g = <PyArrayObject*> entry.operands[GRAD].array
        return (
            PyArray_DATA(p) == PyArray_DATA(g)
            and PyArray_DESCR(p).type_num == PyArray_DESCR(g).type_num
            and has_same_steps(p, g)
        )

    cdef bint share_memory(self, PyObject* a, PyObject* b) except -1:
        try:  # as plain arrays: a subclass may have an answer of its own
            return np.shares_memory(
                np.asarray(<object> a), np.asarray(<object> b), max_work=10**6
            )
        except np.exceptions.TooHardError:
            return True  # strides too intricate to tell apart are refused

    cdef int raise_written_overlap(self, Py_ssize_t i, Py_ssize_t j) except -1:
        cdef Span a = self.written[i], b = self.written[j]
        if (b.entry, b.operand) < (a.entry, a.operand):
            a, b = b, a
        raise ValueError(
            f"{self.name_of(a.entry, a.operand)} and {self.name_of(b.entry, b.operand)} "
            "overlap in memory"
        )

    cdef int raise_gradient_overlap(self, Py_ssize_t j, Py_ssize_t i) except -1:
        cdef Span a = self.written[j]
        raise ValueError(
            f"{self.name_of(a.entry, a.operand)} and {self.name_of(i, GRAD)} overlap in memory"
        )

    cdef str name_of(self, Py_ssize_t i, int k):
        key = <object> self.entries[i].key
        if k == PARAM:
            return f"parameter {key!r}"
        if k == GRAD:
            return f"the gradient of {key!r}"
        return f"state {self.state_names[k - STATE]}[{key!r}]"

    cdef int settle_dicts(self, params, tuple states, const double* c) except -1:
        """Write into dicts and mappings, and look once more; after an error, take it all back."""
        cdef Py_ssize_t n_rebound = 0
        sizes = [len(state) for state in states]
        try:
            self.enter_new_states(states)
            self.rebind_numbers(params, c, &n_rebound)
            self.check_unchanged()
        except BaseException:
            self.restore_numbers(params, n_rebound)
            for state, size in zip(states, sizes):
                while len(state) > size:
                    state.popitem()  # the last one entered; compares no keys
            raise
        return 0

    cdef int enter_new_states(self, tuple states) except -1:
        cdef Py_ssize_t i
        cdef int k
        cdef Entry* entry
        for i in range(self.n_entries):
            entry = &self.entries[i]
            for k in range(self.rule.n_states):
                if entry.is_new_state[k]:
                    PyDict_SetItem(
                        states[k], <object> entry.key, <object> entry.operands[STATE + k].array
                    )
        return 0

    cdef int rebind_numbers(self, params, const double* c, Py_ssize_t* n_rebound) except -1:
        """Take plain numbers through the rule, on copies, and replace them in the mapping."""
        cdef Py_ssize_t i
        cdef Entry* entry
        for i in range(self.n_entries):
            entry = &self.entries[i]
            if not entry.is_number:
                continue
            key, value = <object> entry.key, <object> entry.value
            if not hasattr(params, "__setitem__"):
                raise TypeError(
                    f"parameter {key!r} is a plain number, which can't be replaced in a "
                    f"{type(params).__name__}"
                )
            self.run_entry(entry, c, self.mode())
            array = <object> entry.operands[PARAM].array
            n_rebound[0] = i + 1
            params[key] = array[()] if issubclass(type(value), np.generic) else array.item()
        return 0

    cdef int restore_numbers(self, params, Py_ssize_t n_rebound) except -1:
        """Bind the first numbers to what they were, as far as the mapping takes it."""
        cdef Py_ssize_t i
        for i in range(n_rebound):
            if self.entries[i].is_number:
                with suppress(Exception):
                    params[<object> self.entries[i].key] = <object> self.entries[i].value
        return 0

    cdef int check_unchanged(self) except -1:
        """Find what code of the caller's has changed since it was checked; none runs after this."""
        cdef Py_ssize_t i
        cdef int k
        for i in range(self.n_entries):
            for k in range(self.n_operands):
                if not is_unchanged(&self.entries[i], k):
                    raise RuntimeError(f"{self.name_of(i, k)} was changed while it was checked")
        return 0

    cdef int cut_into_jobs(self) except -1:
        """Cut the entries into jobs, or into none if the step is too small for several threads."""
        cdef Py_ssize_t i, first, size, n = 0
        cdef Entry* entry
        self.n_jobs = self.bytes_moved = 0
        for i in range(self.n_entries):
            entry = &self.entries[i]
            n += entry.size // CHUNK + 1
            self.bytes_moved += entry.size * (8 if entry.is_double else 4)
        # each element of p and of the states is read and written, of g read
        self.bytes_moved *= 3 + 2 * self.rule.n_states
        if self.bytes_moved < AWAKE_THREADING_BYTES:
            return 0
        if n > self.jobs_capacity:
            jobs = <Job*> PyMem_Realloc(self.jobs, n * sizeof(Job))
            if jobs == NULL:
                raise MemoryError()
            self.jobs, self.jobs_capacity = jobs, n
        for i in range(self.n_entries):
            entry = &self.entries[i]
            if entry.is_number:
                continue
            first = 0
            while first < entry.size:
                size = min(CHUNK + (entry.head if first == 0 else 0), entry.size - first)
                check_that(self.n_jobs < self.jobs_capacity)
                self.jobs[self.n_jobs] = Job(entry, first, size)
                self.n_jobs += 1
                first += size
        return 0

    cdef float_mode mode(self) noexcept:
        """Return the float mode that the kernels compute in."""
        return get_float_mode() | FLUSH if load(&flushes) else get_float_mode()

    cdef void run_entry(self, Entry* entry, const double* c, float_mode mode) noexcept nogil:
        """Take one entry through the rule."""
        cdef float_mode before = get_float_mode()
        if mode != before:
            set_float_mode(mode)
        call_kernel(self.rule, c, entry, 0, entry.size)
        if mode != before:
            set_float_mode(before)

    cdef void run(self, const double* c, float_mode mode) noexcept nogil:
        """Take every array through the rule on the calling thread."""
        cdef Py_ssize_t i
        cdef float_mode before = get_float_mode()
        if mode != before:
            set_float_mode(mode)
        for i in range(self.n_entries):
            if not self.entries[i].is_number:
                call_kernel(self.rule, c, &self.entries[i], 0, self.entries[i].size)
        if mode != before:
            set_float_mode(before)

    cdef int copy_back(self) except -1:
        """Copy packed operands to where they came from."""
        cdef Py_ssize_t i
        cdef int k
        cdef Operand* operand
        for i in range(self.n_entries):
            if self.entries[i].is_packed:
                for k in range(self.n_operands):
                    operand = &self.entries[i].operands[k]
                    if operand.packed != NULL and k != GRAD:
                        cnp.PyArray_CopyInto(
                            <cnp.ndarray> operand.array, <cnp.ndarray> operand.packed
                        )
        return 0

    cdef void release(self) noexcept:
        cdef Py_ssize_t i
        for i in range(self.n_entries):
            release_entry(&self.entries[i])
        self.owns_references = False


cdef int raise_busy() except -1:
    raise RuntimeError("this optimizer is in the middle of another update")


cdef inline PyObject* next_value(dict items, Py_ssize_t* position, PyObject* key) noexcept:
    """Return the next value of a dict if it stands under the given key, else NULL."""
    cdef PyObject* own_key
    cdef PyObject* value
    if PyDict_Next(items, position, &own_key, &value) and (
        own_key == key
        or PyUnicode_CheckExact(own_key) and PyUnicode_CheckExact(key)
        and PyUnicode_Compare(own_key, key) == 0
    ):
        return value
    return NULL


cdef inline bint is_known_operand(Entry* entry, int k, PyObject* array) noexcept:
    """Tell whether an array has the memory, shape, dtype and flags that were checked; keep it."""
    cdef PyArrayObject* a = <PyArrayObject*> array
    cdef Operand* operand = &entry.operands[k]
    cdef int d
    if (
        not PyArray_CheckExact(array)
        or <char*> PyArray_DATA(a) != operand.data
        or PyArray_FLAGS(a) != operand.flags
        or not is_native(a, cnp.NPY_FLOAT64 if entry.is_double else cnp.NPY_FLOAT32)
        or PyArray_NDIM(a) != entry.ndim
    ):
        return False
    for d in range(entry.ndim):
        if PyArray_DIMS(a)[d] != entry.dims[d]:
            return False
    operand.array = array
    return True


cdef void run_job(void* context, Py_ssize_t job, int _thread) noexcept nogil:
    """Do one job as the calling thread would: in its float mode, whatever this thread's own is."""
    cdef Step* step = <Step*> context
    cdef Job* j = &step.jobs[job]
    cdef float_mode before = get_float_mode()
    set_float_mode(step.mode)
    call_kernel(step.rule, step.coefficients, j.entry, j.first, j.size)
    set_float_mode(before)


cdef inline void call_kernel(
    const Rule* rule, const double* c, Entry* entry, Py_ssize_t first, Py_ssize_t size,
) noexcept nogil:
    """Take a stretch of an entry through the rule, the elements before alignment by themselves."""
    if first == 0 and entry.head:
        call_kernel_at(rule, c, entry, 0, entry.head)
        first = entry.head
        size -= entry.head
    call_kernel_at(rule, c, entry, first, size)


cdef inline void call_kernel_at(
    const Rule* rule, const double* c, Entry* entry, Py_ssize_t first, Py_ssize_t size,
) noexcept nogil:
    cdef Operand* o = entry.operands
    check_that(first >= 0)
    check_that(size >= 0)
    check_that(size <= entry.size - first)
    if entry.is_double:
        rule.float64(
            c, size,
            <double*> o[PARAM].data + first, <double*> o[GRAD].data + first,
            <double*> o[STATE].data + first, <double*> o[STATE + 1].data + first,
        )
    else:
        rule.float32(
            c, size,
            <float*> o[PARAM].data + first, <float*> o[GRAD].data + first,
            <float*> o[STATE].data + first, <float*> o[STATE + 1].data + first,
        )


cdef const Rule* find_rule(str name) except NULL:
    cdef int i
    cdef bytes wanted = name.encode()
    for i in range(kernel_table.n_rules):
        if strcmp(kernel_table.rules[i].name, wanted) == 0:
            return &kernel_table.rules[i]
    raise ValueError(f"there is no rule {name!r}")


cdef object as_mapping(str name, mapping):
    if not isinstance(mapping, Mapping):
        raise TypeError(
            f"{name} must be a mapping of names to arrays, got {type(mapping).__name__}"
        )
    return mapping


cdef int raise_missing_gradient(key, dict grads) except -1:
    raise KeyError(
        f"no gradient for parameter {key!r}; grads has {', '.join(map(repr, grads)) or 'no keys'}"
    )


cdef int check_parameter(Entry* entry) except -1:
    """Find the array to update; it is a new one, 0-d, for a plain number."""
    cdef PyObject* value = entry.value
    cdef PyArrayObject* p
    if is_array(value):
        set_array(&entry.operands[PARAM], value)
    else:
        entry.is_number = True
        number = number_as_array(<object> entry.key, <object> value)
        set_array(&entry.operands[PARAM], <PyObject*> number)
    p = <PyArrayObject*> entry.operands[PARAM].array
    if PyArray_DESCR(p).type_num not in (cnp.NPY_FLOAT32, cnp.NPY_FLOAT64):
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
    if cnp.PyArray_CheckExact(<object> value):
        return True
    return cnp.PyArray_Check(<object> value) and not isinstance(<object> value, np.ma.MaskedArray)


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
        set_array(&entry.operands[GRAD], <PyObject*> number)
    g = <PyArrayObject*> entry.operands[GRAD].array
    if PyArray_DESCR(g).type_num != PyArray_DESCR(p).type_num:
        if (<object> g).dtype.kind not in "fiub":
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
    cdef PyObject* value = entry.operands[STATE + k].array
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
            f"delete the state of {key!r} to start it at zero"
        )
    if not PyArray_FLAGS(s) & cnp.NPY_ARRAY_WRITEABLE:
        raise ValueError(f"state {name}[{key!r}] is read-only")
    return 0


cdef inline bint is_native(PyArrayObject* a, int type_num) noexcept:
    """Tell whether an array is of a dtype, in this machine's byte order.

    The descriptor itself is no mark of it: one that was let go of may lie where another one lay.
    """
    cdef PyArray_Descr* descr = PyArray_DESCR(a)
    return descr.type_num == type_num and PyArray_ISNBO(descr.byteorder)


cdef bint has_same_shape(PyArrayObject* a, PyArrayObject* b) noexcept:
    cdef int ndim = PyArray_NDIM(a)
    return ndim == PyArray_NDIM(b) and is_same(PyArray_DIMS(a), PyArray_DIMS(b), ndim)


cdef bint has_same_steps(PyArrayObject* a, PyArrayObject* b) noexcept:
    """Tell whether arrays of one shape have the same strides wherever they take a step."""
    cdef int d
    for d in range(PyArray_NDIM(a)):
        if PyArray_DIMS(a)[d] > 1 and PyArray_STRIDES(a)[d] != PyArray_STRIDES(b)[d]:
            return False
    return True


cdef bint is_same(const cnp.npy_intp* a, const cnp.npy_intp* b, int n) noexcept:
    """Compare dimensions; those of a 0-d array are NULL, which memcmp may not be given."""
    return n == 0 or memcmp(a, b, n * sizeof(cnp.npy_intp)) == 0


cdef Py_ssize_t count(PyArrayObject* a) noexcept:
    """Return the number of elements."""
    cdef Py_ssize_t n = 1
    cdef int d
    for d in range(PyArray_NDIM(a)):
        n *= PyArray_DIMS(a)[d]
    return n


cdef object zeros_like(PyArrayObject* p):
    """Return zeros of the shape, dtype and layout of p; pages are first touched by the kernel."""
    cdef bint fortran = not PyArray_FLAGS(p) & cnp.NPY_ARRAY_C_CONTIGUOUS and (
        PyArray_FLAGS(p) & cnp.NPY_ARRAY_F_CONTIGUOUS
    )
    return cnp.PyArray_ZEROS(PyArray_NDIM(p), PyArray_DIMS(p), PyArray_DESCR(p).type_num, fortran)


cdef PyObject* pack(PyArrayObject* a, PyArrayObject* p, int layout) except NULL:
    """Return a new native array of the dtype of p with the contents of a, owned by the caller."""
    order = "C" if layout & cnp.NPY_ARRAY_C_CONTIGUOUS else "F"
    with np.errstate(all="ignore"):
        packed = np.array(<object> a, dtype=(<object> p).dtype.newbyteorder("="), order=order)
    Py_INCREF(packed)
    return <PyObject*> packed


cdef Py_ssize_t unaligned_head(Entry* entry) noexcept:
    """Return how many elements of the parameter lie before its first aligned one, if it is long."""
    cdef Py_ssize_t item = 8 if entry.is_double else 4
    if entry.size * item < MIN_ALIGNED_BYTES:
        return 0
    return (-<size_t> entry.operands[PARAM].data) % ALIGNMENT // item


cdef void set_array(Operand* operand, PyObject* array) noexcept:
    """Make an array, or what is yet to be checked as one, the operand's own."""
    Py_XINCREF(array)
    Py_XDECREF(operand.array)
    operand.array = array


cdef void find_bounds(PyArrayObject* a, char** low, char** high) noexcept:
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


cdef bint is_unchanged(Entry* entry, int k) noexcept:
    """Tell whether an operand's array still has the memory, shape, dtype and flags it had."""
    cdef Operand* operand = &entry.operands[k]
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
        or operand.packed == NULL
        and not is_native(a, cnp.NPY_FLOAT64 if entry.is_double else cnp.NPY_FLOAT32)
    ):
        return False
    for d in range(min(entry.ndim, <int> MAX_KNOWN_NDIM)):
        if PyArray_DIMS(a)[d] != entry.dims[d]:
            return False
    return True


cdef bint has_own_overlap(PyArrayObject* a) noexcept:
    """Tell whether elements of an array may share memory.

    They don't if each stride steps over all that the smaller strides reach; strides of any other
    kind count as overlapping.
    """
    cdef int ndim = PyArray_NDIM(a), d, e
    cdef cnp.npy_intp stride, reach
    if PyArray_FLAGS(a) & (cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_F_CONTIGUOUS):
        return False
    for d in range(ndim):
        if PyArray_DIMS(a)[d] < 2:
            continue
        stride = abs(PyArray_STRIDES(a)[d])
        reach = 0
        for e in range(ndim):
            if e != d and PyArray_DIMS(a)[e] > 1 and is_smaller(a, e, d):
                reach += (PyArray_DIMS(a)[e] - 1) * abs(PyArray_STRIDES(a)[e])
        if stride < reach + PyArray_ITEMSIZE(a):
            return True
    return False


cdef bint is_smaller(PyArrayObject* a, int d, int e) noexcept:
    """Order dimensions by stride, equal ones by number."""
    cdef cnp.npy_intp s = abs(PyArray_STRIDES(a)[d]), t = abs(PyArray_STRIDES(a)[e])
    return s < t or (s == t and d < e)


cdef int compare_spans(const void* a, const void* b) noexcept nogil:
    """Order spans by where they begin, and an empty one before another that begins there."""
    cdef const Span* x = <const Span*> a
    cdef const Span* y = <const Span*> b
    if x.low != y.low:
        return 1 if x.low > y.low else -1
    return (x.high > y.high) - (x.high < y.high)


cdef void release_entry(Entry* entry) noexcept:
    """Give the references back; what was found of the arrays stays, to be compared with."""
    cdef int k
    Py_XDECREF(entry.key)
    Py_XDECREF(entry.value)
    entry.key = entry.value = NULL
    for k in range(MAX_OPERANDS):
        Py_XDECREF(entry.operands[k].array)
        Py_XDECREF(entry.operands[k].packed)
        entry.operands[k].array = entry.operands[k].packed = NULL
