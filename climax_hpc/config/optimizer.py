"""Settings of the optimiser and of its learning rate."""

from dataclasses import dataclass

from climax_hpc.errors import require


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW or Muon, and the schedule of its learning rate."""

    kind: str = "adamw"
    """`adamw`; `muon` for the matrices of the blocks, with AdamW for all other parameters
    (docs/guides/training.md#muon)."""
    schedule: str = "cosine"
    """After the warm-up: `cosine` decay to `end_lr`, or `constant`."""
    cooldown_steps: int = 0
    """With schedule `constant`, the last optimiser steps, in which the learning rate falls linearly to 0."""
    lr: float = 5e-4
    """Highest learning rate, reached at the end of the warm-up (ClimaX pretraining)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of AdamW's first and second moments (ClimaX pretraining; it fine-tunes with 0.9, 0.999)."""
    weight_decay: float = 1e-5
    """Weight decay; not applied to norms, biases and embeddings (ClimaX pretraining)."""
    warmup_steps: int = 10_000
    """Optimiser steps of linear warm-up from `end_lr` to `lr` (ClimaX pretraining)."""
    end_lr: float = 1e-8
    """Learning rate at the start of the warm-up and at the end of the cosine decay (ClimaX pretraining)."""
    gradient_clipping: float = 1.0
    """Largest global norm of the gradient, larger ones are scaled down; 0: no clipping."""

    def __post_init__(self) -> None:
        require(self.kind in ("adamw", "muon"), "optimizer.kind: use adamw or muon")
        require(self.schedule in ("cosine", "constant"), "optimizer.schedule: use cosine or constant")
        require(self.cooldown_steps >= 0, "optimizer.cooldown_steps must not be negative")
        require(
            self.schedule == "constant" or not self.cooldown_steps,
            "optimizer.cooldown_steps needs optimizer.schedule constant: cosine falls to optimizer.end_lr by itself",
        )
        require(
            0 <= self.end_lr <= self.lr and self.lr > 0, "optimizer.lr must be positive, optimizer.end_lr in [0, lr]"
        )
        require(all(0 <= b < 1 for b in self.betas), "optimizer.betas must lie in [0, 1)")
        require(self.warmup_steps >= 0, "optimizer.warmup_steps must not be negative")
