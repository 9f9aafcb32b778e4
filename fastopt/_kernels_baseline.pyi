# The types of csrc/_kernels_baseline.pyx; stubtest holds the two to each other. Its siblings for
# AVX2 and AVX-512 have no stubs: stubtest would import them on processors that can't run them.

table: object  # the capsule that _core calls through
