"""One thread and one hypothesis profile for the whole suite: the same examples everywhere, no flaky deadlines."""

from __future__ import annotations

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("litesnn", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("litesnn")
