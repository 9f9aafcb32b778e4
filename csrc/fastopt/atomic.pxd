# Integers that several threads read and write at once, and how a processor is told that a thread
# spins. The functions' names say which memory order they have; no lock and no waiting belongs here.
#
# Sequentially consistent where nothing is said: those are few, and none is in a loop over elements.

cdef extern from *:
    """
    #if defined(_MSC_VER) && !defined(__clang__)
      #include <intrin.h>
      typedef volatile __int64 fastopt_shared;
      /* all of Microsoft's are sequentially consistent */
      #define fastopt_load(p) _InterlockedOr64((p), 0)
      #define fastopt_store(p, n) ((void) _InterlockedExchange64((p), (n)))
      #define fastopt_swap_if(p, from, to) _InterlockedCompareExchange64((p), (to), (from))
      #define fastopt_load_acquire(p) fastopt_load(p)
      #define fastopt_store_release(p, n) fastopt_store(p, n)
      #define fastopt_exchange_acquire(p, n) _InterlockedExchange64((p), (n))
      #define fastopt_add_relaxed(p, n) _InterlockedExchangeAdd64((p), (n))
      #define fastopt_count_down(p) (_InterlockedExchangeAdd64((p), -1) - 1)
      #if defined(_M_ARM64)
        #define fastopt_pause() __yield()
      #else
        #define fastopt_pause() _mm_pause()
      #endif
    #else
      typedef long long fastopt_shared;
      #define fastopt_load(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
      #define fastopt_store(p, n) __atomic_store_n((p), (n), __ATOMIC_SEQ_CST)
      __attribute__((unused))  /* not every module swaps */
      static inline long long fastopt_swap_if(fastopt_shared *p, long long from, long long to) {
          __atomic_compare_exchange_n(p, &from, to, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
          return from;
      }
      #define fastopt_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
      #define fastopt_store_release(p, n) __atomic_store_n((p), (n), __ATOMIC_RELEASE)
      #define fastopt_exchange_acquire(p, n) __atomic_exchange_n((p), (n), __ATOMIC_ACQUIRE)
      #define fastopt_add_relaxed(p, n) __atomic_fetch_add((p), (n), __ATOMIC_RELAXED)
      #define fastopt_count_down(p) __atomic_sub_fetch((p), 1, __ATOMIC_ACQ_REL)
      #if defined(__x86_64__) || defined(__i386__)
        #define fastopt_pause() __builtin_ia32_pause()
      #elif defined(__aarch64__)
        #define fastopt_pause() __asm__ volatile("yield")
      #else
        #define fastopt_pause() ((void) 0)
      #endif
    #endif
    """
    ctypedef long long shared_int "fastopt_shared"
    long long load "fastopt_load"(shared_int*) noexcept nogil
    void store "fastopt_store"(shared_int*, long long value) noexcept nogil
    # Write `to` where `old` stands; return what stood there.
    long long swap_if "fastopt_swap_if"(shared_int*, long long old, long long to) noexcept nogil
    long long load_acquire "fastopt_load_acquire"(shared_int*) noexcept nogil
    void store_release "fastopt_store_release"(shared_int*, long long value) noexcept nogil
    # Return what stood there before.
    long long exchange_acquire "fastopt_exchange_acquire"(shared_int*, long long) noexcept nogil
    long long add_relaxed "fastopt_add_relaxed"(shared_int*, long long) noexcept nogil
    # Subtract 1, acquire and release; return what is left.
    long long count_down "fastopt_count_down"(shared_int*) noexcept nogil
    # For a loop that waits for another thread.
    void pause "fastopt_pause"() noexcept nogil
