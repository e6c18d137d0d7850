"""How CPU threads wait for each other; imported before torch, because OpenMP reads its settings once.

OpenMP threads spin while they wait. By default so long that, as soon as another process wants one of the cores,
a step with two threads takes several times as long as with one. Threads that sleep at once are no cure: the small steps
of a small network then take as long as with one thread. A short spin before the sleep costs little in both cases.
Whoever sets the variables decides otherwise.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "100000")
