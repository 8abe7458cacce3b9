"""The model that settings name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from app.server.settings import Settings
from memory.query import Detector, ScopeChoice
from memory.scope.rules import Scope
from models.adapter import shipped, train_command
from models.errors import ModelError
from models.model import Model
from models.scope.learned import LearnedScope
from models.scope.reader import PairReader
from models.scope.sentences import clean
from models.weights import REGISTRY

CALIBRATE = "`larimar calibrate` fits what its log-odds mean; until then its threshold is nobody's measurement"


class UnknownDecoder(ModelError):
    """A name that nothing is registered under, and that has no adapter."""

    def __init__(self, name: str, registered: list[str]) -> None:
        super().__init__(
            f"LARIMAR_DECODER={name} is no registered decoder ({', '.join(registered)}) and no folder; if it is a hub name, "
            f"set LARIMAR_ADAPTER to an adapter that was trained for it: {train_command(name)}"
        )


def check_decoder(settings: Settings) -> None:
    """Raises UnknownDecoder."""
    name, registered = settings.decoder, [known for known, source in REGISTRY.items() if source.kind == "decoder"]
    has_adapter = settings.adapter is not None or shipped(name).is_file()
    if name not in registered and not Path(name).is_dir() and (name in REGISTRY or not has_adapter):
        raise UnknownDecoder(name, registered)


def model_of(settings: Settings, say: Callable[[str], None], *, release: bool = True) -> Model:
    """Locate, check and load it.

    Args:
        say: told about long steps.
        release: as in `Model.load`.

    Raises:
        ModelError: weights are missing, damaged, or do not belong together.
    """
    check_decoder(settings)
    return Model.load(
        settings.decoder,
        settings.adapter,
        settings.device,
        settings.weights_dir,
        say,
        update=settings.encoder_update,
        reader="" if settings.reader == "none" else settings.reader,
        release=release,
    )


def scope_of(model: Model, settings: Settings | None = None, reader: PairReader | None = None) -> Detector:
    """The detector of a model, as calibrated or as the settings have it.

    Args:
        reader: what asks the model's reader; None: nothing stands between.
    """
    words = Scope(meaning=model.encoder.meaning_dim, clean=clean, literal=model.script.literal)
    scope: Detector = words
    if model.scope is not None:
        asked = reader or model.scope.reader
        scope = LearnedScope(asked, model.scope.calibration, clean, model.script.literal, beginnings=words)
    return scope if settings is None else scope.chosen(ScopeChoice(settings.scope_probability))
