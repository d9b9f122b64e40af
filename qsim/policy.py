"""Arithmetic policies: which format, accumulator and rounding every operation site uses."""

from qsim.arithmetic import Arithmetic, from_json
from qsim.policies import POLICIES, parse_policy
from qsim.site_policy import GEMM_SITES, PASSES, QUANTIZED_SITES, SITES, Pass, SitePolicy
from qsim.stages import STAGES, DelayedScaling, LossScaling, Stage, Stages, WriteBack

__all__ = [
    "GEMM_SITES",
    "PASSES",
    "POLICIES",
    "QUANTIZED_SITES",
    "SITES",
    "STAGES",
    "Arithmetic",
    "DelayedScaling",
    "LossScaling",
    "Pass",
    "SitePolicy",
    "Stage",
    "Stages",
    "WriteBack",
    "from_json",
    "parse_policy",
]
