"""`python -m damoyolo`."""

from __future__ import annotations

import sys

from damoyolo.cli import main

if __name__ == "__main__":
    sys.exit(main())
