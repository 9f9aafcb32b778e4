# What _overlaps.pyx offers _step.pyx.

from fastopt._entries cimport Entries


cdef int check_overlaps(Entries entries) except -1
cdef int check_gradient_overlap(Entries entries, Py_ssize_t i) except -1
