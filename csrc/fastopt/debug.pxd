# Assertions that abort in a debug build (setup.py) and cost nothing in any other. What a user can
# cause is an error of Python's and does not belong here.

cdef extern from "assert.h" nogil:
    void check_that "assert"(bint) noexcept
