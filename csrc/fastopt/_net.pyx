# Layers and nets, a call each: described, cut into jobs, given memory and run with the GIL released
# once. The jobs themselves are in net_jobs.pxd, checks in _net_inputs.pyx and fastopt/_contract.py;
# names, documentation and what a layer remembers in fastopt/layers.py and fastopt/nets.py.
#
# A call goes in this order: first all that may run code of the caller's (what becomes an array,
# mappings and their keys), then all that describes arrays by pointers and sizes, then the jobs. The
# caller's code could resize an array that is described already.
#
# What lies between layers is kept in a workspace, which grows with the largest batch seen.

cimport cython
cimport numpy as cnp

from cpython.dict cimport PyDict_Check
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from fastopt._net_inputs cimport (
    as_c_order,
    as_floats,
    as_int,
    as_matrix,
    as_output,
    as_plain,
    as_row_numbers,
    as_samples,
    as_scores,
    check_real,
    check_shape,
    check_weights,
    class_indices,
    empty_matrix,
    find_labels,
    find_samples,
    read_rows,
)
from fastopt._pool cimport Phase, job_function
from fastopt._products cimport product_scratch, run_products, threads_for
from fastopt.kernels.table cimport LINEAR, RELU, SIGMOID
from fastopt.matrix cimport Matrix, contiguous
from fastopt.memory cimport CACHE_LINE, PAGE, padded
from fastopt.ndarray cimport (
    PyArrayObject,
    bounds_overlap,
    is_float32_or_64,
    is_walkable,
    item_size,
)
from fastopt.net_jobs cimport (
    CUT_ROWS,
    Affine,
    NetCall,
    Slab,
    count_groups,
    cut,
    forward_block,
    gradient_block,
    gradient_slab,
    input_gradient_block,
)
from fastopt.pass_calls cimport (
    activate,
    activate_backward,
    softmax_loss,
    softmax_loss_backward,
    squares,
)
from libc.string cimport memset

import numpy as np

from fastopt import _contract

cnp.import_array()

cdef enum:
    # Rows that go forward together: their values stay in a core's own cache
    FORWARD_ROWS = 256
    BACKWARD_ROWS = 512
    # A block of rows shorter than this is not worth a thread: each thread packs all weights for
    # itself. Not less than CUT_ROWS
    MIN_BLOCK_ROWS = 16
    # Rows of a gradient of weights, for the same reason
    MIN_SLAB_ROWS = 64
    # Pieces of the gradients of weights for each thread, so that they end together
    SLABS_PER_THREAD = 2

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

# More than there is, and little enough that rounding it up does not overflow
cdef Py_ssize_t MOST_MEMORY = PY_SSIZE_T_MAX - PAGE

# What stands for an entry that a dict does not have
cdef object MISSING = object()

cdef dict KINDS = {"relu": RELU, "sigmoid": SIGMOID}


# How a call is cut, and run.

cdef void cut_blocks(NetCall* call, bint backward) noexcept:
    """Settle for how many threads a call is cut, and into how many blocks of rows."""
    call.n_threads = threads_for(operations(call, backward))
    call.n_blocks = max(1, min(call.n_threads, call.n // MIN_BLOCK_ROWS))


cdef void cut_slabs(NetCall* call) noexcept:
    """Cut the gradients of the weights into slabs of about equal work."""
    cdef int i
    cdef Py_ssize_t k, pieces
    cdef Affine* affine
    cdef Slab* slab
    cdef double total = multiplications(call)
    call.n_slabs = 0
    for i in range(call.n_affines):
        affine = &call.affines[i]
        pieces = count_slabs(
            affine.W.rows, <double> affine.W.rows * affine.W.columns / total, call.n_threads
        )
        for k in range(pieces):
            slab = &call.slabs[call.n_slabs]
            slab.affine, slab.first = affine, cut(affine.W.rows, pieces, k)
            slab.n = cut(affine.W.rows, pieces, k + 1) - slab.first
            call.n_slabs += 1


cdef Py_ssize_t count_slabs(int rows, double share, int n_threads) noexcept:
    """Return how many slabs to cut these rows into, given their share of the total work."""
    cdef Py_ssize_t wanted = <Py_ssize_t> (share * n_threads * SLABS_PER_THREAD + 0.5)
    if n_threads == 1:
        return 1
    return max(1, min(wanted, rows // MIN_SLAB_ROWS))


cdef Py_ssize_t most_slabs(const NetCall* call) noexcept:
    """Return how many slabs there can be: all shares are 1 together, and each is rounded."""
    return 2 * call.n_affines + SLABS_PER_THREAD * call.n_threads


cdef double multiplications(const NetCall* call) noexcept:
    """Return how many multiplications take one sample through all layers."""
    cdef int i
    cdef double total = 0
    for i in range(call.n_affines):
        total += <double> call.affines[i].W.rows * <double> call.affines[i].W.columns
    return total


cdef double operations(const NetCall* call, bint backward) noexcept:
    """Return how many additions and multiplications there are in the products of a call.

    A net goes forward, and back by two products a layer, except to the samples' own gradient. A
    single layer goes back by two products: as many.
    """
    cdef const Matrix* W = &call.affines[0].W
    cdef double forward = 2 * call.n * multiplications(call)
    if backward:
        return 3 * forward - 2.0 * call.n * <double> W.rows * <double> W.columns
    return forward


cdef Py_ssize_t affine_scratch(
    bint is_double, const Affine* affine, Py_ssize_t rows, Py_ssize_t n,
) noexcept:
    """Return how many bytes of scratch memory the products of up to so many rows of n want."""
    cdef Py_ssize_t D = affine.W.rows, M = affine.W.columns
    cdef Py_ssize_t forward = product_scratch(is_double, rows, M, D)
    cdef Py_ssize_t input_gradient = product_scratch(is_double, rows, D, M)
    cdef Py_ssize_t weight_gradient = product_scratch(is_double, D, M, n)
    return padded(max(forward, input_gradient, weight_gradient))


cdef void run_call(NetCall* call, job_function on_blocks, bint backward) noexcept:
    """Run a job for each block of rows, and then, if it goes back, those of the slabs."""
    cdef Phase[2] phases
    phases[0] = Phase(on_blocks, call.n_blocks, False)
    phases[1] = Phase(gradient_slab, call.n_slabs, True)
    run_products(operations(call, backward), call.n_threads, call, phases, 2 if backward else 1)


cdef double mean(Py_ssize_t n, const double* x) noexcept nogil:
    cdef Py_ssize_t i
    cdef double total = 0
    for i in range(n):
        total += x[i]
    return total / n


# Nets.

cdef class Workspace:
    """The memory that one call needs, and the arrays that it must hold on to."""

    cdef NetCall call         # it points into `memory` and into what `held` holds
    cdef list held
    cdef char* memory
    cdef Py_ssize_t capacity
    cdef Py_ssize_t used
    # Data of outputs and parameters, in turn, that were last found disjoint; NULL at first
    cdef char** known

    def __cinit__(self, int n_affines):
        self.held = []
        self.call.n_affines = n_affines
        self.call.affines = <Affine*> PyMem_Malloc(n_affines * sizeof(Affine))
        self.known = <char**> PyMem_Malloc(4 * n_affines * sizeof(char*))
        if self.call.affines == NULL or self.known == NULL:
            raise MemoryError()
        self.known[0] = NULL

    def __dealloc__(self):
        PyMem_Free(self.known)
        PyMem_Free(self.call.affines)
        PyMem_Free(self.memory)

    cdef bint grow(self) except -1:
        """Make room for all parts that were handed out; True if they must be handed out anew."""
        if self.used <= self.capacity:
            return False
        PyMem_Free(self.memory)
        self.capacity = 0
        self.memory = <char*> PyMem_Malloc(self.used + CACHE_LINE)
        if self.memory == NULL:
            raise MemoryError()
        self.capacity = self.used
        return True

    cdef char* part(self, Py_ssize_t n, Py_ssize_t size) noexcept:
        """Hand out the next part, n times a size above 0, at the beginning of a cache line."""
        cdef size_t begin = padded(<size_t> self.memory) + self.used
        if n > (MOST_MEMORY - self.used) // size:
            self.used = MOST_MEMORY  # `grow` finds that there is not as much
        else:
            self.used += padded(n * size)
        return <char*> begin


cdef class Network:
    """Takes batches through a net of Affine layers with one kind of activation between.

    Parameters
    ----------
    sizes : tuple of int
        Values in a sample, units of each hidden layer, classes.
    activation : {'relu', 'sigmoid'}
    dtype : numpy.dtype
        float32 or float64.

    Notes
    -----
    ``rows`` of the methods are row numbers of x and t, the batch to take; None takes all.
    """

    cdef readonly tuple sizes
    cdef readonly str activation
    cdef readonly object dtype
    cdef readonly dict shapes         # of the parameters, by key
    cdef int type_num
    cdef bint is_double
    cdef int item
    cdef int n_affines
    cdef tuple keys                   # W1, b1, W2, …
    cdef Workspace idle               # None while a call has it

    def __cinit__(self, tuple sizes, str activation, dtype):
        self.sizes, self.activation, self.dtype = sizes, activation, np.dtype(dtype)
        if len(sizes) < 2 or not is_float32_or_64(self.dtype.num):
            raise ValueError(f"no net of sizes {sizes} and dtype {self.dtype}")
        self.n_affines = len(sizes) - 1
        self.type_num = self.dtype.num
        self.is_double = self.type_num == cnp.NPY_FLOAT64
        self.item = item_size(self.is_double)
        self.shapes = _contract.parameter_shapes(sizes)
        self.keys = tuple(self.shapes)
        self.idle = Workspace(self.n_affines)

    def __reduce__(self):
        return Network, (self.sizes, self.activation, self.dtype)

    def predict(self, params, x):
        """Return the scores (N, C), a fresh array."""
        cdef cnp.ndarray samples = np.asarray(x), scores
        cdef list parameters = self.look_up(as_dict(params))
        cdef Workspace workspace = self.take_workspace()
        try:
            self.find_parameters(workspace, parameters)
            self.find_batch(workspace, samples, None, None, False)
            scores = empty_matrix(
                workspace.call.n, self.sizes[self.n_affines], self.type_num
            )
            workspace.call.scores = <char*> cnp.PyArray_DATA(scores)
            run_call(&workspace.call, forward_block, False)
        finally:
            self.give_back(workspace)
        return scores

    def cross_entropy(self, params, x, t, rows=None):
        """Return the mean cross-entropy."""
        cdef cnp.ndarray samples = np.asarray(x), labels = np.asarray(t)
        cdef cnp.ndarray numbers = None if rows is None else np.asarray(rows)
        cdef list parameters = self.look_up(as_dict(params))
        cdef Workspace workspace = self.take_workspace()
        try:
            self.find_parameters(workspace, parameters)
            self.find_batch(workspace, samples, labels, numbers, False)
            run_call(&workspace.call, forward_block, False)
            return mean(workspace.call.n, workspace.call.losses)
        finally:
            self.give_back(workspace)

    def gradient(self, params, grads, x, t, double weight_decay, rows=None):
        """Write the gradients into the arrays of `grads`; return the mean cross-entropy."""
        if not PyDict_Check(grads):
            raise TypeError(f"out must be a dict of arrays, got {type(grads).__name__}")
        cdef cnp.ndarray samples = np.asarray(x), labels = np.asarray(t)
        cdef cnp.ndarray numbers = None if rows is None else np.asarray(rows)
        cdef list parameters = self.look_up(as_dict(params)), outputs = self.look_up(as_dict(grads))
        cdef Workspace workspace = self.take_workspace()
        cdef int i
        try:
            self.find_parameters(workspace, parameters)
            self.find_outputs(workspace, parameters, outputs, samples)
            self.find_batch(workspace, samples, labels, numbers, True)
            for i in range(self.n_affines):
                workspace.call.affines[i].weight_decay = weight_decay
            run_call(&workspace.call, gradient_block, True)
            return mean(workspace.call.n, workspace.call.losses)
        finally:
            self.give_back(workspace)

    cdef Workspace take_workspace(self):
        """Return the workspace, or another one if a call in another thread has it."""
        cdef Workspace workspace
        with cython.critical_section(self):
            workspace = self.idle
            self.idle = None
        if workspace is None:
            workspace = Workspace(self.n_affines)
        return workspace

    cdef int give_back(self, Workspace workspace) except -1:
        del workspace.held[:]
        with cython.critical_section(self):
            self.idle = workspace
        return 0

    cdef list look_up(self, dict arrays):
        """Return what a dict holds under the keys of the parameters, or MISSING for each.

        Comparing keys may run code of the caller's; nothing of what is returned does.
        """
        cdef list found = []
        for key in self.keys:
            found.append(as_plain(arrays.get(key, MISSING)))
        return found

    cdef dict as_named(self, list found):
        """Return what was looked up as a dict again, for the checks of fastopt/_contract.py."""
        cdef int k
        return {
            self.keys[k]: found[k] for k in range(2 * self.n_affines) if found[k] is not MISSING
        }

    cdef int find_parameters(self, Workspace workspace, list params) except -1:
        """Describe the parameters; one that a product can't walk is copied for this call."""
        cdef int i
        cdef Affine* affine
        cdef cnp.ndarray W, b
        cdef NetCall* call = &workspace.call
        call.is_double, call.item = self.is_double, self.item
        for i in range(self.n_affines):
            affine = &call.affines[i]
            W, b = self.parameter(params, 2 * i), self.parameter(params, 2 * i + 1)
            W = as_matrix(as_floats("W", W, self.type_num), &affine.W)
            b = as_c_order(as_floats("b", b, self.type_num))
            affine.b = <char*> cnp.PyArray_DATA(b)
            affine.kind = LINEAR if i + 1 == self.n_affines else KINDS[self.activation]
            workspace.held.append(W)
            workspace.held.append(b)
        return 0

    cdef cnp.ndarray parameter(self, list params, int k):
        p, key = params[k], self.keys[k]
        if not self.has_shape(p, k) or cnp.PyArray_TYPE(p) != self.type_num:
            _contract.check_parameter(self.as_named(params), key, self.shapes[key], self.dtype)
            raise AssertionError(f"parameter {key!r} is refused without a reason")
        return p

    cdef bint has_shape(self, a, int k) noexcept:
        """Tell whether an object is an array of the shape of parameter k."""
        cdef int i = k // 2
        if not cnp.PyArray_Check(a):
            return False
        if k % 2:
            return cnp.PyArray_NDIM(a) == 1 and cnp.PyArray_DIM(a, 0) == self.sizes[i + 1]
        return (
            cnp.PyArray_NDIM(a) == 2
            and cnp.PyArray_DIM(a, 0) == self.sizes[i]
            and cnp.PyArray_DIM(a, 1) == self.sizes[i + 1]
        )

    cdef int find_outputs(
        self, Workspace workspace, list params, list grads, cnp.ndarray x,
    ) except -1:
        """Describe where the gradients go; look for overlaps only if an array is a new one."""
        cdef int k
        cdef Affine* affine
        cdef char** known = workspace.known
        cdef bint is_known = known[0] != NULL
        for k in range(2 * self.n_affines):
            g, p = grads[k], params[k]
            if not (
                self.has_shape(g, k)
                and is_walkable(<PyArrayObject*> g, self.type_num)
                and cnp.PyArray_ISCARRAY(g)
                and not bounds_overlap(<PyArrayObject*> g, <PyArrayObject*> x)
            ):
                self.check_outputs(known, params, grads, x)
                raise AssertionError(f"out[{self.keys[k]!r}] is refused without a reason")
            affine = &workspace.call.affines[k // 2]
            if k % 2:
                affine.db = <char*> cnp.PyArray_DATA(g)
            else:
                affine.dW = <char*> cnp.PyArray_DATA(g)
            workspace.held.append(g)
            is_known = (
                is_known
                and cnp.PyArray_IS_C_CONTIGUOUS(p)
                and cnp.PyArray_DATA(g) == known[2 * k]
                and cnp.PyArray_DATA(p) == known[2 * k + 1]
            )
        if not is_known:
            self.check_outputs(known, params, grads, x)
        return 0

    cdef int check_outputs(
        self, char** known, list params, list grads, cnp.ndarray x,
    ) except -1:
        """Check outputs for overlaps with parameters and each other, and remember where they are.
        """
        cdef int k
        known[0] = NULL
        _contract.check_outputs(
            self.as_named(grads), self.as_named(params), x, self.shapes, self.dtype
        )
        for k in reversed(range(2 * self.n_affines)):
            known[2 * k + 1] = <char*> cnp.PyArray_DATA(<cnp.ndarray?> params[k])
            known[2 * k] = <char*> cnp.PyArray_DATA(<cnp.ndarray?> grads[k])
        return 0

    cdef int find_batch(
        self, Workspace workspace, cnp.ndarray samples, cnp.ndarray given, cnp.ndarray numbers,
        bint backward,
    ) except -1:
        """Describe the samples and copy the labels and row numbers, which may be None.

        All is checked after this.
        """
        cdef NetCall* call = &workspace.call
        cdef Py_ssize_t n_samples
        if numbers is None:
            samples = as_samples(samples, self.sizes[0], self.type_num)
            samples = as_matrix(samples, &call.source)
            call.n = n_samples = call.source.rows
        else:
            check_real("x", samples)
            numbers = as_row_numbers(numbers)
            n_samples = cnp.PyArray_DIM(samples, 0) if cnp.PyArray_NDIM(samples) else 0
            call.n = as_int(cnp.PyArray_DIM(numbers, 0))
        self.lay_out(workspace, numbers is not None, given is not None, backward)
        if numbers is not None:
            read_rows(numbers, n_samples, call.rows)
        if given is not None:
            find_labels(call, given, numbers, n_samples, self.sizes[self.n_affines])
        if numbers is not None:
            samples = find_samples(
                call, samples, numbers, n_samples, self.sizes[0], self.type_num
            )
        workspace.held.append(samples)
        if backward:
            call.affines[0].x = call.source
            if call.rows != NULL:
                call.affines[0].x = contiguous(call.gathered, <int> call.n, self.sizes[0])
        return 0

    cdef int lay_out(
        self, Workspace workspace, bint has_rows, bint has_labels, bint backward,
    ) except -1:
        """Settle how the batch is cut, and where in the workspace everything goes."""
        cdef NetCall* call = &workspace.call
        cut_blocks(call, backward)
        call.rows_at_once = FORWARD_ROWS
        if backward:  # blocks that a core's own cache can hold, a whole number for each thread
            call.n_blocks *= 1 + (call.n - 1) // (call.n_blocks * BACKWARD_ROWS)
        workspace.used = 0
        self.hand_out(workspace, has_rows, has_labels, backward)
        if workspace.grow():
            workspace.used = 0
            self.hand_out(workspace, has_rows, has_labels, backward)
        if backward:
            cut_slabs(call)
        return 0

    cdef void hand_out(
        self, Workspace workspace, bint has_rows, bint has_labels, bint backward,
    ) noexcept:
        """Give every array of the call its part of the workspace."""
        cdef NetCall* call = &workspace.call
        cdef Affine* affine
        cdef int i, columns
        cdef Py_ssize_t item = self.item, n_rows = call.n, scratch = 0
        cdef Py_ssize_t rows = min(call.n, BACKWARD_ROWS + CUT_ROWS if backward else FORWARD_ROWS)
        if not backward and (call.n_blocks > 1 or call.n > FORWARD_ROWS):
            n_rows = call.n_blocks * FORWARD_ROWS
        call.rows = call.labels = NULL
        call.scores = NULL
        if has_rows:
            call.rows = <Py_ssize_t*> workspace.part(call.n, sizeof(Py_ssize_t))
            call.gathered = workspace.part(n_rows, <Py_ssize_t> self.sizes[0] * item)
        if has_labels:
            call.labels = <Py_ssize_t*> workspace.part(call.n, sizeof(Py_ssize_t))
            call.losses = <double*> workspace.part(call.n, sizeof(double))
        if backward:
            call.slabs = <Slab*> workspace.part(most_slabs(call), sizeof(Slab))
        for i in range(self.n_affines):
            affine = &call.affines[i]
            columns = self.sizes[i + 1]
            affine.out = workspace.part(n_rows, columns * item)
            affine.dout.data = affine.out  # the last layer's scores become their gradient in place
            if backward and i + 1 < self.n_affines:
                affine.dout.data = workspace.part(n_rows, columns * item)
            affine.dout = contiguous(affine.dout.data, <int> call.n, columns)
            affine.db_shares = contiguous(NULL, 0, columns)
            if backward and call.n > CUT_ROWS:
                affine.db_shares.rows = <int> count_groups(call.n)
                affine.db_shares.data = workspace.part(affine.db_shares.rows, columns * item)
            if i > 0:
                affine.x = contiguous(call.affines[i - 1].out, <int> call.n, self.sizes[i])
            scratch = max(scratch, affine_scratch(self.is_double, affine, rows, call.n))
        call.scratch_size = scratch
        call.scratch = workspace.part(call.n_threads, scratch) if scratch else NULL


cdef dict as_dict(mapping):
    return mapping if type(mapping) is dict else dict(mapping)


# Single layers.

def affine_forward(x, W, b):
    """Return x·W + b, and x as the (N, D) array that `affine_gradient` wants."""
    x = np.asarray(x)  # may run code of the caller's: before anything is looked at
    W, b = check_weights(W, b)
    cdef int type_num = cnp.PyArray_TYPE(W)
    cdef Affine affine
    cdef NetCall call = call_of_layer(&affine, type_num)
    cdef cnp.ndarray samples = as_matrix(as_samples(x, W.shape[0], type_num), &affine.x)
    cdef cnp.ndarray _weights = as_matrix(as_floats("W", W, type_num), &affine.W)
    cdef cnp.ndarray bias = as_c_order(as_floats("b", b, type_num))
    cdef cnp.ndarray out = empty_matrix(affine.x.rows, affine.W.columns, type_num)
    affine.b = <char*> cnp.PyArray_DATA(bias)
    call.scores = <char*> cnp.PyArray_DATA(out)
    run_layer(&call, forward_block, False)
    return out, samples


def affine_gradient(dout, cnp.ndarray x, W, b, dW=None, db=None):
    """Return dx (N, D), dW and db; the latter two are written into if given, as plain arrays."""
    dout = np.asarray(dout)  # may run code of the caller's: before anything is looked at
    W, b = check_weights(W, b)
    cdef int type_num = cnp.PyArray_TYPE(W)
    cdef Affine affine
    cdef NetCall call = call_of_layer(&affine, type_num)
    x = as_plain(x)
    cdef tuple inputs = (W, b, dout, x)
    if cnp.PyArray_NDIM(x) != 2 or cnp.PyArray_DIM(x, 0) == 0:
        raise ValueError(f"x was changed since forward: its shape is now {(<object> x).shape}")
    cdef cnp.ndarray dout_array = as_floats("dout", dout, type_num)
    check_shape("dout", dout_array, (cnp.PyArray_DIM(x, 0), W.shape[1]))
    check_shape("W", W, (cnp.PyArray_DIM(x, 1), W.shape[1]))
    x = as_matrix(as_floats("x", x, type_num), &affine.x)
    dout_array = as_matrix(dout_array, &affine.dout)
    cdef cnp.ndarray _weights = as_matrix(as_floats("W", W, type_num), &affine.W)
    cdef cnp.ndarray dW_array = as_output("dW", dW, W, inputs)
    cdef cnp.ndarray db_array = as_output("db", db, b, inputs)
    if np.may_share_memory(dW_array, db_array):
        raise ValueError("dW and db overlap in memory")
    cdef cnp.ndarray dx = empty_matrix(affine.x.rows, affine.x.columns, type_num)
    affine.dW, affine.db = <char*> cnp.PyArray_DATA(dW_array), <char*> cnp.PyArray_DATA(db_array)
    affine.db_shares = affine.dout
    call.dx = <char*> cnp.PyArray_DATA(dx)
    run_layer(&call, input_gradient_block, True)
    return dx, dW_array, db_array


cdef NetCall call_of_layer(Affine* affine, int type_num) noexcept:
    """Return the call of a net of one layer without activation, yet to be described."""
    cdef NetCall call
    memset(&call, 0, sizeof(NetCall))
    memset(affine, 0, sizeof(Affine))
    affine.kind = LINEAR
    call.is_double = type_num == cnp.NPY_FLOAT64
    call.item = item_size(call.is_double)
    call.affines, call.n_affines = affine, 1
    return call


cdef int run_layer(NetCall* call, job_function on_blocks, bint backward) except -1:
    """Cut and run the call of a single layer whose arrays are described."""
    cdef Affine* affine = call.affines
    cdef Py_ssize_t slabs
    call.source = affine.x
    call.n = call.rows_at_once = affine.x.rows
    cut_blocks(call, backward)
    slabs = padded(most_slabs(call) * sizeof(Slab))
    call.scratch_size = affine_scratch(call.is_double, affine, call.n, call.n)
    memory = <char*> PyMem_Malloc(slabs + call.n_threads * call.scratch_size + CACHE_LINE)
    if memory == NULL:
        raise MemoryError()
    call.slabs = <Slab*> padded(<size_t> memory)
    call.scratch = <char*> call.slabs + slabs
    if backward:
        cut_slabs(call)
    run_call(call, on_blocks, backward)
    PyMem_Free(memory)
    return 0


def activation_forward(str activation, x):
    """Return f(x), and a copy of it for `activation_gradient`."""
    cdef cnp.ndarray out = np.array(as_floats("x", x), order="C")
    cdef int kind = KINDS[activation]
    cdef bint is_double = cnp.PyArray_TYPE(out) == cnp.NPY_FLOAT64
    cdef Py_ssize_t size = cnp.PyArray_SIZE(out)
    cdef void* data = cnp.PyArray_DATA(out)
    with nogil:
        activate(is_double, kind, 1, size, NULL, data)
    return out, (<object> out).copy()


def activation_gradient(str activation, dout, cnp.ndarray out):
    """Return dout·f'(x) for what `activation_forward` returned."""
    cdef cnp.ndarray dx = np.array(as_floats("dout", dout, cnp.PyArray_TYPE(out)), order="C")
    check_shape("dout", dx, (<object> out).shape)
    cdef int kind = KINDS[activation]
    cdef bint is_double = cnp.PyArray_TYPE(out) == cnp.NPY_FLOAT64
    cdef Py_ssize_t size = cnp.PyArray_SIZE(out)
    cdef void* data = cnp.PyArray_DATA(dx)
    cdef void* kept = cnp.PyArray_DATA(out)
    with nogil:
        activate_backward(is_double, kind, 1, size, kept, data, NULL)
    return dx


def softmax_loss_forward(x, t):
    """Return the mean cross-entropy, softmax(x), and the labels as class indices."""
    cdef cnp.ndarray y = np.array(as_scores(x), order="C")
    cdef cnp.ndarray labels = class_indices(t, y.shape[0], y.shape[1])
    cdef bint is_double = cnp.PyArray_TYPE(y) == cnp.NPY_FLOAT64
    cdef Py_ssize_t n = cnp.PyArray_DIM(y, 0), m = cnp.PyArray_DIM(y, 1)
    cdef cnp.ndarray losses = np.empty(n)
    cdef void* y_data = cnp.PyArray_DATA(y)
    cdef double* losses_data = <double*> cnp.PyArray_DATA(losses)
    cdef Py_ssize_t* t_data = <Py_ssize_t*> cnp.PyArray_DATA(labels)
    with nogil:
        softmax_loss(is_double, n, m, t_data, y_data, losses_data)
    return mean(n, losses_data), y, labels


def softmax_loss_gradient(cnp.ndarray y, cnp.ndarray labels, Py_ssize_t classes, double dout):
    """Return dout·(y - t)/N, t the labels one-hot, for what `softmax_loss_forward` returned."""
    if (
        cnp.PyArray_NDIM(y) != 2
        or not is_float32_or_64(cnp.PyArray_TYPE(y))
        or not cnp.PyArray_ISCARRAY_RO(y)
        or cnp.PyArray_DIM(y, 0) != cnp.PyArray_DIM(labels, 0)
        or cnp.PyArray_DIM(y, 1) != classes
    ):
        raise ValueError(f"y was changed since forward: it is now {y.dtype}{(<object> y).shape}")
    cdef cnp.ndarray dx = (<object> y).copy()
    cdef bint is_double = cnp.PyArray_TYPE(y) == cnp.NPY_FLOAT64
    cdef Py_ssize_t n = cnp.PyArray_DIM(y, 0), m = cnp.PyArray_DIM(y, 1)
    cdef void* data = cnp.PyArray_DATA(dx)
    cdef Py_ssize_t* t_data = <Py_ssize_t*> cnp.PyArray_DATA(labels)
    with nogil:
        softmax_loss_backward(is_double, n, m, t_data, dout / n, data, NULL)
    return dx


def sum_of_squares(W):
    """Return ΣW², summed in float64."""
    cdef Matrix matrix
    cdef cnp.ndarray array = as_floats("W", W)
    if cnp.PyArray_NDIM(array) != 2:
        raise ValueError(f"W has shape {(<object> array).shape}, wants 2 dimensions")
    array = as_matrix(array, &matrix)
    cdef bint is_double = cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT64
    cdef double total
    with nogil:
        total = squares(is_double, &matrix)
    return total


def count_correct(scores, t):
    """Return how many rows of the scores (N, C) have their largest entry at the label.

    The first one of equals, or of NaN, counts as the largest, as in NumPy.
    """
    cdef cnp.ndarray array = as_scores(scores)
    labels = class_indices(t, array.shape[0], array.shape[1])
    return int(np.count_nonzero(array.argmax(axis=1) == labels))
