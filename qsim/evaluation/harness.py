"""A model of this project in lm-evaluation-harness (the extra ``lm-eval``), whose package this module imports.

    from lm_eval import simple_evaluate
    from qsim.evaluation.harness import HarnessModel
    simple_evaluate(model=HarnessModel("runs/a", scheme="int8_vectorwise"), tasks=["lambada_openai"])

Importing it registers the model as ``qsim``: ``simple_evaluate(model="qsim", model_args="pretrained=runs/a", ...)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from qsim.evaluation.error import EvaluationError
from qsim.evaluation.generation import Sampling, generate, written
from qsim.evaluation.language_model import encoded, prefix_token
from qsim.evaluation.likelihood import continuation_request, score
from qsim.evaluation.ways import Way
from qsim.importing import open_model, own_format
from qsim.policy import parse_policy
from qsim.post_training import PostTraining
from qsim.post_training.how import Working

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError:
    raise EvaluationError(
        "the package lm-eval is not installed; pip install 'qsim-precision[lm-eval]', or give qsim evaluate --task"
    ) from None

_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_MOST = 256  # tokens, where a task sets no limit


@register_model("qsim")
class HarnessModel(TemplateLM):
    """pretrained: MODEL as everywhere; policy: by default its own 16-bit format; scheme, kv, dequantize_to: as
    ``qsim evaluate`` has them, those schemes that calibrate left out: ``qsim quantize`` writes a MODEL of them.

    Contexts, continuations and rolling windows are parted by the harness itself; scores are those of ``score``.
    Batch sizes and devices are taken and not used: passes are as large as memory for their logits allows.
    """

    def __init__(
        self,
        pretrained: str,
        policy: str | None = None,
        scheme: str | None = None,
        kv: Literal["int8"] | None = None,
        dequantize_to: Working = "fp16",
        executor: str = "numba",
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: Any = None,
    ) -> None:
        super().__init__()
        del batch_size, max_batch_size, device
        opened = open_model(pretrained)
        chosen, how = parse_policy(policy or own_format(opened)), None
        if scheme is not None or kv is not None:
            working: Any = chosen.parameters
            how = PostTraining(scheme=scheme, kv=kv, working=working, dequantize_to=dequantize_to)
        way = Way(name=scheme or "pre", model=opened, policy=chosen, how=how)
        self.language_model = way.language_model(executor)

    @property
    def eot_token_id(self) -> int:
        """What stands before text without context, too: ``prefix_token``."""
        return prefix_token(self.language_model.tokenizer)

    @property
    def max_length(self) -> int:
        return self.language_model.length

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """No token is put before or behind."""
        return encoded(self.language_model.tokenizer, string, self.language_model.vocabulary).tolist()

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        asked = [
            continuation_request(np.array(context), np.array(continuation), self.max_length)
            for _, context, continuation in requests
        ]
        return [(one.log_likelihood, one.all_greedy) for one in score(self.language_model, asked)]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Sum over disjoint windows, the first of which begins behind ``eot_token_id``."""
        return [self._rolling(request.args[0]) for request in requests]

    def _rolling(self, text: str) -> float:
        found = get_rolling_token_windows(self.tok_encode(text), self.eot_token_id, self.max_length, 1)
        windows = [(None, *make_disjoint_window(window)) for window in found]
        return sum(likelihood for likelihood, _ in self._loglikelihood_tokens(windows))

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """A context too long for what is to be written behind it loses its beginning."""
        return [self._written(*request.args) for request in requests]

    def _written(self, context: str, asked: dict[str, Any]) -> str:
        model, until = self.language_model, asked.get("until") or []
        limit = next((int(asked[name]) for name in _LIMITS if asked.get(name) is not None), _MOST)
        limit = min(limit, self.max_length)
        heat = float(asked.get("temperature") or 0.0) if asked.get("do_sample") else 0.0
        prompt = np.array(
            (self.tok_encode(context) or [self.eot_token_id])[-(self.max_length - limit + 1) :], np.int32
        )
        stops = [until] if isinstance(until, str) else list(until)
        end = model.tokenizer.decode([self.eot_token_id])
        if end.strip():  # a newline, which stands in for a token that ends texts, is written as any other
            stops.append(end)
        tokens = generate(model, prompt, limit, Sampling(temperature=heat))
        return "".join(written(model.tokenizer, tokens, stops))
