# What this processor and operating system can run, asked before a module that needs it is imported,
# and which compiler built this. Compiled for the baseline; which variant is then taken is decided
# in fastopt/_instruction_sets.py.

from fastopt.float_mode cimport CAN_FLUSH

cdef extern from *:
    """
    #if defined(__clang__)
    #define FASTOPT_COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
    #define FASTOPT_COMPILER "gcc " __VERSION__
    #elif defined(_MSC_VER)
    #define FASTOPT_STR_(x) #x
    #define FASTOPT_STR(x) FASTOPT_STR_(x)
    #define FASTOPT_COMPILER "msvc " FASTOPT_STR(_MSC_VER)
    #else
    #define FASTOPT_COMPILER "unknown"
    #endif
    """
    const char* FASTOPT_COMPILER

compiler = FASTOPT_COMPILER.decode()
can_flush_subnormals = bool(CAN_FLUSH)

cdef extern from *:
    """
    #if (defined(__x86_64__) || defined(_M_X64))
      #if defined(_MSC_VER) && !defined(__clang__)
        #include <intrin.h>
        #include <immintrin.h>
        /* leaf 1: bit 27 of ecx, the OS saves extended state; bit 12, fused multiply-add, which
           counts as part of AVX2; leaf 7: the instruction sets;
           xgetbv: which registers it saves (2|4: AVX, 0xe0: AVX-512) */
        static int fastopt_leaf(int leaf, int reg) {
            int r[4]; __cpuid(r, 0);
            if (r[0] < leaf) return 0;
            __cpuidex(r, leaf, 0); return r[reg];
        }
        static int fastopt_saves(unsigned long long mask) {
            return (fastopt_leaf(1, 2) >> 27 & 1) && (_xgetbv(0) & mask) == mask;
        }
        static int fastopt_has_avx2(void) {
            return fastopt_saves(6) && (fastopt_leaf(7, 1) >> 5 & 1)
                && (fastopt_leaf(1, 2) >> 12 & 1);
        }
        static int fastopt_has_avx512(void) {
            int b = fastopt_leaf(7, 1);
            return fastopt_has_avx2() && fastopt_saves(0xe6) && (b >> 16 & 1) && (b >> 17 & 1)
                && (b >> 30 & 1) && ((unsigned)b >> 31 & 1);
        }
      #else
        /* the compiler's own check covers the operating system, too */
        static int fastopt_has_avx2(void) {
            __builtin_cpu_init();
            return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
        }
        static int fastopt_has_avx512(void) {
            __builtin_cpu_init();
            return fastopt_has_avx2() && __builtin_cpu_supports("avx512f")
                && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")
                && __builtin_cpu_supports("avx512vl");
        }
      #endif
    #else
      static int fastopt_has_avx2(void) { return 0; }
      static int fastopt_has_avx512(void) { return 0; }
    #endif
    """
    bint fastopt_has_avx2()
    bint fastopt_has_avx512()


def supports():
    """Return the instruction sets of the kernels' variants that can run here, weakest first."""
    names = ["baseline"]
    if fastopt_has_avx2():
        names.append("avx2")
    if fastopt_has_avx512():
        names.append("avx512")
    return names
