"""Language models whose probabilities a test chooses, over bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from qsim.tokenizers import ByteTokenizer, Tokenizer

Row = Callable[[tuple[int, ...]], np.ndarray]  # tokens read so far -> logits


@dataclass
class StubModel:
    """logits of a position: ``row`` of the tokens up to it.  passes: the tokens of every pass."""

    row: Row
    length: int = 64
    vocabulary: int = 256
    rows_independent: bool = True
    tokenizer: Tokenizer = field(default_factory=ByteTokenizer)
    passes: list[np.ndarray] = field(default_factory=list)

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        self.passes.append(tokens.copy())
        found = [[self.row(tuple(map(int, row[: i + 1]))) for i in range(len(row))] for row in tokens]
        return np.array(found, np.float32)

    def logits_behind(self, context: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        return self.logits(np.concatenate([np.tile(context, (len(tokens), 1)), tokens], axis=1))[
            :, len(context) - 1 :
        ]


def drawn(vocabulary: int = 256, scale: float = 3.0) -> Row:
    """Logits that depend on all that was read: the same for the same tokens."""

    def row(read: tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng(read).normal(0, scale, vocabulary).astype(np.float32)

    return row


def spelling(texts: dict[str, float], width: int = 8) -> Row:
    """The next byte of the texts has these logits where the last ``width`` bytes stand in them; all others 0."""
    encoded = [(text.encode(), logit) for text, logit in texts.items()]

    def row(read: tuple[int, ...]) -> np.ndarray:
        found, last = np.zeros(256, np.float32), bytes(read[-width:])
        for text, logit in encoded:
            place = text.find(last)
            if 0 <= place < len(text) - len(last):
                byte = text[place + len(last)]
                found[byte] = max(found[byte], logit)
        return found

    return row
