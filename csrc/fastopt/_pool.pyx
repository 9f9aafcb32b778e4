# The worker pool: native threads that wait in the operating system's semaphores, and
# share out numbered jobs. What a job computes does not belong here.
#
# Why not OpenMP: its workers spin for milliseconds after each region and take the cores from BLAS,
# and children forked after a region hang.
#
# Each thread, the caller included, begins with a range of jobs of its own, so that step after step
# it meets the same memory, and then takes over what others have left. A worker that is slow to wake
# costs nothing: the caller does its jobs, and takes the wake-up back. Hence the rule at the end of
# `run`: a token that is still in `wake` was never seen; one that is gone is answered in `done`.
#
# Jobs come in phases. A thread that finds no job left in one waits until those that others have
# taken are done: at first in a loop, for they mostly end together, then at a gate that the thread
# with the last of them opens. Only jobs that run are waited for, so one thread can do them all.
#
# A caller whose next call is likely to follow at once asks the workers to linger: to look for their
# token in a loop for a little while before they block. Callers see how many do, for whom a smaller
# piece of work is worth sharing.
#
# All jobs of a call compute in the caller's float mode: a worker takes it on when it begins, and
# puts its own back before it answers.
#
# The pool belongs to one caller at a time. Another one meanwhile works alone instead of waiting.

from fastopt.atomic cimport (
    add_relaxed,
    count_down,
    exchange_acquire,
    load_acquire,
    pause,
    shared_int,
    store_release,
)
from fastopt.float_mode cimport float_mode, get_float_mode, set_float_mode
from fastopt.memory cimport CACHE_LINE, padded
from libc.stdlib cimport malloc
from libc.string cimport memcpy, memset

import os

cdef extern from "pythread.h" nogil:
    ctypedef void* PyThread_type_lock
    PyThread_type_lock PyThread_allocate_lock() noexcept
    bint PyThread_acquire_lock(PyThread_type_lock, int wait) noexcept
    void PyThread_release_lock(PyThread_type_lock) noexcept
    unsigned long PyThread_start_new_thread(void (*)(void*) noexcept nogil, void*) noexcept
    unsigned long PYTHREAD_INVALID_THREAD_ID
    int WAIT_LOCK
    int NOWAIT_LOCK

cdef enum:
    MAX_THREADS = 64
    # Tries before the caller blocks for a worker's last job: some 20 µs, less than to be woken
    SPINS = 2000
    # Looks at a phase's counter before a thread blocks for its last jobs: some 50 µs
    PHASE_SPINS = 4000
    # Looks for a token before a worker blocks: some 30 µs, about what being woken costs
    LINGER_SPINS = 2500

cdef struct Range:
    shared_int next    # the next job that nobody has taken
    Py_ssize_t end
    char[CACHE_LINE - 16] padding  # a cache line each: else false sharing between threads

cdef struct PhaseState:
    shared_int left       # jobs that are not done
    shared_int is_over    # whether all are, and what follows them
    PyThread_type_lock gate   # held until then; of the last phase never opened
    char[CACHE_LINE - 24] padding
    Range[MAX_THREADS] ranges

cdef struct Worker:
    PyThread_type_lock wake  # released by the caller, acquired by the worker: a token to begin
    PyThread_type_lock done  # released by the worker, acquired by the caller: its answer

# What is shared: written by the caller that owns the pool before it hands out tokens, and read by
# workers that hold one. `busy` alone may be touched by anyone.
cdef shared_int busy = 0
cdef const Phase* phases = NULL
cdef int n_phases = 0
cdef float_mode callers_mode = 0
cdef int n_ranges = 0
cdef bint stay = False
cdef shared_int n_lingering = 0
cdef PhaseState* states = NULL  # as many as the longest call had phases
cdef int n_states = 0
cdef Worker[MAX_THREADS] workers
cdef shared_int n_workers = 0  # started; only ever grows, but in a forked child

cdef shared_int n_threads = 1  # as set by the user


cdef int threads_of_a_call() noexcept:
    return <int> load_acquire(&n_threads)


cdef int claim(int most, int n_phases) noexcept:
    """Take the pool, starting workers that are missing; return the number of threads, or 1."""
    cdef int n, wanted = min(threads_of_a_call(), most)
    if wanted <= 1 or exchange_acquire(&busy, 1):
        return 1
    if not has_states(n_phases):
        store_release(&busy, 0)
        return 1
    while n_workers < wanted - 1 and start_worker():
        pass
    n = min(wanted, <int> n_workers + 1)
    if n == 1:
        store_release(&busy, 0)
    return n


cdef bint has_states(int n_phases) noexcept:
    """Make room for so many phases, their gates closed; False if the system has no more of it.

    What there was is left where it is, and not freed: it is little, and a forked child may see it.
    """
    global states, n_states
    cdef PhaseState* more
    cdef int k
    if n_states < n_phases:
        more = <PhaseState*> malloc(n_phases * sizeof(PhaseState) + CACHE_LINE)
        if more == NULL:
            return False
        more = <PhaseState*> padded(<size_t> more)
        memset(more, 0, n_phases * sizeof(PhaseState))
        if n_states > 0:
            memcpy(more, states, n_states * sizeof(PhaseState))
        states, n_states = more, n_phases
    for k in range(n_phases):
        if not is_made(&states[k].gate):
            return False
    return True


cdef bint is_made(PyThread_type_lock* lock) noexcept:
    """Make a lock that is not there yet, held; False if the system has no more."""
    if lock[0] == NULL:
        lock[0] = PyThread_allocate_lock()
        if lock[0] != NULL:
            PyThread_acquire_lock(lock[0], WAIT_LOCK)
    return lock[0] != NULL


cdef bint start_worker() noexcept:
    """Start one more worker; False if the system has no more threads, and fewer will do."""
    cdef Worker* worker = &workers[n_workers]
    if not is_made(&worker.wake) or not is_made(&worker.done):
        return False
    if PyThread_start_new_thread(work_forever, worker) == PYTHREAD_INVALID_THREAD_ID:
        return False
    store_release(&n_workers, n_workers + 1)
    return True


cdef void work_forever(void* argument) noexcept nogil:
    cdef Worker* worker = <Worker*> argument
    cdef bint lingers = False
    while True:
        if not (lingers and linger(worker)):
            PyThread_acquire_lock(worker.wake, WAIT_LOCK)
        work_as_caller(<int> (worker - workers) + 1)
        lingers = stay  # what belongs to the next call once this one is answered
        PyThread_release_lock(worker.done)


cdef bint linger(Worker* worker) noexcept nogil:
    """Look for a token for a while; return whether one came."""
    cdef int _try
    cdef bint came = False
    add_relaxed(&n_lingering, 1)
    for _try in range(LINGER_SPINS):
        if PyThread_acquire_lock(worker.wake, NOWAIT_LOCK):
            came = True
            break
        pause()
    add_relaxed(&n_lingering, -1)
    return came


cdef bint has_awake_worker() noexcept:
    return load_acquire(&n_lingering) > 0


cdef void work_as_caller(int own) noexcept nogil:
    """Work in the caller's float mode, whatever this thread's own is."""
    cdef float_mode before = get_float_mode()
    set_float_mode(callers_mode)
    work(own)  # calls the jobs through pointers, over which no compiler moves arithmetic
    set_float_mode(before)


cdef void work(int own) noexcept nogil:
    """Do the jobs of a thread's own range, then what is left of the others', phase by phase."""
    cdef int k
    for k in range(n_phases):
        if k > 0:
            wait_for_phase(&states[k - 1])
        work_on_phase(k, own)


cdef void work_on_phase(int phase, int own) noexcept nogil:
    cdef PhaseState* state = &states[phase]
    cdef Range* taken
    cdef long long job
    cdef int k
    for k in range(n_ranges):
        taken = &state.ranges[(own + k) % n_ranges]
        while True:
            job = add_relaxed(&taken.next, 1)
            if job >= taken.end:
                break
            phases[phase].function(phases[phase].context, <Py_ssize_t> job, own)
            if count_down(&state.left) == 0:
                end_phase(phase)


cdef void end_phase(int phase) noexcept nogil:
    """Do what follows all jobs of a phase, and let the others go on to the next."""
    if phases[phase].finish != NULL:
        phases[phase].finish(phases[phase].context)
    store_release(&states[phase].is_over, 1)
    if phase + 1 < n_phases:
        PyThread_release_lock(states[phase].gate)


cdef void wait_for_phase(PhaseState* state) noexcept nogil:
    """Wait until all of a phase is done."""
    cdef int _try
    for _try in range(PHASE_SPINS):
        if load_acquire(&state.is_over):
            return
        pause()
    PyThread_acquire_lock(state.gate, WAIT_LOCK)  # and on to the next who waits
    PyThread_release_lock(state.gate)


cdef void run(
    int threads, const Phase* run_phases, int n_run_phases, bint workers_stay,
) noexcept nogil:
    """Run the phases on the threads that `claim` gave, and give the pool back."""
    global stay
    cdef int k
    if threads == 1:
        run_alone(run_phases, n_run_phases)
        return
    share_out(threads, run_phases, n_run_phases)
    stay = workers_stay
    for k in range(threads - 1):
        PyThread_release_lock(workers[k].wake)
    work(0)
    for k in range(threads - 1):
        if not PyThread_acquire_lock(workers[k].wake, NOWAIT_LOCK):
            wait_for(&workers[k])
    for k in range(n_phases - 1):
        PyThread_acquire_lock(states[k].gate, WAIT_LOCK)  # each was opened: close it again
    store_release(&busy, 0)


cdef void run_alone(const Phase* run_phases, int n_run_phases) noexcept nogil:
    cdef int k
    cdef Py_ssize_t job
    for k in range(n_run_phases):
        for job in range(run_phases[k].n_jobs):
            run_phases[k].function(run_phases[k].context, job, 0)
        if run_phases[k].finish != NULL:
            run_phases[k].finish(run_phases[k].context)


cdef void share_out(int threads, const Phase* run_phases, int n_run_phases) noexcept nogil:
    """Write down what the workers will read, a range of each phase's jobs for each thread.

    A phase whose jobs are taken in order has them all in the first range.
    """
    global phases, n_phases, n_ranges, callers_mode
    cdef int k, t
    cdef Py_ssize_t n_jobs
    callers_mode = get_float_mode()
    phases, n_phases, n_ranges = run_phases, n_run_phases, threads
    for k in range(n_phases):
        n_jobs = phases[k].n_jobs
        states[k].left, states[k].is_over = n_jobs, 0
        for t in range(threads):
            states[k].ranges[t].next = n_jobs * t // threads
            states[k].ranges[t].end = n_jobs * (t + 1) // threads
        if phases[k].in_order:
            states[k].ranges[0].end = n_jobs
            for t in range(1, threads):
                states[k].ranges[t].next = n_jobs


cdef void wait_for(Worker* worker) noexcept nogil:
    cdef int _try
    for _try in range(SPINS):
        if PyThread_acquire_lock(worker.done, NOWAIT_LOCK):
            return
    PyThread_acquire_lock(worker.done, WAIT_LOCK)


def after_fork():
    """Begin anew in a forked child, where the workers and their locks' holders do not exist."""
    cdef int k
    for k in range(MAX_THREADS):
        workers[k].wake = workers[k].done = NULL
    for k in range(n_states):
        states[k].gate = NULL
    store_release(&n_workers, 0)
    store_release(&n_lingering, 0)
    store_release(&busy, 0)


def set_num_threads(int n):
    """Set how many threads a call may use; fastopt/_threads.py checks the number."""
    store_release(&n_threads, n)


def get_num_threads():
    """Return how many threads a call may use."""
    return threads_of_a_call()


def count_workers():
    """Return how many workers have been started: none before the first call that wants them."""
    return load_acquire(&n_workers)


max_threads = MAX_THREADS

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=after_fork)
