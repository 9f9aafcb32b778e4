# The passes over contiguous rows that make up a net, but for its matrix products: activations,
# losses, batch normalization, dropout, sums. Compiled for each instruction set, like the rules of
# the optimizers; the formulas of one number are in functions.pxi, which rows a pass is given is in
# net_jobs.pxi.
#
# n: rows, that is samples; m: columns; out, dout, x, y: n × m, contiguous unless strides are given

from cython cimport floating
from libc.math cimport log, log1p
from libc.stdint cimport uint32_t, uint64_t


# Activations: beside the two passes stands a row for each, with its name and whether its derivative
# is told from x (True) or from f(x).

cdef void activate(
    const Activation* kind, Py_ssize_t n, const floating* x, floating* out,
) noexcept nogil:
    """out = f(x) for n numbers; out may be x."""
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = activation(kind, x[i])


cdef void activate_backward(
    const Activation* kind, Py_ssize_t n, const floating* kept, floating* dout,
) noexcept nogil:
    """dout = dout·f' in place for n numbers."""
    cdef Py_ssize_t i
    for i in range(n):
        dout[i] = activation_gradient(kind, kept[i], dout[i])


cdef int declare_activation(
    const Activation* _kind, const char* name, bint told_from_input,
) except -1:
    """Add a row to the table."""
    cdef ActivationRow* row = &kernel_table.activations[kernel_table.n_activations]
    if kernel_table.n_activations + 1 == MAX_ACTIVATIONS:
        raise ImportError("a limit in kernels/table.pxd is too low")
    row.name, row.told_from_input = name, told_from_input
    row.forward32 = <activate32> activate[Activation, float]
    row.forward64 = <activate64> activate[Activation, double]
    row.backward32 = <activate_backward32> activate_backward[Activation, float]
    row.backward64 = <activate_backward64> activate_backward[Activation, double]
    kernel_table.n_activations += 1
    return 0


declare_activation(<Identity*> NULL, "identity", False)
declare_activation(<Relu*> NULL, "relu", False)
declare_activation(<LeakyRelu*> NULL, "leaky_relu", False)
declare_activation(<Sigmoid*> NULL, "sigmoid", False)
declare_activation(<Tanh*> NULL, "tanh", False)
declare_activation(<Gelu*> NULL, "gelu", True)
declare_activation(<Silu*> NULL, "silu", True)


# Losses. Forward turns scores h into what they predict, in place, and writes each row's loss;
# backward turns predictions y into the gradient of Σ factors·losses with respect to the scores: for
# each of these losses it follows from y - t. Targets t are the classes of the rows, which softmax
# alone knows, or a matrix of values. A row of factor 0 has the gradient 0, whatever it holds.

# The losses, as types, like the activations
cdef struct Softmax:
    char nothing

cdef struct Logistic:
    char nothing

cdef struct SquaredError:
    char nothing

cdef struct AbsoluteError:
    char nothing

cdef struct Huber:
    char nothing

cdef struct Poisson:
    char nothing

ctypedef fused Loss:
    Softmax
    Logistic
    SquaredError
    AbsoluteError
    Huber
    Poisson


cdef inline floating prediction(const Loss* _kind, floating h) noexcept nogil:
    """Return the mean that a score stands for."""
    if Loss is Logistic:
        return 1 / (1 + exponential(-h))
    elif Loss is Poisson:
        return exponential(h)
    else:
        return h


cdef inline double output_loss(const Loss* _kind, double h, double y, double t) noexcept nogil:
    """Return the loss of one output of score h and prediction y."""
    cdef double d = y - t
    if Loss is Logistic:  # log(1 + exp h) - t·h, without cancellation; 0·∞ is 0 here
        d = (1 - t) * h if h > 0 else -t * h
        d = 0 if (t == 1 if h > 0 else t == 0) and h == h else d
        return d + log1p(exponential(-magnitude(h)))
    elif Loss is SquaredError:
        return 0.5 * d * d
    elif Loss is AbsoluteError:
        return magnitude(d)
    elif Loss is Huber:
        return magnitude(d) - 0.5 if magnitude(d) > 1 else 0.5 * d * d
    else:
        return y - (t * h if t != 0 else 0)


cdef inline floating output_gradient(const Loss* _kind, floating d) noexcept nogil:
    """Return the derivative with respect to the score, told from d = prediction - target."""
    if Loss is AbsoluteError:
        return sign(d)
    elif Loss is Huber:
        return clipped(d, <floating> -1, <floating> 1)
    else:
        return d


cdef inline Py_ssize_t outputs_in_mean(const Loss* _kind, Py_ssize_t m) noexcept nogil:
    """Return what the sum over m outputs is divided by."""
    return 1 if Loss is Logistic else m


cdef void softmax(
    Py_ssize_t n, Py_ssize_t m, const Py_ssize_t* classes, const floating* t, floating* y,
    double* losses,
) noexcept nogil:
    """y = softmax of each row h, in place; losses = log Σ exp(h) - Σ t·h, a row each.

    By log-sum-exp: log Σ exp(h - max) + Σ t·(max - h), which is never negative; the second sum is
    max - h[class] if there are classes. NaN for a row that holds NaN or +infinity, or nothing but
    -infinity; else +infinity where a score with a target is -infinity. No losses without targets.
    """
    cdef Py_ssize_t i, j
    cdef floating* row
    cdef floating largest, total
    cdef double distance
    for i in range(n):
        row = y + i * m
        largest = row[0]
        for j in range(1, m):
            largest = row[j] if row[j] > largest else largest
        distance = 0
        if classes != NULL:
            distance = <double> largest - <double> row[classes[i]]
        elif t != NULL:
            for j in range(m):
                if t[i * m + j] != 0:
                    distance += <double> t[i * m + j] * (<double> largest - <double> row[j])
        if losses != NULL:
            losses[i] = distance
        for j in range(m):
            row[j] = row[j] - largest
    for i in range(n * m):
        y[i] = exponential(y[i])
    for i in range(n):
        row = y + i * m
        total = 0
        for j in range(m):
            total = total + row[j]
        for j in range(m):
            row[j] = row[j] / total
        if losses != NULL:
            losses[i] += log(<double> total)


cdef void softmax_backward(
    Py_ssize_t n, Py_ssize_t m, const Py_ssize_t* classes, const floating* t,
    const double* factors, floating* y,
) noexcept nogil:
    """y = factors·(y - t) in place; t is 1 at a class, else 0."""
    cdef Py_ssize_t i, j
    cdef floating factor
    cdef floating* row
    for i in range(n):
        row, factor = y + i * m, <floating> factors[i]
        if factor == 0:
            for j in range(m):
                row[j] = 0
        elif classes != NULL:
            row[classes[i]] = row[classes[i]] - 1
            for j in range(m):
                row[j] = factor * row[j]
        else:
            for j in range(m):
                row[j] = factor * (row[j] - t[i * m + j])


cdef void take_losses(
    const Loss* kind, Py_ssize_t n, Py_ssize_t m, const Py_ssize_t* classes,
    const floating* t, floating* y, double* losses,
) noexcept nogil:
    """y = predictions of the scores y, in place; losses of the rows, if there are targets."""
    cdef Py_ssize_t i, j
    cdef double total
    cdef floating h
    if Loss is Softmax:
        softmax(n, m, classes, t, y, losses)
    elif t == NULL:
        for i in range(n * m):
            y[i] = prediction(kind, y[i])
    else:
        for i in range(n):
            total = 0
            for j in range(i * m, (i + 1) * m):
                h = y[j]
                y[j] = prediction(kind, h)
                total += output_loss(kind, h, y[j], t[j])
            losses[i] = total / outputs_in_mean(kind, m)


cdef void take_losses_backward(
    const Loss* kind, Py_ssize_t n, Py_ssize_t m, const Py_ssize_t* classes,
    const floating* t, const double* factors, floating* y,
) noexcept nogil:
    """y = factors/m·(the loss's derivative, told from y - t), in place."""
    cdef Py_ssize_t i, j
    cdef floating factor
    if Loss is Softmax:
        softmax_backward(n, m, classes, t, factors, y)
    else:
        for i in range(n):
            factor = <floating> (factors[i] / outputs_in_mean(kind, m))
            for j in range(i * m, (i + 1) * m):
                y[j] = factor * output_gradient(kind, y[j] - t[j]) if factor != 0 else <floating> 0


cdef int declare_loss(const Loss* _kind, const char* name) except -1:
    """Add a row to the table."""
    cdef LossRow* row = &kernel_table.losses[kernel_table.n_losses]
    if kernel_table.n_losses + 1 == MAX_LOSSES:
        raise ImportError("a limit in kernels/table.pxd is too low")
    row.name = name
    row.forward32 = <losses32> take_losses[Loss, float]
    row.forward64 = <losses64> take_losses[Loss, double]
    row.backward32 = <losses_backward32> take_losses_backward[Loss, float]
    row.backward64 = <losses_backward64> take_losses_backward[Loss, double]
    kernel_table.n_losses += 1
    return 0


declare_loss(<Softmax*> NULL, "softmax")
declare_loss(<Logistic*> NULL, "logistic")
declare_loss(<SquaredError*> NULL, "squared_error")
declare_loss(<AbsoluteError*> NULL, "absolute_error")
declare_loss(<Huber*> NULL, "huber")
declare_loss(<Poisson*> NULL, "poisson")


# Batch normalization. The rows of a batch are summed up group by group, so that no sum depends on
# how a batch is cut; net_jobs.pxi says how long a group is, and puts the groups' shares together.

cdef void group_moments(
    Py_ssize_t n, Py_ssize_t m, const floating* x, floating* mean, floating* squares,
) noexcept nogil:
    """mean = Σ x/n and squares = Σ (x - mean)² of each column."""
    cdef Py_ssize_t i, j
    cdef floating d
    for j in range(m):
        mean[j] = 0
        squares[j] = 0
    for i in range(n):
        for j in range(m):
            mean[j] = mean[j] + x[i * m + j]
    for j in range(m):
        mean[j] = mean[j] / n
    for i in range(n):
        for j in range(m):
            d = x[i * m + j] - mean[j]
            squares[j] = squares[j] + d * d


cdef void join_moments(
    Py_ssize_t n_before, Py_ssize_t n, Py_ssize_t m, const floating* more_mean,
    const floating* more_squares, floating* mean, floating* squares,
) noexcept nogil:
    """Take the moments of n more rows into those of n_before (Chan, Golub and LeVeque 1979)."""
    cdef Py_ssize_t j
    cdef floating share = <floating> n / <floating> (n_before + n), d
    for j in range(m):
        d = more_mean[j] - mean[j]
        mean[j] = mean[j] + d * share
        squares[j] = squares[j] + more_squares[j] + d * d * (share * n_before)


cdef void end_moments(
    Py_ssize_t n, Py_ssize_t m, const floating* mean, floating* squares, floating* running_mean,
    floating* running_variance,
) noexcept nogil:
    """squares = 1/√(squares/n + 1e-7) in place; running averages = .9·old + .1·new, unless NULL."""
    cdef Py_ssize_t j
    cdef floating variance
    for j in range(m):
        variance = squares[j] / n
        squares[j] = 1 / root(variance + <floating> 1e-7)
        if running_mean != NULL:
            running_mean[j] = (
                <floating> 0.9 * running_mean[j] + <floating> 0.1 * mean[j]
            )
            running_variance[j] = (
                <floating> 0.9 * running_variance[j] + <floating> 0.1 * variance
            )


cdef void normalize(
    Py_ssize_t n, Py_ssize_t m, const floating* mean, const floating* scale, const floating* gamma,
    const floating* beta, const floating* x, floating* out,
) noexcept nogil:
    """out = gamma·(x - mean)·scale + beta; out may be x."""
    cdef Py_ssize_t i, j
    for i in range(n):
        for j in range(i * m, (i + 1) * m):
            out[j] = gamma[j - i * m] * ((x[j] - mean[j - i * m]) * scale[j - i * m]) + (
                beta[j - i * m]
            )


cdef void group_norm_sums(
    Py_ssize_t n, Py_ssize_t m, const floating* mean, const floating* scale, const floating* x,
    const floating* dout, floating* dgamma, floating* dbeta,
) noexcept nogil:
    """dgamma = Σ dout·(x - mean)·scale and dbeta = Σ dout of each column."""
    cdef Py_ssize_t i, j
    for j in range(m):
        dgamma[j] = 0
        dbeta[j] = 0
    for i in range(n):
        for j in range(m):
            dgamma[j] = dgamma[j] + dout[i * m + j] * ((x[i * m + j] - mean[j]) * scale[j])
            dbeta[j] = dbeta[j] + dout[i * m + j]


cdef void normalize_backward(
    Py_ssize_t n, Py_ssize_t m, Py_ssize_t batch, const floating* mean, const floating* scale,
    const floating* gamma, const floating* dgamma, const floating* dbeta, const floating* x,
    floating* dout,
) noexcept nogil:
    """dout = gamma·scale·(dout - (dbeta + x̂·dgamma)/batch) in place, x̂ = (x - mean)·scale."""
    cdef Py_ssize_t i, j
    cdef floating share = 1 / <floating> batch
    cdef floating normal
    for i in range(n):
        for j in range(m):
            normal = (x[i * m + j] - mean[j]) * scale[j]
            dout[i * m + j] = gamma[j] * scale[j] * (
                dout[i * m + j] - (dbeta[j] + normal * dgamma[j]) * share
            )


# Dropout. The random number of an element follows from a key of its row and from its column, so
# that it depends on no cut, and on no order: mixing functions of splitmix64 and MurmurHash3.

cdef inline uint64_t mix(uint64_t z) noexcept nogil:
    z ^= z >> 30
    z *= <uint64_t> 0xBF58476D1CE4E5B9
    z ^= z >> 27
    z *= <uint64_t> 0x94D049BB133111EB
    return z ^ z >> 31


cdef inline uint64_t dropout_key(
    uint64_t seed, uint64_t step, uint64_t layer, uint64_t row,
) noexcept nogil:
    """Return the key of a row."""
    cdef uint64_t key = mix(seed + (step + 1) * <uint64_t> 0x9E3779B97F4A7C15)
    return mix(mix(key ^ layer) ^ row)


cdef void drop(
    Py_ssize_t m, uint64_t key, uint32_t threshold, double scale, const floating* x, floating* out,
) noexcept nogil:
    """out = scale·x where the random number reaches the threshold, else 0, for a row; may be x."""
    cdef Py_ssize_t j
    cdef uint32_t low = <uint32_t> key, high = <uint32_t> (key >> 32), h
    cdef floating factor = <floating> scale
    for j in range(m):
        h = low + <uint32_t> j * <uint32_t> 0x9E3779B9
        h ^= h >> 16
        h *= <uint32_t> 0x85EBCA6B
        h ^= high
        h ^= h >> 13
        h *= <uint32_t> 0xC2B2AE35
        h ^= h >> 16
        out[j] = factor * x[j] if h >= threshold else <floating> 0


# Sums.

cdef void add_bias(Py_ssize_t n, Py_ssize_t m, const floating* b, floating* out) noexcept nogil:
    """out += b for every row."""
    cdef Py_ssize_t i, j
    for i in range(n):
        for j in range(m):
            out[i * m + j] = out[i * m + j] + b[j]


cdef void sum_rows(
    Py_ssize_t n, Py_ssize_t m, const floating* x, Py_ssize_t row, Py_ssize_t column, floating* out,
) noexcept nogil:
    """out = Σ x[i] over the rows i; row and column are x's strides in elements."""
    cdef Py_ssize_t i, j
    for j in range(m):
        out[j] = 0
    if column == 1:
        for i in range(n):
            for j in range(m):
                out[j] = out[j] + x[i * row + j]
    else:
        for i in range(n):
            for j in range(m):
                out[j] = out[j] + x[i * row + j * column]


cdef void add_scaled(
    Py_ssize_t n, Py_ssize_t m, double scale,
    const floating* x, Py_ssize_t row, Py_ssize_t column, floating* out,
) noexcept nogil:
    """out += scale·x; row and column are x's strides in elements."""
    cdef Py_ssize_t i, j
    cdef floating factor = <floating> scale
    cdef floating* to
    for i in range(n):
        to = out + i * m
        if column == 1:
            for j in range(m):
                to[j] = to[j] + factor * x[i * row + j]
        else:
            for j in range(m):
                to[j] = to[j] + factor * x[i * row + j * column]


cdef double squares(
    Py_ssize_t n, Py_ssize_t m, const floating* x, Py_ssize_t row,
) noexcept nogil:
    """Return Σ x², summed in double, in an order that is the same for every instruction set."""
    cdef double[16] lanes
    cdef double total = 0
    cdef Py_ssize_t i, j, k
    for k in range(16):
        lanes[k] = 0
    for i in range(n):
        j = 0
        while j + 16 <= m:
            for k in range(16):
                lanes[k] += <double> x[i * row + j + k] * <double> x[i * row + j + k]
            j += 16
        for k in range(m - j):
            lanes[k] += <double> x[i * row + j + k] * <double> x[i * row + j + k]
    for k in range(16):
        total += lanes[k]
    return total
