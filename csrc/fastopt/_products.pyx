# The one door through which all matrix products go: the kernels' own products, or BLAS's where the
# kernels have none; and which threads do them. How a product is computed is in
# kernels/product_kernel.h, how a net cuts its work into jobs in _plan.pyx.
#
# The rule: a thread that asks for a product does that product alone, and the package's workers
# share the pieces. BLAS must be told so (fastopt/_blas.py says why and how); the kernels' own
# products know of no threads. How the work is cut depends on the sizes and on the number of
# threads that is set, never on who is free: for a given number of threads the results are the same
# in every run. The kernels' own products give the same bits however they are cut.

from cpython.pycapsule cimport PyCapsule_GetPointer
from fastopt._kernels cimport kernels
from fastopt._pool cimport Phase, claim, run, threads_of_a_call
from fastopt.atomic cimport shared_int, store, swap_if
from fastopt.kernels.table cimport Products

import os

ctypedef int (*get_threads)() noexcept nogil
ctypedef void (*set_threads)(int) noexcept nogil

cdef enum:
    # Fewer operations than this stay on the calling thread: they take less time than a worker takes
    # to wake
    THREADING_OPERATIONS = 8_000_000
    # Fewer than this keep the GIL: they are over sooner than another thread could take it
    GIL_OPERATIONS = 500_000

cdef get_threads blas_get_threads = NULL
cdef set_threads blas_set_threads = NULL
cdef const Products* products = &kernels.products
uses_blas = products.float32 == NULL
if uses_blas:
    from fastopt import _blas, _blas_products

    products = <const Products*> PyCapsule_GetPointer(_blas_products.table, "fastopt.products")
    _blas_functions = _blas.thread_functions()
    blas_get_threads = <get_threads> <size_t> _blas_functions[0]
    blas_set_threads = <set_threads> <size_t> _blas_functions[1]
# Whether a product is done by the thread that asks for it and by no other; else by BLAS's threads
cdef bint products_stay_on_caller = not uses_blas or blas_get_threads != NULL

# Only the thread that holds `is_counting` may touch the two below, with a GIL or without.
cdef shared_int is_counting = 0
cdef int blas_threads = 0   # what BLAS is given back
cdef int n_in_products = 0  # calls that are in their products


def after_fork():
    """Give BLAS its threads back in a child that was forked while another thread was in a product.
    """
    global n_in_products
    store(&is_counting, 0)
    if n_in_products:
        n_in_products = 1
        leave_products()


if uses_blas and hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=after_fork)


cdef void enter_products() noexcept:
    global blas_threads, n_in_products
    if blas_get_threads == NULL:
        return
    begin_counting()
    if n_in_products == 0:
        blas_threads = blas_get_threads()
        if blas_threads != 1:
            blas_set_threads(1)
    n_in_products += 1
    store(&is_counting, 0)


cdef void leave_products() noexcept:
    global n_in_products
    if blas_get_threads == NULL:
        return
    begin_counting()
    n_in_products -= 1
    if n_in_products == 0 and blas_threads != 1:
        blas_set_threads(blas_threads)
    store(&is_counting, 0)


cdef void begin_counting() noexcept nogil:
    """Spin until no other thread is counting itself in or out, which takes a few instructions."""
    while swap_if(&is_counting, 0, 1) != 0:
        pass


cdef int threads_for(double operations) noexcept:
    if operations < THREADING_OPERATIONS or not products_stay_on_caller:
        return 1
    return threads_of_a_call()


cdef void run_products(
    double operations, int n_threads, const Phase* phases, int n_phases,
) noexcept:
    # At most as many threads as the work was cut for: others would have no scratch memory.
    enter_products()
    n_threads = claim(n_threads, n_phases) if n_threads > 1 else 1
    if operations < GIL_OPERATIONS:
        run(n_threads, phases, n_phases, True)
    else:
        with nogil:
            run(n_threads, phases, n_phases, True)
    leave_products()
