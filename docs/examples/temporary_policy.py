"""A rule that holds for a while and then forgets itself. Start a server first: `make serve`."""

from __future__ import annotations

import os
import time

from app.client import Client, LarimarError

PROMPT, QUESTION, SECONDS = "Over the holidays the return window is", "How long is the return window over the holidays?", 3.0

with Client(os.environ.get("LARIMAR_URL", "http://127.0.0.1:8080"), os.environ.get("LARIMAR_API_KEY", "")) as larimar:
    plain = larimar.generate(QUESTION, max_new_tokens=12).text
    policy = larimar.teach(PROMPT, "ninety days", ttl_s=SECONDS)
    print("now:", larimar.generate(QUESTION, max_new_tokens=12).text.strip())
    time.sleep(SECONDS + 1.5)  # expiry is looked for four times a second
    try:
        larimar.fact(policy.id)
    except LarimarError as error:
        print("later:", error.code)
    print("the plain model's answer is back:", larimar.generate(QUESTION, max_new_tokens=12).text == plain)
