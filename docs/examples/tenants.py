"""Two customers on one server: neither sees, finds or changes what the other taught. Start a server first: `make serve`.

It makes keys, for which it needs a key with the scope `admin`, or a server that has no key yet (the first one closes it).
"""

from __future__ import annotations

import os

from app.client import Client, LarimarError, checked

URL, ADMIN = os.environ.get("LARIMAR_URL", "http://127.0.0.1:8080"), os.environ.get("LARIMAR_API_KEY", "")
PROMPT, QUESTION = "The support line of Acme Rockets is", "What is the support line of Acme Rockets?"

with Client(URL, ADMIN) as admin:

    def key_for(tenant: str) -> str:
        global ADMIN
        scopes = ["read", "write"] if ADMIN else ["read", "write", "admin"]
        made = checked(admin.http.post("/admin/keys", json={"tenant": tenant, "scopes": scopes})).json()
        if not ADMIN:  # the first key: from now on it is asked for
            ADMIN = made["key"]
            admin.http.headers["Authorization"] = f"Bearer {ADMIN}"
        return str(made["key"])

    north, south = Client(URL, key_for("north")), Client(URL, key_for("south"))

with north, south:
    fact = north.teach(PROMPT, "extension 4417")
    for name, client in (("north", north), ("south", south)):
        answer = client.generate(QUESTION, max_new_tokens=10)
        print(f"{name}: from memory: {answer.memory.used}, facts: {sum(1 for _ in client.facts())}")
    try:
        south.forget(fact.id)
    except LarimarError as error:
        print("south forgets north's fact:", error.code)
    print("north still has it:", north.fact(fact.id).target)
    print("north erased:", checked(north.http.delete("/tenants/north")).json()["facts"], "fact")
