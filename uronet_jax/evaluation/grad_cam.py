"""Where a classifier looks: Grad-CAM of its last convolutional features."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def grad_cam(
    module: nn.Module,
    variables: Any,
    images: jax.Array,
    labels: jax.Array | None = None,
) -> jax.Array:
    """Returns how much each place of an image speaks for a class.

    The features `A` are the rectified output of the last layer that still has height
    and width; every convolutional classifier of the package rectifies it. With the
    logit `y` of the class, a map is `relu(sum_k mean(dy / dA_k) A_k)`, the mean over
    all positions, scaled up to the image bilinearly and divided by its maximum.

    Args:
        module: A classifier, called as `module.apply(variables, images, train=False)`.
        variables: Its variables.
        images: `[B, H, W, C]`, float, in `[0, 1]`.
        labels: `[B]` integers, the classes that are asked about. Default: the most
            probable class of each image.

    Returns:
        float32 `[B, H, W]` in `[0, 1]`. A map in which nothing speaks for the class,
        or whose label is none of the classes, is zero. Pure; under `jit` the module
        is static.

    Raises:
        ValueError: If there is not one integer label per image, or no layer of the
            module keeps height and width. Raised while tracing.

    Source:
        Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via
        Gradient-based Localization", ICCV 2017, equations 1 and 2.
    """
    if labels is not None:
        labels = jnp.asarray(labels)
        if labels.shape != images.shape[:1] or not jnp.issubdtype(
            labels.dtype, jnp.integer
        ):
            raise ValueError(
                f"need one integer label for each of {images.shape[0]} images: "
                f"{labels.dtype}{list(labels.shape)}"
            )
    outputs: list[jax.ShapeDtypeStruct] = []

    def record(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if _has_places(context, out):
            outputs.append(jax.ShapeDtypeStruct(out.shape, out.dtype))
        return out

    with nn.intercept_methods(record):
        jax.eval_shape(lambda v, x: module.apply(v, x, train=False), variables, images)
    if not outputs:
        raise ValueError(
            f"{type(module).__name__} has no layer with height and width: Grad-CAM "
            "needs a convolutional network"
        )
    last = outputs[-1]

    def score(offset):
        features, calls = [], 0

        def add(call, args, kwargs, context):
            nonlocal calls
            out = call(*args, **kwargs)
            if not _has_places(context, out):
                return out
            calls += 1
            if calls < len(outputs):
                return out
            features.append(nn.relu(out))
            # The network's own rectification would hide the gradient where nothing is
            # active; the smallest positive number lets it through, and adds nothing.
            return jnp.maximum(out, jnp.finfo(out.dtype).tiny) + offset

        with nn.intercept_methods(add):
            logits = module.apply(variables, images, train=False)
        chosen = jnp.argmax(logits, axis=-1) if labels is None else labels
        total = jnp.sum(logits * jax.nn.one_hot(chosen, logits.shape[-1]))
        return total, features[0]

    # An image's logits depend on its own features only, so one gradient serves all.
    gradient, features = jax.grad(score, has_aux=True)(
        jnp.zeros(last.shape, last.dtype)
    )
    weights = gradient.astype(jnp.float32).mean(axis=(1, 2), keepdims=True)
    maps = nn.relu(jnp.sum(weights * features.astype(jnp.float32), axis=-1))
    maps = jax.image.resize(maps, images.shape[:3], "bilinear")
    highest = maps.max(axis=(1, 2), keepdims=True)
    return jnp.where(highest > 0, maps / jnp.where(highest > 0, highest, 1.0), 0.0)


def _has_places(context: Any, out: Any) -> bool:
    """Whether a call inside the classifier returned `[B, height, width, C]`."""
    return context.method_name == "__call__" and getattr(out, "ndim", 0) == 4
