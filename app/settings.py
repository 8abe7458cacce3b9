"""Settings: environment variables with the prefix LARIMAR_."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def _data_dir() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "larimar"


class Settings(BaseSettings):
    """What a server can be told; every field is documented in the README's table."""

    model_config = SettingsConfigDict(env_prefix="LARIMAR_", extra="ignore", hide_input_in_errors=True)

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    data_dir: Path = Field(default_factory=_data_dir)
    store_url: str = ""
    device: str = "auto"
    decoder: str = "smollm2-135m"
    adapter: Path | None = None
    page_slots: int = Field(512, ge=1, le=4096)
    scope_threshold: float | None = Field(None, ge=-1, le=2)
    api_keys: str = ""
    insecure: bool = False
    queue_size: int = Field(256, ge=1)
    snapshot_every: int = Field(256, ge=1)
    snapshot_s: float = Field(30.0, gt=0)
    max_body_bytes: int = Field(262_144, ge=1024)
    max_new_tokens: int = Field(512, ge=1)
    request_timeout_s: float = Field(120.0, gt=0)
    store_timeout_s: float = Field(5.0, gt=0)
    log_level: str = "info"

    @field_validator("adapter", mode="before")
    @classmethod
    def _no_adapter(cls, value: object) -> object:
        return None if value == "" else value

    @property
    def tenants_by_key(self) -> dict[str, str]:
        """API key to tenant; empty when no key is configured."""
        pairs = [pair.strip() for pair in self.api_keys.split(",") if pair.strip()]
        return {key: tenant for key, _, tenant in (pair.rpartition(":") for pair in pairs)}

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        for key, tenant in self.tenants_by_key.items():
            if len(key) < 8 or not tenant:
                raise ValueError("LARIMAR_API_KEYS wants key:tenant,… with keys of at least 8 characters")
        if not self.api_keys and not self.insecure and not _loopback(self.host):
            raise ValueError(
                f"LARIMAR_HOST={self.host} is reachable from outside and LARIMAR_API_KEYS is empty: set keys "
                "(key:tenant,…), or bind to 127.0.0.1, or set LARIMAR_INSECURE=1"
            )
        return self


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
