"""Frost on a window: a crop of a picture of frost, laid over the image."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax import batches
from uronet_jax.corruptions.operation import Constants, Operation, check_colours, column
from uronet_jax.corruptions.weather import luma

# Colours of procedural frost, from bare glass to thick ice.
_GLASS, _ICE = np.asarray((0.10, 0.15, 0.23)), np.asarray((0.92, 0.97, 1.00))
# It grows on at least so many pixels and is averaged down, as photographs are.
_FINEST = 384
# Ferns per texture: number and length in units of the texture's side.
_FERNS = ((18, 0.5), (110, 0.2))
# Stem, twigs and needles: amount of ice, length of what they carry in units of their
# own, and the distance between two of those in units of the texture's side.
_ORDERS = ((1.0, 0.40, 0.014), (0.7, 0.38, 0.010), (0.45, 0.0, 1.0))
_FORK = math.radians(60.0)  # Ice crystals are hexagonal.


@dataclasses.dataclass(frozen=True, eq=False)
class FrostTextures:
    """Pictures of frost, to be made by `stack_textures`. Compared by identity."""

    images: np.ndarray  # float32 [K, H, W, 3], in [0, 1], filled up right and below.
    sizes: np.ndarray  # int32 [K, 2], height and width of each picture.
    source: str  # Where they come from, for error messages.


def stack_textures(pictures: Sequence[np.ndarray], source: str) -> FrostTextures:
    """Collects pictures of frost, float `[H, W, 3]` in `[0, 1]` or uint8, of any sizes.

    The source says in error messages where they come from.

    Raises:
        ValueError: If there is none, or one is not such an array.
    """
    if not pictures:
        raise ValueError(f"no frost pictures in {source}: expected at least one")
    for picture in pictures:
        if picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(
                f"frost pictures from {source} must be [H, W, 3]: {picture.shape}"
            )
    sizes = np.asarray([picture.shape[:2] for picture in pictures], np.int32)
    images = np.zeros((len(pictures), *sizes.max(axis=0), 3), np.float32)
    for image, picture in zip(images, pictures, strict=True):
        height, width, _ = picture.shape
        image[:height, :width] = picture
        if picture.dtype == np.uint8:
            image /= 255.0
    batches.check_range(f"frost pictures from {source}", images, 0.0, 1.0)
    return FrostTextures(images, sizes, source)


def _prepare(shape, settings):
    height, width, channels = shape
    check_colours(channels)
    weights = [column(settings, n, 0.0) for n in ("image_weight", "frost_weight")]
    textures = settings[0]["textures"]
    if any(setting["textures"] is not textures for setting in settings):
        raise ValueError("textures must be the same at all severities")
    if not isinstance(textures, FrostTextures | None):
        raise ValueError(
            "textures must be FrostTextures, of load_frost, stack_textures or "
            f"procedural_frost: {type(textures)}"
        )
    if textures is None:
        side = tuple(max(n, min(3 * n, 768)) for n in (height, width))
        textures = procedural_frost(size=side)
    if np.any(textures.sizes < (height, width)):
        raise ValueError(
            f"frost pictures from {textures.source} must be at least {height}x{width}, "
            f"as the images are: found sizes {textures.sizes.tolist()}"
        )
    return Constants(np.transpose(weights), _on_device(textures))


@functools.lru_cache(maxsize=8)
def _on_device(textures):
    with jax.ensure_compile_time_eval():  # The first use may be inside a trace.
        return jnp.asarray(textures.images), jnp.asarray(textures.sizes)


def _apply(key, images, weights, textures, index):
    shape = images.shape[1:3]
    pictures, sizes = textures

    def draw(key):
        key_picture, key_corner = jax.random.split(key)
        picture = jax.random.randint(key_picture, (), 0, len(pictures), jnp.int32)
        # The last corner is left out, as in the original.
        corners = jnp.maximum(sizes[picture] - jnp.asarray(shape), 1)
        return picture, jax.random.randint(key_corner, (2,), 0, corners, jnp.int32)

    picture, corner = batches.per_image(draw, key, index)
    return cover(images, weights, pictures, picture, corner)


def cover(
    images: jax.Array,
    weights: jax.Array,
    pictures: jax.Array,
    picture: jax.Array,
    corner: jax.Array,
) -> jax.Array:
    """Lays given crops of frost over images; see `frost`. Does not clip.

    The weights `[2]` are those of image and frost; `picture` `[B]` says which of the
    pictures `[K, H', W', 3]`, `corner` `[B, 2]` the first row and column of the crop.
    """
    height, width, channels = images.shape[1:]

    def crop(picture, corner):
        start = (picture, corner[0], corner[1], jnp.zeros_like(picture))
        return jax.lax.dynamic_slice(pictures, start, (1, height, width, 3))[0]

    ice = jax.vmap(crop)(picture, corner)
    ice = luma(ice) if channels == 1 else ice
    return weights[0] * images + weights[1] * ice


frost = Operation(
    """Lays frost over the image: `clip(image_weight * x + frost_weight * F)`.

    F is a crop of a random texture at a random place. The benchmarks use photographs
    that come with their code: `uronet_jax.data.frost.load_frost` reads them. **Without
    `textures` the frost is procedural, and the result is not the benchmark's.** Images
    have 1 or 3 channels; grey ones get the luma of the texture. Differentiable in
    `images`.

    Parameters:
        image_weight: 0 or more.
        frost_weight: 0 or more.
        textures: `FrostTextures` of at least the size of the images. Default:
            `procedural_frost` of up to three times that size.
    """,
    _prepare,
    _apply,
    formula="image_weight x + frost_weight F, F a random crop of a frost photograph",
    source="HD",
    example={"image_weight": 0.9, "frost_weight": 0.4},
    defaults={"textures": None},
)


@functools.lru_cache(maxsize=8)
def procedural_frost(
    seed: int = 0, size: tuple[int, int] = (672, 672), count: int = 5
) -> FrostTextures:
    """Grows frost: fern-like ice crystals on bluish glass. Deterministic.

    A fern is a bent stem with twigs at 60 degrees that carry smaller twigs, all
    shorter towards their tips. Between the ferns lies fine-grained ice. The `count`
    textures of `size` pixels continue seamlessly across opposite borders.
    """
    rng = np.random.default_rng(seed)
    pictures = [_grow(rng, *size) for _ in range(count)]
    return stack_textures(pictures, f"procedural_frost(seed={seed}, size={size})")


def _grow(rng, height, width):
    factor = max(1, -(-_FINEST // min(height, width)))
    shape = height * factor, width * factor
    lines = sum(_ferns(rng, shape, *ferns) for ferns in _FERNS)
    fine = max(0.6, 0.0009 * math.sqrt(shape[0] * shape[1]))
    clouds = _noise(rng, shape, slope=1.6)
    # Ridges of a noise look like the borders between grains of ice.
    ridges = np.exp(-4.0 * np.abs(_noise(rng, shape, slope=1.3)))
    grain = _noise(rng, shape, slope=0.8)
    film = 0.16 + 0.08 * clouds + 0.22 * ridges + 0.04 * grain
    crystals = 1.0 - np.exp(-1.8 * _blur(lines, fine) - 0.7 * _blur(lines, 8.0 * fine))
    thickness = film + (1.0 - film) * crystals * (0.9 + 0.15 * clouds)
    thickness = thickness.clip(0.0, 1.0).reshape(height, factor, width, factor)
    thickness = thickness.mean(axis=(1, 3))[..., None]
    return _GLASS + thickness * (_ICE - _GLASS)


def _ferns(rng, shape, count, longest):
    """Returns the length of branches in each pixel."""
    side = math.sqrt(shape[0] * shape[1])
    y, x = rng.uniform(0.0, shape, (count, 2)).T
    direction = rng.uniform(0.0, 2.0 * math.pi, count)
    length = rng.uniform(0.4, 1.0, count) * longest * side
    bend = rng.normal(0.0, 0.7, count)
    ice = np.zeros(shape[0] * shape[1])
    for amount, reach, spacing in _ORDERS:
        # All branches of an order at once, one step per pixel of their length.
        way = np.arange(1.0, length.max() + 1.0)
        share = way / length[:, None]
        angle = direction[:, None] + bend[:, None] * share
        y = y[:, None] + np.sin(angle).cumsum(axis=1)
        x = x[:, None] + np.cos(angle).cumsum(axis=1)
        grown = share <= 1.0
        row, column = (np.rint(v[grown]).astype(int) for v in (y, x))
        pixel = row % shape[0] * shape[1] + column % shape[1]
        ice += amount * np.bincount(pixel, minlength=ice.size)
        forks = grown & (way % (spacing * side) < 1.0)
        length = (reach * length[:, None] * (1.0 - share))[forks].repeat(2)
        length = np.maximum(length * rng.uniform(0.4, 1.0, length.size), 1.0)
        direction = angle[forks].repeat(2) + rng.normal(0.0, 0.06, length.size)
        direction[::2] += _FORK
        direction[1::2] -= _FORK
        bend = np.zeros_like(length)
        y, x = y[forks].repeat(2), x[forks].repeat(2)
    return ice.reshape(shape)


def _frequencies(height, width):
    return np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))


def _blur(image, sigma):
    gain = np.exp(-2.0 * (math.pi * sigma * _frequencies(*image.shape)) ** 2)
    return np.fft.irfft2(np.fft.rfft2(image) * gain, image.shape)


def _noise(rng, shape, slope):
    """Returns noise of unit variance whose amplitude falls as `frequency ** -slope`."""
    frequency = _frequencies(*shape)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) * frequency**-slope
    noise = np.fft.irfft2(spectrum, shape)
    return noise / noise.std()
