# A step: one call takes a whole dict of parameters through one rule. Formulas belong in
# kernels/rules.pxi, hyper-parameters in fastopt/optimizers.
#
# Stepper.step:  find all arrays: are they those of the last step?   (_entries; a few ns an array)
#                else check each that is not, its overlaps, plan    (_entries, _overlaps; can raise)
#                -> enter new states, rebind plain numbers, look once more (can raise)
#                -> kernels, on this thread or on the pool's         (no GIL if it is long)
#                -> copy back what was packed
#
# Mappings, keys and plain numbers can run code of the caller's, which can change anything: the last
# look, after which no such code runs, finds what no longer stands as it was checked. Plain numbers
# are computed and rebound before it, so that a mapping that refuses one leaves all as it was.
#
# Threads: a step claims its Stepper first and releases it last; if two steps overlap, the second
# one raises. Without a GIL the dicts could change while they are walked, and arrays in them vanish:
# there a step begins with copies of the dicts, which nobody else has.

from cpython.dict cimport PyDict_Copy
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cython cimport final
from fastopt._entries cimport PARAM, STATE, Entries, Entry
from fastopt._kernels cimport kernels
from fastopt._overlaps cimport check_gradient_overlap, check_overlaps
from fastopt._pool cimport Phase, claim, has_awake_worker, run, threads_of_a_call
from fastopt.atomic cimport load, shared_int, store, swap_if
from fastopt.debug cimport check_that
from fastopt.float_mode cimport FLUSH, float_mode, get_float_mode, set_float_mode
from fastopt.kernels.table cimport MAX_OPERANDS, Rule
from fastopt.ndarray cimport item_size
from libc.string cimport strcmp

import os
from contextlib import suppress

import numpy as np

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() noexcept

cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    #define FASTOPT_FREE_THREADED 1
    #elif !defined(FASTOPT_FREE_THREADED)  /* may be defined, to test that path with a GIL */
    #define FASTOPT_FREE_THREADED 0
    #endif
    """
    const bint FASTOPT_FREE_THREADED

cdef enum:
    # Elements of one job: some microseconds of work, and few enough for a core's own cache
    CHUNK = 16384
    # A step that moves fewer bytes stays on the calling thread. Measured with bench/threads.py on
    # two Zen 4 cores: Adam over 300,000 floats, 8.4 MB, takes 116 µs on one thread and 78 on two;
    # over half as many the two are equal, and SGD gains from about 15 MB on
    THREADING_BYTES = 8_000_000
    # The same where a worker is awake, as it is after the gradient of a net
    AWAKE_THREADING_BYTES = 1_000_000
    # One that moves fewer keeps the GIL: it is over sooner than another thread could take it up
    GIL_BYTES = 200_000

# The most steps that can be counted: from 2⁵³ on floats skip some whole numbers
cdef long long MAX_STEPS = (1 << 53) - 1

cdef struct Job:
    # a stretch of one entry
    const Entry* entry
    Py_ssize_t first
    Py_ssize_t size

cdef struct Work:
    # what a job needs to know of the step that it is part of
    const Rule* rule
    const double* rows
    const Job* jobs


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


# Names of coefficients and operands of every rule, as they stand beside its text.
rules = {
    kernels.rules[i].name.decode(): (
        tuple(kernels.rules[i].coefficients.decode().split()),
        tuple(kernels.rules[i].operands.decode().split()),
    )
    for i in range(kernels.n_rules)
}


@final
cdef class Stepper:
    """Takes the parameters of one optimizer through its rule, a call a step.

    Parameters
    ----------
    rule : str
        Name of the rule in kernels/rules.pxi.
    steps : int
        How many steps count as completed.
    """

    cdef const Rule* rule
    cdef readonly str rule_name
    cdef Entries entries       # what the step under way, or the last one, is over
    cdef shared_int n_steps    # completed
    cdef shared_int n_known    # those of them that needed no further check
    cdef shared_int n_checked  # entries that were checked, in all steps
    cdef shared_int busy       # the process generation in which a step began, or 0
    cdef unsigned long owner   # the thread that is in it
    cdef bint is_settled       # overlaps and plan are those of the entries as described
    cdef tuple given_rows      # of coefficients
    cdef double* rows          # and as the kernels read them
    cdef Py_ssize_t n_rows
    cdef Py_ssize_t rows_capacity
    cdef Py_ssize_t bytes_moved
    cdef Job* jobs             # of the step under way, if it is for several threads
    cdef Py_ssize_t n_jobs
    cdef Py_ssize_t jobs_capacity

    def __cinit__(self, str rule, long long steps=0):
        self.rule = find_rule(rule)
        self.rule_name = rule
        self.entries = Entries(rules[rule][1][STATE:])
        self.n_steps = steps

    def __dealloc__(self):
        PyMem_Free(self.rows)
        PyMem_Free(self.jobs)

    def __reduce__(self):
        return Stepper, (self.rule_name, self.steps)

    @property
    def steps(self):
        """How many steps have been completed."""
        return load(&self.n_steps)

    @property
    def known_steps(self):
        """How many of them needed no further check."""
        return load(&self.n_known)

    @property
    def checked_entries(self):
        """How many parameters have been checked, in all steps."""
        return load(&self.n_checked)

    def set_steps(self, long long steps):
        """Set how many steps count as completed."""
        self.begin()
        store(&self.n_steps, steps)
        store(&self.busy, 0)

    def forget(self):
        """Check every parameter anew in the next step, and find its row of coefficients."""
        self.begin()
        self.entries.forget()
        store(&self.busy, 0)

    def step(
        self, params, grads, tuple states, tuple rows, long long as_of, bint flush, owner=None,
    ):
        """Update all parameters and states in place.

        Parameters
        ----------
        params, grads : mapping
            What `update` of the optimizers takes.
        states : tuple of dict
            One for each state of the rule; entries for new keys are added.
        rows : tuple of tuple of float
            Rows of coefficients, each in the order in which the rule reads them.
        as_of : int
            How many steps had been completed when the coefficients were computed; negative if they
            don't depend on it. It is an error if another thread has completed one since.
        flush : bool
            Whether the kernels flush subnormal numbers.
        owner : optional
            Says of a new key, by ``_beginning_of(state, key)``, how a state begins (a number, or
            None for a copy of the parameter), and by ``_row_of(key)`` which row is its; zeros and
            the first row without one.
        """
        cdef float_mode mode = get_float_mode() | FLUSH if flush else get_float_mode()
        self.begin()
        try:
            if 0 <= as_of != load(&self.n_steps):
                raise_busy()
            if load(&self.n_steps) >= MAX_STEPS:
                raise ValueError(
                    f"iter must be a whole number from 0 to 2**53 - 1, got {self.steps + 1}"
                )
            if rows is not self.given_rows:
                self.set_rows(rows)
            if len(states) != len(self.entries.state_names):
                raise TypeError(f"rule {self.rule_name} has states {self.entries.state_names}")
            self.take(params, grads, states, owner, mode)
            store(&self.n_steps, load(&self.n_steps) + 1)
        finally:
            if self.entries.owns_references:
                self.entries.release()
            store(&self.busy, 0)

    cdef int begin(self) except -1:
        """Refuse a step within a step, unless that one was left behind in a parent process."""
        cdef long long before = swap_if(&self.busy, 0, generation)
        if before != 0:
            if self.is_under_way(before) or swap_if(&self.busy, before, generation) != before:
                raise_busy()
            self.entries.owns_references = False  # they are a thread's that does not exist here
            self.entries.forget()
        self.owner = PyThread_get_thread_ident()
        return 0

    cdef bint is_under_way(self, long long began) noexcept:
        """Tell whether a step that began in a generation is one of this process."""
        return began == generation or (
            self.owner == forking_thread and began >= forked_since
        )

    cdef int set_rows(self, tuple rows) except -1:
        """Copy the coefficients, which the kernels read without the GIL."""
        cdef Py_ssize_t n = self.rule.n_coefficients, i
        cdef double* to
        self.given_rows = None
        if not rows:
            raise TypeError("a step wants one row of coefficients at least")
        if len(rows) * n > self.rows_capacity:
            to = <double*> PyMem_Realloc(self.rows, len(rows) * n * sizeof(double))
            if to == NULL:
                raise MemoryError()
            self.rows, self.rows_capacity = to, len(rows) * n
        to = self.rows
        for row in rows:
            if len(<tuple?> row) != n:
                raise TypeError(f"rule {self.rule_name} wants {rules[self.rule_name][0]}")
            for i in range(n):
                to[i] = (<tuple> row)[i]
            to += n
        if len(rows) != self.n_rows:
            self.entries.forget()  # which row is whose
        self.given_rows, self.n_rows = rows, len(rows)
        return 0

    cdef int take(self, params, grads, tuple states, owner, float_mode mode) except -1:
        """Update all, once everything is known or checked."""
        cdef Py_ssize_t n_unknown
        cdef bint is_new
        seen_params, seen_grads, seen_states = params, grads, states
        if FASTOPT_FREE_THREADED:
            seen_params = PyDict_Copy(params) if type(params) is dict else params
            seen_grads = PyDict_Copy(grads) if type(grads) is dict else grads
            seen_states = tuple([
                PyDict_Copy(state) if isinstance(state, dict) else state for state in states
            ])
        n_unknown = self.entries.find(seen_params, seen_grads, seen_states)
        is_new = n_unknown or self.entries.has_other_members or not self.is_settled
        if is_new:
            self.settle(seen_states, owner)
        if is_new or self.entries.has_packed:
            self.settle_dicts(params, states, mode)
        self.execute(mode)
        if self.entries.has_packed:
            self.entries.copy_back()
        if n_unknown == 0:
            store(&self.n_known, load(&self.n_known) + 1)
        return 0

    cdef int settle(self, tuple states, owner) except -1:
        """Check what was not recognised, and plan; nothing is written."""
        cdef Entries entries = self.entries
        cdef Py_ssize_t i
        cdef bint moved = entries.has_other_members or not self.is_settled
        cdef bint has_packed = False
        if not entries.owns_references:
            entries.own()
        self.is_settled = False
        for i in range(entries.n):
            if not entries.items[i].is_known:
                moved |= entries.check(i, states, owner, self.n_rows, self.rule.n_coefficients)
                store(&self.n_checked, load(&self.n_checked) + 1)
            has_packed |= entries.items[i].is_packed  # of a frozen one, too: it may thaw
        if moved:
            check_overlaps(entries)
        else:
            for i in range(entries.n):
                if not entries.items[i].is_known:
                    check_gradient_overlap(entries, i)
        self.plan()
        entries.has_packed, entries.has_other_members = has_packed, False
        self.is_settled = True
        return 0

    cdef int plan(self) except -1:
        """Cut the entries into jobs, or into none if the step is too small for several threads."""
        cdef Entries entries = self.entries
        cdef Py_ssize_t i, first, size, n = 0
        cdef const Entry* entry
        self.n_jobs = self.bytes_moved = 0
        for i in range(entries.n):
            entry = &entries.items[i]
            if not entry.is_frozen:
                n += entry.size // CHUNK + 1
                self.bytes_moved += entry.size * item_size(entry.is_double)
        # each element of p and of the states is read and written, of g read
        self.bytes_moved *= 2 * self.rule.n_operands - 1
        if self.bytes_moved < AWAKE_THREADING_BYTES:
            return 0
        if n > self.jobs_capacity:
            jobs = <Job*> PyMem_Realloc(self.jobs, n * sizeof(Job))
            if jobs == NULL:
                raise MemoryError()
            self.jobs, self.jobs_capacity = jobs, n
        for i in range(entries.n):
            entry = &entries.items[i]
            if entry.is_frozen or entry.is_number:
                continue
            first = 0
            while first < entry.size:
                size = min(CHUNK + (entry.head if first == 0 else 0), entry.size - first)
                check_that(self.n_jobs < self.jobs_capacity)
                self.jobs[self.n_jobs] = Job(entry, first, size)
                self.n_jobs += 1
                first += size
        return 0

    cdef int settle_dicts(self, params, tuple states, float_mode mode) except -1:
        """Write into dicts and mappings, and look once more; after an error, take it all back."""
        cdef Py_ssize_t n_rebound = 0
        sizes = [len(state) for state in states]
        try:
            self.enter_new_states(states)
            self.rebind_numbers(params, mode, &n_rebound)
            self.entries.check_unchanged()
            self.entries.pack_arrays()
        except BaseException:
            for state, size in zip(states, sizes):
                while len(state) > size:
                    state.popitem()  # the last one entered; compares no keys
            self.restore_numbers(params, n_rebound)
            raise
        return 0

    cdef int enter_new_states(self, tuple states) except -1:
        cdef Py_ssize_t i
        cdef int k
        cdef Entry* entry
        for i in range(self.entries.n):
            entry = &self.entries.items[i]
            if entry.is_frozen or entry.is_known:
                continue
            for k in range(STATE, self.rule.n_operands):
                if entry.new_states >> k & 1:
                    states[k - STATE][<object> entry.key] = <object> entry.operands[k].array
        return 0

    cdef int rebind_numbers(self, params, float_mode mode, Py_ssize_t* n_rebound) except -1:
        """Take plain numbers through the rule, on copies, and replace them in the mapping."""
        cdef Py_ssize_t i
        cdef Entry* entry
        for i in range(self.entries.n):
            entry = &self.entries.items[i]
            if entry.is_frozen or not entry.is_number:
                continue
            key, value = <object> entry.key, <object> entry.value
            if not hasattr(params, "__setitem__"):
                raise TypeError(
                    f"parameter {key!r} is a plain number, which can't be replaced in a "
                    f"{type(params).__name__}"
                )
            self.run_entry(entry, mode)
            array = <object> entry.operands[PARAM].array
            n_rebound[0] = i + 1
            params[key] = array[()] if issubclass(type(value), np.generic) else array.item()
        return 0

    cdef int restore_numbers(self, params, Py_ssize_t n_rebound) except -1:
        """Bind the first numbers to what they were, as far as the mapping takes it."""
        cdef Py_ssize_t i
        cdef Entry* entry
        for i in range(n_rebound):
            entry = &self.entries.items[i]
            if entry.is_number and not entry.is_frozen:
                with suppress(Exception):
                    params[<object> entry.key] = <object> entry.value
        return 0

    cdef int execute(self, float_mode mode) except -1:
        """Call the kernels: here and now if that is short, else without the GIL."""
        cdef Work work
        cdef Phase phase
        cdef int n_threads = 1
        cdef bint is_awake
        cdef float_mode before
        check_that(self.entries.is_consistent())
        if self.bytes_moved < GIL_BYTES:
            self.run_all(mode)
            return 0
        if not self.entries.owns_references:
            self.entries.own()
        work = Work(self.rule, self.rows, self.jobs)
        phase = Phase(run_job, self.n_jobs, False)
        is_awake = has_awake_worker()
        if self.n_jobs > 1 and (is_awake or self.bytes_moved >= THREADING_BYTES):
            n_threads = claim(threads_of_a_call())
        with nogil:
            if n_threads > 1:
                before = get_float_mode()
                set_float_mode(mode)  # the workers take it over
                run(n_threads, &work, &phase, 1, is_awake)
                set_float_mode(before)
            else:
                self.run_all(mode)
        return 0

    cdef void run_all(self, float_mode mode) noexcept nogil:
        """Take every array through the rule on the calling thread."""
        cdef Py_ssize_t i
        cdef const Entry* entry
        cdef float_mode before = get_float_mode()
        if mode != before:
            set_float_mode(mode)
        for i in range(self.entries.n):
            entry = &self.entries.items[i]
            if not (entry.is_frozen or entry.is_number):
                call_kernel(self.rule, self.rows, entry, 0, entry.size)
        if mode != before:
            set_float_mode(before)

    cdef void run_entry(self, const Entry* entry, float_mode mode) noexcept nogil:
        """Take one entry through the rule."""
        cdef float_mode before = get_float_mode()
        set_float_mode(mode)
        call_kernel(self.rule, self.rows, entry, 0, entry.size)
        set_float_mode(before)


cdef int raise_busy() except -1:
    raise RuntimeError("this optimizer is in the middle of another update")


cdef const Rule* find_rule(str name) except NULL:
    cdef int i
    cdef bytes wanted = name.encode()
    for i in range(kernels.n_rules):
        if strcmp(kernels.rules[i].name, wanted) == 0:
            return &kernels.rules[i]
    raise ValueError(f"there is no rule {name!r}")


cdef void run_job(void* context, Py_ssize_t job, int _thread) noexcept nogil:
    cdef Work* work = <Work*> context
    cdef const Job* j = &work.jobs[job]
    call_kernel(work.rule, work.rows, j.entry, j.first, j.size)


cdef inline void call_kernel(
    const Rule* rule, const double* rows, const Entry* entry, Py_ssize_t first, Py_ssize_t size,
) noexcept nogil:
    """Take a stretch of an entry through the rule, the elements before alignment by themselves."""
    cdef const double* c = rows + entry.row
    check_that(first >= 0)
    check_that(size >= 0)
    check_that(size <= entry.size - first)
    if first == 0 and entry.head == 0:
        call_kernel_at(rule, c, entry, size, entry.data)
        return
    if first == 0:
        call_kernel_at(rule, c, entry, entry.head, entry.data)
        first = entry.head
        size -= entry.head
    call_kernel_from(rule, c, entry, first, size)


cdef void call_kernel_from(
    const Rule* rule, const double* c, const Entry* entry, Py_ssize_t first, Py_ssize_t size,
) noexcept nogil:
    cdef char* a[MAX_OPERANDS]
    cdef Py_ssize_t offset = first * item_size(entry.is_double)
    cdef int k
    for k in range(rule.n_operands):
        a[k] = entry.data[k] + offset
    call_kernel_at(rule, c, entry, size, a)


cdef inline void call_kernel_at(
    const Rule* rule, const double* c, const Entry* entry, Py_ssize_t size, char** a,
) noexcept nogil:
    if entry.is_double:
        rule.float64(c, size, <double**> a)
    else:
        rule.float32(c, size, <float**> a)
