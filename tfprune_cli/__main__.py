"""`python -m tfprune_cli`: the same as `tfprune`."""

from __future__ import annotations

import sys

from tfprune_cli.program import main

sys.exit(main())
