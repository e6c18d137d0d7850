"""Time and memory of one step of the training of a derived network, against a plain implementation and its floor.

The paper's kind of network: 8 cells of 4 nodes, 48 filters, 20 % of the weights kept, 1, 2 and 4 bits, T = 6; and one
of the digits demo's kind. How they are measured, and what the figures mean, is as in search_step.py. The figures of the
paper's kind at batch 8 have no prefix.
"""

from __future__ import annotations

import step_report

BATCHES = {"paper": [8], "digits": [64]}

if __name__ == "__main__":
    step_report.main("train", __doc__, batches=BATCHES)
