# The types of csrc/fastopt/_kernels.pyx: none, it has nothing for Python, only
# the pointer to the kernels' table, for the other compiled modules.
