"""C for small devices: from a packed model to a folder of C99 that builds and tests itself.

:mod:`layout` places spikes, chooses kernels and proves widths; :mod:`memory` plans the static RAM; :mod:`source` writes
the model as C; :mod:`folder` writes the whole folder. The runtime, which is C, is in ``litesnn/deploy/mcu``.
"""
