# A whole net in one call: samples and labels in, scores, a loss or all gradients out, with the GIL
# released once. Checks of what the dicts hold that are not passed at a glance are those of
# fastopt/_net.py, which also has the names and the documentation.
#
# A call goes in this order: all that may run code of the caller's (what becomes an array, mappings
# and their keys), then all that describes arrays by pointers and sizes, then the jobs. Code of the
# caller's could resize an array that is described already.
#
# gradient: a block of rows goes forward through all layers, through the loss, and back to the
#           gradient of each layer's output; blocks need nothing of each other   (phase 1)
#           then slabs of the weights' gradients, each over all rows              (phase 2)
# forward:  each thread takes its share of the rows through all layers, some at a time
#
# What lies between layers is kept in a workspace, which grows with the largest batch seen.

cimport cython
from cpython.dict cimport PyDict_Check
from libc.string cimport memcpy

cdef enum:
    # Rows that go forward together: their values stay in a core's own cache
    FORWARD_ROWS = 256
    BACKWARD_ROWS = 512
    PAGE = 4096
    # Samples that are fetched before they are copied
    GATHER_AHEAD = 2

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
      #define fastopt_prefetch(p) __builtin_prefetch(p)
    #else
      #define fastopt_prefetch(p) ((void) (p))
    #endif
    """
    void fastopt_prefetch(const void*) noexcept nogil

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

# More than there is, and little enough that rounding it up does not overflow
cdef Py_ssize_t MOST_MEMORY = PY_SSIZE_T_MAX - PAGE

# What stands for an entry that a dict has not
cdef object MISSING = object()

cdef struct Walk:
    # one call, as its jobs see it
    bint is_double
    int item
    int n_affines
    Affine* affines
    int n_threads          # that it is cut and has scratch memory for
    Py_ssize_t n           # rows of the batch
    Py_ssize_t n_blocks
    Slab* slabs
    Py_ssize_t n_slabs
    Matrix source          # the samples, or what they are taken from
    Py_ssize_t* rows       # which of them to take; NULL: all, in place
    char* gathered
    Py_ssize_t* labels     # NULL if only scores are wanted
    double* losses
    char* scores           # NULL if only losses are wanted
    char* scratch          # of the products, a part for each thread
    Py_ssize_t scratch_size


cdef void gradient_block(void* context, Py_ssize_t block, int thread) noexcept nogil:
    """Take a block of rows forward and back, and write every layer's `out`, `dout` and its db."""
    cdef Walk* walk = <Walk*> context
    cdef Py_ssize_t first = cut(walk.n, walk.n_blocks, block)
    cdef Py_ssize_t n = cut(walk.n, walk.n_blocks, block + 1) - first
    cdef bint is_double = walk.is_double
    cdef int i = walk.n_affines - 1
    cdef Affine* affine = &walk.affines[i]
    cdef Matrix dout = some_rows(&affine.dout, walk.item, first, n)
    forward_rows(walk, first, n, first, dout.data, thread)
    softmax_loss(
        is_double, n, dout.columns, walk.labels + first, dout.data, walk.losses + first
    )
    loss_backward_rows(walk, affine, first, n)
    while i > 0:
        i -= 1
        affine = &walk.affines[i]
        affine_input_gradient_rows(
            is_double, affine + 1, &dout, affine.dout.data + first * affine.W.columns * walk.item,
            scratch_of(walk, thread),
        )
        dout = some_rows(&affine.dout, walk.item, first, n)
        activate_backward_rows(walk, affine, first, n)


# The next two go by groups of rows, each with a sum of its own for db, so that the order of db's
# sum does not depend on how the batch is cut into blocks.

cdef void loss_backward_rows(
    Walk* walk, Affine* affine, Py_ssize_t first, Py_ssize_t n,
) noexcept nogil:
    """Turn the probabilities of rows into the gradient of the scores, and sum it up for db."""
    cdef Py_ssize_t group, at
    cdef int columns = affine.W.columns
    for group in range(count_groups(n)):
        at = first + group * CUT_ROWS
        softmax_loss_backward(
            walk.is_double, min(first + n - at, CUT_ROWS), columns, walk.labels + at, 1.0 / walk.n,
            affine.dout.data + at * columns * walk.item, group_db(walk, affine, at),
        )


cdef void activate_backward_rows(
    Walk* walk, Affine* affine, Py_ssize_t first, Py_ssize_t n,
) noexcept nogil:
    """Take rows of the gradient back through the activation, and sum it up for db."""
    cdef Py_ssize_t group, at, offset
    cdef int columns = affine.W.columns
    for group in range(count_groups(n)):
        at = first + group * CUT_ROWS
        offset = at * columns * walk.item
        activate_backward(
            walk.is_double, affine.kind, min(first + n - at, CUT_ROWS), columns,
            affine.out + offset, affine.dout.data + offset, group_db(walk, affine, at),
        )


cdef inline Py_ssize_t count_groups(Py_ssize_t n) noexcept nogil:
    return (n + CUT_ROWS - 1) // CUT_ROWS


cdef inline char* group_db(Walk* walk, Affine* affine, Py_ssize_t at) noexcept nogil:
    """Return where the group of rows that begins at one puts its share of db."""
    if walk.n <= CUT_ROWS:
        return affine.db
    return affine.partial_db + at // CUT_ROWS * affine.W.columns * walk.item


cdef inline char* scratch_of(Walk* walk, int thread) noexcept nogil:
    return walk.scratch + thread * walk.scratch_size


cdef void gradient_slab(void* context, Py_ssize_t k, int thread) noexcept nogil:
    """Write some rows of a dW; with the first of a layer, add up the groups' shares of its db."""
    cdef Walk* walk = <Walk*> context
    cdef Slab* slab = &walk.slabs[k]
    cdef Affine* affine = slab.affine
    cdef Matrix shares
    affine_weight_gradient_rows(
        walk.is_double, walk.item, affine, slab.first, slab.n, scratch_of(walk, thread)
    )
    if slab.first == 0 and walk.n > CUT_ROWS:
        shares = contiguous(
            affine.partial_db, <int> count_groups(walk.n), affine.W.columns
        )
        sum_rows(walk.is_double, &shares, affine.db)


cdef void forward_block(void* context, Py_ssize_t block, int thread) noexcept nogil:
    """Take a thread's share of the rows forward, to scores or to losses."""
    cdef Walk* walk = <Walk*> context
    cdef Py_ssize_t first = cut(walk.n, walk.n_blocks, block)
    cdef Py_ssize_t end = cut(walk.n, walk.n_blocks, block + 1), n
    cdef Affine* last = &walk.affines[walk.n_affines - 1]
    cdef int classes = last.W.columns
    cdef char* scores
    while first < end:
        n = min(end - first, FORWARD_ROWS)
        if walk.scores != NULL:
            scores = walk.scores + first * classes * walk.item
        else:
            scores = last.out + block * FORWARD_ROWS * classes * walk.item
        forward_rows(walk, first, n, block * FORWARD_ROWS, scores, thread)
        if walk.scores == NULL:
            softmax_loss(
                walk.is_double, n, classes, walk.labels + first, scores, walk.losses + first
            )
        first += n


cdef void forward_rows(
    Walk* walk, Py_ssize_t first, Py_ssize_t n, Py_ssize_t at, char* scores, int thread,
) noexcept nogil:
    """Take rows through the layers; what lies between begins at row `at` of the workspace."""
    cdef int i, item = walk.item
    cdef Affine* affine
    cdef char* out
    cdef Matrix x
    if walk.rows == NULL:
        x = some_rows(&walk.source, item, first, n)
    else:
        x = contiguous(
            walk.gathered + at * walk.source.columns * item, <int> n, walk.source.columns
        )
        gather(walk, first, n, x.data)
    for i in range(walk.n_affines):
        affine = &walk.affines[i]
        if i + 1 < walk.n_affines:
            out = affine.out + at * affine.W.columns * item
        else:
            out = scores
        affine_rows(walk.is_double, affine, &x, out, scratch_of(walk, thread))
        x = contiguous(out, <int> n, affine.W.columns)


cdef void gather(Walk* walk, Py_ssize_t first, Py_ssize_t n, char* to) noexcept nogil:
    """Copy the wanted rows of the samples to where they lie one behind the other."""
    cdef Py_ssize_t size = <Py_ssize_t> walk.source.columns * walk.item, i
    for i in range(n):
        if i + GATHER_AHEAD < n:
            announce(walk.source.data + walk.rows[first + i + GATHER_AHEAD] * size, size)
        memcpy(to + i * size, walk.source.data + walk.rows[first + i] * size, size)


cdef inline void announce(const char* row, Py_ssize_t size) noexcept nogil:
    """Have the processor fetch the beginning of a row, and of its part in the next page.

    It goes on by itself within a page; a quarter of the time is saved on rows out of its caches.
    """
    cdef Py_ssize_t i, next_page = PAGE - <size_t> row % PAGE
    for i in range(min(size // CACHE_LINE, 4)):
        fastopt_prefetch(row + i * CACHE_LINE)
    if next_page < size:
        fastopt_prefetch(row + next_page)


cdef class Workspace:
    """The memory that one call needs, and the arrays that it must hold on to."""

    cdef Walk walk            # the call; it points into `memory` and into what `held` holds
    cdef list held
    cdef char* memory
    cdef Py_ssize_t capacity
    cdef Py_ssize_t used
    # Data of outputs and parameters, in turn, that were last found disjoint; NULL at first
    cdef char** known

    def __cinit__(self, int n_affines):
        self.held = []
        self.walk.n_affines = n_affines
        self.walk.affines = <Affine*> PyMem_Malloc(n_affines * sizeof(Affine))
        self.known = <char**> PyMem_Malloc(4 * n_affines * sizeof(char*))
        if self.walk.affines == NULL or self.known == NULL:
            raise MemoryError()
        self.known[0] = NULL

    def __dealloc__(self):
        PyMem_Free(self.known)
        PyMem_Free(self.walk.affines)
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
        if len(sizes) < 2 or self.dtype not in (np.float32, np.float64):
            raise ValueError(f"no net of sizes {sizes} and dtype {self.dtype}")
        self.n_affines = len(sizes) - 1
        self.type_num = self.dtype.num
        self.is_double = self.type_num == cnp.NPY_FLOAT64
        self.item = 8 if self.is_double else 4
        self.shapes = _net.parameter_shapes(sizes)
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
                workspace.walk.n, self.sizes[self.n_affines], self.type_num
            )
            workspace.walk.scores = <char*> cnp.PyArray_DATA(scores)
            self.run(workspace, False)
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
            self.run(workspace, False)
            return mean(workspace.walk.n, workspace.walk.losses)
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
                workspace.walk.affines[i].weight_decay = weight_decay
            self.run(workspace, True)
            return mean(workspace.walk.n, workspace.walk.losses)
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
        """Return what was looked up as a dict again, for the checks of fastopt/_net.py."""
        cdef int k
        return {
            self.keys[k]: found[k] for k in range(2 * self.n_affines) if found[k] is not MISSING
        }

    cdef int find_parameters(self, Workspace workspace, list params) except -1:
        """Describe the parameters; one that a product can't walk is copied for this call."""
        cdef int i
        cdef Affine* affine
        cdef cnp.ndarray W, b
        cdef Walk* walk = &workspace.walk
        walk.is_double, walk.item = self.is_double, self.item
        for i in range(self.n_affines):
            affine = &walk.affines[i]
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
            _net.check_parameter(self.as_named(params), key, self.shapes[key], self.dtype)
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
                and is_native(g, self.type_num)
                and cnp.PyArray_ISCARRAY(g)
                and not may_overlap(g, x)
            ):
                self.check_outputs(known, params, grads, x)
                raise AssertionError(f"out[{self.keys[k]!r}] is refused without a reason")
            affine = &workspace.walk.affines[k // 2]
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
        _net.check_outputs(
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
        cdef Walk* walk = &workspace.walk
        cdef Py_ssize_t n_samples
        if numbers is None:
            samples = as_samples(samples, self.sizes[0], self.type_num)
            samples = as_matrix(samples, &walk.source)
            walk.n = n_samples = walk.source.rows
        else:
            check_real("x", samples)
            numbers = as_row_numbers(numbers)
            n_samples = cnp.PyArray_DIM(samples, 0) if cnp.PyArray_NDIM(samples) else 0
            walk.n = as_int(cnp.PyArray_DIM(numbers, 0))
        self.lay_out(workspace, numbers is not None, given is not None, backward)
        if numbers is not None:
            read_rows(numbers, n_samples, walk.rows)
        if given is not None:
            self.find_labels(walk, given, numbers, n_samples)
        if numbers is not None:
            samples = self.take_samples(walk, samples, numbers, n_samples)
        workspace.held.append(samples)
        if backward:
            walk.affines[0].x = walk.source
            if walk.rows != NULL:
                walk.affines[0].x = contiguous(walk.gathered, <int> walk.n, self.sizes[0])
        return 0

    cdef cnp.ndarray take_samples(
        self, Walk* walk, cnp.ndarray samples, cnp.ndarray numbers, Py_ssize_t n_samples,
    ):
        """Describe the samples of a batch; they are copied here if the jobs can't gather them.

        Jobs can where each sample is a stretch of memory that a product can take as it is.
        """
        if (
            is_native(samples, self.type_num)
            and cnp.PyArray_IS_C_CONTIGUOUS(samples)
            and cnp.PyArray_SIZE(samples) == n_samples * <Py_ssize_t> self.sizes[0]
        ):
            walk.source = contiguous(cnp.PyArray_DATA(samples), 0, self.sizes[0])
            return samples
        samples = as_samples(take_rows(samples, numbers), self.sizes[0], self.type_num)
        samples = as_matrix(samples, &walk.source)
        if walk.source.rows != walk.n:
            raise ValueError("batch was changed while its rows were taken")
        walk.rows = NULL
        return samples

    cdef int find_labels(
        self, Walk* walk, cnp.ndarray given, cnp.ndarray numbers, Py_ssize_t n_samples,
    ) except -1:
        cdef Py_ssize_t classes = self.sizes[self.n_affines]
        cdef cnp.ndarray labels
        if (
            cnp.PyArray_NDIM(given) == 1
            and cnp.PyArray_DIM(given, 0) == n_samples
            and cnp.PyArray_ISINTEGER(given)
        ):
            return read_labels(as_integers(given), walk.n, walk.rows, classes, walk.labels)
        if numbers is not None and cnp.PyArray_NDIM(given) and (
            cnp.PyArray_DIM(given, 0) == n_samples
        ):
            given, n_samples = take_rows(given, numbers), walk.n
        labels = class_indices(given, n_samples, classes)
        memcpy(walk.labels, cnp.PyArray_DATA(labels), walk.n * sizeof(Py_ssize_t))
        return 0

    cdef int lay_out(
        self, Workspace workspace, bint has_rows, bint has_labels, bint backward,
    ) except -1:
        """Settle how the batch is cut, and where in the workspace everything goes."""
        cdef Walk* walk = &workspace.walk
        cdef int n_threads = threads_for(self.operations(walk.n, backward))
        walk.n_threads = n_threads
        walk.n_blocks = count_blocks(walk.n, n_threads)
        if backward:  # blocks that a core's own cache can hold, a whole number for each thread
            walk.n_blocks *= 1 + (walk.n - 1) // (walk.n_blocks * BACKWARD_ROWS)
        workspace.used = 0
        self.hand_out(workspace, n_threads, has_rows, has_labels, backward)
        if workspace.grow():
            workspace.used = 0
            self.hand_out(workspace, n_threads, has_rows, has_labels, backward)
        if backward:
            self.cut_slabs(walk, n_threads)
        return 0

    cdef void hand_out(
        self, Workspace workspace, int n_threads, bint has_rows, bint has_labels, bint backward,
    ) noexcept:
        """Give every array of the walk its part of the workspace."""
        cdef Walk* walk = &workspace.walk
        cdef Affine* affine
        cdef int i, columns
        cdef Py_ssize_t item = self.item, n_rows = walk.n, scratch = 0
        cdef Py_ssize_t rows = min(walk.n, BACKWARD_ROWS + CUT_ROWS if backward else FORWARD_ROWS)
        if not backward and (walk.n_blocks > 1 or walk.n > FORWARD_ROWS):
            n_rows = walk.n_blocks * FORWARD_ROWS
        walk.rows = walk.labels = NULL
        walk.scores = NULL
        if has_rows:
            walk.rows = <Py_ssize_t*> workspace.part(walk.n, sizeof(Py_ssize_t))
            walk.gathered = workspace.part(n_rows, <Py_ssize_t> self.sizes[0] * item)
        if has_labels:
            walk.labels = <Py_ssize_t*> workspace.part(walk.n, sizeof(Py_ssize_t))
            walk.losses = <double*> workspace.part(walk.n, sizeof(double))
        if backward:
            walk.slabs = <Slab*> workspace.part(
                2 * self.n_affines + SLABS_PER_THREAD * n_threads, sizeof(Slab)
            )
        for i in range(self.n_affines):
            affine = &walk.affines[i]
            columns = self.sizes[i + 1]
            affine.out = workspace.part(n_rows, columns * item)
            affine.dout.data = affine.out  # the last layer's scores become their gradient in place
            if backward and i + 1 < self.n_affines:
                affine.dout.data = workspace.part(n_rows, columns * item)
            affine.dout = contiguous(affine.dout.data, <int> walk.n, columns)
            if backward:
                affine.partial_db = workspace.part(count_groups(walk.n), columns * item)
            if i > 0:
                affine.x = contiguous(walk.affines[i - 1].out, <int> walk.n, self.sizes[i])
            scratch = max(scratch, affine_scratch(self.is_double, affine, rows, walk.n))
        walk.scratch_size = scratch
        walk.scratch = workspace.part(n_threads, scratch) if scratch else NULL

    cdef void cut_slabs(self, Walk* walk, int n_threads) noexcept:
        """Cut the gradients of the weights into slabs of about equal work."""
        cdef int i
        cdef Py_ssize_t k, pieces
        cdef Affine* affine
        cdef Slab* slab
        cdef double total = self.multiplications()
        walk.n_slabs = 0
        for i in range(self.n_affines):
            affine = &walk.affines[i]
            pieces = count_slabs(
                affine.W.rows, <double> affine.W.rows * affine.W.columns / total, n_threads
            )
            for k in range(pieces):
                slab = &walk.slabs[walk.n_slabs]
                slab.affine, slab.first = affine, cut(affine.W.rows, pieces, k)
                slab.n = cut(affine.W.rows, pieces, k + 1) - slab.first
                walk.n_slabs += 1

    cdef double multiplications(self) noexcept:
        """Return how many multiplications take one sample through all layers."""
        cdef int i
        cdef double total = 0
        for i in range(self.n_affines):
            total += <double> self.sizes[i] * <double> self.sizes[i + 1]
        return total

    cdef double operations(self, Py_ssize_t n, bint backward) noexcept:
        cdef double forward = 2 * n * self.multiplications()
        if backward:
            return 3 * forward - 2.0 * n * <double> self.sizes[0] * <double> self.sizes[1]
        return forward

    cdef void run(self, Workspace workspace, bint backward) noexcept:
        cdef Walk* walk = &workspace.walk
        cdef double operations = self.operations(walk.n, backward)
        cdef Phase[2] phases
        phases[0] = Phase(forward_block, walk.n_blocks, False)
        phases[1] = Phase(gradient_slab, walk.n_slabs, True)
        if backward:
            phases[0].function = gradient_block
        run_products(operations, walk.n_threads, walk, phases, 2 if backward else 1)


cdef dict as_dict(mapping):
    return mapping if type(mapping) is dict else dict(mapping)


cdef cnp.ndarray as_row_numbers(cnp.ndarray numbers):
    """Return row numbers as an integer array (N,), N at least 1, that `read_rows` can read."""
    if cnp.PyArray_NDIM(numbers) == 1 and cnp.PyArray_DIM(numbers, 0) == 0:
        raise ValueError("batch is empty, wants one row number at least")
    if not cnp.PyArray_ISINTEGER(numbers):
        raise TypeError(f"batch must be row numbers, got dtype {numbers.dtype}")
    if cnp.PyArray_NDIM(numbers) != 1:
        raise ValueError(f"batch has shape {(<object> numbers).shape}, wants (N,)")
    return as_integers(numbers)


cdef cnp.ndarray take_rows(cnp.ndarray x, cnp.ndarray numbers):
    """Copy rows of x by numbers that were checked; NumPy 1 itself takes none of uint64."""
    return (<object> x).take((<object> numbers).astype(np.intp), axis=0)


cdef int read_rows(cnp.ndarray numbers, Py_ssize_t n_samples, Py_ssize_t* to) except -1:
    """Copy row numbers, each checked; as in NumPy, negative ones count from the end."""
    cdef const char* data = <const char*> cnp.PyArray_DATA(numbers)
    cdef Py_ssize_t stride = cnp.PyArray_STRIDE(numbers, 0), i
    cdef int type_num = cnp.PyArray_TYPE(numbers)
    cdef long long row
    for i in range(cnp.PyArray_DIM(numbers, 0)):
        row = integer_at(data + i * stride, type_num)
        if not -n_samples <= row < n_samples:
            raise IndexError(f"batch[{i}] is {numbers[i]}, x holds {n_samples} samples")
        to[i] = <Py_ssize_t> (row + n_samples if row < 0 else row)
    return 0


cdef bint may_overlap(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Tell whether a contiguous array lies within the bounds of another."""
    cdef char* low
    cdef char* high
    cdef Py_ssize_t extent
    cdef int d
    if cnp.PyArray_SIZE(b) == 0:
        return False  # from no element, the bounds would reach back
    low = high = <char*> cnp.PyArray_DATA(b)
    high += cnp.PyArray_ITEMSIZE(b)
    for d in range(cnp.PyArray_NDIM(b)):
        extent = (cnp.PyArray_DIM(b, d) - 1) * cnp.PyArray_STRIDE(b, d)
        if extent < 0:
            low += extent
        else:
            high += extent
    return (
        <char*> cnp.PyArray_DATA(a) < high
        and low < <char*> cnp.PyArray_DATA(a) + cnp.PyArray_NBYTES(a)
    )
