"""DeepFool, and the linearised decision boundaries that it steps to."""

import functools
from collections import namedtuple
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from uronet_jax.attacks import balls, loop
from uronet_jax.attacks.attack import in_all_norms
from uronet_jax.attacks.objectives import (
    LogitsFn,
    is_wrong,
    likeliest,
    prepare_classifier,
)

# Classes whose gradients are computed at once: bounds the memory.
_CHUNK = 10
# Up to so many chunks there is no loop: a CPU runs convolutions in one slowly.
_UNROLLED = 10
# Norms of gradients and distances are enlarged by it, as in foolbox.
_SMALLEST = 1e-8
_MARGIN = 1e-4


class Boundary(NamedTuple):
    """The nearest of several linearised decision boundaries, for each image.

    Attributes:
        difference: `[B]`, the logit of that class minus that of the label.
        gradient: `[B, H, W, C]` of the difference.
        distance: `[B]`, `|difference|` over the dual norm of the gradient.
        finite: bool `[B]`, whether differences and gradients of all are numbers.
    """

    difference: jax.Array
    gradient: jax.Array
    distance: jax.Array
    finite: jax.Array


_Constants = namedtuple("_Constants", "origin logits_fn labels overshoot steps")
_State = namedtuple("_State", "images active finite success rivals perturbation")


def deepfool(
    key: jax.Array,
    images: jax.Array,
    logits_fn: LogitsFn,
    labels: jax.Array,
    *,
    norm: str = "l2",
    steps: int | jax.Array = 50,
    overshoot: float | jax.Array = 0.02,
    candidates: int = 10,
) -> jax.Array:
    """DeepFool: steps to the nearest linearised decision boundary until it is crossed.

    With `f_k = Z_k - Z_label` and `w_k` its gradient the nearest class has the smallest
    `d = |f_k| / (|w_k| + 1e-8)`, in the L2 norm of `w_k` for L2 and in its L1 norm for
    Linf. Steps `(d + 1e-4) w_k / |w_k|`, in Linf `(d + 1e-4) sign(w_k)`, add up to `r`;
    the image becomes `clip(x + (1 + overshoot) r)`. An image stays where it is first
    misclassified.

    At most `steps` are taken, and the images go farther than the boundary by
    `overshoot`, 0 or more, relative; both may be traced. `candidates`, 2 or more, are
    the classes that are considered, the label among them: those of the largest logits
    at the clean image. It is not random: `key` is not used. The other arguments, the
    result and the errors are those of `fab`.

    Source:
        Moosavi-Dezfooli et al., "DeepFool: a simple and accurate method to fool deep
        neural networks", CVPR 2016; the constants are those of foolbox.
    """
    del key
    images, _ = loop.prepare_images(images, norm=norm, steps=steps)
    loop.check_parameter("overshoot", overshoot)
    loop.check_count("candidates", candidates, 2)
    logits_fn, labels, classes = prepare_classifier(logits_fn, labels, images)
    count = len(images)
    state = loop.iterate(
        _step,
        norm,
        _Constants(
            images,
            logits_fn,
            labels,
            jnp.asarray(overshoot, images.dtype),
            jnp.asarray(steps, jnp.int32),
        ),
        loop.begin(
            _State,
            images,
            success=jnp.zeros(count, bool),
            rivals=jnp.zeros((count, min(candidates, classes) - 1), jnp.int32),
            perturbation=jnp.zeros_like(images),
        ),
        steps + 1,  # The last one only looks whether the step before was enough.
    )
    return loop.finish(balls.where(state.success, state.images, images), state.finite)


def _step(norm: str, constants: _Constants, i: jax.Array, state: _State):
    logits, pull = jax.vjp(constants.logits_fn, state.images)
    labels = constants.labels
    first = likeliest(logits, labels, state.rivals.shape[1])
    rivals = jnp.where(i == 0, first, state.rivals)
    success = is_wrong(logits, labels)
    nearest = nearest_boundary(pull, logits, labels, rivals, norm)
    finite = state.finite & (nearest.finite | success | ~state.active)
    active = state.active & finite & ~success & (i < constants.steps)
    step = balls.expand(nearest.distance + _MARGIN, state.images)
    if norm == "linf":
        step = step * jnp.sign(nearest.gradient)
    else:
        size = balls.size(nearest.gradient, "l2") + _SMALLEST
        step = step / balls.expand(size, state.images) * nearest.gradient
    total = state.perturbation + step
    moved = jnp.clip(constants.origin + (1 + constants.overshoot) * total, 0.0, 1.0)
    return _State(
        images=balls.where(active, moved, state.images),
        active=active,
        finite=finite,
        success=state.success | (state.active & success),
        rivals=rivals,
        perturbation=total,
    )


def nearest_boundary(
    pull: Callable[[jax.Array], tuple[jax.Array]],
    logits: jax.Array,
    labels: jax.Array,
    rivals: jax.Array,
    norm: str,
) -> Boundary:
    """Returns the linearised boundary to the nearest of some wrong classes, `[B, M]`.

    `pull` is what `jax.vjp` of the classifier returns, from cotangents of its logits to
    those of the images: one forward pass serves all classes.
    """
    count, total = rivals.shape
    chunks = -(-total // _CHUNK)
    size = -(-total // chunks)
    rivals = jnp.pad(rivals, ((0, 0), (0, chunks * size - total)), mode="edge")
    chunked = jnp.moveaxis(rivals.reshape(count, chunks, size), 1, 0)
    look = functools.partial(_nearest_of_chunk, pull, logits, labels, norm)
    if chunks <= _UNROLLED:
        return functools.reduce(_nearer, map(look, chunked))

    def body(best, classes):
        return _nearer(best, look(classes)), None

    return jax.lax.scan(body, look(chunked[0]), chunked[1:])[0]


def _nearest_of_chunk(pull, logits, labels, norm, classes):
    def one_hot(k):
        return jax.nn.one_hot(k, logits.shape[1], dtype=logits.dtype)

    def gradient_of(k):
        return pull(one_hot(k) - one_hot(labels))[0]

    # All at once: on a CPU ten times as fast as a loop over the classes.
    gradients = jax.vmap(gradient_of, in_axes=1)(classes)
    right = jnp.take_along_axis(logits, labels[:, None], axis=1)
    differences = (jnp.take_along_axis(logits, classes, axis=1) - right).T
    differences = differences.astype(gradients.dtype)
    sizes = jax.vmap(lambda x: _dual_size(x, norm))(gradients)
    distances = jnp.abs(differences) / (sizes + _SMALLEST)
    k = jnp.argmin(distances, axis=0)

    def take(values):
        where = k.reshape((1, -1) + (1,) * (values.ndim - 2))
        return jnp.take_along_axis(values, where, axis=0)[0]

    finite = (jnp.isfinite(differences) & jnp.isfinite(sizes)).all(axis=0)
    return Boundary(take(differences), take(gradients), take(distances), finite)


def _nearer(a, b):
    closer = b.distance < a.distance
    nearest = jax.tree.map(lambda a, b: balls.where(closer, b, a), a, b)
    return nearest._replace(finite=a.finite & b.finite)


def _dual_size(gradients, norm):
    if norm == "l2":
        return balls.size(gradients, "l2")
    return jnp.sum(jnp.abs(gradients.reshape(gradients.shape[0], -1)), axis=-1)


DEEPFOOL_ATTACKS = in_all_norms(
    "deepfool",
    deepfool,
    minimal=True,
    class_gradients=True,
    defaults={"steps": 50},
    about="steps to the nearest linearised boundary until it is crossed",
    source="Moosavi-Dezfooli et al., CVPR 2016",
)
