"""`python -m graftage` is the command line."""

import sys

from graftage.cli import main

sys.exit(main())
