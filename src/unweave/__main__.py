"""`python -m unweave`: the command line, as `torchrun -m unweave` starts it."""

import sys

from unweave.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
