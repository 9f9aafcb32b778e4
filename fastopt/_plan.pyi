# The types of csrc/fastopt/_plan.pyx: none, what it has is asked for in C alone.
