# How the calling thread computes with floats: the processor's control register, MXCSR on x86 and
# FPCR on ARM. It holds the rounding, and whether subnormal numbers are flushed. When to change it
# does not belong here; whoever does puts back what `get_float_mode` gave.
#
# A compiler may move arithmetic over a change of mode, which it takes for something else: what is
# to be computed in a mode must stand in a function that is called through a pointer.

cdef extern from *:
    """
    #if defined(__x86_64__) || defined(_M_X64) || defined(__SSE2__)
      #include <xmmintrin.h>
      typedef unsigned int fastopt_float_mode;
      #define fastopt_get_float_mode() _mm_getcsr()
      #define fastopt_set_float_mode(mode) _mm_setcsr(mode)
      #define FASTOPT_FLUSH 0x8040u  /* results flushed to zero; operands taken for zero */
      #define FASTOPT_CAN_FLUSH 1
    #elif defined(__aarch64__) && !defined(_MSC_VER)
      typedef unsigned long long fastopt_float_mode;
      static inline fastopt_float_mode fastopt_get_float_mode(void) {
          fastopt_float_mode mode;
          __asm__ __volatile__("mrs %0, fpcr" : "=r"(mode) : : "memory");
          return mode;
      }
      static inline void fastopt_set_float_mode(fastopt_float_mode mode) {
          __asm__ __volatile__("msr fpcr, %0" : : "r"(mode) : "memory");
      }
      #define FASTOPT_FLUSH (1ull << 24)  /* FZ: both of them */
      #define FASTOPT_CAN_FLUSH 1
    #elif defined(_M_ARM64)
      #include <intrin.h>
      typedef unsigned __int64 fastopt_float_mode;
      #define FASTOPT_FPCR 0x5A20  /* the register's number */
      #define fastopt_get_float_mode() ((unsigned __int64) _ReadStatusReg(FASTOPT_FPCR))
      #define fastopt_set_float_mode(mode) _WriteStatusReg(FASTOPT_FPCR, (__int64) (mode))
      #define FASTOPT_FLUSH (1ull << 24)
      #define FASTOPT_CAN_FLUSH 1
    #else
      typedef int fastopt_float_mode;
      #define fastopt_get_float_mode() 0
      #define fastopt_set_float_mode(mode) ((void) (mode))
      #define FASTOPT_FLUSH 0
      #define FASTOPT_CAN_FLUSH 0
    #endif
    """
    ctypedef unsigned long long float_mode "fastopt_float_mode"
    float_mode get_float_mode "fastopt_get_float_mode"() noexcept nogil
    void set_float_mode "fastopt_set_float_mode"(float_mode mode) noexcept nogil
    # The bits of a mode that flush subnormal numbers, and whether this processor has any
    const float_mode FLUSH "FASTOPT_FLUSH"
    const bint CAN_FLUSH "FASTOPT_CAN_FLUSH"
