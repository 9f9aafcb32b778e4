# The functions of one number that nets are made of, each formula once: exponential and what follows
# from it, then the activations with their derivatives. Loops over rows, and the losses, are in
# passes.pxi. Written without a branch or a call, so that a loop of them is vectorized.

from cython cimport floating

cdef extern from * nogil:
    """
    #include <stdint.h>
    /* 2^(k-1) for the integer k that sits in the last bits of shifted = k + 1.5·2^23 (2^52) */
    static inline float fastopt_half_power_of_two_f(float shifted) {
        union { float x; int32_t bits; } from, zero = { 12582912.0f }, to;
        from.x = shifted;
        to.bits = (int32_t) (((uint32_t) from.bits - (uint32_t) zero.bits + 126) << 23);
        return to.x;
    }
    static inline double fastopt_half_power_of_two(double shifted) {
        union { double x; int64_t bits; } from, zero = { 6755399441055744.0 }, to;
        from.x = shifted;
        to.bits = (int64_t) (((uint64_t) from.bits - (uint64_t) zero.bits + 1022) << 52);
        return to.x;
    }
    """
    float fastopt_half_power_of_two_f(float) noexcept
    double fastopt_half_power_of_two(double) noexcept


cdef inline floating exponential(floating x) noexcept nogil:
    """Return exp(x) to within 2 units in the last place; below 2^-125 (2^-1021) it is 0.

    exp(x) = 2^k · exp(r), k = round(x / ln 2), r = x - k·ln 2 in two steps (Cody and Waite 1980),
    and exp(r) by its Taylor series: |r| ≤ ln(2)/2, so degree 7 (13) leaves 6e-9 (4e-18).
    """
    cdef floating shifted, k, r, p, clipped
    if floating is float:
        clipped = <float> 89 if x > <float> 89 else x  # where it is infinite already
        shifted = clipped * <float> 1.44269504088896341 + <float> 12582912.0
        k = shifted - <float> 12582912.0
        r = clipped - k * <float> 0.693359375
        r = r - k * <float> -2.12194440054690583e-4
        p = <float> (1.0 / 5040)
        p = p * r + <float> (1.0 / 720)
        p = p * r + <float> (1.0 / 120)
        p = p * r + <float> (1.0 / 24)
        p = p * r + <float> (1.0 / 6)
        p = p * r + <float> 0.5
        p = p * r + <float> 1
        p = p * r + <float> 1
        p = p * 2 * fastopt_half_power_of_two_f(shifted)
        return <float> 0 if x < <float> -86.6 else p
    else:
        clipped = 710.0 if x > 710.0 else x
        shifted = clipped * 1.44269504088896341 + 6755399441055744.0
        k = shifted - 6755399441055744.0
        r = clipped - k * 0.693147180369123816490
        r = r - k * 1.90821492927058770002e-10
        p = 1.0 / 6227020800.0
        p = p * r + 1.0 / 479001600
        p = p * r + 1.0 / 39916800
        p = p * r + 1.0 / 3628800
        p = p * r + 1.0 / 362880
        p = p * r + 1.0 / 40320
        p = p * r + 1.0 / 5040
        p = p * r + 1.0 / 720
        p = p * r + 1.0 / 120
        p = p * r + 1.0 / 24
        p = p * r + 1.0 / 6
        p = p * r + 0.5
        p = p * r + 1.0
        p = p * r + 1.0
        p = p * 2 * fastopt_half_power_of_two(shifted)
        return 0.0 if x < -707.7 else p


cdef inline floating magnitude(floating x) noexcept nogil:
    return -x if x < 0 else x


cdef inline floating hyperbolic_tangent(floating x) noexcept nogil:
    """Return tanh(x) to within 3 units in the last place.

    Below 0.625 by the odd polynomial or rational function of Cephes (Moshier 1989), which is exact
    for small x; beyond by 1 - 2/(exp(2|x|) + 1).
    """
    cdef floating z = x * x, p, q, large
    large = 1 - 2 / (exponential(2 * magnitude(x)) + 1)
    large = -large if x < 0 else large
    if floating is float:
        p = <float> -5.70498872745e-3
        p = p * z + <float> 2.06390887954e-2
        p = p * z + <float> -5.37397155531e-2
        p = p * z + <float> 1.33314422036e-1
        p = p * z + <float> -3.33332819422e-1
    else:
        p = -9.64399179425052238628e-1
        p = p * z + -9.92877231001918586564e1
        p = p * z + -1.61468768441708447952e3
        q = z + 1.12811678491632931402e2
        q = q * z + 2.23548839060100448583e3
        q = q * z + 4.84406305325125486048e3
        p = p / q
    return x + x * (z * p) if magnitude(x) < <floating> 0.625 else large


cdef inline floating normal_tail(floating x, floating power) noexcept nogil:
    """Return the standard normal distribution function at -x, x ≥ 0, given exp(-x²/2).

    What it is divided by that power falls slowly from 1/2; a quotient of polynomials of which no
    coefficient is negative, fitted to it in 60 digits by least squares with Lawson's weights, is
    within 6e-9 (6e-17) of it as far as the power is above zero. The power itself is as exact as
    x²/2 is: to x² units in the last place.
    """
    cdef floating p, q
    if floating is float:
        x = <float> 14.5 if x > <float> 14.5 else x
        p = <float> 0.004114864348
        p = p * x + <float> 0.04062443343
        p = p * x + <float> 0.1832105538
        p = p * x + <float> 0.4382641127
        p = p * x + <float> 0.5000000029
        q = <float> 0.01031431549
        q = q * x + <float> 0.1018368043
        q = q * x + <float> 0.4694053050
        q = q * x + <float> 1.202404790
        q = q * x + <float> 1.674413204
        q = q * x + <float> 1.000000000
    else:
        x = 39.0 if x > 39.0 else x
        p = 1.385201567810178405e-6
        p = p * x + 0.00003724310821459714392
        p = p * x + 0.0004902970721965912971
        p = p * x + 0.004088489133407214124
        p = p * x + 0.02361857165218392479
        p = p * x + 0.09768681054413491851
        p = p * x + 0.2893048387846621688
        p = p * x + 0.5940075418126319148
        p = p * x + 0.7748473476270881103
        p = p * x + 0.4999999999999999745
        q = 3.472185415946514085e-6
        q = q * x + 0.00009335462808371269473
        q = q * x + 0.001232464689752331754
        q = q * x + 0.01034167707920151293
        q = q * x + 0.06042502806908971731
        q = q * x + 0.2549261228432674566
        q = q * x + 0.7819596495822021768
        q = q * x + 1.714253554234653264
        q = q * x + 2.561112327294567059
        q = q * x + 2.347579256057031521
        q = q * x + 1.000000000000000000
    return power * (p / q)


# The activations, as types: what is made for all of them is compiled once for each.
cdef struct Identity:
    char nothing

cdef struct Relu:
    char nothing

cdef struct LeakyRelu:
    char nothing

cdef struct Sigmoid:
    char nothing

cdef struct Tanh:
    char nothing

cdef struct Gelu:
    char nothing

cdef struct Silu:
    char nothing

ctypedef fused Activation:
    Identity
    Relu
    LeakyRelu
    Sigmoid
    Tanh
    Gelu
    Silu


cdef inline floating activation(const Activation* _kind, floating x) noexcept nogil:
    """Return f(x). NaN stays NaN."""
    cdef floating power, tail
    if Activation is Identity:
        return x
    elif Activation is Relu:
        return <floating> 0 if x <= 0 else x
    elif Activation is LeakyRelu:
        return <floating> 0.01 * x if x <= 0 else x
    elif Activation is Sigmoid:
        return 1 / (1 + exponential(-x))
    elif Activation is Tanh:
        return hyperbolic_tangent(x)
    elif Activation is Gelu:  # x·Φ(x), Φ the standard normal distribution function
        power = exponential(<floating> -0.5 * x * x)
        tail = normal_tail(magnitude(x), power)
        return x * (1 - tail if x > 0 else tail)
    else:  # x·σ(x)
        return x / (1 + exponential(-x))


cdef inline floating activation_gradient(
    const Activation* _kind, floating kept, floating dout,
) noexcept nogil:
    """Return dout·f'(x), told from f(x), or from x where an activation's row says so."""
    cdef floating power, tail, share
    if Activation is Identity:
        return dout
    elif Activation is Relu:
        return <floating> 0 if kept <= 0 else dout
    elif Activation is LeakyRelu:
        return <floating> 0.01 * dout if kept <= 0 else dout
    elif Activation is Sigmoid:
        return dout * (1 - kept) * kept
    elif Activation is Tanh:
        return dout * (1 - kept * kept)
    elif Activation is Gelu:  # Φ(x) + x·Φ'(x); 1/√(2π)
        power = exponential(<floating> -0.5 * kept * kept)
        tail = normal_tail(magnitude(kept), power)
        tail = 1 - tail if kept > 0 else tail
        return dout * (tail + <floating> 0.39894228040143267794 * kept * power)
    else:  # σ(x)·(1 + x·σ(-x)), both without cancellation from exp(-|x|)
        power = exponential(-magnitude(kept))
        share = 1 / (1 + power)
        tail = power * share
        return dout * ((tail if kept < 0 else share) * (1 + kept * (share if kept < 0 else tail)))
