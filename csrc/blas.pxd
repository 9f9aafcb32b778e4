# Matrix products for row-major matrices over BLAS, reached without the GIL. BLAS is column-major;
# that operands are swapped for it is known here and nowhere else.

from cython cimport floating
from scipy.linalg.cython_blas cimport dgemm, sgemm


cdef inline void gemm(
    bint transpose_a, bint transpose_b, int m, int n, int k,
    const floating* a, int lda, const floating* b, int ldb,
    floating beta, floating* c, int ldc,
) noexcept nogil:
    """c := op(a)·op(b) + beta·c, with op(a) of m × k, op(b) of k × n, c of m × n.

    The op of an operand is its transpose where the flag is set; ld* are the lengths of stored rows.
    """
    cdef char op_a = c"T" if transpose_a else c"N"
    cdef char op_b = c"T" if transpose_b else c"N"
    cdef floating one = 1
    if floating is float:
        sgemm(
            &op_b, &op_a, &n, &m, &k, &one, <float*> b, &ldb, <float*> a, &lda, &beta, c, &ldc
        )
    else:
        dgemm(
            &op_b, &op_a, &n, &m, &k, &one, <double*> b, &ldb, <double*> a, &lda, &beta, c, &ldc
        )
