# The memory that a step writes, as sorted spans of addresses, and the question asked of it for
# every new gradient. What an overlap means is decided in _overlaps.pyx.

cdef struct Span:
    # the memory of one array
    char* low
    char* high
    char* reach       # the highest `high` of this span and of all sorted before it
    Py_ssize_t entry
    int operand

cdef struct Spans:
    Span* sorted      # by `low`
    Py_ssize_t n


cdef inline Py_ssize_t first_reaching_beyond(
    const Spans* spans, const char* address,
) noexcept nogil:
    """Return the first of the spans that, or one before it, ends beyond an address."""
    cdef Py_ssize_t low = 0, high = spans.n, middle
    while low < high:
        middle = (low + high) // 2
        if spans.sorted[middle].reach > address:
            high = middle
        else:
            low = middle + 1
    return low


cdef inline bint is_apart(const Spans* spans, const char* low, const char* high) noexcept nogil:
    """Tell whether memory lies within the bounds of no span."""
    cdef Py_ssize_t j = first_reaching_beyond(spans, low)
    return j == spans.n or spans.sorted[j].low >= high
