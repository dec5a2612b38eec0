"""Signs that a defence looks better than it is. Every sign is a sentence in its row."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from uronet_jax.arena.bench import Bench
from uronet_jax.arena.contenders import Contender
from uronet_jax.corruptions import suite_degradations
from uronet_jax.evaluation.misleading import MANY
from uronet_jax.progress import Progress

# Standard deviations of a difference by chance, from which on it is none.
_BY_CHANCE = 4.0


def look(
    bench: Bench, contender: Contender, config: Mapping[str, Any], progress: Progress
) -> dict[str, Any]:
    """Judges a defence on a few images by what does not depend on how good it is.

    Args:
        bench: Holds the images.
        contender: The defence.
        config: The fields of `configs/arena.py`.
        progress: Tells to stop.

    Returns:
        `flags`, sentences, and the numbers that they follow from: `same_answers`,
        whether two calls answer alike; `seed_accuracy` and `other_seed_accuracy` under
        noises with the arena's seed and another one; `seed_z`, their difference in
        standard deviations of one by chance.
    """
    count = min(
        config["fairness"]["num_images"] or len(bench.labels), len(bench.labels)
    )
    first = bench.answers(contender, bench.shown(), count=count).logits
    again = bench.answers(contender, bench.shown(), count=count).logits
    same = bool(np.array_equal(first, again))
    entries = suite_degradations(
        "uronet",
        noises=config["noises"]["names"] or None,
        severities=config["fairness"]["severities"],
    )
    seeds = config["seed"], config["seed"] + config["fairness"]["other_seed"]
    found = []
    for seed in seeds:
        hits = []
        for entry in entries:
            progress.stopping()
            shown = bench.shown(entry, seed)
            # All images of the arena's seed are judged anyway.
            some = None if seed == config["seed"] else count
            logits = bench.answers(contender, shown, draw=seed, count=some).logits
            hits.append(logits[:count].argmax(-1) == bench.labels[:count])
        found.append(np.mean(hits, axis=0))
    own, other = (float(x.mean()) for x in found)
    change = found[0] - found[1]
    deviation = max(float(change.std()), 1.0 / len(entries)) / np.sqrt(count)
    z = float(change.mean() / deviation)
    values = {
        "same_answers": same,
        "seed_accuracy": own,
        "other_seed_accuracy": other,
        "seed_z": z,
        "num_images": count,
    }
    flags = _signs(values)
    if contender.random and not contender.card.random:
        flags.append("random without declaring it: attacks averaged over its draws")
    if contender.card.random and not contender.random and same:
        flags.append("declared as random, and no draw was found")
    if contender.probabilities:
        flags.append(
            "answers with probabilities, which hampers gradients: attacks got their "
            "logarithms"
        )
    if contender.labels:
        flags.append("answers with labels alone, which no gradient leads through")
    if contender.black_box:
        flags.append("a black box: white boxes are attacks that see no gradient")
    return {"flags": flags, **values}


def _signs(values: Mapping[str, Any]) -> list[str]:
    """Returns the flags that follow from the numbers of `look` alone."""
    flags = []
    if values.get("seed_z", 0.0) > _BY_CHANCE:
        flags.append(
            f"overfits the seed: {values['seed_accuracy']:.1%} under noises with the "
            f"arena's seed, {values['other_seed_accuracy']:.1%} with another one, on "
            f"the same {values['num_images']} images"
        )
    if not values.get("same_answers", True):
        flags.append(
            "its answers to the same images, with the same key, change from call to "
            "call: no attack could average over its draws"
        )
    return flags


def masked_gradients(cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the signs of masked gradients in the values of a row's cells.

    They are zero gradients; that whoever knows the classifier alone, or sees no
    gradient, achieves more than whoever follows those of the defence.
    """
    flags = []
    white, auto = cells.get("white_pgd", {}), cells.get("white_autoattack", {})
    zero = white.get("zero_gradients") or 0.0
    if zero > MANY:
        flags.append(
            f"zero gradients at {zero:.0%} of the images: attacks along gradients show "
            "nothing"
        )
    attempts = white.get("attempts", {})
    own = [left for label, left in attempts.items() if label != "classifier"]
    alone = attempts.get("classifier")
    count = white.get("num_images", 1)
    grey = cells.get("grey_pgd", {}).get("accuracy_of_attacked")
    left = min(own, default=None)
    if alone is not None and _weaker(left, alone, count):
        flags.append(
            f"masks gradients: PGD along its own leaves {left:.1%} unbroken, along "
            f"those of the classifier alone {alone:.1%}"
        )
    elif _weaker(white.get("accuracy"), grey, count):
        flags.append(
            f"masks gradients: PGD that knows it leaves {white['accuracy']:.1%}, PGD "
            f"on the classifier alone {grey:.1%}"
        )
    log = auto.get("attacks", {})
    following = [x for name, x in log.items() if name not in ("clean", "square")]
    if "square" in log and following:
        broken = round((min(following) - log["square"]) * auto["num_images"])
        if broken >= max(2, 0.01 * auto["num_images"]):
            flags.append(
                f"masks gradients: Square, which sees none, broke {broken} of "
                f"{auto['num_images']} images that withstood gradients"
            )
    return flags


def _weaker(left: float | None, other: float | None, count: int) -> bool:
    if left is None or other is None:
        return False
    return round((left - other) * count) >= max(2, 0.02 * count)


def flags_of(cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns all flags of a row, by the values of its cells.

    Those that follow from numbers are there also if the list in `fairness`, which
    somebody else may have written, lacks them.
    """
    values = cells.get("fairness", {})
    found = [*_signs(values), *values.get("flags", ()), *masked_gradients(cells)]
    return list(dict.fromkeys(found))
