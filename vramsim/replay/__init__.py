"""One case, unrolled: every device, micro-batch and layer, event by event; memory and time in one timeline.

`simulate` folds a graph in closed form; `replay` takes the same graph apart and runs it, and so tests the closed form:
peaks are equal to the byte, step times within a few percent (tests/replay).
"""
