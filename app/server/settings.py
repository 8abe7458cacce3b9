"""Settings: environment variables with the prefix LARIMAR_, or files of the same names in /run/secrets."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

import limits
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from memory.store.key_names import Keys

PREFIX = "LARIMAR_"
CLIENT_NAMES = ("LARIMAR_URL", "LARIMAR_API_KEY")  # read by the client commands, not by the server
SECRETS = Path("/run/secrets")
STORE_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(:[0-9]{1,5})?")
PATH = re.compile(r"(/(?!\.\.?(/|$))[A-Za-z0-9._~-]+)+")
YEAR_S = 31_536_000  # no wait is longer: operating systems and stores count in numbers that end
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


def _data_dir() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "larimar"


class Settings(BaseSettings):
    """What a server can be told. The table in docs/settings.md is made from these fields."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="ignore",
        hide_input_in_errors=True,
        secrets_dir=SECRETS if SECRETS.is_dir() else None,
    )

    host: str = Field("127.0.0.1", description="Address to listen on. Outside loopback, keys are needed.")
    root_path: str = Field("", description="Path below which a proxy serves it, such as `/larimar`, taken away by the proxy or not.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    data_dir: Path = Field(
        default_factory=_data_dir,
        description="Folder of the embedded store and of converted weights; by default `larimar` in the user's data folder.",
    )
    models_dir: Path | None = Field(None, description="Folder of converted weights; empty: `models` in the data folder.")
    store_url: str = Field(
        "", repr=False, description="redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://; empty: an embedded Valkey."
    )
    store_password: str = Field("", repr=False, description="The store's password, kept out of the address.")
    durability: Literal["memory", "disk", "replica"] = Field("disk", description="What an acknowledged write survives.")
    durability_replicas: int = Field(1, ge=1, le=16, description="Replicas of the store that must have a write at `replica`.")
    memory_budget_mb: int = Field(4096, ge=0, description="MiB of loaded memories before idle ones are evicted; 0: no limit.")
    tenant_max_facts: int = Field(0, ge=0, description="Facts a tenant may hold, kept histories included; 0: no limit.")
    tenant_max_mb: int = Field(0, ge=0, description="MiB a tenant's memory may take; 0: no limit.")
    read_wait_s: float = Field(2.0, ge=0, le=YEAR_S, description="Seconds a read waits for the version that its Larimar-Version asks for.")
    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:N`.")
    workers: int = Field(1, ge=1, le=64, description="Server processes; each owns a device. More than one share a Redis.")
    decoder: str = Field("smollm2-135m", min_length=1, description="A registered decoder, a local folder or a hub name.")
    adapter: Path | None = Field(None, description="Adapter file; empty: the one shipped for the decoder.")
    encoder_update: Path | None = Field(None, description="Low-rank update of the encoder, a file; empty: the one shipped.")
    reader: str = Field(
        "mpnet-base",
        description="What reads whether a fact answers: `mpnet-base`, a folder with a cross-encoder, or `none`: words and likeness.",
    )
    page_slots: int = Field(512, ge=1, le=4096, description="Facts a page of the memory holds at most.")
    scope_probability: float | None = Field(
        None, gt=0, le=1, description="Probability from which a fact answers a prompt; empty: the calibrated one."
    )
    api_keys: str = Field("", repr=False, description="Static keys, `key:tenant,…`, each of 8 characters or more.")
    insecure: bool = Field(False, description="Serve without any key outside loopback, and whatever name the Host header has.")
    allowed_hosts: str = Field(
        "", description="Names, comma-separated, under which a server without keys answers besides localhost and IP addresses."
    )
    queue_size: int = Field(256, ge=1, description="Jobs and texts that may wait before requests get 429; a tenant may fill 3/4 of it.")
    batch_size: int = Field(16, ge=1, le=256, description="Texts that are decoded together.")
    batch_tokens: int = Field(32_768, ge=256, description="Tokens that the caches of a batch hold together.")
    limit_requests: str = Field("", description="Requests a key may make, such as `600/minute`; empty: no limit.")
    limit_tokens: str = Field("", description="Tokens a key may have generated, such as `20000/minute`; empty: no limit.")
    limit_facts: str = Field("", description="Facts a key may write, such as `1000/day`; empty: no limit.")
    audit_entries: int = Field(1_000_000, ge=1000, description="Entries the audit log keeps, about.")
    cors_origins: str = Field("", description="Origins of web pages that may call the server, comma-separated; empty: none.")
    docs: bool = Field(True, description="Serve the interactive documentation at /docs and the schema at /openapi.json.")
    snapshot_every: int = Field(256, ge=1, description="Changes of a memory after which it is snapshotted.")
    snapshot_s: float = Field(30.0, gt=0, le=YEAR_S, description="Seconds after which changed memories are snapshotted.")
    max_body_bytes: int = Field(262_144, ge=1024, description="Largest request body, in bytes.")
    body_timeout_s: float = Field(10.0, gt=0, le=YEAR_S, description="Seconds the headers, and then the body, of a request may take.")
    max_new_tokens: int = Field(512, ge=1, description="Most tokens one request may generate.")
    request_timeout_s: float = Field(120.0, gt=0, le=YEAR_S, description="Seconds a request may take before it gets 504.")
    store_timeout_s: float = Field(5.0, gt=0, le=YEAR_S, description="Seconds the store may take to connect or answer.")
    metrics_tenants: int = Field(0, ge=0, le=1000, description="Tenants that get a label of their own in metrics; 0: none.")
    admin_port: int | None = Field(None, ge=1, le=65535, description="A port of its own for /metrics and /admin; empty: the same port.")
    admin_host: str = Field("127.0.0.1", description="Address of the admin port.")
    log_level: str = Field("info", description="`debug`, `info`, `warning`, `error` or `critical`.")

    @field_validator("adapter", "encoder_update", "models_dir", "scope_probability", "admin_port", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("adapter", "encoder_update")
    @classmethod
    def _adapter_exists(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"there is no file {value}")
        return value

    @field_validator("host", "admin_host")
    @classmethod
    def _bare(cls, value: str) -> str:
        """An IPv6 address as sockets take it, without the brackets that it has in a URL."""
        return value[1:-1] if value.startswith("[") and value.endswith("]") else value

    @field_validator("root_path")
    @classmethod
    def _is_path(cls, value: str) -> str:
        path = value.removesuffix("/")
        if path and not PATH.fullmatch(path):
            raise ValueError(f"got {value[:80]!r}, wanted a path such as /larimar")
        return path

    @field_validator("limit_requests", "limit_tokens", "limit_facts")
    @classmethod
    def _limit(cls, value: str) -> str:
        if value:
            try:
                limits.parse(value)
            except ValueError:
                raise ValueError(f"got {value!r}, wanted such as 600/minute") from None
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: str) -> str:
        bad = [part for part in value.split(",") if part and not re.fullmatch(r"\s*https?://[^/\s*]+\s*", part)]
        if bad:
            raise ValueError(f"got {bad[0]!r}, wanted origins such as https://app.example, without a path or *")
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _names(cls, value: str) -> str:
        names = [name.strip().lower() for name in value.split(",") if name.strip()]
        if bad := [name for name in names if not re.fullmatch(r"[a-z0-9_.-]+", name)]:
            raise ValueError(f"got {bad[0]!r}, wanted names such as larimar.internal, without a scheme, a port or *")
        return ",".join(names)

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.lower() not in LOG_LEVELS:
            raise ValueError(f"got {value!r}, wanted one of {', '.join(LOG_LEVELS)}")
        return value.lower()

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        kind, colon, number = value.partition(":")
        if not (value in ("auto", "cpu", "cuda") or (kind == "cuda" and colon and number.isdigit())):
            raise ValueError(f"got {value!r}, wanted auto, cpu, cuda or cuda:N")
        return value

    @field_validator("store_url")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        scheme, separator, rest = value.partition("://")  # the rest may hold a password: it is not repeated
        hosts, _, master = rest.partition("?")[0].partition("/")
        if value and (scheme not in STORE_SCHEMES or not separator or not rest):
            wanted = ", ".join(f"{name}://…" for name in STORE_SCHEMES)
            raise ValueError(f"got an address with scheme {scheme if separator else ''!r}, wanted {wanted}")
        if scheme.endswith("+sentinel") and not (hosts.rpartition("@")[2] and master.strip("/")):
            raise ValueError("wanted redis+sentinel://host:port,host:port/master-name")
        if scheme.endswith("+cluster") and master.strip("/"):
            raise ValueError("wanted redis+cluster://host:port,host:port: a cluster has no numbered databases")
        if scheme != "unix" and not all(_HOST.fullmatch(host) for host in hosts.rpartition("@")[2].split(",")):
            raise ValueError("a port in the address is no number (a password with / ? # or @ goes into LARIMAR_STORE_PASSWORD)")
        return value

    @field_validator("api_keys")
    @classmethod
    def _pairs(cls, value: str) -> str:
        for pair in filter(None, (part.strip() for part in value.split(","))):
            key, _, tenant = pair.rpartition(":")
            if len(key) < 8 or not tenant:
                raise ValueError("wanted key:tenant,… with keys of at least 8 characters")
            try:
                Keys(tenant)
            except ValueError:  # which would repeat what may be a key, written in the wrong place
                raise ValueError("wanted key:tenant,… with names of tenants of 1 to 64 of A-Z a-z 0-9 _ . -") from None
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        found, last = list[str](), (self.admin_port or 0) + self.workers - 1
        if self.admin_port is not None and self.admin_port == self.port:
            found.append(f"LARIMAR_ADMIN_PORT={self.admin_port} is LARIMAR_PORT too: choose another, or leave it empty")
        elif self.admin_port is not None and (self.port in range(self.admin_port, last + 1) or last > 65_535):
            found.append(
                f"LARIMAR_ADMIN_PORT={self.admin_port} takes a port for each of LARIMAR_WORKERS={self.workers}, up to {last}: "
                "choose another, away from LARIMAR_PORT"
            )
        if self.workers > 1 and not self.store_url:
            found.append(f"LARIMAR_WORKERS={self.workers} needs LARIMAR_STORE_URL: an embedded store belongs to one process")
        if self.workers > 1 and self.device.startswith("cuda:"):
            found.append(
                f"LARIMAR_WORKERS={self.workers} and LARIMAR_DEVICE={self.device}: one process owns one device; "
                "with LARIMAR_DEVICE=cuda each takes the next, or set LARIMAR_WORKERS=1"
            )
        if self.store_password and not self.store_url:
            found.append("LARIMAR_STORE_PASSWORD is set and LARIMAR_STORE_URL is not: the embedded store has no password")
        if self.store_password and urlsplit(self.store_url).password:
            found.append("LARIMAR_STORE_PASSWORD is set and LARIMAR_STORE_URL holds a password too: set one of them")
        if found:
            raise ValueError("\n".join(found))
        return self

    @property
    def tenants_by_key(self) -> dict[str, str]:
        """API key to tenant; empty when no key is configured."""
        pairs = [pair.strip() for pair in self.api_keys.split(",") if pair.strip()]
        return {key: tenant for key, _, tenant in (pair.rpartition(":") for pair in pairs)}

    @property
    def host_names(self) -> frozenset[str]:
        """The names of LARIMAR_ALLOWED_HOSTS, in lower case."""
        return frozenset(filter(None, self.allowed_hosts.split(",")))

    @property
    def weights_dir(self) -> Path:
        """Where converted weights lie."""
        return self.models_dir or self.data_dir / "models"

    @property
    def store_address(self) -> str:
        """The store's URL with its password; empty for the embedded store."""
        if not self.store_password:
            return self.store_url
        parts = urlsplit(self.store_url)
        user, _, host = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}:{quote(self.store_password, safe='')}@{host}").geturl()


REPLACED = {  # what an earlier version had, and what to do instead
    f"{PREFIX}JUDGE": f"{PREFIX}READER names what reads whether a fact answers",
    f"{PREFIX}SCOPE_THRESHOLD": f"{PREFIX}SCOPE_PROBABILITY is a probability, from 0 to 1",
    f"{PREFIX}SCOPE_STRICT": f"raise {PREFIX}SCOPE_PROBABILITY for fewer near misses",
}


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def unknown_names(environment: Iterable[str]) -> list[str]:
    """One line for each LARIMAR_ name that is no setting, with the nearest one."""
    known = [PREFIX + name.upper() for name in Settings.model_fields] + list(CLIENT_NAMES)
    lines = []
    for name in sorted(n for n in environment if n.upper().startswith(PREFIX) and n.upper() not in known):
        if (instead := REPLACED.get(name.upper())) is not None:
            lines.append(f"{name}: there is no such setting any more; {instead}")
            continue
        near = difflib.get_close_matches(name.upper(), known, 1)
        lines.append(f"{name}: there is no such setting" + (f"; did you mean {near[0]}?" if near else ""))
    return lines


def _told(error: ErrorDetails, *, secret: bool) -> str:
    """One problem in words of ours: what was got (of a secret nothing), what is wanted."""
    bounds = error.get("ctx", {})
    wanted = {
        "int_parsing": "a whole number",
        "float_parsing": "a number",
        "bool_parsing": "1 or 0",
        "literal_error": bounds.get("expected", ""),
        "greater_than_equal": f"at least {bounds.get('ge')}",
        "less_than_equal": f"at most {bounds.get('le')}",
        "greater_than": f"more than {bounds.get('gt')}",
        "string_too_short": "a text",
    }.get(error["type"])
    if wanted is None:
        return error["msg"].removeprefix("Value error, ")
    return f"wanted {wanted}" if secret else f"got {str(error['input'])[:80]!r}, wanted {wanted}"


def _lines(error: ValidationError) -> dict[str, list[str]]:
    """Problems by field; those of several fields together stand under the empty name."""
    found: dict[str, list[str]] = {}
    for e in error.errors():
        field = str(e["loc"][0]).lower() if e["loc"] else ""
        message = _told(e, secret=bool(field) and not Settings.model_fields[field].repr)
        found.setdefault(field, []).extend(f"{PREFIX}{field.upper()}: {message}" if field else line for line in message.split("\n"))
    return found


def read_settings(environment: Mapping[str, str]) -> tuple[Settings | None, list[str]]:
    """The environment's settings, or every problem that keeps them from being used, a line each."""
    problems = unknown_names(environment)
    try:
        settings: Settings | None = Settings()
    except ValidationError as error:
        settings, found = None, _lines(error)
        bad = [field for field in found if field]
        if bad:  # contradictions are only looked for where single fields are right: look with these at their defaults
            defaults = {name: Settings.model_fields[name].get_default(call_default_factory=True) for name in bad}
            try:
                Settings(**defaults)
            except ValidationError as second:
                found |= {field: lines for field, lines in _lines(second).items() if not field}
        problems += [line for lines in found.values() for line in lines]
    return (None, problems) if problems else (settings, [])
