"""What `benchmarks/areas.py` measured against people and wrote: the center bias, the errors, and the docs' tables."""

import json
from pathlib import Path

MEASURED = json.loads((Path(__file__).parent / "measured.json").read_text(encoding="utf-8"))
