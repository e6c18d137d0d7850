"""``python -m litesnn`` is the ``litesnn`` command."""

from litesnn.cli import main

main()
