"""`python -m st_adapter`."""

import sys

from st_adapter.cli import main

sys.exit(main())
