"""Tokenizers of Hugging Face folders: ``tokenizer.json``, by the package ``tokenizers`` (the extra ``hf``)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from qsim.text_sources import DataError
from qsim.tokenizers import Tokens, token_dtype


class MissingPackageError(DataError):
    """The package that reads a tokenizer is not installed."""


@dataclass(frozen=True, kw_only=True)
class HuggingFaceTokenizer:
    """What a ``tokenizer.json``, whose bytes are ``model``, makes of text: no token is put before or behind it.

    source: where it is from, for errors: MissingPackageError, DataError where the bytes are none or a token is
    unknown.
    """

    model: bytes
    name: str = "huggingface"
    source: str = "tokenizer.json"

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise MissingPackageError(
                f"{self.source} is read by the package tokenizers; pip install 'qsim-precision[hf]'"
            ) from None
        try:
            return Tokenizer.from_buffer(self.model)
        except Exception as error:  # the package raises no narrower one
            raise DataError(f"{self.source} is no tokenizer.json ({error}); restore it") from None

    @property
    def vocabulary_size(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> np.ndarray:
        """(N,) uint16 or uint32."""
        found = self._tokenizer.encode(text, add_special_tokens=False).ids
        return np.array(found, dtype=token_dtype(self.vocabulary_size))

    def decode(self, tokens: Tokens) -> str:
        values = [int(token) for token in tokens]
        unknown = [value for value in values if self._tokenizer.id_to_token(value) is None]
        if unknown:
            raise DataError(f"token {unknown[0]} is unknown to {self.source}; decode with the tokenizer that made it")
        return self._tokenizer.decode(values, skip_special_tokens=False)
