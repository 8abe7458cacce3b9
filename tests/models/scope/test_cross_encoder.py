"""Any folder with a cross-encoder works as the reader, through the loading of a model's parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from models import model_files
from models.errors import WeightsMissing
from models.lora import LowRank
from models.model_files import CALIBRATION, Parts, ScopeParts, calibration_file
from models.scope.cross_encoder import MAX_PIECES, CrossEncoder
from models.scope.decision import Calibration
from models.scope.reader import Pair
from models.weights import Weights, fingerprint
from tests.models import toys

CPU = torch.device("cpu")
PAIRS = [Pair("who runs acme", "acme rockets"), Pair("where is rome", "the river of kal", "what is red"), Pair("zor", "blue")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer, folder = toys.word_tokenizer(), tmp_path_factory.mktemp("cross")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "initializer_range": 0.5}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=MAX_PIECES, num_labels=1, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def parts(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    """Parts of a model whose reader is the folder; only the shipped update of the statement keys is another, for the toy encoder."""
    decoder, encoder = toys.decoder(), toys.encoder()
    near = toys.encoder_folder(tmp_path / "near", "bert")
    of = Weights(near, fingerprint(near))
    LowRank({}, {"encoder_fingerprint": of.fingerprint}).save(update := tmp_path / "statements.safetensors")
    monkeypatch.setattr(model_files.adapters, "shipped", lambda _: update)
    return Parts(of, of, toys.adapter(decoder, encoder), LowRank({}), folder)


def test_it_reads_pairs_one_by_one(folder: Path) -> None:
    reader = CrossEncoder.load(folder, CPU)
    together = reader(PAIRS)
    assert together == [reader([pair])[0] for pair in PAIRS] == reader(PAIRS[::-1])[::-1] and reader([]) == []
    assert all(judged.same is None and judged.span is None for judged in together) and len({j.answers for j in together}) == len(PAIRS)
    assert reader([PAIRS[1]._replace(before="")]) != [together[1]]
    assert torch.isfinite(torch.tensor(reader([Pair("paris " * 500, "rome " * 500), Pair("", "")])[0].answers))
    assert reader.fingerprint == fingerprint(folder)


def test_a_models_parts_take_it_for_the_reader_calibrated_or_not(parts: Parts, folder: Path) -> None:
    found = parts.scope(CPU)
    assert isinstance(found, ScopeParts) and isinstance(found.reader, CrossEncoder) and not found.calibrated
    assert found.calibration == Calibration() and found.reader(PAIRS) == CrossEncoder.load(folder, CPU)(PAIRS)
    assert found.statements.meanings(["who runs acme", "rome"]).shape == (2, 16)
    assert calibration_file(str(folder)) == folder / CALIBRATION
    fitted = Calibration(threshold=0.8, about={"reader": found.reader.fingerprint})
    fitted.save(folder / CALIBRATION)
    try:
        again = parts.scope(CPU)
        assert again is not None and again.calibrated and again.calibration == fitted
    finally:
        (folder / CALIBRATION).unlink()


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_a_folder_without_weights_is_refused_by_name(parts: Parts, tmp_path: Path, kind: str) -> None:
    nowhere = tmp_path / "reader"
    if kind == "empty":
        nowhere.mkdir()
    with pytest.raises(WeightsMissing, match=f"LARIMAR_READER={nowhere} is no registered reader and no folder with a cross-encoder"):
        Parts(parts.decoder, parts.encoder, parts.adapter, parts.update, nowhere).scope(CPU)


def test_without_a_reader_there_is_no_scope(parts: Parts) -> None:
    assert Parts(parts.decoder, parts.encoder, parts.adapter, parts.update, None).scope(CPU) is None
