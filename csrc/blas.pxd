# Matrix products for row-major matrices over BLAS, reached without the GIL. BLAS is column-major;
# that operands are swapped for it is known here and nowhere else.

from scipy.linalg.cython_blas cimport dgemm, sgemm


cdef inline void gemm(
    bint is_double, bint transpose_a, bint transpose_b, int m, int n, int k,
    const void* a, int lda, const void* b, int ldb, void* c, int ldc,
) noexcept nogil:
    """c := op(a)·op(b), with op(a) of m × k, op(b) of k × n, c of m × n, all float64 or float32.

    The op of an operand is its transpose where the flag is set; ld* are the lengths of stored rows.
    """
    cdef char op_a = c"T" if transpose_a else c"N"
    cdef char op_b = c"T" if transpose_b else c"N"
    cdef double one64 = 1, zero64 = 0
    cdef float one32 = 1, zero32 = 0
    if is_double:
        dgemm(
            &op_b, &op_a, &n, &m, &k, &one64, <double*> b, &ldb, <double*> a, &lda,
            &zero64, <double*> c, &ldc,
        )
    else:
        sgemm(
            &op_b, &op_a, &n, &m, &k, &one32, <float*> b, &ldb, <float*> a, &lda,
            &zero32, <float*> c, &ldc,
        )
