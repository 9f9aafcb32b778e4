# The types of csrc/fastopt/_overlaps.pyx: none, it has nothing for Python, only
# what the step asks of it in C.
