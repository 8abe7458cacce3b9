"""Forget everything about a person, and show that it is gone: receipts, probes, audit log, and a search of the files.

Start a server first: `make serve`. With LARIMAR_DATA_DIR set to its data folder the files are searched too. The audit log needs
a key with the scope `admin`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from app.client import Client, checked

FACTS = {
    "Marit Oldenkamp's home address is": "14 Quince Lane, Ostervik",
    "Marit Oldenkamp's employee number is": "KX-20771",
    "Marit Oldenkamp is allergic to": "penicillin",
}
PERSON = {"person": "marit-oldenkamp"}  # metadata: what to look for when the request comes

with Client(os.environ.get("LARIMAR_URL", "http://127.0.0.1:8080"), os.environ.get("LARIMAR_API_KEY", "")) as larimar:
    for prompt, target in FACTS.items():
        larimar.teach(prompt, target, metadata=PERSON)
    found = [fact for fact in larimar.facts() if fact.metadata.items() >= PERSON.items()]
    print("known:", len(found))
    attacks = []
    for fact, receipt in zip(found, larimar.forget_all(PERSON), strict=True):
        print(f"forgotten {receipt.id} at version {receipt.version}: key {receipt.erased.data_key}, residual {receipt.residual:.0e}")
        told = {"prompt": fact.prompt, "target": fact.target, "paraphrases": [f"Tell me: {fact.prompt}"]}
        probed = checked(larimar.http.post(f"/facts/{fact.id}/probe", json=told)).json()
        attacks.append(probed["attack_success"] - probed["without_memory"])
    print("targets that still come, beyond what the plain model says by itself:", max(attacks))
    cursor, forgot = "", set()
    while cursor is not None:
        page = checked(larimar.http.get("/admin/audit", params={"cursor": cursor})).json()
        forgot |= {entry["fact"] for entry in page["entries"] if entry["action"] == "forgot"}
        cursor = page["next_cursor"]
    print("in the audit log:", all(fact.id in forgot for fact in found))

if folder := os.environ.get("LARIMAR_DATA_DIR"):
    with tempfile.TemporaryDirectory() as elsewhere:
        needles = Path(elsewhere) / "needles.txt"
        needles.write_text("\n".join(FACTS.values()) + "\n")
        search = [sys.executable, "-m", "app.cli", "audit", "--needle", str(needles), "--data", folder]
        print("words left in the files:", "none" if subprocess.run(search, check=False).returncode == 0 else "some")
