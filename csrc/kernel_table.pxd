# The types of a table of kernels: shared by the modules that fill one and the core that calls
# through it. No code belongs here.

ctypedef void (*kernel32)(
    const double*, Py_ssize_t, float*, const float*, float*, float*
) noexcept nogil
ctypedef void (*kernel64)(
    const double*, Py_ssize_t, double*, const double*, double*, double*
) noexcept nogil

cdef enum:
    MAX_RULES = 16
    MAX_COEFFICIENTS = 4
    MAX_STATES = 2

cdef struct Rule:
    const char* name
    int n_coefficients
    int n_states
    kernel32 float32
    kernel64 float64

cdef struct KernelTable:
    int n_rules
    Rule[MAX_RULES] rules
