"""`python -m vramsim`: the command line."""

from __future__ import annotations

import sys

from vramsim.cli import main

sys.exit(main())
