# What a call of a net, or of a single layer, which is a net of one op, looks like to its jobs
# (kernels/net_jobs.pxi): a list of ops, a loss, where everything lies, and what each phase does.
# Who describes it, and finds the memory, is _plan.pyx and those who call it.

from fastopt.kernels.table cimport ActivationRow, LossRow, Products
from fastopt.matrix cimport Matrix
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    # Rows that are summed up together, to shares that are then added in order: no sum depends on
    # how a batch is cut into blocks, all of which but the last are multiples of so many rows
    GROUP = 16

cdef enum OpKind:
    AFFINE
    NORM
    ACTIVATION
    DROPOUT

cdef struct Affine:
    # out = x·W + b
    Matrix W                # D × M
    char* b                 # M
    char* dW                # D × M, contiguous
    char* db                # M
    double weight_decay     # λ of dW += λ·W
    char* db_shares         # of the groups of rows, M each
    Py_ssize_t scratch      # bytes that its products want

cdef struct Norm:
    # out = gamma·(x - mean)·scale + beta; all of them M
    char* gamma
    char* beta
    char* dgamma
    char* dbeta
    char* mean              # of the batch, or the running averages
    char* scale             # 1/√(variance + eps)
    char* running_mean      # moved by a call that trains; NULL: none are
    char* running_variance
    char* shares            # two sums of each group of rows, M each: moments, later gradients

cdef struct Dropout:
    uint64_t layer
    uint32_t threshold      # of the random numbers
    double scale

cdef struct Op:
    OpKind kind
    Py_ssize_t columns      # M
    Matrix x                # N × D: what it takes
    char* out               # N × M, contiguous; x's where it works in place
    Matrix dout             # N × M: with respect to out; ops up to the next product share it
    Affine affine
    Norm norm
    const ActivationRow* activation
    Dropout dropout

cdef struct Targets:
    # of each row: its class, or a row of values; NULL what isn't there
    Py_ssize_t* classes
    char* values
    double* factors         # of the rows' losses in the gradient

cdef struct Slab:
    # rows of the gradient of one op's weights
    const Op* op
    Py_ssize_t first
    Py_ssize_t n

cdef struct NetCall:
    # one call, as its jobs see it
    bint is_double
    int item                # bytes of an element
    const Products* products
    int n_ops
    Op* ops
    const LossRow* loss
    bint trains             # everything is kept for the way back
    int n_threads           # that it is cut and has scratch memory for
    Py_ssize_t n            # rows of the batch
    Py_ssize_t n_blocks
    Py_ssize_t rows_at_once  # that a thread takes forward together, in a place of their own
    Slab* slabs
    Py_ssize_t n_slabs
    Matrix source           # the samples, or what they are taken from
    Py_ssize_t* rows        # which of them to take; NULL: all, in place
    char* gathered
    Targets targets
    double* losses
    Py_ssize_t outputs      # columns of scores
    char* scores            # NULL: they stay where the last op puts them
    char* dx                # of a single layer; NULL if it is not wanted
    uint64_t seed           # of dropout
    uint64_t step
    char* scratch           # of the products, a part for each thread
    Py_ssize_t scratch_size

cdef struct Stage:
    # what one phase does with each block of rows, in this order
    NetCall* call
    bint goes_forward
    int forward             # ops that take it forward, from the first to the one before the last
    int forward_end
    int moments             # op of which the moments of its x are wanted; -1: none
    bint takes_losses
    bint turns              # predictions become the gradient of the scores
    bint goes_back
    int backward            # ops that take the gradient back, from the last down to the first
    int backward_end
    int sums                # op of which the sums of its gradients are wanted; -1: none


cdef inline Py_ssize_t cut(Py_ssize_t length, Py_ssize_t pieces, Py_ssize_t piece) noexcept nogil:
    """Return where a piece of a length begins, for pieces of GROUP or more on average."""
    return length if piece == pieces else length * piece // pieces // GROUP * GROUP


cdef inline Py_ssize_t count_groups(Py_ssize_t n) noexcept nogil:
    """Return how many groups there are in n rows, the last of which may be shorter."""
    return (n + GROUP - 1) // GROUP
