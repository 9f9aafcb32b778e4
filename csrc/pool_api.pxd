# What the worker pool offers to the other compiled modules, handed over in a capsule. No code
# belongs here.

# One job of many: called with the caller's context and the job's number, on any thread, without the
# GIL.
ctypedef void (*job_function)(void* context, Py_ssize_t job) noexcept nogil

cdef struct PoolApi:
    # With the GIL: take the pool; return how many threads it will use, the calling one included.
    # 1 means that it was not taken, and the caller does its work alone.
    int (*claim)() noexcept
    # Without: run jobs 0 to n_jobs - 1 on that many threads, and give the pool back.
    void (*run)(
        int n_threads, job_function function, void* context, Py_ssize_t n_jobs
    ) noexcept nogil
