"""What is asked and how it is scored, against lm-evaluation-harness itself where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness_lines import LINES, ours

from qsim.evaluation import read_task
from qsim.evaluation.items import answer_of
from qsim.evaluation.likelihood import Scored


def theirs(folder: Path, description: str, lines: list[dict[str, Any]]) -> Any:
    pytest.importorskip("lm_eval", reason="the harness is an extra; install lm-eval")
    from lm_eval import tasks
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(Path(tasks.__file__).parent / description, resolve_func=True)
    file = folder / "theirs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config |= {"dataset_path": "json", "dataset_name": None, "training_split": None, "test_split": None}
    config |= {"validation_split": "validation", "dataset_kwargs": {"data_files": {"validation": str(file)}}}
    task = ConfigurableTask(config=config)
    task.build_all_requests()
    return task


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", LINES)
def test_requests_and_scores_are_those_of_the_harness(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    description, lines = LINES[kind]
    task = theirs(tmp_path, description, lines)
    file = tmp_path / f"{kind}.jsonl"
    file.write_text("".join(json.dumps(ours(kind, line)) + "\n" for line in lines))
    mine = read_task(kind, file)
    by_doc: dict[int, list[Any]] = {}
    for instance in task.instances:
        by_doc.setdefault(instance.doc_id, []).append(instance)
    assert [[i.args for i in by_doc[n]] for n in sorted(by_doc)] == [list(item.pairs) for item in mine.items]
    rng = np.random.default_rng(0)
    for _ in range(20):
        for number, item in enumerate(mine.items):
            drawn = rng.integers(1, 40, len(item.pairs)) / 4
            scored = [Scored(losses=np.array([x]), greedy=np.array([x < 4])) for x in drawn]
            found = task.process_results(by_doc[number][0].doc, [(s.log_likelihood, s.all_greedy) for s in scored])
            answer = answer_of(item, scored, mine.metrics)
            for name, value in found.items():
                if name == "perplexity":
                    assert value == -answer.loss
                else:
                    assert value == answer.right["exact" if kind == "lambada" else name]
