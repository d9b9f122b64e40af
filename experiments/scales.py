"""What each scale is: model, steps, batch, learning rate, seeds, what is measured when.

Learning rates of ``smoke`` and ``small`` were chosen here; those of ``125m`` to ``6b`` are GPT-3's for models of
that size, for the paper does not state its own (declared defaults, not the paper's).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from qsim.config import ConfigError, RunConfig, override_all, preset
from qsim.policy import Arithmetic

PARTS = 5  # an early checkpoint is measured at every fifth of the steps


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A size at which every experiment can be run.

    seeds: how many, 0, 1, ....  sequences: held-out sequences that are evaluated.  native: products by the
    library at hand in place of emulated accumulators, for GPUs: fast, and no hash is promised.
    """

    name: str
    config: RunConfig
    seeds: int
    sequences: int
    executor: str = "numba"
    native: bool = False

    @property
    def measured(self) -> tuple[int, ...]:
        """Steps whose checkpoints are measured."""
        every = self.config.record.checkpoint_every
        return (*range(every, self.config.steps, every), self.config.steps)

    def arithmetic(self, policy: Arithmetic) -> Arithmetic:
        """The policy as this scale computes it."""
        if not self.native or not policy.promises_bits:
            return policy
        return policy.with_(name=f"native-{policy.name}", accumulator="native")

    def changed(self, *, executor: str | None, seeds: int | None) -> Scale:
        """With what the command line says."""
        given = {"executor": executor, "seeds": seeds}
        return dataclasses.replace(self, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]


def _scale(
    name: str, base: str, steps: int, *, seeds: int, sequences: int, lr: float, warmup: int, **more: Any
) -> Scale:
    changes = {"steps": steps, "optimizer.learning_rate": lr, "optimizer.warmup_steps": warmup}
    changes |= {"record.checkpoint_every": max(1, steps // PARTS), "record.hash_every": max(1, steps // PARTS)}
    changes |= {"record.statistics_every": max(10, steps // 10), "data.validation_batches": 1}
    executor, native = more.pop("executor", "numba"), more.pop("native", False)
    config = override_all(preset(base), (changes | {k.replace("__", "."): v for k, v in more.items()}).items())
    return Scale(name=name, config=config, seeds=seeds, sequences=sequences, executor=executor, native=native)


def _paper(name: str, layers: int, hidden: int, heads: int, lr: float) -> Scale:
    """A size of the paper: 75,000 steps of 256 sequences of 2,048 tokens of 51,200, 1,500 of them warm-up."""
    sizes = {"model__layers": layers, "model__hidden": hidden, "model__heads": heads, "model__recompute": True}
    sizes |= {"model__length": 2048, "model__vocabulary": 51200, "data__batch_size": 256}
    return _scale(
        name, "medium", 75000, seeds=1, sequences=64, lr=lr, warmup=1500, executor="jax", native=True, **sizes
    )


SCALES: dict[str, Scale] = {
    scale.name: scale
    for scale in (
        _scale(
            "smoke", "tiny", 20, seeds=1, sequences=8, lr=4e-3, warmup=4,
            model__layers=1, model__hidden=32, model__length=32, data__reduction_chunks=4,
        ),
        _scale("small", "small", 400, seeds=3, sequences=64, lr=3e-3, warmup=40),
        _scale(
            "medium", "medium", 1000, seeds=1, sequences=64, lr=6e-4, warmup=100, executor="jax", native=True,
            record__checkpoint_every=500, record__statistics_every=0,
        ),
        _scale(  # for one GPU; of a vocabulary that short texts can teach
            "125m", "125m", 1000, seeds=1, sequences=64, lr=6e-4, warmup=100, executor="jax", native=True,
            model__vocabulary=8192, data__batch_size=32, data__accumulation=1, record__checkpoint_every=250,
            record__statistics_every=0,
        ),
        _paper("410m", 24, 1024, 16, 3e-4),
        _paper("6b", 28, 4096, 32, 1.2e-4),
    )
}  # fmt: skip


def scale_named(name: str) -> Scale:
    """ConfigError, naming the known ones, for an unknown name."""
    if name not in SCALES:
        raise ConfigError(f"unknown scale {name!r}; known scales: {', '.join(SCALES)}")
    return SCALES[name]
