# The types of csrc/fastopt/_net_inputs.pyx: none, it has nothing for Python, only
# what the nets ask of it in C.
