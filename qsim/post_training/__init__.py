"""Models quantized after training, one-shot and layer by layer: in memory, on disk, computed, weighed.

``quantize_model(model, PostTraining(scheme="int8_vectorwise"))`` gives a ``Model`` whose linear layers are codes and
scales; ``calculator_for(model, policy, executor)`` is what ``qsim.decoder.decoder_forward`` computes it with;
``save_quantized`` writes a folder that ``qsim.importing.open_model`` reads.
"""

from qsim.post_training.calculating import QuantizedCalculator, calculator_for
from qsim.post_training.files import save_quantized
from qsim.post_training.how import PostTraining
from qsim.post_training.memory import Bytes, Memory, memory_by_formula, memory_held
from qsim.post_training.quantizing import quantize_model
from qsim.post_training.weights import QuantizedWeights

__all__ = [
    "Bytes",
    "Memory",
    "PostTraining",
    "QuantizedCalculator",
    "QuantizedWeights",
    "calculator_for",
    "memory_by_formula",
    "memory_held",
    "quantize_model",
    "save_quantized",
]
