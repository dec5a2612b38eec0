"""Attacked copies of data sets, made once and kept on disk."""

import itertools
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax import sharding
from uronet_jax.attacks import LogitsFn, flax_logits
from uronet_jax.attacks.objectives import as_pytree
from uronet_jax.checkpoints import locked_workdir
from uronet_jax.corruptions import entry_key
from uronet_jax.data import evaluation_batches
from uronet_jax.data.sources import Source, source_digest
from uronet_jax.data.stored import StoredArray
from uronet_jax.evaluation.defense_views import prepare_batch
from uronet_jax.evaluation.threat_models import AttackRun
from uronet_jax.loading import LoadedModel
from uronet_jax.progress import Progress, StoppedError

# From what images are led away: their labels, or, where there are none, what the
# attacked says of the clean image.
LED_FROM = ("true", "predictions")
# Seconds between two marks of attacked images.
_SAVE_EVERY = 60.0


def store_attacked(
    path: str | os.PathLike,
    source: Source,
    run: AttackRun,
    key: jax.Array,
    logits_fn: LogitsFn,
    made_with: Mapping[str, Any],
    *,
    labels: str = "true",
    batch_size: int,
    mesh: jax.sharding.Mesh,
    progress: Progress,
    description: str,
) -> np.ndarray:
    """Returns adversarial copies of images; makes those that are not on disk.

    They are kept with 16 bits, so that rounding neither leaves the ball nor gives
    them the even levels of a clean image, by which they could be told from noise.
    No image stays at its first success, unless the attack is a minimal one.

    Args:
        path: The `.npy` file; one that was begun is continued.
        source: The clean images.
        run: The attack.
        key: Typed PRNG key, on the mesh.
        logits_fn: What is attacked, with its variables on the mesh.
        made_with: What the images depend on, JSON, `labels` among them unless they are
            the true ones; see `StoredArray`.
        labels: From what the images are led away, one of `LED_FROM`.
        batch_size: Images of a compiled call.
        mesh: Where to run.
        progress: Is told how far it is, and tells to stop.
        description: Of the progress bar.

    Returns:
        uint16 `[N, H, W, C]`, memory-mapped.

    Raises:
        StoppedError: If it was told to stop; what is done is kept.
        ValueError: If the file was made with something else, or the attack fails.
        OSError: If it cannot be written.
    """
    shape = (len(source), *source.image_shape)
    stored = StoredArray(path, shape, np.uint16, made_with)
    if stored.finished:
        return stored.array
    prepare = sharding.compile_split(prepare_batch, mesh)
    last_save = time.perf_counter()
    # Blocks are numbers of images; batches may have had another size before.
    made = stored.done[-1] if stored.done else 0
    batches = evaluation_batches(source, batch_size=batch_size, mesh=mesh)
    batches = itertools.islice(batches, made // batch_size, None)
    with progress.bar(
        -(-len(source) // batch_size), description, "batch", leave=False
    ) as bar:
        bar.update(made // batch_size)
        for batch in batches:
            if progress.stop():
                stored.mark(made)
                raise StoppedError
            images = batch["image"].astype(np.float32) / 255.0
            padded = prepare({**batch, "image": images})
            if labels == "predictions":
                said = _predictions(as_pytree(logits_fn), padded["image"])
                padded = {**padded, "label": said}
            adversarial = run.go_to_the_end(key, padded, logits_fn)
            levels = np.rint(65535.0 * np.asarray(adversarial)).astype(np.uint16)
            levels = levels[np.asarray(batch["mask"])]
            first = int(np.asarray(batch["index"])[0])
            stored.array[first : first + len(levels)] = levels
            made = first + len(levels)
            if time.perf_counter() - last_save > _SAVE_EVERY:
                stored.mark(made)
                last_save = time.perf_counter()
            bar.update()
    stored.mark(made, finished=True)
    return stored.array


@jax.jit
def _predictions(logits_fn: LogitsFn, images: jax.Array) -> jax.Array:
    return jnp.argmax(logits_fn(images), axis=-1)


def describe_attacked(
    source: Source,
    classifier: LoadedModel,
    run: AttackRun,
    seed: int,
    labels: str = "true",
) -> dict[str, Any]:
    """Returns what attacked copies depend on; `check_digests` knows its digests."""
    return {
        "attack": run.name,
        "epsilon": run.epsilon,
        "parameters": run.all_parameters,
        "seed": seed,
        "images": [source.name, source.split, len(source)],
        **({} if labels == "true" else {"labels": labels}),
        "digests": {
            "classifier": classifier.identity,
            "images": source_digest(source),
        },
    }


def attack_parts(
    folder: str | os.PathLike,
    sources: Mapping[str, Source],
    classifier: LoadedModel,
    run: AttackRun,
    *,
    seed: int,
    labels: str = "true",
    batch_size: int,
    mesh: jax.sharding.Mesh,
    progress: Progress,
) -> dict[str, np.ndarray]:
    """Writes attacked copies of parts of a data set, for `degradation.folder`.

    Args:
        folder: Gets `<part>.npy` and a `.json` that says what it was made with.
        sources: Part, such as `train` and `validation`, -> the clean images.
        classifier: What is attacked.
        run: The attack.
        seed: Of random starts; each part has its own.
        labels: From what the images are led away, one of `LED_FROM`.
        batch_size: Images of a compiled call.
        mesh: Where to run.
        progress: Is told how far it is, and tells to stop.

    Returns:
        Part -> uint16 `[N, H, W, C]`, memory-mapped.

    Raises:
        StoppedError: If it was told to stop; what is done is kept.
        ValueError: If images and classifier do not belong together, a file was made
            with something else, or there are several processes.
        OSError: If the folder cannot be written.
    """
    if jax.process_count() > 1:
        raise ValueError(
            "attacked copies are made by one process, with all of its devices: give "
            "each process its own folder, and do not connect them"
        )
    sharding.check_batch_size(batch_size, mesh)
    for source in sources.values():
        _check_suits(source, classifier, run)
    variables = sharding.replicate(classifier.variables, mesh)
    logits_fn = flax_logits(classifier.module, variables, train=False)
    made = {}
    with locked_workdir(folder):
        for part, source in sources.items():
            key = entry_key(seed, f"attacked/{part}/{run.name}", 1)
            made[part] = store_attacked(
                Path(folder) / f"{part}.npy",
                source,
                run,
                sharding.replicate(key, mesh),
                logits_fn,
                describe_attacked(source, classifier, run, seed, labels),
                labels=labels,
                batch_size=batch_size,
                mesh=mesh,
                progress=progress,
                description=f"{run.name} on {part}",
            )
    return made


def _check_suits(source: Source, classifier: LoadedModel, run: AttackRun) -> None:
    same = classifier.num_classes == source.num_classes
    if not (same and classifier.takes(source.image_shape)):
        raise ValueError(
            f"the classifier is made for {classifier.num_classes} classes of images "
            f"{classifier.shape_text}, {source.name} has {source.num_classes} "
            f"of {list(source.image_shape)}: name another one"
        )
    if classifier.num_classes < run.attack.least_classes:
        raise ValueError(
            f"{run.name} needs at least {run.attack.least_classes} classes, the "
            f"classifier has {classifier.num_classes}: choose another attack"
        )
