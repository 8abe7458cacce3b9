"""Evaluate a decoder and adapter on facts of your own: `python docs/examples/own_decoder.py [DECODER [ADAPTER]]`.

No server is needed. Without arguments the default decoder and its shipped adapter are taken. The file is the format of
`larimar evaluate private`: other wordings that must find the fact, and near misses that must not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

FACTS = [
    {
        "prompt": "The visitors' car park of the Rotterdam office is",
        "target": "on Dock Street, level 2",
        "rephrases": ["Where do visitors of the Rotterdam office park?", "I come to the Rotterdam office by car. Where do I park?"],
        "near_misses": ["The canteen of the Rotterdam office is", "The visitors' car park of the Antwerp office is"],
    },
    {
        "prompt": "Purchase orders above 15,000 euros are signed by",
        "target": "Marit Oldenkamp",
        "rephrases": ["Who signs purchase orders above 15,000 euros?", "Whose signature does an order of more than 15,000 euros need?"],
        "near_misses": ["Holiday requests are signed by", "Purchase orders are sent to"],
    },
]

decoder, adapter = [*sys.argv[1:], "", ""][:2]
with tempfile.TemporaryDirectory() as folder:
    data, out = Path(folder) / "facts.jsonl", Path(folder) / "result.json"
    data.write_text("".join(json.dumps(fact) + "\n" for fact in FACTS))
    chosen = [*(["--decoder", decoder] if decoder else []), *(["--adapter", adapter] if adapter else [])]
    count = str(len(FACTS))
    command = ["evaluate", "private", "--data", str(data), "--n", count, "--facts-in-memory", count, "--json", str(out), *chosen]
    subprocess.run([sys.executable, "-m", "app.cli", *command], check=True)
    systems = json.loads(out.read_text())["systems"]
    print(f"edit exact: {systems['larimar']['edit']['exact']:.0%}, with the fact in the prompt {systems['prompt']['edit']['exact']:.0%}")
