# The optimizers' formulas, each written once: one function a rule, its loop over one contiguous
# chunk. Nothing here knows of Python, threads or instruction sets; the order of operations is that
# of fastopt/reference/optimizers.py, and bit for bit equality rests on it.
#
# c: coefficients, computed in double and rounded once to the dtype of the arrays
# n: length of the chunk; p: parameters, updated; g: gradients, only read; the rest: state, updated
#
# A rule reads all of an element before it writes any: large arrays lie at equal places in their
# pages, and a processor takes a load behind a store 4096 bytes away for a load of what was stored.

from cython cimport floating
from libc.math cimport sqrt, sqrtf


cdef inline floating root(floating x) noexcept nogil:
    if floating is float:
        return sqrtf(x)
    else:
        return sqrt(x)


cdef void sgd(
    const double* c, Py_ssize_t n, floating* p, const floating* g, floating* _s1, floating* _s2,
) noexcept nogil:
    cdef floating lr = <floating> c[0]
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = p[i] - lr * g[i]


cdef void momentum(
    const double* c, Py_ssize_t n, floating* p, const floating* g, floating* v, floating* _s2,
) noexcept nogil:
    cdef floating lr = <floating> c[0], momentum = <floating> c[1]
    cdef floating p_i, g_i, v_i
    cdef Py_ssize_t i
    for i in range(n):
        p_i, g_i, v_i = p[i], g[i], v[i]
        v_i = momentum * v_i - lr * g_i
        p_i = p_i + v_i
        p[i], v[i] = p_i, v_i


cdef void nesterov(
    const double* c, Py_ssize_t n, floating* p, const floating* g, floating* v, floating* _s2,
) noexcept nogil:
    cdef floating lr = <floating> c[0], momentum = <floating> c[1]
    cdef floating p_i, g_i, v_i
    cdef Py_ssize_t i
    for i in range(n):
        p_i, g_i, v_i = p[i], g[i], v[i]
        v_i = momentum * v_i - lr * g_i
        p_i = p_i + (momentum * v_i - lr * g_i)
        p[i], v[i] = p_i, v_i


cdef void adagrad(
    const double* c, Py_ssize_t n, floating* p, const floating* g, floating* h, floating* _s2,
) noexcept nogil:
    cdef floating lr = <floating> c[0], eps = <floating> c[1]
    cdef floating p_i, g_i, h_i
    cdef Py_ssize_t i
    for i in range(n):
        p_i, g_i, h_i = p[i], g[i], h[i]
        h_i = h_i + g_i * g_i
        p_i = p_i - lr * g_i / (root(h_i) + eps)
        p[i], h[i] = p_i, h_i


cdef void rmsprop(
    const double* c, Py_ssize_t n, floating* p, const floating* g, floating* h, floating* _s2,
) noexcept nogil:
    cdef floating lr = <floating> c[0], decay_rate = <floating> c[1]
    cdef floating one_minus_decay_rate = <floating> c[2], eps = <floating> c[3]
    cdef floating p_i, g_i, h_i
    cdef Py_ssize_t i
    for i in range(n):
        p_i, g_i, h_i = p[i], g[i], h[i]
        h_i = decay_rate * h_i
        h_i = h_i + one_minus_decay_rate * g_i * g_i
        p_i = p_i - lr * g_i / (root(h_i) + eps)
        p[i], h[i] = p_i, h_i


cdef void adam(
    const double* c, Py_ssize_t n, floating* p, const floating* g, floating* m, floating* v,
) noexcept nogil:
    cdef floating lr_t = <floating> c[0], one_minus_beta1 = <floating> c[1]
    cdef floating one_minus_beta2 = <floating> c[2], eps = <floating> c[3]
    cdef floating p_i, g_i, m_i, v_i
    cdef Py_ssize_t i
    for i in range(n):
        p_i, g_i, m_i, v_i = p[i], g[i], m[i], v[i]
        m_i = m_i + one_minus_beta1 * (g_i - m_i)
        v_i = v_i + one_minus_beta2 * (g_i * g_i - v_i)
        p_i = p_i - lr_t * m_i / (root(v_i) + eps)
        p[i], m[i], v[i] = p_i, m_i, v_i
