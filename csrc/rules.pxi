# The optimizers' formulas, each written once: one function a rule, its loop over one contiguous
# chunk. Nothing here knows of Python, threads or instruction sets; the order of operations is that
# of fastopt/reference/optimizers.py, and bit for bit equality rests on it.
#
# c: coefficients, computed in double and rounded once to the dtype of the arrays
# n: length of the chunk; p: parameters, updated; g: gradients, only read; the rest: state, updated

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
    cdef Py_ssize_t i
    for i in range(n):
        v[i] = momentum * v[i] - lr * g[i]
        p[i] = p[i] + v[i]


cdef void nesterov(
    const double* c, Py_ssize_t n, floating* p, const floating* g, floating* v, floating* _s2,
) noexcept nogil:
    cdef floating lr = <floating> c[0], momentum = <floating> c[1]
    cdef Py_ssize_t i
    for i in range(n):
        v[i] = momentum * v[i] - lr * g[i]
        p[i] = p[i] + (momentum * v[i] - lr * g[i])


cdef void adagrad(
    const double* c, Py_ssize_t n, floating* p, const floating* g, floating* h, floating* _s2,
) noexcept nogil:
    cdef floating lr = <floating> c[0], eps = <floating> c[1]
    cdef Py_ssize_t i
    for i in range(n):
        h[i] = h[i] + g[i] * g[i]
        p[i] = p[i] - lr * g[i] / (root(h[i]) + eps)


cdef void rmsprop(
    const double* c, Py_ssize_t n, floating* p, const floating* g, floating* h, floating* _s2,
) noexcept nogil:
    cdef floating lr = <floating> c[0], decay_rate = <floating> c[1]
    cdef floating one_minus_decay_rate = <floating> c[2], eps = <floating> c[3]
    cdef Py_ssize_t i
    for i in range(n):
        h[i] = decay_rate * h[i]
        h[i] = h[i] + one_minus_decay_rate * g[i] * g[i]
        p[i] = p[i] - lr * g[i] / (root(h[i]) + eps)


cdef void adam(
    const double* c, Py_ssize_t n, floating* p, const floating* g, floating* m, floating* v,
) noexcept nogil:
    cdef floating lr_t = <floating> c[0], one_minus_beta1 = <floating> c[1]
    cdef floating one_minus_beta2 = <floating> c[2], eps = <floating> c[3]
    cdef Py_ssize_t i
    for i in range(n):
        m[i] = m[i] + one_minus_beta1 * (g[i] - m[i])
        v[i] = v[i] + one_minus_beta2 * (g[i] * g[i] - v[i])
        p[i] = p[i] - lr_t * m[i] / (root(v[i]) + eps)
