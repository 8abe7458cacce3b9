"""What can go wrong between text and codes; each carries what was got and what was wanted."""

from __future__ import annotations


class ModelError(Exception):
    """Base of all errors of this package."""


class EmptyText(ModelError):
    def __init__(self, field: str, needs: str = "visible character") -> None:
        super().__init__(f"{field} is empty: it needs at least one {needs}")
        self.field = field


class PromptTooLong(ModelError):
    def __init__(self, field: str, got: int, limit: int) -> None:
        super().__init__(f"{field} has {got} tokens, the limit is {limit}")
        self.field, self.got, self.limit = field, got, limit


class TargetTooLong(ModelError):
    def __init__(self, got: int, limit: int) -> None:
        super().__init__(f"target has {got} tokens, a value code holds {limit}: shorten it or teach it as several facts")
        self.got, self.limit = got, limit


class ChatRefused(ModelError):
    """The decoder's chat template takes no such messages (roles that do not alternate, a system message); its words say why."""


class WeightsMissing(ModelError):
    """The weights are neither in the cache nor to be had; the message says what to place where."""


class AdapterMissing(ModelError):
    def __init__(self, decoder: str, command: str) -> None:
        super().__init__(f"no adapter for decoder {decoder!r}; train one with: {command}")
        self.command = command


class AdapterMismatch(ModelError):
    def __init__(self, what: str, got: str, wanted: str, command: str) -> None:
        super().__init__(f"the adapter was trained for {what} {got}, this one is {wanted}; train another with: {command}")
        self.got, self.wanted, self.command = got, wanted, command


class AdapterCorrupt(ModelError):
    """The file is no adapter of this format, or its bytes are damaged."""


class DataMissing(ModelError):
    """A training or evaluation file is missing, empty or has a bad record; the message names file and line."""
