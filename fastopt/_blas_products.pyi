# The types of csrc/_blas_products.pyx; stubtest holds the two to each other.

table: object  # the capsule that _layers calls through
