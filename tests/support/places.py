"""Where the project, its core and the tests' data lie."""

from pathlib import Path

import modelkit_assets

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
CORE = Path(modelkit_assets.__file__)
