"""The parts of ``benchmarks/gpu.sh``."""

MARK = "RESULT "  # what a line of figures begins with; all else that is printed is for the log
