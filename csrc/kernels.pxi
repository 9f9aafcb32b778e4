# The table of kernels of one instruction set: every rule, every pass and the matrix products, each
# at every dtype, handed in a capsule to the modules that call them. No arrays and no functions that
# Python sees belong here: this text is compiled once for each instruction set, and only arithmetic
# may depend on it.

from cpython.pycapsule cimport PyCapsule_New
from kernel_table cimport (
    KernelTable,
    Passes32,
    Passes64,
    Products,
    Rule,
    product32,
    product64,
    product_scratch,
)

include "rules.pxi"
include "passes.pxi"

cdef extern from "products.h":
    # NULL where this instruction set has none
    const product32 product_float
    const product64 product_double
    const product_scratch product_scratch_float
    const product_scratch product_scratch_double

cdef KernelTable kernel_table

# rule, number of coefficients, number of state arrays, its two kernels
kernel_table.rules[0] = Rule("sgd", 1, 0, sgd[float], sgd[double])
kernel_table.rules[1] = Rule("momentum", 2, 1, momentum[float], momentum[double])
kernel_table.rules[2] = Rule("nesterov", 2, 1, nesterov[float], nesterov[double])
kernel_table.rules[3] = Rule("adagrad", 2, 1, adagrad[float], adagrad[double])
kernel_table.rules[4] = Rule("rmsprop", 4, 1, rmsprop[float], rmsprop[double])
kernel_table.rules[5] = Rule("adam", 4, 2, adam[float], adam[double])
kernel_table.n_rules = 6

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
