"""How well a model predicts text and answers items, before and after its arithmetic is changed.

``perplexity`` of tokens, ``evaluate_tasks`` of items, ``compare`` of two evaluations; ``generate`` for text.
"""

from qsim.evaluation.built_in import last_word_task, next_paragraph_task
from qsim.evaluation.comparison import Comparison, Evaluation, compare
from qsim.evaluation.error import EvaluationError
from qsim.evaluation.generation import Sampling, generate, written
from qsim.evaluation.items import Item, Task, TaskScore, evaluate_task, evaluate_tasks
from qsim.evaluation.language_model import DecoderLanguageModel, LanguageModel, encoded, own_format
from qsim.evaluation.perplexity import TextScore, perplexity
from qsim.evaluation.task_files import read_task

__all__ = [
    "Comparison",
    "DecoderLanguageModel",
    "Evaluation",
    "EvaluationError",
    "Item",
    "LanguageModel",
    "Sampling",
    "Task",
    "TaskScore",
    "TextScore",
    "compare",
    "encoded",
    "evaluate_task",
    "evaluate_tasks",
    "generate",
    "last_word_task",
    "next_paragraph_task",
    "own_format",
    "perplexity",
    "read_task",
    "written",
]
