# What _plan.pyx offers those who describe a call: how it is cut, its memory for products, its run.

from fastopt._pool cimport Phase
from fastopt.net cimport NetCall, Op, Slab, Stage

cdef enum:
    # Rows that go forward together where nothing is kept: their values stay in a core's own cache
    FORWARD_ROWS = 256
    # and where all is kept
    BACKWARD_ROWS = 512

# What a call does: it goes forward, takes losses, turns predictions into the gradient of the
# scores, goes back
cdef struct Way:
    bint forward
    bint losses
    bint turns
    bint back

# Settle for how many threads a call is cut, and into how many blocks of rows.
cdef void cut_blocks(NetCall* call, Way way) noexcept

# How many slabs there can be; cut the gradients of the weights into slabs of about equal work.
cdef Py_ssize_t most_slabs(const NetCall* call) noexcept
cdef void cut_slabs(NetCall* call) noexcept

# How many stages ops can need, with so many norms among them; phases are one more.
cdef int most_stages(int n_norms) noexcept

# Settle how many bytes of scratch memory each thread wants for products of up to so many rows.
cdef void measure_scratch(NetCall* call, Py_ssize_t rows) noexcept

# Plan the phases of a call that is described, and run them with the GIL released.
cdef void run_call(NetCall* call, Way way, Stage* stages, Phase* phases) noexcept

# The mean of the losses, or their sum weighted by factors that add up to 1.
cdef double mean_loss(const NetCall* call, bint is_weighted) noexcept
cdef double largest_loss(const NetCall* call) noexcept
