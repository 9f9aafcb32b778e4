# What the options do to one element, each formula once: every rule calls these. Compiled like the
# rules for each instruction set, and three times with them: bare, where all of it vanishes; with
# options; with options and average. How a rule uses its gradient does not belong here.
#
# An option that is off changes no bit: scale 1, limit and bounds of infinity, -0.0 in place of a
# decay (x + -0.0 is x for every x, g + 0·p is not g), shrink 1. Comparisons let NaN pass.

from cython cimport floating

ctypedef fused Variant:
    Bare
    WithOptions
    WithAverage


cdef inline floating clipped(floating x, floating low, floating high) noexcept nogil:
    """Clip to low ≤ high, a minimum and a maximum of x86: these return what stands last for NaN."""
    x = high if high < x else x
    return low if low > x else x


cdef inline floating gradient(Variant o, floating g, floating p) noexcept nogil:
    """Return what the rule takes for the gradient, of the parameter as it was."""
    cdef floating limit, decay
    if Variant is Bare:
        return g
    else:
        limit, decay = <floating> o.options.limit, <floating> o.options.decay
        g = g * <floating> o.options.scale
        g = clipped(g, -limit, limit)
        return g + (decay * p if decay != 0 else <floating> -0.0)


cdef inline floating start(Variant o, floating p) noexcept nogil:
    """Return the parameter from which the rule begins."""
    if Variant is Bare:
        return p
    else:
        return p * <floating> o.options.shrink


cdef inline floating finish(Variant o, floating p, floating* average, Py_ssize_t i) noexcept nogil:
    """Return the parameter after the step, and move its average."""
    if Variant is Bare:
        return p
    else:
        p = clipped(p, <floating> o.options.low, <floating> o.options.high)
        if Variant is WithAverage:
            average[i] = average[i] + <floating> o.one_minus_ema * (p - average[i])
        return p


cdef inline floating* average_of(Variant o, floating** after) noexcept nogil:
    """Return the operand that comes after the rule's own, where there is one."""
    return after[0] if Variant is WithAverage else NULL
