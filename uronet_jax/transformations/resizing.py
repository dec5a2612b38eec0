"""Random resizing and padding."""

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax.batches import per_image, straight
from uronet_jax.transformations.transformation import Transformation

_GREY = 0.5


def resize_and_pad(
    images: jax.Array,
    key: jax.Array,
    index: jax.Array,
    *,
    smallest: float,
    canvas: float,
) -> jax.Array:
    """Enlarges images at random and puts them anywhere on a grey canvas.

    An image of side `n` is enlarged (pixel `i` of `r` is `floor(i n / r)`, the nearest
    neighbour of the published code) to a random side `r` from
    `round(smallest n)` to `round(canvas n) - 1`, placed at random on a canvas of side
    `round(canvas n)`, and the canvas is resized (linearly, antialiased) to `n`: the
    published defence hands the canvas to a network that takes such sizes. Height and
    width are enlarged by the same share of their ranges. Where the canvas has no room
    (sides below 5 pixels with the usual values), that axis stays as it is.

    Args:
        images: `[B, H, W, C]`, float, in `[0, 1]`.
        key: Typed PRNG key.
        index: Integer `[B]`, the number of each image.
        smallest: The smallest enlargement.
        canvas: The size of the canvas, as a factor.

    Raises:
        ValueError: If `smallest` is larger than `canvas`.
    """
    if smallest > canvas:
        raise ValueError(
            f"smallest must be at most canvas ({canvas:g}): {smallest:g}; an image "
            "must fit on its canvas"
        )
    height, width = images.shape[1:3]
    draws = per_image(lambda k: jax.random.uniform(k, (3,), jnp.float32), key, index)
    rows = _axis_matrices(height, smallest, canvas, draws[:, 0], draws[:, 1])
    columns = _axis_matrices(width, smallest, canvas, draws[:, 0], draws[:, 2])
    # Everything is linear in what differs from grey, first along one axis, then the
    # other: two products of matrices in place of gathers.
    placed = jnp.einsum("byi,bijc->byjc", rows, images - _GREY, precision="highest")
    placed = jnp.einsum("bxj,byjc->byxc", columns, placed, precision="highest")
    placed = placed + _GREY
    # Only rounding leaves [0, 1].
    return straight(jnp.clip(jax.lax.stop_gradient(placed), 0.0, 1.0), placed)


def _axis_matrices(size, smallest, canvas, share, place):
    """Returns float32 `[B, size, size]`: enlarged, placed, and made small again."""
    whole = max(round(canvas * size), 1)
    low = min(max(round(smallest * size), 1), whole)
    high = max(whole - 1, low)
    side = low + _draw(share, high - low + 1)
    first = _draw(place, whole - side + 1)
    target = jnp.arange(whole)[None] - first[:, None]
    inside = (target >= 0) & (target < side[:, None])
    source = target * size // side[:, None]
    source = jnp.where(inside, source, size)  # One that no pixel has: grey.
    enlarged = jax.nn.one_hot(source, size, dtype=jnp.float32)
    shrink = jnp.asarray(_shrink_matrix(whole, size))
    return jnp.einsum("yk,bki->byi", shrink, enlarged, precision="highest")


def _draw(uniform, count):
    """Returns whole numbers from 0 to `count - 1`."""
    return jnp.minimum(jnp.floor(uniform * count).astype(jnp.int32), count - 1)


def _shrink_matrix(size, result):
    """Returns float32 `[result, size]`: a linear filter as wide as a pixel becomes."""
    scale = max(size / result, 1.0)
    centre = (np.arange(result)[:, None] + 0.5) * (size / result) - 0.5
    weights = np.maximum(1.0 - np.abs(np.arange(size) - centre) / scale, 0.0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


RESIZE_PAD = Transformation(
    resize_and_pad,
    {"smallest": 310 / 299, "canvas": 331 / 299},
    {"smallest": (0.5, 2.0), "canvas": (1.0, 2.0)},
    "enlarged at random (nearest neighbour), at least by the factor smallest, put "
    "anywhere on a grey canvas, which is resized to the size of the image",
    "Xie et al., ICLR 2018 (its network takes the larger canvas)",
    random=True,
)
