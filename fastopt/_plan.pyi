# csrc/fastopt/_plan.pyx offers Python nothing.
