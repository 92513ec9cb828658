"""Functions of one number for compiled kernels, written so that LLVM vectorises a loop over them.

Each takes float32 or float64 and keeps it. NaN stays NaN, and what overflows or vanishes is inf or 0. float32 is within
a few units in the last place, float64 within 3e-15.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from tinyseq.backends.compiled import by_dtype, inline, intrinsic

F = np.float32
ZERO, HALF, ONE = F(0), F(0.5), F(1)  # exact in float32: they leave a loop of either dtype as it is


@intrinsic
def rint(context: Any, x: Any) -> Any:
    """The whole number next to x."""
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.call(builder.module.declare_intrinsic("llvm.rint", [args[0].type]), args)

    return x(x), build


@intrinsic
def fma(context: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once; not to be taken apart, as fast arithmetic may do with a product and a sum."""
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return c(c, c, c), build


@intrinsic
def pow2(context: Any, n: Any) -> Any:
    """2**n of a whole n whose power is a normal number, by its bits."""
    bits, mantissa, bias = (32, 23, 127) if n == types.float32 else (64, 52, 1023)

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.IntType(bits)
        exponent = builder.add(builder.fptosi(args[0], kind), ir.Constant(kind, bias))
        return builder.bitcast(builder.shl(exponent, ir.Constant(kind, mantissa)), args[0].type)

    return n(n), build


@intrinsic
def maximum(context: Any, a: Any, b: Any) -> Any:
    """The larger of two, NaN if one is: the largest of many is found several at a time, as by comparing it is not."""
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        both = ir.FunctionType(kind, [kind, kind])
        return builder.call(builder.module.declare_intrinsic("llvm.maximum", [kind], both), args)

    return a(a, a), build


def _bits(builder: Any, x: Any) -> tuple[Any, Any, Any]:
    """A float's bits, its exponent n, x = 2^n m with m from sqrt(1/2) to sqrt(2), and by how much that is shifted."""
    bits, mantissa, root = (64, 52, 0x3FE6A09E667F3BCD) if x.type == ir.DoubleType() else (32, 23, 0x3F3504F3)
    kind = ir.IntType(bits)
    whole, shift = builder.bitcast(x, kind), ir.Constant(kind, mantissa)
    return whole, builder.ashr(builder.sub(whole, ir.Constant(kind, root)), shift), shift


@intrinsic
def exponent(context: Any, x: Any) -> Any:
    """n of a normal x = 2^n m, m from sqrt(1/2) to sqrt(2)."""
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n = _bits(builder, args[0])[1]
        n = n if n.type == ir.IntType(32) else builder.trunc(n, ir.IntType(32))  # what any processor converts at once
        return builder.sitofp(n, args[0].type)

    return x(x), build


@intrinsic
def mantissa(context: Any, x: Any) -> Any:
    """m of a normal x = 2^n m, m from sqrt(1/2) to sqrt(2)."""
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole, n, shift = _bits(builder, args[0])
        return builder.bitcast(builder.sub(whole, builder.shl(n, shift)), args[0].type)

    return x(x), build


# exp(x) = 2^n exp(r), |r| <= log(2) / 2, log(2) in two parts: a fit in float32, Taylor's series in float64
E2, E3, E4, E5, E6, E7 = map(F, (5.0000001201e-1, 1.6666665459e-1, 4.1665795894e-2, 8.3334519073e-3, 1.3981999507e-3,
                                 1.9875691500e-4))
D2, D3, D4, D5, D6, D7, D8, D9, D10, D11, D12, D13 = (1 / math.factorial(k) for k in range(2, 14))
LOG2E, LOG2_HIGH, LOG2_LOW = F(1.442695041), F(0.693359375), F(-2.12194440e-4)
LEAST, MOST, INFINITE = F(-87.3), F(88.3), F(math.inf)


def exp32(x: Any) -> Any:
    n = rint(x * LOG2E)  # of x out of bounds anything, which is not taken
    r = fma(n, -LOG2_LOW, fma(n, -LOG2_HIGH, x))
    p = ((((E7 * r + E6) * r + E5) * r + E4) * r + E3) * r + E2
    y = (p * r * r + r + ONE) * pow2(n)
    return ZERO if x < LEAST else INFINITE if x > MOST else y


def exp64(x: Any) -> Any:
    n = rint(x * 1.4426950408889634)
    r = fma(n, -1.42860682030941723e-6, fma(n, -0.693145751953125, x))
    p = ((((D13 * r + D12) * r + D11) * r + D10) * r + D9) * r + D8
    p = (((((p * r + D7) * r + D6) * r + D5) * r + D4) * r + D3) * r + D2
    y = (p * r * r + r + 1.0) * pow2(n)
    return 0.0 if x < -708.3 else math.inf if x > 709.4 else y


exp = by_dtype(exp32, exp64)

# log(2^n (1 + f)) = n log(2) + log(1 + f), as in fdlibm: with s = f / (2 + f), a fit of what s^2 makes of 2 s
G2, G4, G6, G8, G10, G12, G14 = (6.666666666666735130e-1, 3.999999999940941908e-1, 2.857142874366239149e-1,
                                 2.222219843214978396e-1, 1.818357216161805012e-1, 1.531383769920937332e-1,
                                 1.479819860511658591e-1)
TINY = 2.0**-1022


@inline
def log(x: Any) -> Any:
    """Of float64."""
    normal = x if x >= TINY else x * 2.0**54
    n, f = exponent(normal), mantissa(normal) - 1.0
    n = n if x >= TINY else n - 54.0
    s = f / (2.0 + f)
    z, half = s * s, 0.5 * f * f
    r = z * ((((((G14 * z + G12) * z + G10) * z + G8) * z + G6) * z + G4) * z + G2)
    y = n * 6.93147180369123816490e-1 + (f - (half - (s * (half + r) + n * 1.90821492927058770002e-10)))
    return y if 0.0 < x < math.inf else -math.inf if x == 0.0 else x if x == math.inf else math.nan


# tanh(x) = x P(x^2) / Q(x^2) on |x| < 9, beyond which it rounds to 1
P1, P3, P5, P7, P9, P11, P13 = map(F, (
    4.89352455891786e-03, 6.37261928875436e-04, 1.48572235717979e-05, 5.12229709037114e-08, -8.60467152213735e-11,
    2.00018790482477e-13, -2.76076847742355e-16))
Q0, Q2, Q4, Q6 = map(F, (4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06))
NINE = F(9)


def tanh32(x: Any) -> Any:
    x = -NINE if x < -NINE else NINE if x > NINE else x
    q = x * x
    p = ((((((P13 * q + P11) * q + P9) * q + P7) * q + P5) * q + P3) * q + P1) * x
    return p / (((Q6 * q + Q4) * q + Q2) * q + Q0)


# tanh(x) = x + x^3 R(x^2) / S(x^2) on |x| < 0.625 (Cephes), where 1 - 2 / (exp(2 x) + 1) loses digits
R0, R1, R2 = -1.61468768441708447952e3, -9.92877231001918586564e1, -9.64399179425052238628e-1
S0, S1, S2 = 4.84406305325125486048e3, 2.23548839060100448583e3, 1.12811678491632931402e2


def tanh64(x: Any) -> Any:
    q = x * x
    small = x + x * q * ((R2 * q + R1) * q + R0) / (((q + S2) * q + S1) * q + S0)
    return small if abs(x) < 0.625 else 1.0 - 2.0 / (exp(2.0 * x) + 1.0)


tanh = by_dtype(tanh32, tanh64)


@inline
def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)), within rounding of 1: the small ones have few digits."""
    return HALF * tanh(HALF * x) + HALF


# erf(x) = x P(x^2) / Q(x^2) on |x| < 3.92, beyond which it rounds to 1: a minimax fit, within 2e-8 before rounding
U0, U1, U2, U3, U4, U5 = map(F, (1.12837915, 0.190405589, 0.0527486024, 0.00376557701, 0.000284881464, 2.05008996e-06))
V1, V2, V3, V4, V5 = map(F, (0.502075301, 0.114108744, 0.0149691383, 0.00116252506, 3.80916753e-05))
FAR = F(3.92)


def erf32(x: Any) -> Any:
    q = x * x
    y = x * (((((U5 * q + U4) * q + U3) * q + U2) * q + U1) * q + U0)
    y = y / (((((V5 * q + V4) * q + V3) * q + V2) * q + V1) * q + ONE)
    return -ONE if x < -FAR else ONE if x > FAR else y


def erf64(x: Any) -> Any:
    return math.erf(x)  # a call for each x


erf = by_dtype(erf32, erf64)
