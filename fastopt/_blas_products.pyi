# The types of csrc/fastopt/_blas_products.pyx; stubtest holds the two to each other.

table: object  # the capsule that _products calls through
