"""Raw token files: mapped, not read; the width stated or inferred; a run refers to the file and notices a change."""

from __future__ import annotations

import io
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from qsim.config import ConfigError, RunConfig, override
from qsim.corpus import Corpus, build_corpus
from qsim.data import batch, load_data, reference_data, save_data
from qsim.text_sources import DataError
from qsim.token_files import read_token_files
from qsim.tokenizers import SentencePieceTokenizer, train_sentencepiece


def _refuses(message: str):
    """The whole message: one sentence on one line."""
    assert "\n" not in message
    assert ". " not in message
    return pytest.raises(DataError, match=rf"^{re.escape(message)}\Z")


def _file(folder: Path, tokens, dtype: str = "<u2", name: str = "train.bin") -> Path:
    path = folder / name
    path.write_bytes(np.asarray(tokens, dtype=dtype).tobytes())
    return path


def _is_mapped(array: np.ndarray) -> bool:
    base: object = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return False


# The width


@pytest.mark.parametrize(
    ("written", "width", "vocabulary", "read"),
    [
        ("<u2", "auto", None, "uint16"),
        ("<u2", "auto", 1 << 16, "uint16"),
        ("<u4", "auto", (1 << 16) + 1, "uint32"),
        ("<u2", "uint16", 50_257, "uint16"),
        ("<u4", "uint32", 50_257, "uint32"),
        ("<u4", "uint32", None, "uint32"),
    ],
)
def test_width_is_stated_or_follows_from_the_vocabulary(
    tmp_path: Path, written: str, width: str, vocabulary: int | None, read: str
) -> None:
    path = _file(tmp_path, [5, 50_256, 7, 0, 9], written)
    corpus = build_corpus([path], tokenizer="none", dtype=width, vocabulary_size=vocabulary)
    assert corpus.tokens.tolist() == [5, 50_256, 7, 0, 9]
    assert corpus.tokens.dtype.name == read


def test_32_bits_read_as_16_are_noticed(tmp_path: Path) -> None:
    path = _file(tmp_path, [5, 6, 7], "<u4")
    what = f"every second uint16 of '{path}' is 0, so the tokens look like uint32"
    with _refuses(f"{what}; state data.token_dtype uint32, or uint16 if they are meant so"):
        read_token_files([path], "auto", 50_257)
    assert read_token_files([path], "uint16", 50_257).tolist() == [5, 0, 6, 0, 7, 0]


def test_16_bits_read_as_32_exceed_the_vocabulary(tmp_path: Path) -> None:
    path = _file(tmp_path, [5, 6, 7, 8])
    with _refuses(
        f"token {(8 << 16) + 7} of the corpus is outside its vocabulary of 50257; give a larger vocabulary_size"
    ):
        build_corpus([path], tokenizer="none", dtype="uint32", vocabulary_size=50_257)


def test_tokens_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    with _refuses("token 300 of the corpus is outside its vocabulary of 256; give a larger vocabulary_size"):
        build_corpus([_file(tmp_path, [1, 300])], tokenizer="none", vocabulary_size=256)


def test_unknown_width_and_a_width_of_text_are_refused(tmp_path: Path) -> None:
    with _refuses("unknown token_dtype 'int32'; choose one of auto, uint16, uint32"):
        build_corpus([_file(tmp_path, [1])], tokenizer="none", dtype="int32")
    with _refuses("tokenizer 'bytes' reads text, which has no token_dtype 'uint16'; leave it out"):
        build_corpus(dtype="uint16")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.bin", "no file or folder '{}'; give --text an existing one"),
        ("empty.bin", "file '{}' is empty; give a file with text"),
        ("folder.bin", "cannot read '{}' (is a directory); give a readable file"),
    ],
)
def test_unreadable_file_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty.bin").write_bytes(b"")
    (tmp_path / "folder.bin").mkdir()
    with _refuses(message.format(tmp_path / name)):
        build_corpus([tmp_path / name], tokenizer="none")


# Not in memory


@pytest.mark.parametrize("files", [1, 2])
def test_a_large_file_is_never_held_in_memory(tmp_path: Path, files: int) -> None:
    """64 MB of tokens: building, saving, loading and a batch allocate less than 4 MB."""
    tokens = np.arange(16 << 20, dtype="<u4") * 2654435761 % 65_536
    paths = [_file(tmp_path, part, "<u2", f"{i}.bin") for i, part in enumerate(np.array_split(tokens, files))]
    del tokens
    tracemalloc.start()
    try:
        corpus = build_corpus(paths, tokenizer="none", vocabulary_size=1 << 16)
        save_data(tmp_path / "run", corpus)
        loaded = load_data(tmp_path / "run")
        inputs, _ = batch(loaded, seed=0, step=1, batch_size=4, length=64, order="epochs")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
    assert inputs.shape == (4, 64)
    assert _is_mapped(corpus.tokens)
    assert _is_mapped(loaded.tokens)
    assert (tmp_path / "run" / "tokens.bin").exists() == (files > 1)


# A run refers to the file


@pytest.fixture
def referring(tmp_path: Path) -> tuple[Path, Corpus]:
    path = _file(tmp_path, range(100))
    corpus = build_corpus([path], tokenizer="none", vocabulary_size=100)
    save_data(tmp_path / "runs" / "a", corpus)
    return path, corpus


def test_run_and_its_replay_read_the_file_of_the_user(tmp_path: Path, referring: tuple[Path, Corpus]) -> None:
    path, corpus = referring
    reference_data(tmp_path / "b", load_data(tmp_path / "runs" / "a"), tmp_path / "runs" / "a")
    for run in ("runs/a", "b"):
        assert [file.name for file in (tmp_path / run).iterdir()] == ["data.json"]
        assert load_data(tmp_path / run).sha256 == corpus.sha256
    path.rename(tmp_path / "moved.bin")
    with pytest.raises(DataError, match="is missing; restore it or name it with --data"):
        load_data(tmp_path / "b")
    assert load_data(tmp_path / "b", tmp_path / "moved.bin").sha256 == corpus.sha256


def test_file_changed_since_is_refused(tmp_path: Path, referring: tuple[Path, Corpus]) -> None:
    path, _ = referring
    path.write_bytes(np.asarray([1, *range(1, 100)], "<u2").tobytes())
    with pytest.raises(DataError, match=r"were altered \(SHA-256 .*\); restore the file or name it with --data\Z"):
        load_data(tmp_path / "runs" / "a")


def test_wide_tokens_of_a_small_vocabulary_come_back(tmp_path: Path) -> None:
    path = _file(tmp_path, range(100), "<u4")
    corpus = build_corpus([path], tokenizer="none", dtype="uint32", vocabulary_size=100)
    save_data(tmp_path / "run", corpus)
    loaded = load_data(tmp_path / "run")
    assert (loaded.sha256, loaded.tokens.dtype.name) == (corpus.sha256, "uint32")


# A given SentencePiece model


def _foreign_model() -> bytes:
    """Trained with the defaults: NFKC, trimmed spaces, a space put before the text, no bytes, two ends."""
    lines, model = ["the sum of products", "is kept in full width", "and rounded once"] * 20, io.BytesIO()
    SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, vocab_size=28, minloglevel=2)
    return model.getvalue()


def _text(folder: Path, text: str) -> Path:
    path = folder / "a.txt"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_given_model_is_used_and_kept(tmp_path: Path) -> None:
    text = "the quick brown fox\n\n  jumps é\n" * 50
    own = train_sentencepiece(text, 290)
    (tmp_path / "own.model").write_bytes(own.model)
    settings = {"tokenizer": "sentencepiece", "tokenizer_model": tmp_path / "own.model"}
    corpus = build_corpus([_text(tmp_path, text + "\u2581other")], vocabulary_size=4096, **settings)
    assert corpus.tokenizer_model == own.model
    assert corpus.vocabulary_size == 290
    assert corpus.text_tokenizer().decode(corpus.tokens) == text + "\u2581other"
    save_data(tmp_path / "run", corpus)
    assert load_data(tmp_path / "run").tokenizer_model == own.model


def test_model_trained_elsewhere_encodes_as_sentencepiece_does() -> None:
    model, text = _foreign_model(), "the sum\nis  kept\u2581once \n"
    processor = SentencePieceProcessor(model_proto=model)
    tokenizer = SentencePieceTokenizer(model=model)
    assert tokenizer.encode(text).tolist() == processor.encode(text)
    assert (
        tokenizer.decode(tokenizer.encode(text)) == processor.decode(processor.encode(text)) == "the sum is kept once"
    )


def test_given_models_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(_foreign_model())
    (tmp_path / "bad").write_bytes(b"no model")
    path = _text(tmp_path, "the sum")

    def build(name: str, tokenizer: str = "sentencepiece", size: int = 28) -> None:
        build_corpus([path], tokenizer=tokenizer, tokenizer_model=tmp_path / name, vocabulary_size=size)

    build("m")
    what = f"tokenizer model '{tmp_path / 'm'}' has 28 pieces, more than vocabulary_size 27"
    with _refuses(f"{what}; set model.vocabulary 28"):
        build("m", size=27)
    with _refuses(f"'{tmp_path / 'bad'}' is not a SentencePiece model; give the file that its training wrote"):
        build("bad")
    with _refuses(f"no file or folder '{tmp_path / 'none'}'; give --text an existing one"):
        build("none")
    with _refuses("tokenizer 'bytes' takes no model; choose tokenizer 'sentencepiece'"):
        build("m", "bytes")


def test_configuration_names_what_it_takes() -> None:
    with pytest.raises(ConfigError, match=r"data\.order is 'sorted'; choose one of random, epochs"):
        override(RunConfig(), "data.order", "sorted")
