"""Weights in few bits, for files that are to be small.

Arrays are float16. Large kernels are integers of a few bits each, one scale for every
output channel:

    code = round(weight / scale) + top,  top = 2 ** (bits - 1) - 1,
    scale = max |weight| of the channel / top

The larger a kernel is, the fewer bits: in the removers the large ones stand where the
picture is small, and rounding them hurts it least.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from uronet_jax.batches import check_whole

# A kernel of more weights than the first number takes so many bits; the last that
# applies counts.
BITS = ((10_000, 10), (100_000, 8), (400_000, 5))


class RoundedWeights(NamedTuple):
    """Arrays for a file, and what restores the packed ones.

    Attributes:
        arrays: Name -> float16; of a packed kernel `name.codes`, uint8 with the bits of
            all codes in a row, and `name.scales`, float32 `[channels]`.
        packed: Name -> `[bits, *shape]`.
    """

    arrays: dict[str, np.ndarray]
    packed: dict[str, list[int]]


def check_bits(bits: Sequence[Sequence[int]]) -> None:
    """Raises ValueError if `bits` is not as `BITS` is, its sizes rising."""
    for pair in bits:
        if len(pair) != 2:
            raise ValueError(f"bits must be pairs (size, bits): {pair!r}")
        check_whole("size of bits", pair[0], 0, 2**31 - 1)
        check_whole("bits", pair[1], 2, 16)
    sizes = [size for size, _ in bits]
    if sizes != sorted(set(sizes)):
        raise ValueError(f"sizes of bits must rise: {sizes}")


def round_weights(
    variables: Any, bits: Sequence[Sequence[int]] = BITS
) -> RoundedWeights:
    """Rounds nested variables; names are paths joined by `/`.

    Args:
        variables: Nested dicts of arrays. The last axis of a kernel is that of its
            output channels, as in Flax.
        bits: See `BITS`; without pairs all is float16.

    Raises:
        ValueError: If `bits` is wrong, a weight not finite or too large for float16.
    """
    check_bits(bits)
    arrays, packed = {}, {}
    for name, value in flatten_dict(variables, sep="/").items():
        value = np.asarray(value)
        width = [count for size, count in bits if value.size > size]
        if width and value.ndim > 1 and np.isfinite(value).all():
            packed[name] = [width[-1], *value.shape]
            arrays[f"{name}.codes"], arrays[f"{name}.scales"] = _pack(value, width[-1])
            continue
        with np.errstate(over="ignore"):
            arrays[name] = value.astype(np.float16)
        if not np.isfinite(arrays[name]).all():
            raise ValueError(
                f"{name} holds numbers that float16 cannot hold (above 65,504, or not "
                "finite): these weights cannot be packed"
            )
    return RoundedWeights(arrays, packed)


def restore_weights(rounded: RoundedWeights) -> dict[str, Any]:
    """Returns nested float32 variables of what `round_weights` made."""
    arrays = dict(rounded.arrays)
    for name, (bits, *shape) in rounded.packed.items():
        codes, scales = arrays.pop(f"{name}.codes"), arrays.pop(f"{name}.scales")
        arrays[name] = _unpack(codes, scales, bits, shape)
    flat = {name: np.asarray(x, np.float32) for name, x in arrays.items()}
    return unflatten_dict(flat, sep="/")


def _pack(weights, bits):
    top = 2 ** (bits - 1) - 1
    largest = np.abs(weights).max(axis=tuple(range(weights.ndim - 1)))
    scales = np.where(largest > 0, largest / top, 1).astype(np.float32)
    codes = (np.rint(weights / scales) + top).astype(np.uint16).ravel()
    planes = (codes >> np.arange(bits, dtype=np.uint16)[:, None]) & 1
    return np.packbits(planes.T.astype(np.uint8)), scales


def _unpack(data, scales, bits, shape):
    size = int(np.prod(shape))
    planes = np.unpackbits(data, count=size * bits).reshape(size, bits)
    codes = np.zeros(size, np.int32)
    for i in range(bits):
        codes |= planes[:, i].astype(np.int32) << i
    top = 2 ** (bits - 1) - 1
    return (codes - top).reshape(shape).astype(np.float32) * scales
