# Matrix products over BLAS, reached without the GIL through scipy. Imported only where the kernels
# that were chosen have none of their own. BLAS is column-major; that operands are swapped for it is
# known here and nowhere else.

from cpython.pycapsule cimport PyCapsule_New
from kernel_table cimport Products
from scipy.linalg.cython_blas cimport dgemm, sgemm


cdef void multiply32(
    int transpose_a, int transpose_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const float* a,
    Py_ssize_t lda, const float* b, Py_ssize_t ldb, float* c, Py_ssize_t ldc, void* _scratch,
) noexcept nogil:
    """c := op(a)·op(b), float32."""
    cdef char op_a = c"T" if transpose_a else c"N"
    cdef char op_b = c"T" if transpose_b else c"N"
    cdef int rows = <int> m, columns = <int> n, depth = <int> k
    cdef int ld_a = <int> lda, ld_b = <int> ldb, ld_c = <int> ldc
    cdef float one = 1, zero = 0
    sgemm(
        &op_b, &op_a, &columns, &rows, &depth, &one, <float*> b, &ld_b, <float*> a, &ld_a,
        &zero, c, &ld_c,
    )


cdef void multiply64(
    int transpose_a, int transpose_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const double* a,
    Py_ssize_t lda, const double* b, Py_ssize_t ldb, double* c, Py_ssize_t ldc, void* _scratch,
) noexcept nogil:
    """c := op(a)·op(b), float64."""
    cdef char op_a = c"T" if transpose_a else c"N"
    cdef char op_b = c"T" if transpose_b else c"N"
    cdef int rows = <int> m, columns = <int> n, depth = <int> k
    cdef int ld_a = <int> lda, ld_b = <int> ldb, ld_c = <int> ldc
    cdef double one = 1, zero = 0
    dgemm(
        &op_b, &op_a, &columns, &rows, &depth, &one, <double*> b, &ld_b, <double*> a, &ld_a,
        &zero, c, &ld_c,
    )


cdef Py_ssize_t no_scratch(Py_ssize_t _m, Py_ssize_t _n, Py_ssize_t _k) noexcept nogil:
    return 0


cdef Products products
products.float32, products.float64 = multiply32, multiply64
products.scratch32 = products.scratch64 = no_scratch
table = PyCapsule_New(&products, "fastopt.products", NULL)
