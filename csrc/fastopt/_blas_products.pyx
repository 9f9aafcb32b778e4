# Matrix products over BLAS, reached without the GIL through scipy. Imported only where the kernels
# that were chosen have none of their own. BLAS is column-major; that operands are swapped for it is
# known here and nowhere else.

from cpython.pycapsule cimport PyCapsule_New
from cython cimport floating
from fastopt.kernels.table cimport Products
from scipy.linalg.cython_blas cimport dgemm, sgemm


cdef void multiply(
    int transpose_a, int transpose_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const floating* a,
    Py_ssize_t lda, const floating* b, Py_ssize_t ldb, floating* c, Py_ssize_t ldc, void* _scratch,
) noexcept nogil:
    """c := op(a)·op(b)."""
    cdef char op_a = c"T" if transpose_a else c"N"
    cdef char op_b = c"T" if transpose_b else c"N"
    cdef int rows = <int> m, columns = <int> n, depth = <int> k
    cdef int ld_a = <int> lda, ld_b = <int> ldb, ld_c = <int> ldc
    cdef floating one = 1, zero = 0
    cdef floating* x = <floating*> a
    cdef floating* y = <floating*> b
    if floating is float:
        sgemm(&op_b, &op_a, &columns, &rows, &depth, &one, y, &ld_b, x, &ld_a, &zero, c, &ld_c)
    else:
        dgemm(&op_b, &op_a, &columns, &rows, &depth, &one, y, &ld_b, x, &ld_a, &zero, c, &ld_c)


cdef Py_ssize_t no_scratch(Py_ssize_t _m, Py_ssize_t _n, Py_ssize_t _k) noexcept nogil:
    return 0


cdef Products products
products.float32, products.float64 = multiply[float], multiply[double]
products.scratch32 = products.scratch64 = no_scratch
table = PyCapsule_New(&products, "fastopt.products", NULL)
