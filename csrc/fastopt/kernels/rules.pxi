# The optimizers' formulas, each written once: one function a rule, its loop over one contiguous
# chunk, and beside it its row in the table. Nothing here knows of Python, threads or instruction
# sets; the order of operations is that of fastopt/reference/optimizers.py, and bit-for-bit equality
# rests on it.
#
# c: coefficients, computed in double and rounded once to the dtype of the arrays
# options: of the variant that is compiled; options.pxi says what they do to gradient and parameter
# n: length of the chunk
# a: the operands: p, the parameters, updated; g, the gradients, only read; the rest, state, updated
#
# The row names coefficients and operands in their order; Python reads these names.
#
# A rule reads all of an element before it writes any: large arrays start at the same offset within
# a page, so a load can falsely appear to depend on an earlier store 4096 bytes away (4K aliasing).

from cython cimport floating
from libc.math cimport sqrt, sqrtf


cdef inline floating root(floating x) noexcept nogil:
    if floating is float:
        return sqrtf(x)
    else:
        return sqrt(x)


cdef inline floating sign(floating x) noexcept nogil:
    """1, -1 or +0; NaN stays NaN."""
    return <floating> 1 if x > 0 else <floating> -1 if x < 0 else <floating> 0 if x == 0 else x


cdef void sgd(
    const double* c, const Variant* options, Py_ssize_t n, floating** a,
) noexcept nogil:
    cdef Variant o = options[0]
    cdef floating lr = <floating> c[0]
    cdef floating* p = a[0]
    cdef const floating* g = a[1]
    cdef floating* average = average_of(o, a + 2)
    cdef floating p_i, g_i
    cdef Py_ssize_t i
    for i in range(n):
        p_i, g_i = p[i], g[i]
        g_i = gradient(o, g_i, p_i)
        p_i = start(o, p_i)
        p_i = p_i - lr * g_i
        p[i] = finish(o, p_i, average, i)

declare(
    "sgd", "lr", "p g",
    Kernels32(sgd[Bare, float], sgd[WithOptions, float], sgd[WithAverage, float]),
    Kernels64(sgd[Bare, double], sgd[WithOptions, double], sgd[WithAverage, double]),
)


cdef void momentum(
    const double* c, const Variant* options, Py_ssize_t n, floating** a,
) noexcept nogil:
    cdef Variant o = options[0]
    cdef floating lr = <floating> c[0], momentum = <floating> c[1]
    cdef floating* p = a[0]
    cdef const floating* g = a[1]
    cdef floating* v = a[2]
    cdef floating p_i, g_i, v_i
    cdef floating* average = average_of(o, a + 3)
    cdef Py_ssize_t i
    for i in range(n):
        p_i, g_i, v_i = p[i], g[i], v[i]
        g_i = gradient(o, g_i, p_i)
        p_i = start(o, p_i)
        v_i = momentum * v_i - lr * g_i
        p_i = p_i + v_i
        p_i = finish(o, p_i, average, i)
        p[i], v[i] = p_i, v_i

declare(
    "momentum", "lr momentum", "p g v",
    Kernels32(momentum[Bare, float], momentum[WithOptions, float], momentum[WithAverage, float]),
    Kernels64(momentum[Bare, double], momentum[WithOptions, double], momentum[WithAverage, double]),
)


cdef void nesterov(
    const double* c, const Variant* options, Py_ssize_t n, floating** a,
) noexcept nogil:
    cdef Variant o = options[0]
    cdef floating lr = <floating> c[0], momentum = <floating> c[1]
    cdef floating* p = a[0]
    cdef const floating* g = a[1]
    cdef floating* v = a[2]
    cdef floating p_i, g_i, v_i
    cdef floating* average = average_of(o, a + 3)
    cdef Py_ssize_t i
    for i in range(n):
        p_i, g_i, v_i = p[i], g[i], v[i]
        g_i = gradient(o, g_i, p_i)
        p_i = start(o, p_i)
        v_i = momentum * v_i - lr * g_i
        p_i = p_i + (momentum * v_i - lr * g_i)
        p_i = finish(o, p_i, average, i)
        p[i], v[i] = p_i, v_i

declare(
    "nesterov", "lr momentum", "p g v",
    Kernels32(nesterov[Bare, float], nesterov[WithOptions, float], nesterov[WithAverage, float]),
    Kernels64(nesterov[Bare, double], nesterov[WithOptions, double], nesterov[WithAverage, double]),
)


cdef void adagrad(
    const double* c, const Variant* options, Py_ssize_t n, floating** a,
) noexcept nogil:
    cdef Variant o = options[0]
    cdef floating lr = <floating> c[0], eps = <floating> c[1]
    cdef floating* p = a[0]
    cdef const floating* g = a[1]
    cdef floating* h = a[2]
    cdef floating p_i, g_i, h_i
    cdef floating* average = average_of(o, a + 3)
    cdef Py_ssize_t i
    for i in range(n):
        p_i, g_i, h_i = p[i], g[i], h[i]
        g_i = gradient(o, g_i, p_i)
        p_i = start(o, p_i)
        h_i = h_i + g_i * g_i
        p_i = p_i - lr * g_i / (root(h_i) + eps)
        p_i = finish(o, p_i, average, i)
        p[i], h[i] = p_i, h_i

declare(
    "adagrad", "lr eps", "p g h",
    Kernels32(adagrad[Bare, float], adagrad[WithOptions, float], adagrad[WithAverage, float]),
    Kernels64(adagrad[Bare, double], adagrad[WithOptions, double], adagrad[WithAverage, double]),
)


cdef void rmsprop(
    const double* c, const Variant* options, Py_ssize_t n, floating** a,
) noexcept nogil:
    cdef Variant o = options[0]
    cdef floating lr = <floating> c[0], decay_rate = <floating> c[1]
    cdef floating one_minus_decay_rate = <floating> c[2], eps = <floating> c[3]
    cdef floating* p = a[0]
    cdef const floating* g = a[1]
    cdef floating* h = a[2]
    cdef floating p_i, g_i, h_i
    cdef floating* average = average_of(o, a + 3)
    cdef Py_ssize_t i
    for i in range(n):
        p_i, g_i, h_i = p[i], g[i], h[i]
        g_i = gradient(o, g_i, p_i)
        p_i = start(o, p_i)
        h_i = decay_rate * h_i
        h_i = h_i + one_minus_decay_rate * g_i * g_i
        p_i = p_i - lr * g_i / (root(h_i) + eps)
        p_i = finish(o, p_i, average, i)
        p[i], h[i] = p_i, h_i

declare(
    "rmsprop", "lr decay_rate one_minus_decay_rate eps", "p g h",
    Kernels32(rmsprop[Bare, float], rmsprop[WithOptions, float], rmsprop[WithAverage, float]),
    Kernels64(rmsprop[Bare, double], rmsprop[WithOptions, double], rmsprop[WithAverage, double]),
)


cdef void adam(
    const double* c, const Variant* options, Py_ssize_t n, floating** a,
) noexcept nogil:
    cdef Variant o = options[0]
    cdef floating lr_t = <floating> c[0], one_minus_beta1 = <floating> c[1]
    cdef floating one_minus_beta2 = <floating> c[2], eps = <floating> c[3]
    cdef floating* p = a[0]
    cdef const floating* g = a[1]
    cdef floating* m = a[2]
    cdef floating* v = a[3]
    cdef floating p_i, g_i, m_i, v_i
    cdef floating* average = average_of(o, a + 4)
    cdef Py_ssize_t i
    for i in range(n):
        p_i, g_i, m_i, v_i = p[i], g[i], m[i], v[i]
        g_i = gradient(o, g_i, p_i)
        p_i = start(o, p_i)
        m_i = m_i + one_minus_beta1 * (g_i - m_i)
        v_i = v_i + one_minus_beta2 * (g_i * g_i - v_i)
        p_i = p_i - lr_t * m_i / (root(v_i) + eps)
        p_i = finish(o, p_i, average, i)
        p[i], m[i], v[i] = p_i, m_i, v_i

declare(
    "adam", "lr_t one_minus_beta1 one_minus_beta2 eps", "p g m v",
    Kernels32(adam[Bare, float], adam[WithOptions, float], adam[WithAverage, float]),
    Kernels64(adam[Bare, double], adam[WithOptions, double], adam[WithAverage, double]),
)


cdef void lion(
    const double* c, const Variant* options, Py_ssize_t n, floating** a,
) noexcept nogil:
    cdef Variant o = options[0]
    cdef floating lr = <floating> c[0], beta1 = <floating> c[1], one_minus_beta1 = <floating> c[2]
    cdef floating beta2 = <floating> c[3], one_minus_beta2 = <floating> c[4]
    cdef floating* p = a[0]
    cdef const floating* g = a[1]
    cdef floating* m = a[2]
    cdef floating p_i, g_i, m_i
    cdef floating* average = average_of(o, a + 3)
    cdef Py_ssize_t i
    for i in range(n):
        p_i, g_i, m_i = p[i], g[i], m[i]
        g_i = gradient(o, g_i, p_i)
        p_i = start(o, p_i)
        p_i = p_i - lr * sign(beta1 * m_i + one_minus_beta1 * g_i)
        m_i = beta2 * m_i + one_minus_beta2 * g_i
        p_i = finish(o, p_i, average, i)
        p[i], m[i] = p_i, m_i

declare(
    "lion", "lr beta1 one_minus_beta1 beta2 one_minus_beta2", "p g m",
    Kernels32(lion[Bare, float], lion[WithOptions, float], lion[WithAverage, float]),
    Kernels64(lion[Bare, double], lion[WithOptions, double], lion[WithAverage, double]),
)
