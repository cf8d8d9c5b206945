"""The fuzzer shares its plane, reader and oracles with the tests of the gateway."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "gateway"))
