"""DDN: gradient steps whose length and norm are decided apart."""

from collections import namedtuple

import jax
import jax.numpy as jnp

from uronet_jax import batches
from uronet_jax.attacks import balls, loop
from uronet_jax.attacks.attack import Attack
from uronet_jax.attacks.objectives import LogitsFn, misclassification

_Constants = namedtuple("_Constants", "key index origin loss_fn gamma steps")
_State = namedtuple("_State", "images active finite epsilon best_images best_norm")


def ddn(
    key: jax.Array,
    images: jax.Array,
    logits_fn: LogitsFn,
    labels: jax.Array,
    *,
    steps: int | jax.Array = 100,
    initial_epsilon: float | jax.Array = 1.0,
    gamma: float | jax.Array = 0.05,
    index: jax.Array | None = None,
) -> jax.Array:
    """Decoupled direction and norm, L2: PGD in a ball that breathes.

    Each step goes along the unit gradient of the cross-entropy, its length falling from
    1 to 0.01 in half a cosine, and the perturbation is then rescaled to a norm
    `epsilon`. That is multiplied by `1 - gamma` where the image was misclassified and
    by `1 + gamma` elsewhere. The smallest perturbation seen that misclassifies is kept.

    `steps` (how many), `initial_epsilon` (the first norm, above 0, a scalar or `[B]`)
    and `gamma` (in `[0, 1]`) may be traced. Where the gradient is zero, a random
    direction is taken. The other arguments, the result and the errors are those of
    `fab`; unlike in the paper the images are not rounded to 256 levels.

    Source:
        Rony et al., "Decoupling direction and norm for efficient gradient-based L2
        adversarial attacks and defenses", CVPR 2019.
    """
    images, index = loop.prepare_images(images, index, steps=steps)
    count = len(images)
    loop.check_parameter("initial_epsilon", initial_epsilon, above=True, count=count)
    loop.check_parameter("gamma", gamma, high=1.0)
    loss_fn = loop.check_loss(misclassification(logits_fn, labels), images)
    epsilon = jnp.asarray(initial_epsilon, images.dtype)
    state = loop.iterate(
        _step,
        None,
        _Constants(
            key,
            index,
            images,
            loss_fn,
            jnp.asarray(gamma, images.dtype),
            jnp.asarray(steps, jnp.int32),
        ),
        loop.begin(_State, images, epsilon=jnp.broadcast_to(epsilon, (count,))),
        steps,
    )
    return loop.finish(state.best_images, state.finite)


def _step(config: None, constants: _Constants, i: jax.Array, state: _State):
    del config
    images, origin = state.images, constants.origin
    result = loop.evaluate(constants.loss_fn, images)
    norm = balls.size(images - origin, "l2")
    better = state.active & result.success & (norm < state.best_norm)
    finite = state.finite & (result.finite | ~state.active)
    active = state.active & finite & ~(result.success & (i == 0))

    turned = i.astype(images.dtype) / constants.steps.astype(images.dtype)
    length = 0.01 + 0.99 * (1 + jnp.cos(jnp.pi * turned)) / 2
    step = length * _direction(constants, i, result.gradient)
    epsilon = state.epsilon * jnp.where(
        result.success, 1 - constants.gamma, 1 + constants.gamma
    )
    farthest = balls.size(jnp.maximum(origin, 1 - origin), "l2")
    epsilon = jnp.minimum(epsilon, farthest)
    scaled = balls.expand(epsilon, images) * balls.direction(
        images + step - origin, "l2"
    )
    return _State(
        images=balls.where(active, jnp.clip(origin + scaled, 0.0, 1.0), images),
        active=active,
        finite=finite,
        epsilon=epsilon,
        best_images=balls.where(better, images, state.best_images),
        best_norm=jnp.where(better, norm, state.best_norm),
    )


def _direction(constants, i, gradient):
    """Returns unit gradients; random unit vectors where the gradient is zero."""
    zero = balls.size(gradient, "linf") == 0

    def draw():
        key = jax.random.fold_in(constants.key, i)
        shape = gradient.shape[1:]
        normal = batches.per_image(
            lambda key: jax.random.normal(key, shape, gradient.dtype),
            key,
            constants.index,
        )
        return balls.where(zero, normal, gradient)

    return balls.direction(jax.lax.cond(zero.any(), draw, lambda: gradient), "l2")


DDN_ATTACKS = {
    "ddn_l2": Attack(
        ddn,
        "l2",
        minimal=True,
        defaults={"steps": 100},
        about="gradient steps in a ball that shrinks when they succeed",
        source="Rony et al., CVPR 2019",
    )
}
