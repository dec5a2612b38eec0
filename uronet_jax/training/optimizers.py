"""Optimizers by name, with their learning-rate schedules. All of it is optax."""

import inspect
from collections.abc import Callable, Sequence

import optax

from uronet_jax.batches import check_number, check_whole
from uronet_jax.specs import known_name

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
    known_name("optimizer", name, OPTIMIZERS)
    known_name("schedule", schedule, SCHEDULES)
    check_number("peak_rate", peak_rate, above=0.0)
    within = f"warmup_steps, within num_steps ({num_steps}),"
    check_whole(within, warmup_steps, 0, num_steps)
    check_number("weight_decay", weight_decay, 0.0)
    check_number("clip_norm", clip_norm, 0.0)
    check_number("momentum", momentum, 0.0, 1.0)
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


# What a config may set; the length of a run is another field of it.
OPTIMIZER_FIELDS = tuple(
    name for name in inspect.signature(make_optimizer).parameters if name != "num_steps"
)
