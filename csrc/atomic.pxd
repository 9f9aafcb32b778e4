# Integers that several threads read and write at once. No lock and no waiting belongs here.
#
# All operations are sequentially consistent: they are few, and none is in a loop over elements.

cdef extern from *:
    """
    #if defined(_MSC_VER) && !defined(__clang__)
      #include <intrin.h>
      typedef volatile __int64 fastopt_shared;
      #define fastopt_shared_load(p) _InterlockedOr64((p), 0)
      #define fastopt_shared_store(p, n) ((void) _InterlockedExchange64((p), (n)))
      #define fastopt_shared_swap(p, from, to) _InterlockedCompareExchange64((p), (to), (from))
    #else
      typedef long long fastopt_shared;
      #define fastopt_shared_load(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
      #define fastopt_shared_store(p, n) __atomic_store_n((p), (n), __ATOMIC_SEQ_CST)
      static inline long long fastopt_shared_swap(
          fastopt_shared *p, long long from, long long to
      ) {
          __atomic_compare_exchange_n(p, &from, to, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
          return from;
      }
    #endif
    """
    ctypedef long long shared_int "fastopt_shared"
    long long load "fastopt_shared_load"(shared_int*) noexcept nogil
    void store "fastopt_shared_store"(shared_int*, long long value) noexcept nogil
    # Write `to` where `old` stands; return what stood there.
    long long swap_if "fastopt_shared_swap"(shared_int*, long long old, long long to) noexcept nogil
