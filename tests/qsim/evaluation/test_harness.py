"""The adapter: under a stand-in of the harness' interface, and under the harness where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from refusals import refused
from small_runs import small_run

from qsim.evaluation import DecoderLanguageModel, EvaluationError, Sampling, Way, generate
from qsim.evaluation.likelihood import continuation_request, score
from qsim.importing import open_model
from qsim.policy import parse_policy
from qsim.post_training import PostTraining

ADAPTER = "qsim.evaluation.harness"


class StandIn:
    """What the adapter takes over: parting of pairs is tested with ``encode_pair``, which is the same."""

    def loglikelihood(self, requests: list[Any]) -> Any:
        pairs = [request.args for request in requests]
        parted = [(None, self.tok_encode(a or "\n"), self.tok_encode(b)) for a, b in pairs]  # type: ignore[attr-defined]
        return self._loglikelihood_tokens(parted)  # type: ignore[attr-defined]


def disjoint_windows(tokens: list[int], prefix: int, length: int, context: int) -> Iterator[tuple[list, list]]:
    assert context == 1
    whole = [prefix, *tokens]
    for start in range(0, len(tokens), length):
        end = min(start + length, len(tokens))
        yield whole[max(0, end - length) : end], tokens[start:end]


def stand_ins() -> dict[str, ModuleType]:
    names = ("lm_eval", "lm_eval.api", "lm_eval.api.model", "lm_eval.api.registry", "lm_eval.utils")
    found = {name: ModuleType(name) for name in names}
    found["lm_eval.api.model"].__dict__["TemplateLM"] = StandIn
    found["lm_eval.api.registry"].__dict__["register_model"] = lambda _: lambda cls: cls
    utils = {
        "get_rolling_token_windows": disjoint_windows,
        "make_disjoint_window": lambda w: (w[0][: len(w[0]) - len(w[1]) + 1], w[1]),
    }
    found["lm_eval.utils"].__dict__.update(utils)
    return found


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module as it is on the harness, or on its stand-in."""
    if importlib.util.find_spec("lm_eval") is not None:
        yield importlib.import_module(ADAPTER)  # once: names are registered once
        return
    for name, module in stand_ins().items():
        monkeypatch.setitem(sys.modules, name, module)
    yield importlib.import_module(ADAPTER)
    del sys.modules[ADAPTER]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("runs") / "a", "bf16").path


def asked(*arguments: Any) -> Any:
    return SimpleNamespace(args=arguments)


@pytest.mark.filterwarnings("ignore")
def test_scores_are_those_of_the_project(adapter: Any, run: Path) -> None:
    model = adapter.HarnessModel(str(run), scheme="int8_vectorwise", executor="numpy", batch_size=4, device="cpu")
    how = PostTraining(scheme="int8_vectorwise", working="bf16")
    own = Way(name="post", model=open_model(run), policy=parse_policy("bf16"), how=how).language_model("numpy")

    def expected(context: str, continuation: str) -> tuple[float, bool]:
        tokens = (np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in (context, continuation))
        (one,) = score(own, [continuation_request(*tokens, 16)])
        return one.log_likelihood, one.all_greedy

    pairs = [("the sum", " of"), ("", "even"), ("a context much longer than its positions", " is cut")]
    found = model.loglikelihood([asked(*pair) for pair in pairs])
    assert found == [expected(context or "\n", continuation) for context, continuation in pairs]
    assert (model.max_length, model.eot_token_id) == (16, 10)


@pytest.mark.filterwarnings("ignore")
def test_rolling_windows_predict_every_token(adapter: Any, run: Path) -> None:
    """Each of the first 16 bytes behind the newline, then disjoint windows; the last takes context to fill it."""
    model = adapter.HarnessModel(str(run), executor="numpy")
    text = "and then rounded to nearest even so"
    tokens = np.frombuffer(f"\n{text}".encode(), np.uint8).astype(np.int32)
    parts = [(tokens[:1], tokens[1:17]), (tokens[16:17], tokens[17:33]), (tokens[19:33], tokens[33:36])]
    own = DecoderLanguageModel(open_model(run), parse_policy("bf16"), "numpy")
    scored = score(own, [continuation_request(*part, 16) for part in parts])
    assert model.loglikelihood_rolling([asked(text)]) == [pytest.approx(sum(one.log_likelihood for one in scored))]


@pytest.mark.filterwarnings("ignore")
def test_texts_are_written_until_they_are_to_stop(adapter: Any, run: Path) -> None:
    model = adapter.HarnessModel(str(run), executor="numpy")
    prompt = np.frombuffer(b"the sum ", np.uint8).astype(np.int32)
    tokens = bytes(generate(model.language_model, prompt, 8, Sampling()))
    text = tokens.decode()
    stop = text[3]
    how = {"max_gen_toks": 8, "do_sample": False, "temperature": 1.0}
    found = model.generate_until([asked("the sum ", how), asked("the sum ", how | {"until": [stop]})])
    assert found == [text, text[: text.index(stop)]]
    cut = model.generate_until([asked("long before it: of the sum ", how)])[0]
    assert cut == bytes(generate(model.language_model, np.frombuffer(b" the sum ", np.uint8), 8)).decode()


def test_the_package_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, ADAPTER, raising=False)
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with refused(EvaluationError, "lm-eval is not installed", "pip install 'qsim-precision[lm-eval]'"):
        importlib.import_module(ADAPTER)
