"""The plain-numpy meaning of the top dialect, shared with the rewrite tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "filecheck"))
