# Nets, a call each: described, given memory and run with the GIL released once. How a call is cut
# and run is in _plan.pyx, what its jobs do in kernels/net_jobs.pxi, checks in _net_inputs.pyx and
# fastopt/_contract.py; names and documentation in fastopt/_net_base.py. Single layers have
# _layers.pyx.
#
# A call goes in this order: first all that may run code of the caller's (what becomes an array,
# mappings and their keys), then all that describes arrays by pointers and sizes, then the jobs. The
# caller's code could resize an array that is described already.
#
# What lies between ops is kept in a workspace, which grows with the largest batch seen.

cimport cython
cimport numpy as cnp

from cpython.dict cimport PyDict_Check
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from fastopt._kernels cimport kernels
from fastopt._net_inputs cimport (
    Range,
    as_c_order,
    as_floats,
    as_int,
    as_matrix,
    as_plain,
    as_row_numbers,
    as_samples,
    check_real,
    empty_matrix,
    find_samples,
    find_targets,
    find_weights,
    range_of,
    read_rows,
)
from fastopt._plan cimport (
    BACKWARD_ROWS,
    FORWARD_ROWS,
    Way,
    cut_blocks,
    cut_slabs,
    largest_loss,
    mean_loss,
    measure_scratch,
    most_slabs,
    most_stages,
    run_call,
)
from fastopt._pool cimport Phase
from fastopt.kernels.table cimport ActivationRow, LossRow
from fastopt.matrix cimport contiguous
from fastopt.memory cimport CACHE_LINE, PAGE, padded
from fastopt.ndarray cimport (
    PyArrayObject,
    bounds_overlap,
    is_float32_or_64,
    is_walkable,
    item_size,
)
from fastopt.net cimport (
    ACTIVATION,
    AFFINE,
    DROPOUT,
    GROUP,
    NORM,
    Dropout,
    NetCall,
    Op,
    Slab,
    Stage,
    count_groups,
)
from libc.stdint cimport uint64_t
from libc.string cimport memset

import numpy as np

from fastopt import _contract

cnp.import_array()

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

# More than there is, and little enough that rounding it up does not overflow
cdef Py_ssize_t MOST_MEMORY = PY_SSIZE_T_MAX - PAGE

# What stands for an entry that a dict does not have
cdef object MISSING = object()

# What a call does
cdef Way SCORES = Way(True, False, False, False)
cdef Way LOSSES = Way(True, True, False, False)
cdef Way GRADIENT = Way(True, True, True, True)


cdef const ActivationRow* activation_row(str name) except NULL:
    """Return the row of the kernels' table that has a name."""
    return &kernels.activations[place_of("activation", name, activations)]


cdef const LossRow* loss_row(str name) except NULL:
    return &kernels.losses[place_of("loss", name, losses)]


cdef int place_of(str kind, str name, names) except -1:
    """Return at which place of the table a name stands."""
    cdef int k = 0
    for each in names:
        if each == name:
            return k
        k += 1
    raise ValueError(f"no {kind} {name!r}; there are {', '.join(names)}")


# By name, in the table's order: whether the derivative of an activation is told from its input; and
# what losses there are
activations = {}
for _k in range(kernels.n_activations):
    activations[kernels.activations[_k].name.decode()] = bool(
        kernels.activations[_k].told_from_input
    )
losses = tuple([kernels.losses[_k].name.decode() for _k in range(kernels.n_losses)])


cdef class Workspace:
    """The memory that one call needs, and the arrays that it must hold on to."""

    cdef NetCall call         # it points into `memory` and into what `held` holds
    cdef Stage* stages
    cdef Phase* phases
    cdef list held
    cdef char* memory
    cdef Py_ssize_t capacity
    cdef Py_ssize_t used
    # Data of all arrays last found disjoint, in the order of `are_known`; NULL at first
    cdef char** known

    def __cinit__(self, int n_ops, int n_known, int n_stages):
        self.held = []
        self.call.n_ops = n_ops
        self.call.ops = <Op*> PyMem_Malloc(n_ops * sizeof(Op))
        self.stages = <Stage*> PyMem_Malloc(n_stages * sizeof(Stage))
        self.phases = <Phase*> PyMem_Malloc((n_stages + 1) * sizeof(Phase))
        self.known = <char**> PyMem_Malloc(n_known * sizeof(char*))
        if (
            self.call.ops == NULL or self.stages == NULL or self.phases == NULL
            or self.known == NULL
        ):
            raise MemoryError()
        memset(self.call.ops, 0, n_ops * sizeof(Op))
        self.known[0] = NULL

    def __dealloc__(self):
        PyMem_Free(self.known)
        PyMem_Free(self.phases)
        PyMem_Free(self.stages)
        PyMem_Free(self.call.ops)
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
    """Takes batches through a net of Affine layers, with an activation and more between.

    Parameters
    ----------
    sizes : tuple of int
        Values in a sample, units of each hidden layer, outputs.
    activation : str
        One of `activations`.
    loss : str
        One of `losses`.
    dtype : numpy.dtype
        float32 or float64.
    use_batchnorm : bool
        Whether each hidden layer normalizes the batch before its activation.
    dropout_ratio : float
        Share of the activations of each hidden layer that are dropped in training; 0 for none.
    seed : int
        Of the random numbers that say which.

    Notes
    -----
    ``rows`` of the methods are row numbers of x, t and weights, the batch to take; None takes all.
    `gradient` trains: it takes the batch's own mean and variance, moves the averages in `running`,
    drops activations and counts itself in `steps`. The others evaluate.
    """

    cdef readonly tuple sizes
    cdef readonly str activation
    cdef readonly str loss
    cdef readonly object dtype
    cdef readonly bint use_batchnorm
    cdef readonly double dropout_ratio
    cdef readonly dict shapes         # of the parameters, by key
    cdef readonly dict running        # running averages, by key: mean1, var1, …
    cdef readonly dict running_shapes
    cdef public unsigned long long seed
    cdef public unsigned long long steps
    cdef readonly double largest_loss  # of a sample, in the last `gradient`
    cdef int type_num
    cdef bint is_double
    cdef int item
    cdef int outputs
    cdef tuple keys                   # W1, b1, W2, …: those of an op follow each other
    cdef tuple running_keys           # mean1, var1, …
    cdef int n_pairs                  # of them
    cdef int n_norms
    cdef list kinds                   # of the ops
    cdef const ActivationRow* activation_row
    cdef const LossRow* loss_row
    cdef Range range                  # of targets
    cdef Workspace idle               # None while a call has it

    def __cinit__(
        self, tuple sizes, str activation, str loss, dtype, bint use_batchnorm=False,
        double dropout_ratio=0, unsigned long long seed=0,
    ):
        self.sizes, self.activation, self.loss = sizes, activation, loss
        self.dtype = np.dtype(dtype)
        if len(sizes) < 2 or not is_float32_or_64(self.dtype.num):
            raise ValueError(f"no net of sizes {sizes} and dtype {self.dtype}")
        if not 0 <= dropout_ratio < 1:
            raise ValueError(f"dropout_ratio must be from 0 to below 1, got {dropout_ratio}")
        self.activation_row, self.loss_row = activation_row(activation), loss_row(loss)
        self.range = range_of(loss)
        self.use_batchnorm, self.dropout_ratio = use_batchnorm, dropout_ratio
        self.seed = seed
        self.type_num = self.dtype.num
        self.is_double = self.type_num == cnp.NPY_FLOAT64
        self.item = item_size(self.is_double)
        self.outputs = sizes[len(sizes) - 1]
        self.shapes = _contract.parameter_shapes(sizes, use_batchnorm)
        self.keys = tuple(self.shapes)
        self.running_shapes = _contract.running_shapes(sizes, use_batchnorm)
        self.running_keys = tuple(self.running_shapes)
        self.running = _contract.first_averages(self.running_shapes, self.dtype)
        self.list_ops()
        self.idle = self.new_workspace()

    cdef int list_ops(self) except -1:
        """Write down which ops there are, in order."""
        cdef int hidden = len(self.sizes) - 2
        cdef list layer = [AFFINE]
        if self.use_batchnorm:
            layer.append(NORM)
        if self.activation != "identity":
            layer.append(ACTIVATION)
        if self.dropout_ratio > 0:
            layer.append(DROPOUT)
        self.kinds = hidden * layer + [AFFINE]
        self.n_norms = hidden * self.use_batchnorm
        self.n_pairs = hidden + 1 + self.n_norms
        return 0

    cdef Workspace new_workspace(self):
        """Return a workspace whose ops are described as far as they are the same in every call."""
        cdef Workspace workspace = Workspace(
            len(self.kinds), 4 * self.n_pairs + 2 * self.n_norms, most_stages(self.n_norms)
        )
        cdef NetCall* call = &workspace.call
        cdef Op* op
        cdef int k, layer = -1
        call.is_double, call.item, call.outputs = self.is_double, self.item, self.outputs
        call.loss = self.loss_row
        for k in range(call.n_ops):
            op = &call.ops[k]
            op.kind = self.kinds[k]
            layer += op.kind == AFFINE
            op.columns = self.sizes[layer + 1]
            if op.kind == ACTIVATION:
                op.activation = self.activation_row
            elif op.kind == DROPOUT:
                op.dropout = dropout_of(self.dropout_ratio, layer)
        return workspace

    def __reduce__(self):
        arguments = (
            self.sizes, self.activation, self.loss, self.dtype, self.use_batchnorm,
            self.dropout_ratio, self.seed,
        )
        return Network, arguments, (self.running, self.steps)

    def __setstate__(self, state):
        running, self.steps = state
        for key, array in running.items():
            self.running[key][...] = array

    def predict(self, params, x):
        """Return the scores (N, C), a fresh array."""
        cdef cnp.ndarray samples = np.asarray(x), scores
        cdef list parameters = look_up(as_dict(params), self.keys)
        cdef list averages = look_up(self.running, self.running_keys)
        cdef Workspace workspace = self.take_workspace()
        try:
            self.find_parameters(workspace, parameters)
            self.find_running(workspace, averages)
            self.find_batch(workspace, samples, None, None, None, SCORES)
            scores = empty_matrix(workspace.call.n, self.outputs, self.type_num)
            workspace.call.scores = <char*> cnp.PyArray_DATA(scores)
            run_call(&workspace.call, SCORES, workspace.stages, workspace.phases)
        finally:
            self.give_back(workspace)
        return scores

    def mean_loss(self, params, x, t, rows=None, weights=None):
        """Return the mean loss, of samples weighted if there are weights."""
        cdef cnp.ndarray samples = np.asarray(x), targets = np.asarray(t)
        cdef cnp.ndarray numbers = None if rows is None else np.asarray(rows)
        cdef cnp.ndarray given = None if weights is None else np.asarray(weights)
        cdef list parameters = look_up(as_dict(params), self.keys)
        cdef list averages = look_up(self.running, self.running_keys)
        cdef Workspace workspace = self.take_workspace()
        try:
            self.find_parameters(workspace, parameters)
            self.find_running(workspace, averages)
            self.find_batch(workspace, samples, targets, numbers, given, LOSSES)
            run_call(&workspace.call, LOSSES, workspace.stages, workspace.phases)
            return mean_loss(&workspace.call, given is not None)
        finally:
            self.give_back(workspace)

    def gradient(self, params, grads, x, t, double weight_decay, rows=None, weights=None):
        """Write the gradients into the arrays of `grads`; return the mean loss."""
        if not PyDict_Check(grads):
            raise TypeError(f"out must be a dict of arrays, got {type(grads).__name__}")
        cdef cnp.ndarray samples = np.asarray(x), targets = np.asarray(t)
        cdef cnp.ndarray numbers = None if rows is None else np.asarray(rows)
        cdef cnp.ndarray given = None if weights is None else np.asarray(weights)
        cdef list parameters = look_up(as_dict(params), self.keys)
        cdef list averages = look_up(self.running, self.running_keys)
        cdef list outputs = look_up(as_dict(grads), self.keys)
        cdef Workspace workspace = self.take_workspace()
        cdef int k
        try:
            self.find_parameters(workspace, parameters)
            self.find_running(workspace, averages)
            self.find_outputs(workspace, parameters, averages, outputs, samples)
            self.find_batch(workspace, samples, targets, numbers, given, GRADIENT)
            for k in range(workspace.call.n_ops):
                workspace.call.ops[k].affine.weight_decay = weight_decay
            workspace.call.seed, workspace.call.step = self.seed, self.steps
            run_call(&workspace.call, GRADIENT, workspace.stages, workspace.phases)
            self.steps += 1
            self.largest_loss = largest_loss(&workspace.call)
            return mean_loss(&workspace.call, given is not None)
        finally:
            self.give_back(workspace)

    cdef Workspace take_workspace(self):
        """Return the workspace, or another one if a call in another thread has it."""
        cdef Workspace workspace
        with cython.critical_section(self):
            workspace = self.idle
            self.idle = None
        return self.new_workspace() if workspace is None else workspace

    cdef int give_back(self, Workspace workspace) except -1:
        del workspace.held[:]
        with cython.critical_section(self):
            self.idle = workspace
        return 0

    cdef int find_parameters(self, Workspace workspace, list params) except -1:
        """Describe the parameters; one that a product or a pass can't walk is copied."""
        cdef int k, i = 0
        cdef Op* op
        cdef cnp.ndarray first, second
        for k in range(workspace.call.n_ops):
            op = &workspace.call.ops[k]
            if op.kind != AFFINE and op.kind != NORM:
                continue
            first = as_floats("W", self.parameter(params, i), self.type_num)
            second = as_c_order(as_floats("b", self.parameter(params, i + 1), self.type_num))
            i += 2
            if op.kind == AFFINE:
                first = as_matrix(first, &op.affine.W)
                op.affine.b = <char*> cnp.PyArray_DATA(second)
            else:
                first = as_c_order(first)
                op.norm.gamma = <char*> cnp.PyArray_DATA(first)
                op.norm.beta = <char*> cnp.PyArray_DATA(second)
            workspace.held.append(first)
            workspace.held.append(second)
        return 0

    cdef cnp.ndarray parameter(self, list params, int k):
        p, key = params[k], self.keys[k]
        if not self.has_shape(p, k) or cnp.PyArray_TYPE(p) != self.type_num:
            named = as_named(params, self.keys)
            _contract.check_parameter(named, key, self.shapes[key], self.dtype)
            raise AssertionError(f"parameter {key!r} is refused without a reason")
        return p

    cdef bint has_shape(self, a, int k) noexcept:
        """Tell whether an object is an array of the shape of parameter k."""
        cdef int pairs_of_a_layer = 1 + self.use_batchnorm
        cdef int pair = k // 2, layer = pair // pairs_of_a_layer
        if not cnp.PyArray_Check(a):
            return False
        if k % 2 == 0 and pair % pairs_of_a_layer == 0:
            return (
                cnp.PyArray_NDIM(a) == 2
                and cnp.PyArray_DIM(a, 0) == self.sizes[layer]
                and cnp.PyArray_DIM(a, 1) == self.sizes[layer + 1]
            )
        return cnp.PyArray_NDIM(a) == 1 and cnp.PyArray_DIM(a, 0) == self.sizes[layer + 1]

    cdef int find_running(self, Workspace workspace, list averages) except -1:
        """Describe the running averages, of which one may have been replaced by an array like it.
        """
        cdef int k, i = 0
        cdef Op* op
        for k in range(workspace.call.n_ops):
            op = &workspace.call.ops[k]
            if op.kind == NORM:
                op.norm.running_mean = self.average(workspace, averages, i)
                op.norm.running_variance = self.average(workspace, averages, i + 1)
                i += 2
        return 0

    cdef char* average(self, Workspace workspace, list averages, int k) except NULL:
        cdef object a = averages[k]
        if not (
            cnp.PyArray_Check(a)
            and cnp.PyArray_NDIM(a) == 1
            and cnp.PyArray_DIM(a, 0) == self.sizes[k // 2 + 1]
            and is_walkable(<PyArrayObject*> a, self.type_num)
            and cnp.PyArray_ISCARRAY(a)
        ):
            _contract.check_written(
                "running", as_named(averages, self.running_keys), self.running_shapes, self.dtype
            )
            raise AssertionError(f"running[{self.running_keys[k]!r}] is refused without a reason")
        workspace.held.append(a)
        return <char*> cnp.PyArray_DATA(a)

    cdef int find_outputs(
        self, Workspace workspace, list params, list averages, list grads, cnp.ndarray x,
    ) except -1:
        """Describe where the gradients go; look for overlaps only if an array is a new one."""
        cdef int k
        cdef list written
        cdef bint fits = True
        for k in range(2 * self.n_pairs):
            g = grads[k]
            fits = fits and (
                self.has_shape(g, k)
                and is_walkable(<PyArrayObject*> g, self.type_num)
                and cnp.PyArray_ISCARRAY(g)
                and not bounds_overlap(<PyArrayObject*> g, <PyArrayObject*> x)
            )
            workspace.held.append(g)
        for a in averages:
            fits = fits and not bounds_overlap(<PyArrayObject*> a, <PyArrayObject*> x)
        if fits and not are_known(workspace.known, grads, averages, params):
            workspace.known[0] = NULL
            written = grads + averages
            fits = are_disjoint(written, params)
            if fits:
                remember(workspace.known, written + params)
        if not fits:
            _contract.check_outputs(
                as_named(grads, self.keys), as_named(averages, self.running_keys),
                as_named(params, self.keys), x, self.shapes, self.dtype,
            )
            raise AssertionError("out is refused without a reason")
        self.describe_outputs(workspace, grads)
        return 0

    cdef int describe_outputs(self, Workspace workspace, list grads) except -1:
        """Write down where the gradients of each op go, which are checked."""
        cdef int k, i = 0
        cdef Op* op
        cdef char* first
        cdef char* second
        for k in range(workspace.call.n_ops):
            op = &workspace.call.ops[k]
            if op.kind != AFFINE and op.kind != NORM:
                continue
            first = <char*> cnp.PyArray_DATA(<cnp.ndarray?> grads[i])
            second = <char*> cnp.PyArray_DATA(<cnp.ndarray?> grads[i + 1])
            i += 2
            if op.kind == AFFINE:
                op.affine.dW, op.affine.db = first, second
            else:
                op.norm.dgamma, op.norm.dbeta = first, second
        return 0

    cdef int find_batch(
        self, Workspace workspace, cnp.ndarray samples, cnp.ndarray targets, cnp.ndarray numbers,
        cnp.ndarray weights, Way way,
    ) except -1:
        """Describe the samples, and copy targets, row numbers and weights, which may be None.

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
        self.lay_out(workspace, numbers is not None, targets, way)
        if numbers is not None:
            read_rows(numbers, n_samples, call.rows)
        if targets is not None:
            find_targets(call, self.loss, self.range, targets, n_samples, self.type_num)
            find_weights(call, weights, n_samples)
        if numbers is not None:
            samples = find_samples(
                call, samples, numbers, n_samples, self.sizes[0], self.type_num
            )
        workspace.held.append(samples)
        call.ops[0].x = call.source
        if call.rows != NULL:
            call.ops[0].x = contiguous(call.gathered, <int> call.n, self.sizes[0])
        return 0

    cdef int lay_out(
        self, Workspace workspace, bint has_rows, cnp.ndarray targets, Way way,
    ) except -1:
        """Settle how the batch is cut, and where in the workspace everything goes."""
        cdef NetCall* call = &workspace.call
        cdef bint has_values = targets is not None and (
            cnp.PyArray_NDIM(targets) > 1 or not self.range.are_shares
        )
        call.trains = way.back
        cut_blocks(call, way)
        measure_scratch(
            call, min(call.n, BACKWARD_ROWS + GROUP if call.trains else FORWARD_ROWS)
        )
        workspace.used = 0
        self.hand_out(workspace, has_rows, has_values, way)
        if workspace.grow():
            workspace.used = 0
            self.hand_out(workspace, has_rows, has_values, way)
        if way.back:
            cut_slabs(call)
        return 0

    cdef void hand_out(
        self, Workspace workspace, bint has_rows, bint has_values, Way way,
    ) noexcept:
        """Give every array of the call its part of the workspace."""
        cdef NetCall* call = &workspace.call
        cdef int k
        cdef Py_ssize_t item = self.item, n_rows = call.n
        if not call.trains and (call.n_blocks > 1 or call.n > call.rows_at_once):
            n_rows = call.n_blocks * call.rows_at_once
        call.rows = NULL
        call.scores = NULL
        if has_rows:
            call.rows = <Py_ssize_t*> workspace.part(call.n, sizeof(Py_ssize_t))
            call.gathered = workspace.part(n_rows, <Py_ssize_t> self.sizes[0] * item)
        if way.losses:
            call.targets.classes = <Py_ssize_t*> workspace.part(call.n, sizeof(Py_ssize_t))
            call.targets.factors = <double*> workspace.part(call.n, sizeof(double))
            call.targets.values = NULL
            if has_values:
                call.targets.values = workspace.part(call.n, self.outputs * item)
            call.losses = <double*> workspace.part(call.n, sizeof(double))
        if way.back:
            call.slabs = <Slab*> workspace.part(most_slabs(call), sizeof(Slab))
        for k in range(call.n_ops):
            hand_out_op(workspace, k, n_rows)
        call.scratch = NULL
        if call.scratch_size > 0:
            call.scratch = workspace.part(call.n_threads, call.scratch_size)


cdef list look_up(dict arrays, tuple keys):
    """Return what a dict holds under some keys, or MISSING for each.

    Comparing keys may run code of the caller's; nothing of what is returned does.
    """
    cdef list found = []
    for key in keys:
        found.append(as_plain(arrays.get(key, MISSING)))
    return found


cdef dict as_named(list found, tuple keys):
    """Return what was looked up as a dict again, for the checks of fastopt/_contract.py."""
    cdef Py_ssize_t k
    return {keys[k]: found[k] for k in range(len(keys)) if found[k] is not MISSING}


cdef bint are_known(char** known, list grads, list averages, list params) noexcept:
    """Tell whether arrays, which have the shapes that they must have, lie where others did."""
    cdef list arrays
    cdef Py_ssize_t k = 0
    if known[0] == NULL:
        return False
    for arrays in (grads, averages, params):
        for a in arrays:
            if not cnp.PyArray_IS_C_CONTIGUOUS(a) or cnp.PyArray_DATA(a) != known[k]:
                return False
            k += 1
    return True


cdef void remember(char** known, list arrays) noexcept:
    cdef Py_ssize_t k
    for k in range(len(arrays)):
        known[k] = <char*> cnp.PyArray_DATA(arrays[k])


cdef bint are_disjoint(list written, list read) noexcept:
    """Tell whether no array that is written may share memory with another one of either kind."""
    cdef Py_ssize_t i, j
    for i in range(len(written)):
        for j in range(i):
            if bounds_overlap(<PyArrayObject*> written[i], <PyArrayObject*> written[j]):
                return False
        for j in range(len(read)):
            if bounds_overlap(<PyArrayObject*> written[i], <PyArrayObject*> read[j]):
                return False
    return True


cdef void hand_out_op(Workspace workspace, int k, Py_ssize_t n_rows) noexcept:
    """Give an op's arrays their parts: rows of what it makes, their gradient, shares of sums."""
    cdef NetCall* call = &workspace.call
    cdef Op* op = &call.ops[k]
    cdef Py_ssize_t size = op.columns * call.item, groups = count_groups(call.n)
    if k > 0:
        op.x = contiguous(call.ops[k - 1].out, <int> call.n, <int> call.ops[k - 1].columns)
    op.out = op.x.data if works_in_place(call, k) else workspace.part(n_rows, size)
    if op.kind == NORM:
        op.norm.mean = workspace.part(1, size)
        op.norm.scale = workspace.part(1, size)
    if not call.trains:
        return
    if k + 1 == call.n_ops:  # scores become their gradient in place
        op.dout = contiguous(op.out, <int> call.n, <int> op.columns)
    elif op.kind == AFFINE:
        op.dout = contiguous(workspace.part(n_rows, size), <int> call.n, <int> op.columns)
    else:
        op.dout = call.ops[k - 1].dout
    if op.kind == NORM:
        op.norm.shares = workspace.part(groups, 2 * size)
    elif op.kind == AFFINE:
        op.affine.db_shares = op.affine.db
        if groups > 1:
            op.affine.db_shares = workspace.part(groups, size)


cdef bint works_in_place(const NetCall* call, int k) noexcept:
    """Tell whether an op may put what it makes where it found what it takes."""
    cdef const Op* op = &call.ops[k]
    cdef const Op* before
    if k == 0 or op.kind == AFFINE:
        return False
    if not call.trains:
        return True
    if op.kind == NORM or (op.kind == ACTIVATION and op.activation.told_from_input):
        return False
    before = op - 1
    return before.kind != ACTIVATION or before.activation.told_from_input


cdef Dropout dropout_of(double ratio, uint64_t layer):
    """Return what drops a share of a layer, whose random numbers have 32 bits."""
    return Dropout(layer, min(2**32 - 1, round(ratio * 2**32)), 1 / (1 - ratio))


cdef dict as_dict(mapping):
    return mapping if type(mapping) is dict else dict(mapping)
