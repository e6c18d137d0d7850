"""Time and memory of one step of the search, against a plain implementation and against its convolutions alone.

A step takes one architecture pass on one batch and one weight pass on another; "joint" is the single pass that does
both. Contenders are described in step_cases.py and plain.py, the floor in conv_floor.py, peak memory in step_memory.py.
Before anything is timed, the plain networks are checked to give litesnn's logits, costs and gradients (agreement.py).

All run in one process, in turns, on synthetic data; times are medians of the rounds, ratios medians of the ratios of
each round. Images per second count the training batch alone, though an alternating step sees a held-out one as well.

Prints a table per recipe and batch, and ends with one line per figure. The figures of the paper's search shape at batch
30 have no prefix. memory_vs_plain is our peak memory over theirs; times_conv_floor is our time over that of the
convolutions; convolution_share is the part of a step that torch's profiler finds in convolutions.
"""

from __future__ import annotations

import step_report

BATCHES = {"paper": [30, 8], "digits": [96]}

if __name__ == "__main__":
    step_report.main("search", __doc__, batches=BATCHES)
