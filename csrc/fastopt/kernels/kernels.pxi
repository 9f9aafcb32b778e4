# The table of kernels of one instruction set: every rule, a net's jobs and the products, each at
# every dtype, handed in a capsule to the modules that call them. No arrays and no functions that
# Python sees belong here: this text is compiled once for each instruction set, and only arithmetic
# may depend on it.

from cpython.pycapsule cimport PyCapsule_New
from fastopt.kernels.table cimport (
    MAX_ACTIVATIONS,
    MAX_COEFFICIENTS,
    MAX_LOSSES,
    MAX_OPERANDS,
    MAX_RULES,
    ActivationRow,
    Bare,
    Gradients32,
    Gradients64,
    Kernels32,
    Kernels64,
    KernelTable,
    LossRow,
    NetJobs,
    Products,
    Rule,
    WithAverage,
    WithOptions,
    activate32,
    activate64,
    activate_backward32,
    activate_backward64,
    losses32,
    losses64,
    losses_backward32,
    losses_backward64,
    product32,
    product64,
    product_scratch,
)
from fastopt.matrix cimport Matrix

cdef extern from "fastopt/kernels/products.h":
    # NULL where this instruction set has none
    const product32 product_float
    const product64 product_double
    const product_scratch product_scratch_float
    const product_scratch product_scratch_double

cdef KernelTable kernel_table


cdef int declare(
    const char* name, const char* coefficients, const char* operands,
    Kernels32 float32, Kernels64 float64,
) except -1:
    """Add a rule to the table."""
    cdef Rule* rule = &kernel_table.rules[kernel_table.n_rules]
    rule[0] = Rule(
        name, coefficients, operands, count_names(coefficients), count_names(operands),
        float32, float64,
    )
    if (
        kernel_table.n_rules + 1 == MAX_RULES
        or rule.n_coefficients > MAX_COEFFICIENTS
        or rule.n_operands + 2 > MAX_OPERANDS  # average and sum
    ):
        raise ImportError("a limit in kernels/table.pxd is too low")
    kernel_table.n_rules += 1
    return 0


cdef int count_names(const char* names) noexcept:
    cdef int n = 1
    while names[0]:
        n += names[0] == b" "
        names += 1
    return n


include "options.pxi"
include "rules.pxi"
include "gradients.pxi"
include "functions.pxi"
include "passes.pxi"
include "net_jobs.pxi"

kernel_table.gradients32 = Gradients32(
    add[float], clear[float], sum_of_squares[float], is_finite[float]
)
kernel_table.gradients64 = Gradients64(
    add[double], clear[double], sum_of_squares[double], is_finite[double]
)
kernel_table.net32 = NetJobs(
    rows32, slab32, join_moments32, take_running_averages32, join_norm_sums32
)
kernel_table.net64 = NetJobs(
    rows64, slab64, join_moments64, take_running_averages64, join_norm_sums64
)
kernel_table.squares_float, kernel_table.squares_double = squares[float], squares[double]
kernel_table.products = Products(
    product_float, product_double, product_scratch_float, product_scratch_double
)

table = PyCapsule_New(&kernel_table, "fastopt.kernel_table", NULL)
