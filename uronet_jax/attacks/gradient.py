"""Attacks that follow the gradient: FGSM, IFGSM, PGD."""

from collections import namedtuple

import jax
import jax.numpy as jnp

from uronet_jax.attacks import balls, loop
from uronet_jax.attacks.attack import in_all_norms
from uronet_jax.attacks.objectives import LossFn

_Config = namedtuple("_Config", "norm random_start runs samples")
_Constants = namedtuple(
    "_Constants", "key index origin loss_fn epsilon step_size steps"
)
_State = namedtuple("_State", "images active finite best_images best_loss")


def fgsm(
    key: jax.Array,
    images: jax.Array,
    loss_fn: LossFn,
    *,
    epsilon: float | jax.Array,
    norm: str = "linf",
) -> jax.Array:
    """Fast gradient sign method: `pgd` from the image itself, one step of `epsilon`.

    Arguments, result and errors are those of `pgd`.

    Source:
        Goodfellow et al., "Explaining and harnessing adversarial examples", ICLR 2015.
    """
    return ifgsm(
        key, images, loss_fn, epsilon=epsilon, step_size=epsilon, steps=1, norm=norm
    )


def ifgsm(
    key: jax.Array,
    images: jax.Array,
    loss_fn: LossFn,
    *,
    epsilon: float | jax.Array,
    step_size: float | jax.Array,
    steps: int | jax.Array,
    norm: str = "linf",
) -> jax.Array:
    """Iterative FGSM, also called BIM: `pgd` from the image itself, one run.

    Arguments, result and errors are those of `pgd`.

    Source:
        Kurakin et al., "Adversarial examples in the physical world", ICLR workshops
        2017.
    """
    usual = {"epsilon": epsilon, "step_size": step_size, "steps": steps, "norm": norm}
    return pgd(key, images, loss_fn, **usual, random_start=False)


def pgd(
    key: jax.Array,
    images: jax.Array,
    loss_fn: LossFn,
    *,
    epsilon: float | jax.Array,
    step_size: float | jax.Array,
    steps: int | jax.Array,
    norm: str = "linf",
    random_start: bool = True,
    restarts: int = 0,
    samples: int = 0,
    index: jax.Array | None = None,
) -> jax.Array:
    """Projected gradient descent on the negative loss.

    `x <- clip(P(x + step_size * direction))`: the direction is the sign of the
    gradient, or in L2 the gradient at unit length, and P projects to the ball around
    the image. If `loss_fn` tells success, an image stays at its first success.

    Args:
        key: Typed PRNG key of the starts; one serves the whole batch.
        images: `[B, H, W, C]`, floating point, in `[0, 1]`.
        loss_fn: `images -> [B]`, or `(loss, success)`, raised; see `objectives`.
        epsilon: Largest norm of the perturbation, a scalar or `[B]`; may be traced.
        step_size: Norm of one step, likewise.
        steps: How many in a run; may be traced.
        norm: `linf` or `l2`.
        random_start: Whether the first run starts at a uniform point of the ball.
        restarts: Runs after the first; each starts at a uniform point of the ball. Of
            the last iterates without success, that of the highest loss is returned.
        samples: 0, or how many draws of a random `loss_fn(key, images)` loss and
            gradient are averaged over (expectation over transformation); success is
            then that of more than half of the draws.
        index: Integer `[B]`, number that each image draws with; default `0 .. B-1`.

    Returns:
        Adversarial images, `[B, H, W, C]`, float32 in `[0, 1]`.

    Raises:
        ValueError: If an argument is wrong, or outside jit if a gradient is not finite.

    Source:
        Madry et al., "Towards deep learning models resistant to adversarial attacks",
        ICLR 2018.
    """
    images, index = loop.prepare_images(
        images, index, norm, epsilon, steps, restarts, samples
    )
    loop.check_parameter("step_size", step_size, count=len(images))
    loss_fn = loop.check_loss(loss_fn, images)
    # Of several runs the last iterates are compared: one more evaluation in each.
    length = steps if restarts == 0 else steps + 1
    state = loop.iterate(
        _step,
        _Config(norm, bool(random_start), restarts + 1, samples),
        _Constants(
            key,
            index,
            images,
            loss_fn,
            balls.expand(epsilon, images),
            balls.expand(step_size, images),
            jnp.asarray(length, jnp.int32),
        ),
        loop.begin(_State, images),
        length * (restarts + 1),
        per_image=("index", "origin", "epsilon", "step_size"),
    )
    result = state.images
    if restarts:
        result = balls.where(state.active, state.best_images, result)
    return loop.finish(result, state.finite)


def _step(config: _Config, constants: _Constants, i: jax.Array, state: _State):
    run, j = i // constants.steps, i % constants.steps

    def start():
        key = jax.random.fold_in(constants.key, run)
        shape = constants.origin.shape[1:]
        draw = balls.draw_uniform(key, constants.index, shape, config.norm)
        started = constants.origin + constants.epsilon * draw
        if not config.random_start:
            started = jnp.where(run == 0, constants.origin, started)
        return balls.where(state.active, jnp.clip(started, 0.0, 1.0), state.images)

    images = state.images
    if config.random_start or config.runs > 1:
        images = jax.lax.cond(j == 0, start, lambda: state.images)
    result = loop.evaluate_step(constants, i, images, config.samples)
    active = state.active & ~result.success
    best_images, best_loss = state.best_images, state.best_loss
    last = False
    if config.runs > 1:
        last = j == constants.steps - 1
        better = last & (result.loss > best_loss)
        best_images = balls.where(better, images, best_images)
        best_loss = jnp.where(better, result.loss, best_loss)
    step = constants.step_size * balls.direction(result.gradient, config.norm)
    moved = balls.move(images, step, constants.origin, config.norm, constants.epsilon)
    return _State(
        images=balls.where(active & ~jnp.asarray(last), moved, images),
        active=active,
        finite=state.finite & (result.finite | ~state.active),
        best_images=best_images,
        best_loss=best_loss,
    )


# The iterates of PGD can cross the ball; Madry et al. take 2.5 epsilon in all.
_MANY_STEPS = {"loss": "cross_entropy", "relative_step": 2.5}
GRADIENT_ATTACKS = {
    **in_all_norms(
        "fgsm",
        fgsm,
        loss="cross_entropy",
        about="one step of the whole budget along the gradient (in L-inf its sign)",
        source="Goodfellow et al., ICLR 2015",
    ),
    **in_all_norms(
        "ifgsm",
        ifgsm,
        **_MANY_STEPS,
        defaults={"steps": 10},
        about="steps along the gradient (in L-inf its sign) from the image itself "
        "(BIM)",
        source="Kurakin et al., ICLR workshops 2017",
    ),
    **in_all_norms(
        "pgd",
        pgd,
        **_MANY_STEPS,
        defaults={"steps": 40},
        about="the same from random points of the ball, with restarts",
        source="Madry et al., ICLR 2018",
    ),
}
