"""Optimizers by name, with their learning-rate schedules. All of it is optax."""

from collections.abc import Callable, Sequence

import optax

SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "constant": lambda peak, steps, **_: optax.constant_schedule(peak),
    "cosine": lambda peak, steps, **_: optax.cosine_decay_schedule(peak, max(steps, 1)),
    # Zagoruyko & Komodakis: times 0.2 after 30, 60 and 80 % of the run.
    "steps": lambda peak, steps, *, milestones, factor: (
        optax.piecewise_constant_schedule(
            peak, {int(part * steps): factor for part in milestones}
        )
    ),
}

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": lambda rate, **_: optax.adam(rate),
    "sgd": lambda rate, momentum, nesterov: optax.sgd(
        rate, momentum=momentum, nesterov=nesterov
    ),
}


def make_optimizer(
    name: str = "adam",
    *,
    peak_rate: float,
    num_steps: int,
    schedule: str = "cosine",
    warmup_steps: int = 0,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = True,
    clip_norm: float = 0.0,
    milestones: Sequence[float] = (0.3, 0.6, 0.8),
    milestone_factor: float = 0.2,
) -> optax.GradientTransformation:
    """Builds an optimizer: an optax transformation.

    Args:
        name: `adam` or `sgd`.
        peak_rate: Learning rate after the warm-up.
        num_steps: Length of the run in updates, for the schedule.
        schedule: `constant`, `cosine` (to zero) or `steps`.
        warmup_steps: Updates of linear growth from zero before the schedule.
        weight_decay: L2 coefficient added to the gradient (coupled), on every
            parameter, as in the Wide-ResNet recipe. Not for `adam`.
        momentum: For `sgd`, as `nesterov`.
        nesterov: Whether it looks ahead.
        clip_norm: Global gradient norm to clip to; 0 does not clip.
        milestones: For `steps`, parts of the run after which the rate falls.
        milestone_factor: For `steps`, the factor of each fall.

    Raises:
        ValueError: If a name is unknown or a number is out of range.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}: choose from {list(OPTIMIZERS)}")
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}: choose from {[*SCHEDULES]}")
    if not peak_rate > 0:
        raise ValueError(f"peak_rate must be positive, got {peak_rate}")
    if not 0 <= warmup_steps <= num_steps:
        raise ValueError(
            f"warmup_steps must be between 0 and num_steps ({num_steps}): "
            f"{warmup_steps}"
        )
    if weight_decay < 0 or clip_norm < 0:
        raise ValueError(
            f"weight_decay ({weight_decay}) and clip_norm ({clip_norm}) "
            "cannot be negative"
        )
    if weight_decay and name == "adam":
        raise ValueError(
            "weight_decay under adam is not L2 regularisation: set it to 0 or use sgd"
        )
    rate = SCHEDULES[schedule](
        peak_rate,
        num_steps - warmup_steps,
        milestones=milestones,
        factor=milestone_factor,
    )
    if warmup_steps:
        rate = optax.join_schedules(
            [optax.linear_schedule(0.0, peak_rate, warmup_steps), rate], [warmup_steps]
        )
    return optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity(),
        OPTIMIZERS[name](rate, momentum=momentum, nesterov=nesterov),
    )
