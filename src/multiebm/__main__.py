"""`multiebm` and `python -m multiebm` are the command line, which minds signals before it is imported."""

import sys
from typing import NoReturn

from multiebm.core.interrupts import interruptible


def main() -> NoReturn:
    """Run the command line; 130 after a signal that came before it could begin."""
    with interruptible(restore=False) as interrupts:
        try:
            from multiebm.cli.main import main as run

            run()
        except KeyboardInterrupt:
            interrupts.ignore()
            print("interrupted before it began", file=sys.stderr)
            sys.exit(130)


if __name__ == "__main__":
    main()
