"""Image quilting: an image pieced together of patches of clean ones.

After Guo et al., *Countering adversarial images using input transformations*, ICLR
2018, and their program (github.com/facebookresearch/adversarial_image_defenses); seams
as in Efros & Freeman, *Image quilting for texture synthesis and transfer*, 2001.

Three things differ from that program. It leaves the last rows and columns black; here
the last windows end at the edges. Its graph cut has a sink and no source, so that the
newer patch always wins; here there are seams. Its search is approximate, this one is
exact. As there, neighbours are those of the image, not of what was laid before.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax.batches import check_whole, straight
from uronet_jax.transformations.arrays import check_windows, read_windows
from uronet_jax.transformations.transformation import Transformation

# Distances that are held at once, about.
_DISTANCES = 2**24


def extract_patches(
    images: np.ndarray, count: int, size: int = 5, seed: int = 0
) -> np.ndarray:
    """Returns patches of random places of random images, a database for `quilting`.

    `numpy.save("patches.npy", extract_patches(images, 100_000))` saves one, and
    `quilting:patches=patches.npy` uses it.

    Args:
        images: Clean ones, `[N, H, W, C]`, uint8 or float in `[0, 1]`.
        count: How many patches.
        size: Their side, in pixels.
        seed: Of images and places.

    Returns:
        `[count, size, size, C]`, float32 in `[0, 1]`.

    Raises:
        ValueError: If images are no such batch or smaller than a patch.
    """
    if images.ndim != 4 or images.size == 0:
        raise ValueError(f"need images [N, H, W, C], found {list(images.shape)}")
    check_whole("count", count, 1, 10**9)
    check_whole("size", size, 1, min(images.shape[1:3]))
    rng = np.random.default_rng(seed)
    number, height, width, _ = images.shape
    chosen = rng.integers(number, size=count)
    top = rng.integers(height - size + 1, size=count)
    left = rng.integers(width - size + 1, size=count)
    along = np.arange(size)
    patches = images[
        chosen[:, None, None],
        (top[:, None] + along)[:, :, None],
        (left[:, None] + along)[:, None, :],
    ]
    if patches.dtype == np.uint8:
        return patches.astype(np.float32) / 255
    check_patches(patches, "patches of these images")
    return patches.astype(np.float32)


def check_patches(patches: np.ndarray, what: str) -> None:
    """Raises ValueError unless patches are floats `[N, P, P, C]` in `[0, 1]`."""
    check_windows(patches, what)
    low, high = patches.min(), patches.max()
    if low < 0.0 or high > 1.0:
        raise ValueError(
            f"{what}: intensities must be in [0, 1], found {low:g} to {high:g}"
        )


def load_patches(patches: str = "") -> np.ndarray:
    """Reads a database of patches, float32 `[N, P, P, C]`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If none is named, or it holds no patches.
    """
    if not patches:
        raise ValueError(
            "quilting needs a database of clean patches, as quilting:patches=FILE: "
            "uronet_jax.transformations.quilting.extract_patches makes one"
        )
    found = read_windows(patches, "patches")
    check_patches(found, f"patches in {patches}")
    return found


def nearest_patches(queries: jax.Array, patches: jax.Array) -> jax.Array:
    """Returns the number of the patch nearest to each query, by squared distance.

    Args:
        queries: `[Q, D]`, in `[0, 1]`.
        patches: `[N, D]`, likewise.

    Returns:
        Integer `[Q]`; of several as near, the first.
    """
    count = len(patches)
    chunk = max(1, min(count, _DISTANCES // len(queries)))
    missing = -count % chunk
    # Around 0 the products are smaller, and so is their rounding.
    queries, patches = queries - 0.5, patches - 0.5
    norms = jnp.pad(jnp.sum(patches**2, axis=1), (0, missing), constant_values=jnp.inf)
    patches = jnp.pad(patches, ((0, missing), (0, 0)))

    def look(best, part):
        (distance, nearest), (start, patches, norms) = best, part
        product = jnp.matmul(queries, patches.T, precision="highest")
        distances = norms[None, :] - 2.0 * product
        found = jnp.argmin(distances, axis=1)
        least = jnp.min(distances, axis=1)
        closer = least < distance
        nearest = jnp.where(closer, start + found, nearest)
        return (jnp.where(closer, least, distance), nearest), None

    starts = jnp.arange(0, count + missing, chunk)
    parts = starts, patches.reshape(len(starts), chunk, -1), norms.reshape(-1, chunk)
    first = jnp.full_like(norms, jnp.inf, shape=len(queries))
    first = first, jnp.zeros(len(queries), starts.dtype)
    return jax.lax.scan(look, first, parts)[0][1]


def _cut(errors):
    """Returns the column of the cheapest path through `errors` `[B, P, O]`, by row."""
    width = errors.shape[-1]
    around = functools.partial(jnp.pad, constant_values=jnp.inf)

    def down(cost, row):
        padded = around(cost, ((0, 0), (1, 1)))
        before = jnp.stack([padded[:, i : i + width] for i in range(3)])
        # The turn that led here: -1, 0 or 1 columns.
        return row + before.min(0), before.argmin(0) - 1

    rows = jnp.moveaxis(errors, 1, 0)
    cost, turns = jax.lax.scan(down, rows[0], rows[1:], unroll=True)

    def up(column, turn):
        above = column + jnp.take_along_axis(turn, column[:, None], axis=1)[:, 0]
        return above, column

    last = jnp.argmin(cost, axis=-1)
    top, below = jax.lax.scan(up, last, turns, reverse=True, unroll=True)
    return jnp.concatenate([top[None], below]).T


def _beyond(errors, overlap):
    """Returns where, `[B, P, P]`, columns lie on or right of the cut."""
    cut = _cut(errors[:, :, :overlap])
    return jnp.arange(errors.shape[-1])[None, None, :] >= cut[:, :, None]


def _places(length, size, overlap):
    """Returns where patches begin; the last one ends at the edge."""
    return np.minimum(
        np.arange(0, length - overlap, size - overlap), length - size
    ).astype(np.int32)


def quilt(images: jax.Array, patches: jax.Array, *, overlap: int) -> jax.Array:
    """Replaces every window of images by the nearest patch, cut along a seam.

    Windows lie `overlap` pixels over each other, from the top left; the last ones end
    at the edges. Patches are laid row by row: a new one replaces what lies there from a
    cut on, the path through the overlap at which the two differ least (squared, over
    channels), from top to bottom and from left to right.

    Raises:
        ValueError: If images have other channels than the patches or are smaller, or
            `overlap` is not below the size of a patch.
    """
    batch, height, width, channels = images.shape
    size = patches.shape[1]
    if patches.shape[-1] != channels:
        raise ValueError(
            f"quilting: images have {channels} channels and the patches "
            f"{patches.shape[-1]}: make a database of such images"
        )
    if size > min(height, width) or overlap >= size:
        raise ValueError(
            f"quilting: patches of {size} x {size} pixels must be larger than the "
            f"overlap ({overlap}) and not larger than the images ({height} x {width})"
        )
    given = images
    images = jax.lax.stop_gradient(jnp.asarray(images))
    patches = jax.lax.stop_gradient(jnp.asarray(patches))
    rows, columns = (_places(x, size, overlap) for x in (height, width))
    along = np.arange(size)
    windows = images[:, rows[:, None] + along][:, :, :, columns[:, None] + along]
    windows = jnp.moveaxis(windows, 3, 2)  # [B, rows, columns, P, P, C]
    queries = windows.reshape(-1, size * size * channels)
    nearest = nearest_patches(queries, patches.reshape(len(patches), -1))
    nearest = nearest.reshape(batch, -1).T

    def lay(canvas, place):
        top, left, chosen = place
        corner = np.int32(0), top, left, np.int32(0)
        new = patches[chosen]
        old = jax.lax.dynamic_slice(canvas, corner, new.shape)
        errors = jnp.sum((new - old) ** 2, axis=-1)
        fresh = (left == 0) | _beyond(errors, overlap)
        across = _beyond(errors.transpose(0, 2, 1), overlap).transpose(0, 2, 1)
        fresh &= (top == 0) | across
        laid = jnp.where(fresh[..., None], new, old)
        return jax.lax.dynamic_update_slice(canvas, laid, corner), None

    tops, lefts = np.repeat(rows, len(columns)), np.tile(columns, len(rows))
    found, _ = jax.lax.scan(lay, jnp.zeros_like(images), (tops, lefts, nearest))
    return straight(found, given)


QUILTING = Transformation(
    quilt,
    {"overlap": 2, "patches": ""},
    {"overlap": (1, 64)},
    "pieced together of the nearest patches of a database of clean ones, cut at seams",
    "Guo et al., ICLR 2018; Efros & Freeman, SIGGRAPH 2001",
    gradient="straight-through",
    load=load_patches,
)
