"""The program: ``litesnn`` and ``python -m litesnn`` alike."""

from __future__ import annotations

from typing import NoReturn

from litesnn import interrupts

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line. Even what it imports can be interrupted."""
    interrupts.leave_at_once()
    from litesnn import cli

    cli.main()


if __name__ == "__main__":
    main()
