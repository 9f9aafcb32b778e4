# What the worker pool offers to the other compiled modules. How it works stands in _pool.pyx.

# One job of many: called with the caller's context, the job's number and that of the thread, on any
# thread, without the GIL. Jobs that run at the same time have threads of different numbers, from 0
# to one less than the call has.
ctypedef void (*job_function)(void* context, Py_ssize_t job, int thread) noexcept nogil

# What follows all jobs of a phase: called once with its context, on any thread, without the GIL.
ctypedef void (*finish_function)(void* context) noexcept nogil

cdef struct Phase:
    # jobs 0 to n_jobs - 1, none of which begins before all of the phase before is done
    job_function function
    void* context
    Py_ssize_t n_jobs
    bint in_order  # few jobs, the largest first: whoever is free takes the next one
    finish_function finish  # the phase's last act, by the thread that did its last job; or NULL

# How many threads a call may use, as set by the user.
cdef int threads_of_a_call() noexcept

# Whether a worker lingers, and so is there at once.
cdef bint has_awake_worker() noexcept

# With the GIL: take the pool for so many phases; return how many threads it will use, the calling
# one included, at most so many. 1 means that it was not taken, and the caller does its work alone.
cdef int claim(int most, int n_phases) noexcept

# Without: run the phases' jobs on that many threads, and give the pool back if it was taken. Every
# job computes in the calling thread's float mode. Only the last phase may be without jobs. `stay`:
# let the workers linger afterwards.
cdef void run(int n_threads, const Phase* phases, int n_phases, bint stay) noexcept nogil
