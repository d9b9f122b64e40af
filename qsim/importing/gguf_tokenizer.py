"""The byte-pair tokenizer in the metadata of a GGUF file, as the ``tokenizer.json`` that it was made from."""

from __future__ import annotations

import json
from typing import Any

from qsim.importing.gguf_files import GgufFile
from qsim.importing.refusal import ModelError
from qsim.importing.tokenizer import HuggingFaceTokenizer

_SPECIAL = (3, 4)  # token types of ggml: control, and defined by users
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_SPLITS: dict[str, list[dict[str, Any]]] = {  # by tokenizer.ggml.pre
    "gpt-2": [_BYTES],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTES],
}


def tokenizer_of(file: GgufFile) -> HuggingFaceTokenizer:
    """ModelError for a file without one, or with one of another kind; DataError, at its use, for a damaged one."""
    kind, split = (file.metadata.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if kind != "gpt2" or split not in _SPLITS:
        raise ModelError(
            f"{file.path} has a tokenizer of kind {kind!r}, {split!r}, which is not read; give tokens, or a gpt2 one "
            f"of {', '.join(_SPLITS)}"
        )
    tokens, types = file.array("tokenizer.ggml.tokens"), file.array("tokenizer.ggml.token_type")
    merges = [pair.split(" ", 1) for pair in file.array("tokenizer.ggml.merges")]
    added = [_added(i, token) for i, (token, of) in enumerate(zip(tokens, types, strict=False)) if of in _SPECIAL]
    whole = {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _SPLITS[split]},
        "decoder": _BYTES,
        "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges},
    }
    return HuggingFaceTokenizer(model=json.dumps(whole).encode(), source=f"the tokenizer of {file.path}")


def _added(number: int, token: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, "special": True} | flags
