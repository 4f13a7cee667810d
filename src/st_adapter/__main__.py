"""`python -m st_adapter`."""

import sys

from st_adapter.cli import main

if __name__ == "__main__":  # a comparison's processes import this file, too
    sys.exit(main())
