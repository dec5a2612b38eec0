"""AugMix: chains of simple changes of an image, mixed with each other and with it.

Hendrycks et al., "AugMix: A simple data processing method to improve robustness and
uncertainty", ICLR 2020, Algorithm 1, with the operations of the authors' code for
CIFAR-10 (none of which is a corruption of CIFAR-10-C) as Pillow does them on 8 bits.
The paper also holds the classifier's answers to two mixtures of an image together; that
loss is no part of an augmentation.
"""

import jax
import jax.numpy as jnp

from uronet_jax import batches

WIDTH, DEPTH = 3, 3  # Chains of an image, and most operations of a chain.
# Of 10: how strong operations are at most. The authors' value for CIFAR-10.
AUGMIX_SEVERITY = 3.0
_OPERATIONS = 9


def augmix(key: jax.Array, images: jax.Array, index: jax.Array) -> jax.Array:
    """Mixes each image with three chains of one to three operations on it.

    Weights of the chains are drawn from Dirichlet(1, 1, 1), that of their mixture
    against the image from Beta(1, 1). Operations: autocontrast, equalize, posterize,
    solarize, rotation, shear and translation along either axis, equally likely.

    Args:
        key: Typed PRNG key.
        images: Float `[B, H, W, C]`, in `[0, 1]`.
        index: Integer `[B]`.

    Raises:
        ValueError: As for any `Augmentation`.
    """
    batches.check_images(images, index)
    draws = batches.per_image(_draw, key, index)
    mixed = jax.vmap(_mix)(jnp.round(images.astype(jnp.float32) * 255.0), draws)
    share = draws["share"][:, None, None, None]
    return ((1.0 - share) * images + share * mixed / 255.0).astype(images.dtype)


def _draw(key):
    """Returns what an image draws: operations, levels, signs, depths and weights."""
    keys = jax.random.split(key, 6)
    shape = (WIDTH, DEPTH)
    half = jnp.float32(0.5)  # With x64 another type would draw other numbers.
    # Of exponential variables their shares have the law Dirichlet(1, 1, 1).
    weights = jax.random.exponential(keys[4], (WIDTH,), jnp.float32)
    return {
        "operation": jax.random.randint(keys[0], shape, 0, _OPERATIONS, jnp.int32),
        "level": jax.random.uniform(keys[1], shape, jnp.float32, 0.1, AUGMIX_SEVERITY),
        "sign": jnp.where(jax.random.bernoulli(keys[2], half, shape), 1.0, -1.0),
        "depth": jax.random.randint(keys[3], (WIDTH,), 1, DEPTH + 1, jnp.int32),
        "weights": weights / weights.sum(),
        "share": jax.random.uniform(keys[5], (), jnp.float32),  # Beta(1, 1).
    }


def _mix(image, draws):
    """Returns the mixture of the chains of an image; intensities are 0 to 255."""

    def chain(operations, levels, signs, depth):
        def step(changed, drawn):
            place, *drawn = drawn
            after = change(changed, *drawn)
            return jnp.where(place < depth, after, changed), None

        places = jnp.arange(DEPTH, dtype=jnp.int32)
        # A loop, lest an operation is compiled three times.
        return jax.lax.scan(step, image, (places, operations, levels, signs))[0]

    drawn = (draws[name] for name in ("operation", "level", "sign", "depth"))
    chains = jax.vmap(chain)(*drawn)
    return jnp.einsum("k,khwc->hwc", draws["weights"], chains, precision="highest")


def change(
    image: jax.Array, operation: jax.Array, level: jax.Array, sign: jax.Array
) -> jax.Array:
    """Applies one operation.

    Args:
        image: Float `[H, W, C]`, whole numbers from 0 to 255.
        operation: Integer in `0 .. 8`: autocontrast, equalize, posterize, solarize,
            rotation, shear along x and y, translation along x and y.
        level: Of 10; the first two have no strength.
        sign: -1 or 1, of the last five.
    """
    # The five that move pixels are one affine map, of which the numbers are chosen.
    moved = _affine(image, _matrix(operation, level, sign, image.shape))
    drop = 2.0 ** (4 + jnp.floor(level * 0.4))  # The last bits: 4 - level are kept.
    limit = 256.0 - jnp.floor(level * 25.6)
    found = jnp.stack(
        [
            _autocontrast(image),
            _equalize(image),
            jnp.floor(image / drop) * drop,
            jnp.where(image < limit, image, 255.0 - image),
            moved,
        ]
    )
    return found[jnp.minimum(operation, 4)]


def _autocontrast(image):
    low, high = (f(image, axis=(0, 1), keepdims=True) for f in (jnp.min, jnp.max))
    # As Pillow's table, in which the offset is a product too.
    scale = 255.0 / jnp.maximum(high - low, 1.0)
    stretched = jnp.clip(jnp.floor((image - low) * scale + 1e-4), 0.0, 255.0)
    return jnp.where(high > low, stretched, image)


def _equalize(image):
    height, width, channels = image.shape
    levels = image.astype(jnp.int32)
    place = jnp.broadcast_to(jnp.arange(channels, dtype=jnp.int32), levels.shape)
    counts = jnp.zeros((256, channels), jnp.int32).at[levels, place].add(1)
    last = jnp.take_along_axis(counts, jnp.max(levels, axis=(0, 1))[None], axis=0)[0]
    step = (height * width - last) // 255
    before = jnp.cumsum(counts, axis=0, dtype=jnp.int32) - counts
    divisor = jnp.maximum(step, 1)[None]
    table = jnp.minimum((divisor // 2 + before) // divisor, 255)
    equal = table[levels, place].astype(image.dtype)
    return jnp.where(step[None, None] > 0, equal, image)


def _matrix(operation, level, sign, shape):
    """Returns `(a, b, c, d, e, f)`: output (x, y) is input (ax+by+c, dx+ey+f)."""
    height, width, _ = shape
    angle = -jnp.deg2rad(sign * jnp.floor(level * 3.0))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, y = width / 2, height / 2
    shear, right, down = (
        sign * level * 0.03,
        sign * jnp.floor(level * (width / 3) / 10),
        sign * jnp.floor(level * (height / 3) / 10),
    )
    one, zero = jnp.ones_like(level), jnp.zeros_like(level)
    matrices = jnp.stack(
        [
            jnp.stack(row)
            for row in (
                (cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y),
                (one, shear, zero, zero, one, zero),
                (one, zero, zero, shear, one, zero),
                (one, zero, right, zero, one, zero),
                (one, zero, zero, zero, one, down),
            )
        ]
    )
    return matrices[jnp.maximum(operation - 4, 0)]


def _affine(image, matrix):
    """Moves pixels and interpolates linearly, rounding down; black from outside."""
    height, width, _ = image.shape
    a, b, c, d, e, f = matrix
    y = jnp.arange(height, dtype=jnp.float32)[:, None] + 0.5
    x = jnp.arange(width, dtype=jnp.float32)[None] + 0.5
    across, along = a * x + b * y + c, d * x + e * y + f
    inside = (across >= 0) & (across < width) & (along >= 0) & (along < height)
    left, top = jnp.floor(across - 0.5), jnp.floor(along - 0.5)
    right_share, low_share = (across - 0.5 - left)[..., None], along - 0.5 - top

    def at(rows, columns):
        rows = jnp.clip(rows, 0, height - 1).astype(jnp.int32)
        return image[rows, jnp.clip(columns, 0, width - 1).astype(jnp.int32)]

    def between(rows):
        first, second = at(rows, left), at(rows, left + 1)
        return first + right_share * (second - first)

    upper, lower = between(top), between(top + 1)
    moved = upper + low_share[..., None] * (lower - upper)
    return jnp.where(inside[..., None], jnp.floor(moved + 1e-4), 0.0)
