"""How well a model predicts text and answers items, before and after its arithmetic is changed.

``perplexity`` of tokens, ``evaluate_tasks`` of items, ``compare`` of two evaluations; a ``Way`` is a model under
a policy, quantized or not; ``generate`` for text.
"""

from qsim.evaluation.built_in import last_word_task, next_paragraph_task
from qsim.evaluation.comparison import Comparison, Evaluation, compare
from qsim.evaluation.error import EvaluationError
from qsim.evaluation.generation import Sampling, generate, written
from qsim.evaluation.items import Item, Task, TaskScore, evaluate_task, evaluate_tasks
from qsim.evaluation.language_model import DecoderLanguageModel, LanguageModel, encoded
from qsim.evaluation.perplexity import TextScore, perplexity
from qsim.evaluation.task_files import read_task
from qsim.evaluation.ways import Questions, Way, check_same_tokens, evaluate, parsed_way

__all__ = [
    "Comparison",
    "DecoderLanguageModel",
    "Evaluation",
    "EvaluationError",
    "Item",
    "LanguageModel",
    "Questions",
    "Sampling",
    "Task",
    "TaskScore",
    "TextScore",
    "Way",
    "check_same_tokens",
    "compare",
    "encoded",
    "evaluate",
    "evaluate_task",
    "evaluate_tasks",
    "generate",
    "last_word_task",
    "next_paragraph_task",
    "parsed_way",
    "perplexity",
    "read_task",
    "written",
]
