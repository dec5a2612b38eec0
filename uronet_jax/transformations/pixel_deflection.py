"""Pixel deflection: values replaced by values nearby, then wavelet denoising."""

import jax
import jax.numpy as jnp

from uronet_jax.batches import per_image
from uronet_jax.transformations.transformation import Transformation
from uronet_jax.transformations.wavelet import denoise_wavelets


def deflect_pixels(
    images: jax.Array,
    key: jax.Array,
    index: jax.Array,
    *,
    deflections: int,
    window: int,
    sigma: float,
) -> jax.Array:
    """Deflects pixels, then removes noise of standard deviation `sigma`.

    A deflection replaces a value anywhere by that of a random pixel of the same channel
    in a square around it. As in the authors' code each channel has as many, in all
    `deflections` or just above; one may read what another has written before; and none
    reads from the first row or column, unless there is no other. There is no map of
    class activations: all pixels are as likely.

    Args:
        images: `[B, H, W, C]`, float, in `[0, 1]`.
        key: Typed PRNG key.
        index: Integer `[B]`, the number of each image.
        deflections: How many values of an image are replaced. It does not grow with
            the image: the usual 200 are the paper's, for 224x224 pixels.
        window: Longest way, in pixels, to another row and to another column.
        sigma: See `denoise_wavelets`.

    Returns:
        Images of the same shape and type, in `[0, 1]`. Gradients go to the values that
        were read.

    Source:
        A. Prakash, N. Moran, S. Garber, A. DiLillo, J. Storer, "Deflecting Adversarial
        Attacks with Pixel Deflection", CVPR 2018, and
        github.com/iamaaditya/pixel-deflection.
    """
    batch, height, width, channels = images.shape
    shape = (channels, -(-deflections // channels))
    targets, sources = per_image(
        lambda key: _draw(key, shape, height, width, window), key, index
    )
    planes = jnp.moveaxis(images, -1, 1).reshape(batch, channels, height * width)
    planes = _copy_in_turn(planes, targets, sources)
    deflected = planes.reshape(batch, channels, height, width)
    return denoise_wavelets(jnp.moveaxis(deflected, 1, -1), sigma=sigma)


def _draw(key, shape, height, width, window):
    """Returns positions in a channel that are written, and that are read."""
    count = shape[0] * shape[1]
    uniform = jax.random.uniform(key, (4 * count,), jnp.float32).reshape(4, *shape)

    def choose(uniform, low, high):
        # At most 1 - 2^-23: the product stays below the number of choices.
        return low + (uniform * jnp.float32(high - low + 1)).astype(jnp.int32)

    def choose_pair(to, at, size):
        target = choose(to, 0, size - 1)
        # The code draws both ways anew until a pixel is found inside: so it is uniform
        # among these, for row and column independently.
        low = jnp.maximum(target - window, min(1, size - 1))
        high = jnp.minimum(target + window, size - 1)
        return target, choose(at, low, high)

    row, source_row = choose_pair(uniform[0], uniform[1], height)
    column, source_column = choose_pair(uniform[2], uniform[3], width)
    return row * width + column, source_row * width + source_column


def _copy_in_turn(planes, targets, sources):
    """Copies `planes[targets[i]] = planes[sources[i]]`, one i after the other.

    Planes are `[B, C, H * W]`, targets and sources `[B, C, N]`.
    """
    origins = jax.lax.platform_dependent(
        targets,
        sources,
        cpu=lambda *copies: _origins_in_turn(*copies, planes.shape[-1]),
        # On an accelerator N steps would be N starts of small programs.
        default=_origins_at_once,
    )
    values = _take(planes, origins)
    # What is written more than once has the same value each time.
    write = jax.vmap(jax.vmap(lambda plane, at, value: plane.at[at].set(value)))
    return write(planes, targets, values)


def _origins_in_turn(targets, sources, size):
    """Returns where what targets hold in the end was at the start, `[B, C, N]`."""

    def follow(targets, sources):
        def copy(i, origins):
            return origins.at[targets[i]].set(origins[sources[i]])

        start = jnp.arange(size, dtype=sources.dtype)
        return jax.lax.fori_loop(0, targets.size, copy, start)[targets]

    return jax.vmap(jax.vmap(follow))(targets, sources)


def _origins_at_once(targets, sources):
    """Returns the same without a loop.

    A copy reads what the last one before it has written there, if any has: so it
    belongs to a chain, and has the value that the first of its chain read. All chains
    are followed together, each round doubling the part that is known.
    """
    count = targets.shape[-1]
    turn = jnp.arange(count, dtype=sources.dtype).reshape(1, 1, 1, count)
    own_turn = turn.reshape(1, 1, count, 1)

    def last_write(places, until):
        found = (targets[:, :, None] == places[..., None]) & (turn < until)
        return jnp.where(found, turn, -1).max(axis=-1)

    before = last_write(sources, own_turn)
    first = jnp.where(before < 0, own_turn[..., 0], before)
    for _ in range((count - 1).bit_length()):
        first = _take(first, first)
    return _take(sources, _take(first, last_write(targets, count)))


def _take(values, positions):
    return jnp.take_along_axis(values, positions, axis=-1, mode="promise_in_bounds")


PIXEL_DEFLECTION = Transformation(
    deflect_pixels,
    {"deflections": 200, "window": 10, "sigma": 0.04},
    {"deflections": (1, 10_000), "window": (1, 1_000), "sigma": (0.0, 1.0)},
    "values replaced by values of the same channel at most `window` rows and columns "
    "away, then `wavelet`",
    "Prakash et al., CVPR 2018",
    random=True,
)
