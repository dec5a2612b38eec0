"""What a batch of adversarial noise training is made of: clean, degraded, noisy."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from uronet_jax.attacks import clipping_aware_rescale
from uronet_jax.batches import check_number, check_whole


def batch_blocks(batch_size: int) -> int:
    """Returns into how many equal blocks a batch is divided, each with all its parts.

    Where the devices divide the number of blocks no image has to move, as those of a
    batch of one block do. A block has 100 images at least, or rounding would change the
    shares; it does not depend on the number of devices.
    """
    return max(
        n
        for n in range(1, batch_size + 1)
        if n == 1 or (batch_size % n == 0 and batch_size >= 100 * n)
    )


def batch_parts(
    batch_size: int, noise: float, replay: float, replay_slices: int, degraded: float
) -> dict[str, Any]:
    """Returns how many images of a batch are what: `clean`, `degraded`, `noise`.

    `replay` is a list, a number for each slice. Numbers are rounded from shares.

    Raises:
        ValueError: If shares are negative or add up to more than one, or one that is
            not 0 has no image in the batch.
    """
    shares = {"noise": noise, "replay": replay, "degraded": degraded}
    for name, share in shares.items():
        check_number(f"shares.{name}", share, 0.0, 1.0)
    if sum(shares.values()) > 1 + 1e-9:
        raise ValueError(
            f"shares.noise ({noise:g}), .replay ({replay:g}) and .degraded "
            f"({degraded:g}) add up to {sum(shares.values()):g}: at most 1, what is "
            "left over is clean"
        )
    check_whole("shares.replay_slices", replay_slices, 1, 1000)
    # Ends of the parts are rounded, so that they fill the batch.
    sizes = [degraded, noise, *[replay / replay_slices] * replay_slices]
    ends = [1.0 - sum(sizes)]
    for size in sizes:
        ends.append(ends[-1] + size)
    ends = [round(batch_size * end) for end in ends]
    counts = [b - a for a, b in zip(ends, ends[1:], strict=False)]
    for share, part in zip(sizes, counts, strict=True):
        if share and not part:
            raise ValueError(
                f"{share:g} of a batch of {batch_size} is no image: of shares.noise "
                f"({noise:g}), .replay ({replay:g} in {replay_slices}) and .degraded "
                f"({degraded:g}) take larger ones or 0, or larger batches"
            )
    clean, degraded, noise, *replay = ends[0], *counts
    replay = [part for part in replay if part]
    return {"clean": clean, "degraded": degraded, "noise": noise, "replay": replay}


def compose_batch(
    clean: jax.Array,
    degraded: jax.Array,
    index: jax.Array,
    parts: Mapping[str, Any],
    generators: Sequence[Any],
    draw: Callable[[Any, jax.Array], jax.Array],
    epsilon: float,
) -> jax.Array:
    """Returns what the classifier is shown, in the order of the batch.

    Args:
        clean: `[B, H, W, C]` in `[0, 1]`.
        degraded: Likewise, the same images.
        index: `[B]`, of the images.
        parts: Numbers of `batch_parts`, of each of the `batch_blocks`.
        generators: Parameters: of the current one, then one for each slice of replay.
        draw: `(parameters, index) -> noise [B, H, W, C]` of any norm.
        epsilon: L2 norm of the noise after clipping.
    """
    blocks = batch_blocks(len(clean))
    block, begin = len(clean) // blocks, parts["clean"] + parts["degraded"]
    images = [
        _part(clean, blocks, 0, parts["clean"]),
        _part(degraded, blocks, parts["clean"], begin),
    ]
    noisy, made = _part(clean, blocks, begin, block), []
    for size, params in zip(
        (parts["noise"], *parts["replay"]), generators, strict=True
    ):
        own = _part(index, blocks, begin, begin + size)
        if size:
            made.append(draw(params, own))
        begin += size
    if made:
        pattern = _joined(made, blocks)
        images.append(clipping_aware_rescale(noisy, pattern, epsilon))
    return _joined(images, blocks)


def _part(x: jax.Array, blocks: int, begin: int, end: int) -> jax.Array:
    """Returns `x[begin:end]` of each block, one after the other."""
    x = x.reshape(blocks, -1, *x.shape[1:])[:, begin:end]
    return x.reshape(-1, *x.shape[2:])


def _joined(parts: Sequence[jax.Array], blocks: int) -> jax.Array:
    """Returns the batch of which `_part` gave these."""
    parts = [x.reshape(blocks, -1, *x.shape[1:]) for x in parts]
    x = jnp.concatenate(parts, axis=1)
    return x.reshape(-1, *x.shape[2:])
