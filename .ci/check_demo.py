"""Hold the demo to what README claims: only the ST-Adapter tells a clip from its reversal."""

import json
import sys
from pathlib import Path

top1 = {row["method"]: row["top1"] for row in json.loads(Path(sys.argv[1]).read_text())}
print(top1)
if not (top1["st-adapter"] >= 0.85 and top1["linear"] <= 0.55 and top1["adapter"] <= 0.55):
    sys.exit("the demo no longer shows what it should")
