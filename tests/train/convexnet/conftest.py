"""Lets the tests of this room import their own reference and the cases of the contract."""

import sys
from pathlib import Path

_HERE = Path(__file__).parent
for folder in (_HERE, _HERE.parents[1] / "solve"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
