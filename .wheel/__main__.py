# SPDX-License-Identifier: MIT
"""`python -m modelkit_assets`, where that is a package: its `__init__` is the core."""

import sys

from modelkit_assets import main

sys.exit(main())
