"""`larimar teach`, `ask`, `forget`, `facts`: talk to a server at LARIMAR_URL with the key LARIMAR_API_KEY."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from app.cli.listing import moment, show
from app.cli.serve import fail

if TYPE_CHECKING:
    from app.client import Client
    from app.http.openai_schemas import CompletionOut
    from app.http.schemas import GenerateOut, MemoryUse

facts = typer.Typer(no_args_is_help=True, help="List, export and import facts.")
out, told = Console(highlight=False), Console(stderr=True, highlight=False)
Json = Annotated[bool, typer.Option("--json", help="print the server's answer as JSON")]


@contextmanager
def connected() -> Iterator[Client]:
    """A client; what the server refuses ends the command with one line."""
    import httpx

    from app.client import Client, LarimarError

    url, key = os.environ.get("LARIMAR_URL", "http://127.0.0.1:8080"), os.environ.get("LARIMAR_API_KEY", "")
    try:
        try:
            opened = Client(url, key)
        except (ImportError, ValueError) as error:  # of httpx
            fail(f"the environment's proxy cannot be used: {error}")
        with opened as client:
            yield client
    except LarimarError as error:
        if error.status == 401:
            known = "does not know the key in LARIMAR_API_KEY: set it to another" if key else "wants a key: set LARIMAR_API_KEY"
            fail(f"{error.code}: the server at {url} {known} (`larimar keys create` makes one, in the server's store)")
        fail(str(error))
    except httpx.InvalidURL as error:
        fail(f"LARIMAR_URL={url}: {error}")
    except httpx.TransportError as error:
        fail(f"no server answers at {url} ({error}); start one with `larimar serve`, or set LARIMAR_URL")


def teach(
    prompt: Annotated[str, typer.Argument(help='such as "The CEO of Acme Rockets is"')],
    target: Annotated[str, typer.Argument(help='such as "Wile E. Coyote"')],
    ttl: Annotated[str, typer.Option("--ttl", help="forget it after, such as 30m or 90d")] = "",
    as_json: Json = False,
) -> None:
    """Teach a fact. It is durable when this returns."""
    from app.cli.keys import seconds

    more = {"ttl_s": seconds(ttl)} if ttl else {}
    with connected() as client:
        written = client.teach(prompt, target, **more)
    if as_json:
        print(written.model_dump_json())
        return
    old = f", in the place of {', '.join(written.supersedes)}" if written.supersedes else ""
    out.print(f"[green]taught[/green] {written.id} in {written.timings.total_ms:.1f} ms{old}")


def ask(
    prompt: Annotated[str, typer.Argument(help='such as "Who runs Acme Rockets?"')],
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="most tokens to generate")] = 32,
    memory: Annotated[str, typer.Option("--memory", help="auto, on or off")] = "auto",
    probability: Annotated[float | None, typer.Option("--probability", help="a fact must have, not the calibrated one")] = None,
    hops: Annotated[int, typer.Option("--hops", min=1, max=2, help="2: ask also by what another fact answers")] = 1,
    answer_only: Annotated[bool, typer.Option("--answer-only", help="end where a fact of the memory has been said")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="in the decoder's chat template")] = False,
    as_json: Json = False,
) -> None:
    """Ask, and see which facts answered."""
    asked = {"memory": memory, "scope_probability": probability, "hops": hops, "answer_only": answer_only}
    answer: CompletionOut | GenerateOut
    with connected() as client:
        answer = _chat(client, prompt, tokens, asked) if chat else client.generate(prompt, max_new_tokens=tokens, **asked)
    if as_json:
        print(answer.model_dump_json())
        return
    text, of_memory = _told(answer)
    out.print(text.strip() or "(no text)", markup=False)
    if not text.strip():
        told.print(f"[dim]the decoder ended at once{'' if chat else '; --chat asks it as a chat'}[/dim]")
    spoke = [(part.fact, part.score) for part in of_memory.parts] or [(fact.id, fact.weight) for fact in of_memory.facts]
    used = ", ".join(f"{fact_id} ({score:.2f})" for fact_id, score in spoke)
    told.print(f"[dim]{f'by the facts {used}' if used else 'by the plain model: no fact is in scope'}[/dim]")


def _chat(client: Client, prompt: str, tokens: int, control: dict[str, Any]) -> CompletionOut:
    from app.client import Call
    from app.http.openai_schemas import CompletionOut, ModelList

    model = client.send(Call[ModelList]("GET", "/v1/models", ModelList)).data[0].id
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, "larimar": control}
    return client.send(Call[CompletionOut]("POST", "/v1/chat/completions", CompletionOut, body))


def _told(answer: CompletionOut | GenerateOut) -> tuple[str, MemoryUse]:
    """The text of an answer, and what the memory did."""
    from app.http.openai_schemas import ChatChoice, CompletionOut

    if not isinstance(answer, CompletionOut):
        return answer.text, answer.memory
    (choice,), used = answer.choices, answer.larimar
    assert isinstance(choice, ChatChoice) and not isinstance(used, list)
    return choice.message.content, used


def forget(fact_id: Annotated[str, typer.Argument(help="as `larimar facts list` shows it")], as_json: Json = False) -> None:
    """Forget a fact for good."""
    with connected() as client:
        receipt = client.forget(fact_id)
    if as_json:
        print(receipt.model_dump_json())
        return
    out.print(f"[green]forgotten[/green] {receipt.id} at version {receipt.version}, residual {receipt.residual:.1e}")


@facts.command("list")
def list_facts(
    limit: Annotated[int, typer.Option("--limit", min=1)] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="a JSON line for each, as the server tells it")] = False,
) -> None:
    """Show facts, in the order of their ids."""
    with connected() as client:
        found = list(islice(client.facts(), limit + 1))
    listed = found[:limit]
    if as_json:
        for fact in listed:
            print(fact.model_dump_json())
    else:
        head = "id", "prompt", "target", "taught"
        show(head, [(f.id, f.prompt, f.target, moment(f.created_at)) for f in listed])
    if len(found) > limit:
        told.print(f"[dim]the first {limit}; there are more (--limit)[/dim]")


@facts.command()
def export(file: Annotated[Path | None, typer.Argument(help="standard output, when not given")] = None) -> None:
    """Write every fact as a JSON line that `larimar facts import` reads."""
    from app.http.ndjson import line_of

    count = 0
    with connected() as client, (file.open("w", encoding="utf-8") if file else nullcontext(sys.stdout)) as lines:
        for fact in client.facts():
            lines.write(line_of(fact) + "\n")
            count += 1
    told.print(f"{count} facts exported")


@facts.command("import")
def import_facts(
    file: Annotated[Path, typer.Argument(help="JSON lines, or an array, of prompt, target, and id and metadata if any; -: standard input")],
) -> None:
    """Teach every fact of a file, an export's too: each is then taught now, and expires when it was to. A line that is refused
    is named, and the others are taught."""
    from app.client import LarimarError

    try:
        text = (sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file} cannot be read: {error}")
    taught, refused = 0, 0
    with connected() as client:
        for number, line in enumerate(_records(text), 1):
            if isinstance(line, str) and not line.strip():
                continue
            try:
                record = json.loads(line) if isinstance(line, str) else line
                if "format" in record:  # the head of an export
                    continue
                if (expires_at := _of_an_export(record)) is not None:
                    if expires_at <= time.time():
                        raise ValueError("its time to live is over")
                    record["ttl_s"] = expires_at - time.time()
                client.teach(record.pop("prompt"), record.pop("target"), **record)
                taught += 1
            except (ValueError, KeyError, AttributeError, TypeError, OverflowError, LarimarError) as error:
                wanted = "" if isinstance(error, LarimarError) else "wanted an object with prompt and target: "
                told.print(f"[red]line {number}[/red]: {wanted}{escape(str(error))}")
                refused += 1
    told.print(f"{taught} facts taught, {refused} lines refused")
    if refused:
        raise typer.Exit(1)


def _records(text: str) -> list[Any]:
    """The facts of an array, or the lines of a text that is none."""
    if text.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):
            return list(json.loads(text))
    return text.split("\n")  # a text may hold other ends of lines


def _of_an_export(record: dict[str, Any]) -> float | None:
    """When a line's fact expires; what else an export says of a fact, and a new one cannot have, is taken out."""
    for known in ("created_at", "version", "superseded_at", "key", "code", "statement"):
        record.pop(known, None)
    expires_at: float | None = record.pop("expires_at", None)
    return expires_at
