# The types of a table of kernels: shared by the modules that fill one and those that call through
# it. No code belongs here.

from fastopt._pool cimport finish_function, job_function

# The variants of a rule, as types: Cython compiles its text once for each
cdef struct Bare:
    char nothing

cdef struct Options:
    double scale   # of the gradient
    double limit   # of its entries
    double decay   # that is added to it, as a share of the parameter
    double shrink  # what the parameter is multiplied with
    double low     # what it is clipped to after the rule
    double high

cdef struct WithOptions:
    Options options

cdef struct WithAverage:
    Options options
    double one_minus_ema

# A rule over one contiguous chunk: coefficients, options, length, operands; the last operand of the
# third variant is the average
cdef struct Kernels32:
    void (*bare)(const double*, const Bare*, Py_ssize_t, float**) noexcept nogil
    void (*with_options)(const double*, const WithOptions*, Py_ssize_t, float**) noexcept nogil
    void (*with_average)(const double*, const WithAverage*, Py_ssize_t, float**) noexcept nogil

cdef struct Kernels64:
    void (*bare)(const double*, const Bare*, Py_ssize_t, double**) noexcept nogil
    void (*with_options)(const double*, const WithOptions*, Py_ssize_t, double**) noexcept nogil
    void (*with_average)(const double*, const WithAverage*, Py_ssize_t, double**) noexcept nogil

cdef enum:
    MAX_RULES = 64
    # Of one rule; the callers hold as many on their stack
    MAX_OPERANDS = 12
    MAX_COEFFICIENTS = 16

cdef struct Rule:
    const char* name
    const char* coefficients  # their names, separated by single spaces, in the order of c
    const char* operands      # likewise, in the order of a: "p g" and the states
    int n_coefficients
    int n_operands
    Kernels32 float32
    Kernels64 float64

cdef enum:
    # Elements whose squares are added in one go, from the first of an array on: part of the order
    # in which they are added, and so of the result
    BLOCK = 16384

cdef struct Gradients32:
    # what gradients.pxi defines, for float32
    void (*add)(Py_ssize_t, const float*, float*) noexcept nogil
    void (*clear)(Py_ssize_t, float*) noexcept nogil
    double (*sum_of_squares)(Py_ssize_t, const float*, const float*) noexcept nogil
    bint (*is_finite)(Py_ssize_t, const float*) noexcept nogil

cdef struct Gradients64:
    # and for float64
    void (*add)(Py_ssize_t, const double*, double*) noexcept nogil
    void (*clear)(Py_ssize_t, double*) noexcept nogil
    double (*sum_of_squares)(Py_ssize_t, const double*, const double*) noexcept nogil
    bint (*is_finite)(Py_ssize_t, const double*) noexcept nogil

# Activations over n contiguous numbers: what selects the type, n, x and f(x); or n, what was kept
# of forward, and the gradient that is multiplied with f'
ctypedef void (*activate32)(const void*, Py_ssize_t, const float*, float*) noexcept nogil
ctypedef void (*activate64)(const void*, Py_ssize_t, const double*, double*) noexcept nogil
ctypedef void (*activate_backward32)(const void*, Py_ssize_t, const float*, float*) noexcept nogil
ctypedef void (*activate_backward64)(
    const void*, Py_ssize_t, const double*, double*
) noexcept nogil

cdef struct ActivationRow:
    const char* name
    bint told_from_input  # its derivative, from x; else from f(x)
    activate32 forward32
    activate64 forward64
    activate_backward32 backward32
    activate_backward64 backward64

# Losses over n rows of m outputs: what selects the type, n, m, classes or a matrix of targets (or
# neither), scores that become predictions, losses; or n, m, targets, factors of the rows, and
# predictions that become a gradient
ctypedef void (*losses32)(
    const void*, Py_ssize_t, Py_ssize_t, const Py_ssize_t*, const float*, float*, double*
) noexcept nogil
ctypedef void (*losses64)(
    const void*, Py_ssize_t, Py_ssize_t, const Py_ssize_t*, const double*, double*, double*
) noexcept nogil
ctypedef void (*losses_backward32)(
    const void*, Py_ssize_t, Py_ssize_t, const Py_ssize_t*, const float*, const double*, float*
) noexcept nogil
ctypedef void (*losses_backward64)(
    const void*, Py_ssize_t, Py_ssize_t, const Py_ssize_t*, const double*, const double*, double*
) noexcept nogil

cdef struct LossRow:
    const char* name
    losses32 forward32
    losses64 forward64
    losses_backward32 backward32
    losses_backward64 backward64

cdef enum:
    MAX_ACTIVATIONS = 32
    MAX_LOSSES = 32

cdef struct NetJobs:
    # what net_jobs.pxi defines, for one dtype; the context of all is a Stage (net.pxd)
    job_function rows
    job_function slab
    finish_function join_moments
    finish_function take_running_averages  # in their place, before a call that does not train
    finish_function join_norm_sums

# The sum of the squares of n rows of m numbers, at a distance in elements
ctypedef double (*squares32)(Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t) noexcept nogil
ctypedef double (*squares64)(Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t) noexcept nogil

# c := op(a)·op(b) for row-major matrices: whether a and b are transposed, m, n, k, a, lda, b, ldb,
# c, ldc, and scratch memory
ctypedef void (*product32)(
    int, int, Py_ssize_t, Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t,
    const float*, Py_ssize_t, float*, Py_ssize_t, void*
) noexcept nogil
ctypedef void (*product64)(
    int, int, Py_ssize_t, Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t,
    const double*, Py_ssize_t, double*, Py_ssize_t, void*
) noexcept nogil
# How many bytes of scratch memory a product of m, n, k wants, aligned as cache lines are
ctypedef Py_ssize_t (*product_scratch)(Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept nogil

cdef struct Products:
    # NULL all of them where there are none: BLAS's are taken then
    product32 float32
    product64 float64
    product_scratch scratch32
    product_scratch scratch64

cdef struct KernelTable:
    int n_rules
    Rule[MAX_RULES] rules
    Gradients32 gradients32
    Gradients64 gradients64
    int n_activations
    ActivationRow[MAX_ACTIVATIONS] activations
    int n_losses
    LossRow[MAX_LOSSES] losses
    NetJobs net32
    NetJobs net64
    squares32 squares_float
    squares64 squares_double
    Products products
