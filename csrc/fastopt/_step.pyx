# A step: one call takes a whole dict of parameters through one rule. Formulas belong in
# kernels/rules.pxi, hyper-parameters in fastopt/optimizers.
#
# Stepper.step:  find all arrays: are they those of the last step?   (_entries; a few ns an array)
#                else check each that is not, its overlaps, plan    (_entries, _overlaps; can raise)
#                -> measure gradients, where a step is decided by them; the owner decides
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
from fastopt._entries cimport GRAD, PARAM, STATE, Entries, Entry
from fastopt._kernels cimport kernels
from fastopt._overlaps cimport check_gradient_overlap, check_overlaps
from fastopt._pool cimport Phase, claim, has_awake_worker, run, threads_of_a_call
from fastopt.atomic cimport load, shared_int, store, swap_if
from fastopt.debug cimport check_that
from fastopt.float_mode cimport FLUSH, float_mode, get_float_mode, set_float_mode
from fastopt.kernels.table cimport (
    BLOCK,
    MAX_OPERANDS,
    Bare,
    Options,
    Rule,
    WithAverage,
    WithOptions,
)
from fastopt.ndarray cimport item_size
from libc.math cimport INFINITY, isfinite, sqrt
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

cdef struct Block:
    # one whose squares are added in one go, and what was found
    const Entry* entry
    Py_ssize_t first
    Py_ssize_t size
    double squares
    bint is_finite

cdef struct Row:
    # options of a group, for each variant; neutral ones change no bit
    WithOptions with_options
    WithAverage with_average
    bint is_neutral

cdef struct Work:
    # what a job needs to know of the step that it is part of
    const Rule* rule
    const double* rows
    const Job* jobs
    Block* blocks
    const Row* options  # NULL: all are neutral
    int sum             # the operand to which gradients are added, or NO_SUM
    bint adds           # and that is all
    bint has_average
    bint is_measured
    bint is_plain       # none of these

cdef enum:
    NO_SUM = 0

cdef Bare BARE = Bare(0)
cdef Row NEUTRAL = as_row(Options(1.0, INFINITY, 0.0, 1.0, -INFINITY, INFINITY), 0.0, True)


cdef Row as_row(Options options, double one_minus_ema, bint is_neutral) noexcept nogil:
    return Row(WithOptions(options), WithAverage(options, one_minus_ema), is_neutral)


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
cdef class Setup:
    """What a step is, beside parameters, gradients and numbers; never changed.

    Parameters
    ----------
    states : tuple of dict
        One for each state of the rule, then the averages and the sums, if there are any; entries
        for new keys are added.
    has_average, has_sums : bool
        Whether averages are kept, and gradients summed over several calls.
    adds : bool
        Whether the call is no step yet: it adds its gradients to the sums.
    measures : bool
        Whether the owner decides by the gradients, by ``_decide(total, bad, squares)``, what they
        are multiplied with; None is no step.
    has_groups : bool
        Whether the owner says of each key which row is its, by ``_row_of(key)``, -1 for one that is
        left alone, and of all keys whether they will do, by ``_check_groups(keys)``.
    calls : int
        With sums: how many calls had added to them when this was made. It is an error if another
        thread has made one since.
    """

    cdef readonly tuple states
    cdef readonly bint has_average
    cdef readonly bint has_sums
    cdef readonly bint adds
    cdef readonly bint measures
    cdef readonly bint has_groups
    cdef readonly long long calls

    def __cinit__(
        self, tuple states, bint has_average=False, bint has_sums=False, bint adds=False,
        bint measures=False, bint has_groups=False, long long calls=0,
    ):
        self.states = states
        self.has_average, self.has_sums, self.adds = has_average, has_sums, adds
        self.measures, self.has_groups, self.calls = measures, has_groups, calls

    def __reduce__(self):
        return Setup, (
            self.states, self.has_average, self.has_sums, self.adds, self.measures,
            self.has_groups, self.calls,
        )


@final
cdef class Following:
    """What gives the numbers of each step anew, where they follow from how many there were.

    Parameters
    ----------
    rows : tuple of object
        Each holds the hyper-parameters and options of a row, as attributes.
    schedules : tuple of (callable, float, float, str, tuple of object, callable)
        What returns a number for t completed steps; floats from here to below there are taken as
        they are; the attribute that it becomes, and of which rows; what makes of another thing, and
        t, a number, or raises an error.
    finish : callable or None
        Called with t once the attributes are set.
    compute : callable
        Returns the coefficients of a row, for it and the step counted from 1.
    option_row : callable or None
        Returns the options of a row, for it and 1; None where they stay the same.
    """

    cdef readonly tuple rows
    cdef readonly tuple schedules
    cdef readonly object finish
    cdef readonly object compute
    cdef readonly object option_row

    def __cinit__(self, tuple rows, tuple schedules, finish, compute, option_row):
        self.rows, self.schedules = rows, schedules
        self.finish, self.compute, self.option_row = finish, compute, option_row

    def __reduce__(self):
        raise TypeError("it follows from an optimizer's settings, which are copied")

    cdef int follow(self, long long t) except -1:
        """Set the rows to their numbers after t steps."""
        cdef double least, below
        for number_at, least, below, name, rows, checked in self.schedules:
            number = number_at(t)
            if type(number) is not float or not least <= <double> number < below:
                number = checked(number, t)
            for row in <tuple> rows:
                setattr(row, name, number)
        if self.finish is not None:
            self.finish(t)
        return 0


@final
cdef class Stepper:
    """Takes the parameters of one optimizer through its rule, a call a step.

    Parameters
    ----------
    rule : str
        Name of the rule in kernels/rules.pxi.
    steps, calls : int
        How many steps count as completed, and how many calls since have added their gradients.
    """

    cdef const Rule* rule
    cdef readonly str rule_name
    cdef Entries entries       # what the step under way, or the last one, is over
    cdef shared_int n_steps    # completed
    cdef shared_int n_calls    # since, which have added their gradients
    cdef shared_int n_known    # those of them that needed no further check
    cdef shared_int n_checked  # entries that were checked, in all steps
    cdef public bint flushes   # subnormal numbers, whatever the caller of a step says
    cdef shared_int busy       # the process generation in which a step began, or 0
    cdef unsigned long owner   # the thread that is in it
    cdef bint is_settled       # overlaps and plan are those of the entries as described
    cdef Setup setup           # that the entries were found for
    cdef Work work             # of the step under way
    cdef tuple given_rows      # of coefficients
    cdef double* rows          # and as the kernels read them
    cdef Py_ssize_t n_rows
    cdef Py_ssize_t rows_capacity
    cdef tuple given_options   # of the rows
    cdef Row* options          # and as the kernels read them
    cdef Py_ssize_t n_options  # as many as rows, or none
    cdef Py_ssize_t options_capacity
    cdef Py_ssize_t bytes_moved
    cdef Job* jobs             # of the step under way, if it is for several threads
    cdef Py_ssize_t n_jobs
    cdef Py_ssize_t jobs_capacity
    cdef Block* blocks         # likewise, if it is measured
    cdef Py_ssize_t blocks_capacity

    def __cinit__(self, str rule, long long steps=0, long long calls=0):
        self.rule = find_rule(rule)
        self.rule_name = rule
        self.entries = Entries(rules[rule][1][STATE:])
        self.n_steps, self.n_calls = steps, calls
        self.work.rule = self.rule
        self.given_options = ()

    def __dealloc__(self):
        PyMem_Free(self.rows)
        PyMem_Free(self.options)
        PyMem_Free(self.jobs)
        PyMem_Free(self.blocks)

    def __reduce__(self):
        return Stepper, (self.rule_name, self.steps, self.calls)

    @property
    def steps(self):
        """How many steps have been completed."""
        return load(&self.n_steps)

    @property
    def calls(self):
        """How many calls since the last step have added their gradients."""
        return load(&self.n_calls)

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

    def set_calls(self, long long calls):
        """Set how many calls have added their gradients."""
        self.begin()
        store(&self.n_calls, calls)
        store(&self.busy, 0)

    def forget(self):
        """Check every parameter anew in the next step, and find its row of coefficients."""
        self.begin()
        self.entries.forget()
        store(&self.busy, 0)

    def step(
        self, params, grads, Setup setup not None, rows, long long as_of, bint flush, owner=None,
        tuple options not None=(),
    ):
        """Update all parameters and states in place.

        Parameters
        ----------
        params, grads : mapping
            What `update` of the optimizers takes.
        setup : Setup
            States, and what kind of step it is.
        rows : tuple of tuple of float, or Following
            Rows of coefficients, each in the order in which the rule reads them.
        as_of : int
            How many steps had been completed when the coefficients were computed; negative if they
            don't depend on it. It is an error if another thread has completed one since.
        flush : bool
            Whether the kernels flush subnormal numbers.
        owner : optional
            Says of a new key, by ``_beginning_of(state, key)``, how a state begins (a number, or
            None for a copy of the parameter), and by ``_row_of(key)`` which row is its, where there
            are several; zeros and the first row without one.
        options : tuple of (tuple of float or None)
            For each row of coefficients: scale, limit, decay, shrink, low, high, 1 - ema; None
            where all are neutral. Empty where all rows' are. Those of a `Following` go before.

        Returns
        -------
        None, float or False
            Where gradients were measured, their norm; False if the owner has decided against the
            step, with which nothing has changed.
        """
        cdef float_mode mode = get_float_mode()
        if flush or self.flushes:
            mode |= FLUSH
        self.begin()
        try:
            if 0 <= as_of != load(&self.n_steps):
                raise_busy()
            if setup.has_sums and setup.calls != load(&self.n_calls):
                raise_busy()
            if load(&self.n_steps) >= MAX_STEPS:
                raise ValueError(
                    f"iter must be a whole number from 0 to 2**53 - 1, got {self.steps + 1}"
                )
            if type(rows) is Following:
                self.follow(<Following> rows, options)
            else:
                if rows is not self.given_rows:
                    self.set_rows(rows)
                if options is not self.given_options:
                    self.set_options(options)
            if self.n_options not in (0, self.n_rows):
                raise TypeError(f"{self.n_rows} rows want options each, or none at all")
            if setup is not self.setup:
                self.set_up(setup)
            norm = self.take(params, grads, owner, mode)
            if norm is False:
                pass
            elif setup.adds:
                store(&self.n_calls, load(&self.n_calls) + 1)
            else:
                store(&self.n_calls, 0)
                store(&self.n_steps, load(&self.n_steps) + 1)
        finally:
            if self.entries.owns_references:
                self.entries.release()
            store(&self.busy, 0)
        return norm

    cdef int set_up(self, Setup setup) except -1:
        """Follow another setup; entries that have other operands are found anew."""
        cdef tuple names = rules[self.rule_name][1][STATE:]
        self.setup = None
        if setup.has_average:
            names += ("average",)
        if setup.has_sums:
            names += ("accumulated",)
        if len(setup.states) != len(names):
            raise TypeError(f"rule {self.rule_name} has states {names}")
        if names != self.entries.state_names:
            self.entries, self.is_settled = Entries(names), False
        self.work.has_average, self.work.adds = setup.has_average, setup.adds
        self.work.sum = self.entries.n_operands - 1 if setup.has_sums else NO_SUM
        self.work.is_measured = setup.measures
        if not setup.measures:
            self.set_factors(1.0)
        self.setup = setup
        return 0

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

    cdef int follow(self, Following rows, tuple options) except -1:
        """Set the numbers of the step after those that were."""
        cdef Py_ssize_t i
        cdef long long t = load(&self.n_steps)
        rows.follow(t)
        self.given_rows = None
        self.reserve_rows(len(rows.rows))
        for i in range(self.n_rows):
            self.set_row(i, rows.compute(rows.rows[i], <double> t + 1))
        if rows.option_row is None:
            if options is not self.given_options:
                self.set_options(options)
            return 0
        self.given_options = None
        self.reserve_options(self.n_rows)
        for i in range(self.n_rows):
            self.set_option_row(i, rows.option_row(rows.rows[i], 1))
        return 0

    cdef int set_rows(self, tuple rows) except -1:
        """Copy the coefficients, which the kernels read without the GIL."""
        cdef Py_ssize_t i
        self.given_rows = None
        if not rows:
            raise TypeError("a step wants one row of coefficients at least")
        self.reserve_rows(len(rows))
        for i in range(self.n_rows):
            self.set_row(i, rows[i])
        self.given_rows = rows
        return 0

    cdef int reserve_rows(self, Py_ssize_t n) except -1:
        cdef double* to
        if n > self.rows_capacity:
            to = <double*> PyMem_Realloc(self.rows, n * self.rule.n_coefficients * sizeof(double))
            if to == NULL:
                raise MemoryError()
            self.rows, self.rows_capacity = to, n
        if n != self.n_rows:
            self.entries.forget()  # which row is whose
        self.n_rows = n
        return 0

    cdef int set_row(self, Py_ssize_t i, tuple row) except -1:
        cdef Py_ssize_t k, n = self.rule.n_coefficients
        if row is None or len(row) != n:
            raise TypeError(f"rule {self.rule_name} wants {rules[self.rule_name][0]}")
        for k in range(n):
            self.rows[i * n + k] = row[k]
        return 0

    cdef int set_options(self, tuple options) except -1:
        """Copy the options of the rows."""
        cdef Py_ssize_t i
        self.given_options = None
        self.reserve_options(len(options))
        for i in range(self.n_options):
            self.set_option_row(i, options[i])
        self.given_options = options
        return 0

    cdef int reserve_options(self, Py_ssize_t n) except -1:
        cdef Row* to
        if n > self.options_capacity:
            to = <Row*> PyMem_Realloc(self.options, n * sizeof(Row))
            if to == NULL:
                raise MemoryError()
            self.options, self.options_capacity = to, n
        self.n_options = n
        return 0

    cdef int set_option_row(self, Py_ssize_t i, tuple row) except -1:
        cdef double scale, limit, decay, shrink, low, high, one_minus_ema
        self.options[i] = NEUTRAL
        if row is not None:
            scale, limit, decay, shrink, low, high, one_minus_ema = row
            self.options[i] = as_row(
                Options(scale, limit, decay, shrink, low, high), one_minus_ema, False
            )
        return 0

    cdef object take(self, params, grads, owner, float_mode mode):
        """Update all, once everything is known or checked."""
        cdef Py_ssize_t n_unknown
        cdef bint is_new
        cdef tuple states = self.setup.states
        norm = None
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
            self.settle(params, seen_states, owner)
        self.work.rows, self.work.jobs = self.rows, self.jobs
        self.work.options = self.options if self.n_options else NULL
        self.work.is_plain = self.work.options == NULL and not (
            self.setup.has_sums or self.setup.measures
        )
        if self.setup.measures:
            norm = self.measure(owner, mode)
            if norm is False:
                return norm
        if is_new or self.entries.has_packed:
            self.settle_dicts(params, states, mode)
        elif self.setup.measures:
            self.entries.check_unchanged()
        self.execute(mode)
        if self.entries.has_packed:
            self.entries.copy_back(self.work.sum if self.work.adds else PARAM)
        if n_unknown == 0:
            store(&self.n_known, load(&self.n_known) + 1)
        return norm

    cdef int settle(self, params, tuple states, owner) except -1:
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
                moved |= entries.check(i, states, owner, self.n_rows, self.setup.has_groups)
                store(&self.n_checked, load(&self.n_checked) + 1)
            has_packed |= entries.items[i].is_packed  # of a frozen one, too: it may thaw
            if (
                entries.items[i].is_number and not entries.items[i].is_frozen
                and not hasattr(params, "__setitem__")
            ):
                raise TypeError(
                    f"parameter {<object> entries.items[i].key!r} is a plain number, which can't "
                    f"be replaced in a {type(params).__name__}"
                )
        if self.setup.has_groups and owner is not None:
            owner._check_groups(entries.keys)
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
        self.bytes_moved *= 2 * entries.n_operands - 1
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

    cdef object measure(self, owner, float_mode mode):
        """Measure all gradients; return their norm once the owner has decided, False for no step.

        Nothing of the caller's is written.
        """
        cdef Entries entries = self.entries
        cdef Py_ssize_t i, k = 0
        cdef double total = 0
        cdef Entry* entry
        cdef Phase phase
        bad = None
        if not entries.owns_references:
            entries.own()
        entries.pack_gradients(self.work.sum != NO_SUM)
        phase = Phase(measure_block, &self.work, self.cut_blocks(), False, NULL)
        self.work.blocks = self.blocks
        if phase.n_jobs > 0:
            self.run_jobs(&phase, self.bytes_measured(), mode, False)
        for i in range(entries.n):
            entry = &entries.items[i]
            if entry.is_frozen:
                continue
            entry.squares = 0
            while k < phase.n_jobs and self.blocks[k].entry == entry:
                entry.squares += self.blocks[k].squares
                if bad is None and not self.blocks[k].is_finite:
                    bad = (<object> entry.key,)
                k += 1
            total += entry.squares
        decided = owner._decide(total, bad, self.measured)
        if decided is None:
            return False
        self.set_factors(decided)
        return sqrt(total)

    cdef Py_ssize_t bytes_measured(self) noexcept:
        return self.bytes_moved // (2 * self.entries.n_operands - 1)

    cdef Py_ssize_t cut_blocks(self) except -1:
        """Cut all gradients into blocks; return how many there are."""
        cdef Entries entries = self.entries
        cdef Py_ssize_t i, first, n = 0
        cdef const Entry* entry
        for i in range(entries.n):
            if not entries.items[i].is_frozen:
                n += (entries.items[i].size + BLOCK - 1) // BLOCK
        if n > self.blocks_capacity:
            blocks = <Block*> PyMem_Realloc(self.blocks, n * sizeof(Block))
            if blocks == NULL:
                raise MemoryError()
            self.blocks, self.blocks_capacity = blocks, n
        n = 0
        for i in range(entries.n):
            entry = &entries.items[i]
            for first in range(0, 0 if entry.is_frozen else entry.size, BLOCK):
                check_that(n < self.blocks_capacity)
                self.blocks[n] = Block(entry, first, min(BLOCK, entry.size - first), 0, True)
                n += 1
        return n

    def measured(self):
        """Return row and sum of squares of each gradient that was measured, for the owner."""
        cdef Py_ssize_t i
        return [
            (self.entries.items[i].row, self.entries.items[i].squares)
            for i in range(self.entries.n)
            if not self.entries.items[i].is_frozen
        ]

    cdef int set_factors(self, decided) except -1:
        """Note what each gradient, or all of them, are multiplied with."""
        cdef Entries entries = self.entries
        cdef list each = decided if type(decided) is list else None
        cdef double all_of_them = 1.0 if each is not None else decided
        cdef Py_ssize_t i, k = 0
        for i in range(entries.n):
            if each is None:
                entries.items[i].factor = all_of_them
            elif not entries.items[i].is_frozen:
                entries.items[i].factor = each[k]
                k += 1
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
            for k in range(self.work.sum if self.work.adds else STATE, self.entries.n_operands):
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
            self.run_entry(entry, mode)
            if self.work.adds:
                continue
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
        cdef Phase phase
        check_that(self.entries.is_consistent())
        if self.bytes_moved < GIL_BYTES:
            self.run_all(mode)
            return 0
        if not self.entries.owns_references:
            self.entries.own()
        phase = Phase(run_job, &self.work, self.n_jobs, False, NULL)
        self.run_jobs(&phase, self.bytes_moved, mode, self.work.sum == NO_SUM)
        return 0

    cdef int run_jobs(
        self, const Phase* phase, Py_ssize_t bytes_moved, float_mode mode, bint or_all,
    ) except -1:
        """Do the jobs of a phase, or all arrays in one go where they are not worth more threads."""
        cdef int n_threads = 1
        cdef bint is_awake = has_awake_worker()
        cdef float_mode before
        if phase.n_jobs > 1 and bytes_moved >= (
            AWAKE_THREADING_BYTES if is_awake else THREADING_BYTES
        ):
            n_threads = claim(threads_of_a_call(), 1)
        with nogil:
            if n_threads == 1 and (or_all or phase.n_jobs == 0):
                self.run_all(mode)
            else:
                before = get_float_mode()
                set_float_mode(mode)  # the workers take it over
                run(n_threads, phase, 1, is_awake)
                set_float_mode(before)
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
                call_kernel(&self.work, entry, 0, entry.size)
        if mode != before:
            set_float_mode(before)

    cdef void run_entry(self, const Entry* entry, float_mode mode) noexcept nogil:
        """Take one entry through the rule."""
        cdef float_mode before = get_float_mode()
        set_float_mode(mode)
        call_kernel(&self.work, entry, 0, entry.size)
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
    call_kernel(work, j.entry, j.first, j.size)


cdef inline void call_kernel(
    const Work* work, const Entry* entry, Py_ssize_t first, Py_ssize_t size,
) noexcept nogil:
    """Take a stretch of an entry through the rule, the elements before alignment by themselves."""
    check_that(first >= 0)
    check_that(size >= 0)
    check_that(size <= entry.size - first)
    if first == 0 and entry.head == 0:
        call_kernel_at(work, entry, size, entry.data)
        return
    if first == 0:
        call_kernel_at(work, entry, entry.head, entry.data)
        first = entry.head
        size -= entry.head
    call_kernel_from(work, entry, first, size)


cdef void call_kernel_from(
    const Work* work, const Entry* entry, Py_ssize_t first, Py_ssize_t size,
) noexcept nogil:
    cdef char* a[MAX_OPERANDS]
    cdef Py_ssize_t offset = first * item_size(entry.is_double)
    cdef int k
    for k in range(work.rule.n_operands + work.has_average):
        a[k] = entry.data[k] + offset
    if work.sum != NO_SUM:
        a[work.sum] = entry.data[work.sum] + offset
    call_kernel_at(work, entry, size, a)


cdef inline void call_kernel_at(
    const Work* work, const Entry* entry, Py_ssize_t size, char** a,
) noexcept nogil:
    if work.is_plain:
        call_bare(work, entry, size, a)
    elif work.sum == NO_SUM and not work.is_measured:
        call_variant(work, &work.options[entry.row], entry, size, a)
    else:
        call_on_sum(work, entry, size, a)


cdef inline const double* coefficients_of(const Work* work, const Entry* entry) noexcept nogil:
    return work.rows + entry.row * work.rule.n_coefficients


cdef inline void call_bare(
    const Work* work, const Entry* entry, Py_ssize_t size, char** a,
) noexcept nogil:
    if entry.is_double:
        work.rule.float64.bare(coefficients_of(work, entry), &BARE, size, <double**> a)
    else:
        work.rule.float32.bare(coefficients_of(work, entry), &BARE, size, <float**> a)


cdef inline void call_variant(
    const Work* work, const Row* row, const Entry* entry, Py_ssize_t size, char** a,
) noexcept nogil:
    """Call the least variant that will do."""
    cdef const double* c = coefficients_of(work, entry)
    if row.is_neutral:
        call_bare(work, entry, size, a)
    elif work.has_average:
        if entry.is_double:
            work.rule.float64.with_average(c, &row.with_average, size, <double**> a)
        else:
            work.rule.float32.with_average(c, &row.with_average, size, <float**> a)
    elif entry.is_double:
        work.rule.float64.with_options(c, &row.with_options, size, <double**> a)
    else:
        work.rule.float32.with_options(c, &row.with_options, size, <float**> a)


cdef void call_on_sum(
    const Work* work, const Entry* entry, Py_ssize_t size, char** operands,
) noexcept nogil:
    """Take a gradient that is summed or scaled by itself: the sum is clear afterwards."""
    cdef char* a[MAX_OPERANDS]
    cdef Row row = NEUTRAL
    cdef Options options
    cdef int k
    if work.sum != NO_SUM:
        add(entry.is_double, size, operands[GRAD], operands[work.sum])
        if work.adds:
            return
    for k in range(work.rule.n_operands + work.has_average):
        a[k] = operands[k]
    if work.sum != NO_SUM:
        a[GRAD] = operands[work.sum]
    if work.options != NULL:
        row = work.options[entry.row]
    if entry.factor != 1.0:
        options = row.with_options.options
        options.scale *= entry.factor
        row = as_row(options, row.with_average.one_minus_ema, False)
    call_variant(work, &row, entry, size, a)
    if work.sum != NO_SUM:
        clear(entry.is_double, size, operands[work.sum])


cdef void add(bint is_double, Py_ssize_t n, char* g, char* total) noexcept nogil:
    if is_double:
        kernels.gradients64.add(n, <double*> g, <double*> total)
    else:
        kernels.gradients32.add(n, <float*> g, <float*> total)


cdef void clear(bint is_double, Py_ssize_t n, char* total) noexcept nogil:
    if is_double:
        kernels.gradients64.clear(n, <double*> total)
    else:
        kernels.gradients32.clear(n, <float*> total)


cdef void measure_block(void* context, Py_ssize_t job, int _thread) noexcept nogil:
    """Add the squares of a block, and find out whether its gradients are finite.

    They are wherever the sum is; else each is looked at: squares may overflow.
    """
    cdef Work* work = <Work*> context
    cdef Block* block = &work.blocks[job]
    cdef const Entry* entry = block.entry
    cdef Py_ssize_t offset = block.first * item_size(entry.is_double)
    cdef char* g = entry.data[GRAD] + offset
    cdef char* total = NULL
    if work.sum != NO_SUM:
        total = entry.data[work.sum] + offset
    if entry.is_double:
        block.squares = kernels.gradients64.sum_of_squares(
            block.size, <double*> g, <double*> total
        )
    else:
        block.squares = kernels.gradients32.sum_of_squares(block.size, <float*> g, <float*> total)
    block.is_finite = True
    if isfinite(block.squares):
        return
    if entry.is_double:
        block.is_finite = kernels.gradients64.is_finite(block.size, <double*> g)
    else:
        block.is_finite = kernels.gradients32.is_finite(block.size, <float*> g)
