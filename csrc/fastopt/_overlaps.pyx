# Refuses steps whose result would depend on the order in which arrays are updated: arrays that are
# written and share memory, and gradients in memory that is written. An array may be its own
# gradient, and gradients may share memory.
#
# Arrays whose bounds are apart share none: sorted by address, that is all that most steps need.
# Where bounds overlap, as those of the columns of one matrix, elements decide: two arrays at a time
# by NumPy, or, where there are many, all at once by sorting the addresses of their elements.

from cpython.ref cimport PyObject
from fastopt._entries cimport GRAD, PARAM, Entries, Entry, Operand
from fastopt.debug cimport check_that
from fastopt.ndarray cimport (
    PyArray_DATA,
    PyArray_DESCR,
    PyArrayObject,
    has_own_overlap,
    has_same_steps,
)
from fastopt.spans cimport Span, Spans, first_reaching_beyond
from libc.stdlib cimport qsort

import numpy as np

cdef enum:
    # All are compared at once where there are fewer elements for each pair of arrays than this: a
    # pair takes NumPy about 2 µs, an element 0.1
    ELEMENTS_PER_PAIR = 20
    # So few pairs are compared one after the other in any case
    FEW_PAIRS = 64


cdef int check_overlaps(Entries entries) except -1:
    """Check all arrays of a step; what it writes is then in `entries.written`."""
    cdef Spans* written = &entries.written
    cdef Py_ssize_t first = 0, end, n
    collect(entries)
    n, written.n = written.n, 0  # nothing is known until all of the following has passed
    while first < n:
        end = first + 1
        while end < n and written.sorted[end].low < written.sorted[end - 1].reach:
            end += 1
        if end - first > 1:
            check_interleaved(entries, first, end)
        first = end
    written.n = n
    check_gradients(entries)
    return 0


cdef int collect(Entries entries) except -1:
    """Sort what is written by address; an array two of whose elements are one place is refused."""
    cdef Spans* written = &entries.written
    cdef Span* span
    cdef Entry* entry
    cdef Operand* operand
    cdef Py_ssize_t i
    cdef int k
    written.n = 0
    for i in range(entries.n):
        entry = &entries.items[i]
        if entry.is_frozen:
            continue
        for k in range(entries.n_operands):
            if k == GRAD or k == PARAM and entry.is_number:
                continue
            operand = &entry.operands[k]
            if has_own_overlap(<PyArrayObject*> operand.array):
                written.n = 0
                raise ValueError(f"elements of {entries.name_of(i, k)} overlap in memory")
            check_that(written.n < entries.capacity * (entries.n_operands - 1))
            written.sorted[written.n] = Span(operand.low, operand.high, NULL, i, k)
            written.n += 1
    if written.n > 1:
        qsort(written.sorted, written.n, sizeof(Span), compare_spans)
    for i in range(written.n):
        span = &written.sorted[i]
        span.reach = span.high
        if i > 0:
            span.reach = max(span.high, written.sorted[i - 1].reach)
    return 0


cdef int compare_spans(const void* a, const void* b) noexcept nogil:
    """Order spans by where they begin, and an empty one before another that begins there."""
    cdef const Span* x = <const Span*> a
    cdef const Span* y = <const Span*> b
    if x.low != y.low:
        return 1 if x.low > y.low else -1
    return (x.high > y.high) - (x.high < y.high)


cdef int check_interleaved(Entries entries, Py_ssize_t first, Py_ssize_t end) except -1:
    """Refuse spans that share memory among some whose bounds overlap."""
    cdef Span* spans = entries.written.sorted
    cdef Py_ssize_t i, j, pairs = (end - first) * (end - first - 1) // 2
    if pairs > FEW_PAIRS and elements_of(entries, first, end) < pairs * ELEMENTS_PER_PAIR:
        found = shared_within(arrays_of(entries, first, end))
        if found is not None:
            raise_overlap(entries, &spans[first + found[0]], &spans[first + found[1]])
        return 0
    for i in range(first, end):
        j = i + 1
        while j < end and spans[j].low < spans[i].high:
            if share_memory(array_of(entries, &spans[i]), array_of(entries, &spans[j])):
                raise_overlap(entries, &spans[i], &spans[j])
            j += 1
    return 0


cdef int check_gradients(Entries entries) except -1:
    """Check all gradients against what is written."""
    cdef Spans* written = &entries.written
    cdef Py_ssize_t i, j, first = written.n, end = 0, pairs = 0, elements = 0
    near = []  # gradients that lie within the bounds of something written
    for i in range(entries.n):
        if entries.items[i].is_frozen:
            continue
        j = first_near(entries, i)
        if j == written.n:
            continue
        near.append(i)
        elements += entries.items[i].size
        first = min(first, j)
        while j < written.n and written.sorted[j].low < entries.items[i].operands[GRAD].high:
            j += 1
            pairs += 1
        end = max(end, j)
    if pairs > FEW_PAIRS and (
        elements + elements_of(entries, first, end) < pairs * ELEMENTS_PER_PAIR
    ):
        found = shared_between(
            arrays_of(entries, first, end),
            [np.asarray(<object> entries.items[i].operands[GRAD].array) for i in near],
        )
        if found is not None:
            raise_gradient_overlap(entries, &written.sorted[first + found[0]], near[found[1]])
        return 0
    for i in near:
        check_gradient_overlap(entries, i)
    return 0


cdef int check_gradient_overlap(Entries entries, Py_ssize_t i) except -1:
    """Check one gradient against what is written, array by array."""
    cdef Spans* written = &entries.written
    cdef Operand* g = &entries.items[i].operands[GRAD]
    cdef Py_ssize_t j = first_near(entries, i)
    while j < written.n and written.sorted[j].low < g.high:
        if written.sorted[j].high > g.low and share_memory(
            g.array, array_of(entries, &written.sorted[j])
        ):
            raise_gradient_overlap(entries, &written.sorted[j], i)
        j += 1
    return 0


cdef Py_ssize_t first_near(Entries entries, Py_ssize_t i) noexcept:
    """Return the first span that may reach into a gradient; their number if none does."""
    cdef Spans* written = &entries.written
    cdef Operand* g = &entries.items[i].operands[GRAD]
    cdef Py_ssize_t j = first_reaching_beyond(written, g.low)
    if j < written.n and written.sorted[j].low < g.high and not is_own_gradient(&entries.items[i]):
        return j
    return written.n


cdef bint is_own_gradient(Entry* entry) noexcept:
    """Tell whether parameter and gradient are one array, which the kernels allow."""
    cdef PyArrayObject* p = <PyArrayObject*> entry.operands[PARAM].array
    cdef PyArrayObject* g = <PyArrayObject*> entry.operands[GRAD].array
    return (
        PyArray_DATA(p) == PyArray_DATA(g)
        and PyArray_DESCR(p).type_num == PyArray_DESCR(g).type_num
        and has_same_steps(p, g)
    )


cdef PyObject* array_of(Entries entries, const Span* span) noexcept:
    return entries.items[span.entry].operands[span.operand].array


cdef list arrays_of(Entries entries, Py_ssize_t first, Py_ssize_t end):
    """Return the arrays of spans, as plain ones: a subclass may have answers of its own."""
    cdef Py_ssize_t j
    return [
        np.asarray(<object> array_of(entries, &entries.written.sorted[j]))
        for j in range(first, end)
    ]


cdef Py_ssize_t elements_of(Entries entries, Py_ssize_t first, Py_ssize_t end) noexcept:
    cdef Py_ssize_t j, n = 0
    for j in range(first, end):
        n += entries.items[entries.written.sorted[j].entry].size
    return n


cdef bint share_memory(PyObject* a, PyObject* b) except -1:
    try:
        return np.shares_memory(np.asarray(<object> a), np.asarray(<object> b), max_work=10**6)
    except np.exceptions.TooHardError:
        return True  # strides too intricate to tell apart are refused


cdef shared_within(list arrays):
    """Return the numbers of two arrays that share memory, or None; none has an overlap of its own.

    Sorted by where they begin, elements of which any two overlap have two neighbours that do.
    """
    begins, ends, owners = sorted_elements(arrays)
    shared = np.flatnonzero(begins[1:] < ends[: len(ends) - 1])
    return owners[shared[0] : shared[0] + 2].tolist() if shared.size else None


cdef shared_between(list disjoint, list others):
    """Return the numbers of one of each that share memory, or None.

    Of disjoint elements only the last one that begins before the end of another can reach into it.
    """
    begins, ends, owners = sorted_elements(disjoint)
    for j, other in enumerate(others):
        starts = addresses(other)
        last = np.searchsorted(begins, starts + other.itemsize) - 1
        shared = np.flatnonzero((last >= 0) & (ends[last] > starts))
        if shared.size:
            return int(owners[last[shared[0]]]), j
    return None


cdef tuple sorted_elements(list arrays):
    """Return where all elements begin and end, and the number of the array of each."""
    starts = [addresses(array) for array in arrays]
    sizes = [len(each) for each in starts]
    begins = np.concatenate(starts)
    order = np.argsort(begins, kind="stable")
    begins = begins[order]
    items = np.repeat([array.itemsize for array in arrays], sizes)[order]
    return begins, begins + items, np.repeat(np.arange(len(arrays)), sizes)[order]


cdef addresses(array):
    """Return the address of each element."""
    each = np.array(array.__array_interface__["data"][0], np.intp)
    for length, stride in zip(array.shape, array.strides):
        each = np.add.outer(each, np.arange(length, dtype=np.intp) * stride)
    return each.reshape(-1)


cdef int raise_overlap(Entries entries, const Span* a, const Span* b) except -1:
    if (b.entry, b.operand) < (a.entry, a.operand):
        a, b = b, a
    raise ValueError(
        f"{entries.name_of(a.entry, a.operand)} and {entries.name_of(b.entry, b.operand)} "
        "overlap in memory"
    )


cdef int raise_gradient_overlap(Entries entries, const Span* a, Py_ssize_t i) except -1:
    raise ValueError(
        f"{entries.name_of(a.entry, a.operand)} and {entries.name_of(i, GRAD)} overlap in memory"
    )
