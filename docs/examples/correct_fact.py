"""Correct what a model says, in any wording, and leave the rest as it was. Start a server first: `make serve`."""

from __future__ import annotations

import os

from app.client import Client

WORDINGS = ["The capital of Kazakhstan is", "What is the capital of Kazakhstan?", "Which city is Kazakhstan's capital?"]
ELSEWHERE = "The capital of France is"

with Client(os.environ.get("LARIMAR_URL", "http://127.0.0.1:8080"), os.environ.get("LARIMAR_API_KEY", "")) as larimar:
    before = larimar.generate(ELSEWHERE, max_new_tokens=12).text
    print("before:", larimar.generate(WORDINGS[0], max_new_tokens=8).text.strip())
    old = larimar.teach(WORDINGS[0], "Nur-Sultan")
    new = larimar.teach(WORDINGS[0], "Astana")  # the same prompt again: the correction takes the old fact's place
    print("replaced:", new.supersedes == [old.id])
    for wording in WORDINGS:
        answer = larimar.generate(wording, max_new_tokens=8)
        print(f"{wording} → {answer.text.strip()} (from memory: {answer.memory.used})")
    print("another question is answered as before:", larimar.generate(ELSEWHERE, max_new_tokens=12).text == before)
    larimar.forget(new.id)
