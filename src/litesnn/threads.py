"""How CPU threads wait for each other; imported before torch, because OpenMP reads its settings once.

OpenMP threads spin while they wait. As soon as another process wants one of the cores, a step with two threads then
takes several times as long as with one. Threads that sleep cost next to nothing on an idle machine. Whoever sets the
variable decides otherwise.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
