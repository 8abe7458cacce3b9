"""The model that settings name."""

from __future__ import annotations

from collections.abc import Callable

from app.settings import Settings
from models.model import Model


def model_of(settings: Settings, say: Callable[[str], None], *, release: bool = True) -> Model:
    """Locate, check and load it.

    Args:
        say: told about long steps.
        release: as in `Model.load`.

    Raises:
        ModelError: weights are missing, damaged, or do not belong together.
    """
    return Model.load(
        settings.decoder,
        settings.adapter,
        settings.device,
        settings.weights_dir,
        say,
        update=settings.encoder_update,
        judge=settings.judge,
        release=release,
    )
