"""Models of others, read without torch: Hugging Face folders and GGUF files, and this project's own runs beside them.

``open_model(path)`` gives a ``Model``: what the decoder is (``qsim.decoder_config``) and its parameters, layer by
layer; ``qsim.decoder.decoder_forward`` computes it under any policy.  ``export_gpt2`` writes a run as GPT-2.
"""

from qsim.importing.describing import Description, describe
from qsim.importing.exporting import export_gpt2
from qsim.importing.opening import Model, open_model
from qsim.importing.own_format import own_format
from qsim.importing.refusal import ModelError

__all__ = ["Description", "Model", "ModelError", "describe", "export_gpt2", "open_model", "own_format"]
