# The table of kernels of one instruction set: every rule, every pass and the matrix products, each
# at every dtype, handed in a capsule to the modules that call them. No arrays and no functions that
# Python sees belong here: this text is compiled once for each instruction set, and only arithmetic
# may depend on it.

from cpython.pycapsule cimport PyCapsule_New
from fastopt.kernels.table cimport (
    MAX_COEFFICIENTS,
    MAX_OPERANDS,
    MAX_RULES,
    Bare,
    Gradients32,
    Gradients64,
    Kernels32,
    Kernels64,
    KernelTable,
    Passes32,
    Passes64,
    Products,
    Rule,
    WithAverage,
    WithOptions,
    product32,
    product64,
    product_scratch,
)

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
include "passes.pxi"

kernel_table.gradients32 = Gradients32(
    add[float], clear[float], sum_of_squares[float], is_finite[float]
)
kernel_table.gradients64 = Gradients64(
    add[double], clear[double], sum_of_squares[double], is_finite[double]
)
kernel_table.float32 = Passes32(
    activate[float], activate_backward[float], softmax_loss[float], softmax_loss_backward[float],
    sum_rows[float], add_scaled[float], squares[float],
)
kernel_table.float64 = Passes64(
    activate[double], activate_backward[double], softmax_loss[double],
    softmax_loss_backward[double], sum_rows[double], add_scaled[double], squares[double],
)
kernel_table.products = Products(
    product_float, product_double, product_scratch_float, product_scratch_double
)

table = PyCapsule_New(&kernel_table, "fastopt.kernel_table", NULL)
