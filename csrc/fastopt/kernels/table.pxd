# The types of a table of kernels: shared by the modules that fill one and those that call through
# it. No code belongs here.

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

cdef enum:
    # kinds of activations
    LINEAR = 0
    RELU = 1
    SIGMOID = 2

cdef struct Passes32:
    # what passes.pxi defines, for float32
    void (*activate)(int, Py_ssize_t, Py_ssize_t, const float*, float*) noexcept nogil
    void (*activate_backward)(
        int, Py_ssize_t, Py_ssize_t, const float*, float*, float*
    ) noexcept nogil
    void (*softmax_loss)(
        Py_ssize_t, Py_ssize_t, const Py_ssize_t*, float*, double*
    ) noexcept nogil
    void (*softmax_loss_backward)(
        Py_ssize_t, Py_ssize_t, const Py_ssize_t*, double, float*, float*
    ) noexcept nogil
    void (*sum_rows)(
        Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t, Py_ssize_t, float*
    ) noexcept nogil
    void (*add_scaled)(
        Py_ssize_t, Py_ssize_t, double, const float*, Py_ssize_t, Py_ssize_t, float*
    ) noexcept nogil
    double (*squares)(Py_ssize_t, Py_ssize_t, const float*, Py_ssize_t) noexcept nogil

cdef struct Passes64:
    # and for float64
    void (*activate)(int, Py_ssize_t, Py_ssize_t, const double*, double*) noexcept nogil
    void (*activate_backward)(
        int, Py_ssize_t, Py_ssize_t, const double*, double*, double*
    ) noexcept nogil
    void (*softmax_loss)(
        Py_ssize_t, Py_ssize_t, const Py_ssize_t*, double*, double*
    ) noexcept nogil
    void (*softmax_loss_backward)(
        Py_ssize_t, Py_ssize_t, const Py_ssize_t*, double, double*, double*
    ) noexcept nogil
    void (*sum_rows)(
        Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t, Py_ssize_t, double*
    ) noexcept nogil
    void (*add_scaled)(
        Py_ssize_t, Py_ssize_t, double, const double*, Py_ssize_t, Py_ssize_t, double*
    ) noexcept nogil
    double (*squares)(Py_ssize_t, Py_ssize_t, const double*, Py_ssize_t) noexcept nogil

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
    Passes32 float32
    Passes64 float64
    Products products
