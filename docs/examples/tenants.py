"""Two customers on one server: neither sees, finds or changes what the other taught. Start a server first: `make serve`.

It makes keys, for which LARIMAR_API_KEY must be one with the scope `admin`: `larimar keys create --tenant root --scope admin`.
"""

from __future__ import annotations

import os

from app.client import Client, LarimarError, checked

URL = os.environ.get("LARIMAR_URL", "http://127.0.0.1:8080")
PROMPT, QUESTION = "The support line of Acme Rockets is", "What is the support line of Acme Rockets?"

with Client(URL, os.environ["LARIMAR_API_KEY"]) as admin:

    def key_for(tenant: str) -> str:
        made = checked(admin.http.post("/admin/keys", json={"tenant": tenant, "scopes": ["read", "write"]})).json()
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
