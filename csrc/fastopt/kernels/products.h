/* Matrix products for the instruction set that a kernels' module is compiled for: how wide its
   registers are, how it multiplies and adds, what pays. The algorithm is in product_kernel.h,
   included here for each dtype. In the baseline, on processors other than x86-64, and where the
   compiler has no vectors (Visual C++), HAS_PRODUCTS is 0 and BLAS does the products.

   Fused multiply-add is asked for by name, in products alone: compilers may not contract
   (setup.py). */

#ifndef FASTOPT_PRODUCTS_H
#define FASTOPT_PRODUCTS_H

/* FASTOPT_VARIANT: defined for all kernels but the baseline's (setup.py), whatever CFLAGS allow */
#if !defined(FASTOPT_VARIANT) || !(defined(__GNUC__) || defined(__clang__))
  #define HAS_PRODUCTS 0
#elif defined(__AVX512F__)
  #define HAS_PRODUCTS 1
  #define VECTOR_BYTES 64
  #define TILE_ROWS 8     /* 24 of 32 registers hold sums, 3 a row of b, 1 an element of a */
  #define TILE_VECTORS 3
  #define MAX_ROWS_IF_NEAR PY_SSIZE_T_MAX
  #define MAX_ROWS_IF_FAR 16
  #define MIN_PANELS_TO_PACK 16
#elif defined(__AVX2__) && defined(__FMA__)
  #define HAS_PRODUCTS 1
  #define VECTOR_BYTES 32
  #define TILE_ROWS 6     /* 12 of 16 registers hold sums, 2 a row of b, 1 an element of a */
  #define TILE_VECTORS 2
  #define MAX_ROWS_IF_NEAR 48
  #define MAX_ROWS_IF_FAR 12
  #define MIN_PANELS_TO_PACK 4
#else
  #define HAS_PRODUCTS 0
#endif

#if HAS_PRODUCTS

#include <immintrin.h>
#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define NOT_INLINE __attribute__((noinline))
#if defined(__clang__)
  #define UNROLLED _Pragma("clang loop unroll(full)")
#else
  #define UNROLLED _Pragma("GCC unroll 16")
#endif

/* Elements of a sum that are added up in registers before they are added to c: what they are
   multiplied with, a panel of b, then stays in a core's own cache. The same for every instruction
   set, for the bits of a product depend on it and on nothing else. */
#define MAX_DEPTH 400

/* What pays was measured (bench/products.py), for each instruction set where they differ (above).
   b is read in place for up to MAX_ROWS_IF_NEAR rows of c if its rows lie near each other, for up
   to MAX_ROWS_IF_FAR if they don't. From MIN_PANELS_TO_PACK panels on, a transposed a whose rows
   lie far from each other is packed, MAX_PACKED_ROWS rows of c at a time. */
#define MAX_NEAR_BYTES 2048
#define MAX_PACKED_ROWS 1024
/* A b of so many bytes is not in a core's own cache: what is next to be copied is fetched before. A
   tile of c that takes so many steps has the time to fetch where it will be written. */
#define MIN_BYTES_TO_FETCH (1 << 19)
#define MIN_DEPTH_TO_FETCH 200

/* Matrices are turned by groups of elements, two of which are loaded into a vector; what zips them
   (unpacklo, unpackhi) mixes no two groups. */
#define GROUP_BYTES 16
ALWAYS_INLINE __m256 load_groups(const void *low, const void *high) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
}

#define REAL float
#define NAME(name) name##_float
#define ZIP_LOW(x, y) _mm256_unpacklo_ps(x, y)
#define ZIP_HIGH(x, y) _mm256_unpackhi_ps(x, y)
#if VECTOR_BYTES == 64
  #define MULTIPLY_ADD(x, y, z) _mm512_fmadd_ps(x, y, z)
  #define HALF_MULTIPLY_ADD(x, y, z) _mm256_fmadd_ps(x, y, z)
  #define LOWER_HALF(x) _mm512_castps512_ps256(x)
#else
  #define MULTIPLY_ADD(x, y, z) _mm256_fmadd_ps(x, y, z)
  #define HALF_MULTIPLY_ADD(x, y, z) _mm_fmadd_ps(x, y, z)
  #define LOWER_HALF(x) _mm256_castps256_ps128(x)
#endif
#include "product_kernel.h"
#undef REAL
#undef NAME
#undef MULTIPLY_ADD
#undef HALF_MULTIPLY_ADD
#undef LOWER_HALF
#undef ZIP_LOW
#undef ZIP_HIGH

#define REAL double
#define NAME(name) name##_double
#define ZIP_LOW(x, y) _mm256_unpacklo_pd(x, y)
#define ZIP_HIGH(x, y) _mm256_unpackhi_pd(x, y)
#if VECTOR_BYTES == 64
  #define MULTIPLY_ADD(x, y, z) _mm512_fmadd_pd(x, y, z)
  #define HALF_MULTIPLY_ADD(x, y, z) _mm256_fmadd_pd(x, y, z)
  #define LOWER_HALF(x) _mm512_castpd512_pd256(x)
#else
  #define MULTIPLY_ADD(x, y, z) _mm256_fmadd_pd(x, y, z)
  #define HALF_MULTIPLY_ADD(x, y, z) _mm_fmadd_pd(x, y, z)
  #define LOWER_HALF(x) _mm256_castpd256_pd128(x)
#endif
#include "product_kernel.h"
#undef REAL
#undef NAME
#undef MULTIPLY_ADD
#undef HALF_MULTIPLY_ADD
#undef LOWER_HALF
#undef ZIP_LOW
#undef ZIP_HIGH

#else

#define product_float NULL
#define product_double NULL
#define product_scratch_float NULL
#define product_scratch_double NULL

#endif
#endif
