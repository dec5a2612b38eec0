"""What the page shows: one image in; pictures, verdicts and numbers out.

Plain functions of arrays, which know nothing of a browser. Every image is brought to
the size that the models were made for (`pictures.fitted`) and degraded by the judge, so
it looks as `launch.evaluate` judges it.
"""

import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from uronet_jax import sharding
from uronet_jax.attacks import ATTACKS
from uronet_jax.batches import check_number
from uronet_jax.corruptions import find_corruption, list_severities, suite_degradations
from uronet_jax.data import evaluation_batches, open_source
from uronet_jax.data.sources import (
    BUILT_IN,
    Source,
    find_prepared,
    resolve_data_dir,
)
from uronet_jax.defense import classifier_function
from uronet_jax.evaluation.attack_judge import AttackJudge
from uronet_jax.evaluation.defense_table import measure_defense
from uronet_jax.evaluation.judge import CorruptionEntry, Entry, Judge
from uronet_jax.evaluation.threat_models import THREAT_MODELS, make_run
from uronet_jax.loading import (
    LoadedModel,
    assemble_defense,
    check_models_match,
    usual_models,
)
from uronet_jax.photos import pictures
from uronet_jax.photos.purify import PhotoModels, check_class_names, load_photo_models
from uronet_jax.reports import figures

# Of files from a browser: a photograph of 24 million pixels, hardly compressed.
MAX_UPLOAD_BYTES, MAX_UPLOAD_PIXELS = 40 * 2**20, 24 * 10**6
# What an attacker knows -> the threat model.
ATTACKERS = {
    "the classifier alone": THREAT_MODELS["grey_box"],
    "the whole defence": THREAT_MODELS["adaptive"],
}
_BATCH = 64  # Images that are judged in one compiled call, however few there are.
_LEAST_SIDE = 224  # Of a picture on the page, in pixels.


class Sight(NamedTuple):
    """What a defence makes of an image.

    Attributes:
        image: float32 `[H, W, C]` in `[0, 1]`, as the defence was shown it.
        clean: Likewise, purified.
        noise: `[H, W, C]` in `[-1, 1]`, what was removed.
        probability: Of being degraded; None without a detector.
        before: Probabilities of the classes, `[K]`, for the image as it came; None
            without a classifier.
        after: Likewise for the purified picture.
    """

    image: np.ndarray
    clean: np.ndarray
    noise: np.ndarray
    probability: float | None
    before: np.ndarray | None
    after: np.ndarray | None


class DefenseStudio:
    """A defence and images to try it on.

    Attributes:
        models: The defence.
        source: The data set.
        image_shape: `(H, W, C)` that every image is brought to.
        threshold: Probability above which a picture is called degraded.
        class_names: Of the classifier; empty if it has none or they are unknown.
        can_judge: Whether accuracies on the data set mean something: whether the
            classifier takes its images and has as many classes.
    """

    def __init__(
        self,
        models: PhotoModels,
        source: Source,
        *,
        threshold: float = 0.5,
        class_names: Sequence[str] | None = None,
        seed: int = 0,
    ):
        """Compiles nothing yet.

        Raises:
            ValueError: If the models do not belong together, a number of class names is
                wrong, or the threshold is no probability.
        """
        purifier, detector, classifier = (
            models.purifier,
            models.detector,
            models.classifier,
        )
        check_class_names(class_names, classifier)
        check_number("threshold, a probability,", threshold, 0.0, 1.0)
        self.models, self.source, self.threshold = models, source, threshold
        named = [m for m in (purifier, detector, classifier) if m and m.image_shape]
        named.sort(key=lambda model: model.any_size)
        shape = named[0].image_shape if named else source.image_shape
        self.image_shape = tuple(shape)
        same = classifier and _knows(classifier, source)
        self.can_judge = bool(same) and self.image_shape == tuple(source.image_shape)
        self.class_names = tuple(class_names or (source.class_names if same else ()))
        self._key, self._seed = jax.random.key(seed), seed
        self._mesh = sharding.data_mesh(jax.devices()[:1])
        self._classify = (
            jax.jit(classifier_function(classifier.module)) if classifier else None
        )
        self._defense = assemble_defense(purifier, detector, classifier, batch_size=1)

    def sample(self, number: int) -> np.ndarray:
        """Returns an image of the data set by its number; ValueError if it has none."""
        if not 0 <= number < len(self.source):
            raise ValueError(
                f"image {number} of {self.source.name}: there are 0 to "
                f"{len(self.source) - 1}"
            )
        pixels = self.source.read(np.array([int(number)]))[0][0]
        return pictures.fitted(pixels, self.image_shape)

    def true_label(self, number: int) -> str | None:
        """Returns the class of such an image; None if the classifier has others."""
        if not self.class_names or not self.can_judge:
            return None
        return self.class_names[int(self.source.read(np.array([int(number)]))[1][0])]

    def upload(self, path: str | os.PathLike) -> np.ndarray:
        """Reads an image file.

        Raises:
            ValueError: If it is no image or larger than `MAX_UPLOAD_BYTES` or
                `MAX_UPLOAD_PIXELS`.
        """
        path = Path(path)
        size = path.stat().st_size
        if size > MAX_UPLOAD_BYTES:
            raise ValueError(
                f"{path.name}: {size / 2**20:.0f} MiB are more than "
                f"{MAX_UPLOAD_BYTES // 2**20}: make it smaller"
            )
        try:
            with pictures.trusted_sizes():
                look = pictures.look_at_picture(path)
                if look.height * look.width > MAX_UPLOAD_PIXELS:
                    raise ValueError(
                        f"{look.width}x{look.height} pixels are more than "
                        f"{MAX_UPLOAD_PIXELS // 10**6} million: make it smaller"
                    )
                found = pictures.read_picture(path)
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from error
        return pictures.fitted(found.pixels, self.image_shape)

    def corrupt(
        self, image: np.ndarray, suite: str, corruption: str, severity: int
    ) -> np.ndarray:
        """Returns an image degraded by a corruption of a suite."""
        (entry,) = _entries(suite, corruption, [int(severity)])
        pixels = np.rint(255 * image).astype(np.uint8)[None]
        labels = np.zeros(1, np.int32)
        judge = Judge((pixels, labels), batch_size=1, mesh=self._mesh, seed=self._seed)
        return judge.pictures(entry, 1)[0]

    def attacks(self) -> tuple[str, ...]:
        """Returns the names of the attacks there are: quick ones that take epsilon."""
        if not self.models.classifier:
            return ()
        classes = self.models.classifier.num_classes
        return tuple(
            name
            for name, attack in ATTACKS.items()
            if not (attack.minimal or attack.takes_logits or attack.gradient_free)
            and attack.least_classes <= classes
        )

    def attack(self, sight: Sight, name: str, epsilon: float, knows: str) -> np.ndarray:
        """Returns an image that is to lose the label it has now.

        It is the image that the threat model's best attempt makes, see `AttackJudge`;
        an attacker does not know the draws of `see`.

        Args:
            sight: The image, and what the defence makes of it.
            name: One of `attacks()`.
            epsilon: Largest norm of the perturbation, in intensities.
            knows: A key of `ATTACKERS`.

        Raises:
            ValueError: If there is no such attack or attacker, or no classifier.
        """
        if name not in self.attacks() or knows not in ATTACKERS:
            raise ValueError(
                f"no attack {name!r} by one who knows {knows!r}: there are "
                f"{', '.join(self.attacks()) or 'none without a classifier'}"
            )
        labels = attacked_probabilities(sight, knows).argmax(keepdims=True)
        judge = AttackJudge(
            self._defense.function,
            self._defense.variables,
            evaluation_batches(
                (sight.image[None], labels), batch_size=1, mesh=self._mesh
            ),
            mesh=self._mesh,
            threshold=self.threshold,
            seed=self._seed,
        )
        run = make_run(name, epsilon=epsilon)
        _, examples = judge.attack(ATTACKERS[knows], run, num_examples=1)
        return examples.adversarial[0]

    def see(self, image: np.ndarray) -> Sight:
        """Shows an image to the defence."""
        found = self._defense(image[None], self._key)
        before = after = None
        if self._classify:
            frozen = self._defense.variables["classifier"]
            logits = self._classify(frozen, image[None])
            before, after = (
                np.asarray(nn.softmax(x))[0] for x in (logits, found.logits)
            )
        probability = found.degraded_probability
        return Sight(
            image,
            found.clean[0],
            found.noise[0],
            None if probability is None else float(probability[0]),
            before,
            after,
        )

    def along_severities(
        self, image: np.ndarray, suite: str, corruption: str
    ) -> Iterator[tuple[int, Sight]]:
        """Yields each severity of a corruption and what the defence makes of it."""
        for severity in list_severities(suite):
            yield severity, self.see(self.corrupt(image, suite, corruption, severity))

    def accuracies(
        self, suite: str, corruption: str, count: int
    ) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Judges the defence along the severities, on the first images of the data set.

        Yields:
            Summary and rows of `evaluation.defense_table`, as far as they are measured.

        Raises:
            ValueError: If the classifier is not of this data set (`can_judge`).
        """
        if not self.can_judge:
            raise ValueError(
                f"accuracies on {self.source.name} need a classifier of its images and "
                "classes: give --classifier and --data that belong together"
            )
        entries = _entries(suite, corruption, list_severities(suite))
        count = min(int(count), len(self.source))
        judge = Judge(
            self.source.read(np.arange(count)),
            batch_size=_BATCH,
            mesh=self._mesh,
            seed=self._seed,
        )
        variables = sharding.replicate(self._defense.variables, self._mesh)
        found = measure_defense(judge, self._defense.function, variables, entries)
        summary, rows = next(found), []
        yield summary, []
        for row in found:
            rows.append(row)
            yield summary, list(rows)

    def warm_up(self) -> None:
        """Compiles what the first image on the page needs."""
        first = suite_degradations("uronet")[0]
        self.see(self.corrupt(self.sample(0), "uronet", first.noise, first.severity))

    def label(self, probabilities: np.ndarray | None) -> str:
        """Returns the likeliest class and its probability, or nothing."""
        if probabilities is None:
            return ""
        best = int(probabilities.argmax())
        name = self.class_names[best] if self.class_names else f"class {best}"
        return f"{name} ({probabilities[best]:.0%})"

    def verdict(self, sight: Sight) -> str:
        """Returns what the detector says and its probability, or that there is none."""
        if sight.probability is None:
            return "no detector"
        word = "degraded" if sight.probability > self.threshold else "not degraded"
        return f"{word} ({sight.probability:.3f})"


def attacked_probabilities(sight: Sight, knows: str) -> np.ndarray:
    """Returns the probabilities whose likeliest class one of `ATTACKERS` attacks."""
    alone = ATTACKERS[knows].target == "classifier"
    return sight.before if alone else sight.after


@contextlib.contextmanager
def private_uploads() -> Iterator[None]:
    """Gives Gradio a folder that only this user may read, and removes it.

    Uploads and pictures of the page lie in it. Import Gradio inside.
    """
    with tempfile.TemporaryDirectory(
        prefix="uronet_demo.", ignore_cleanup_errors=True
    ) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield


def check_gradio() -> None:
    """Raises ValueError if Gradio, which the page is made of, is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise ValueError('the page needs Gradio: pip install "uronet_jax[demo]"')


def open_models(
    purifier: str | None, detector: str | None, classifier: str | None
) -> tuple[PhotoModels, dict[str, str | None]]:
    """Loads models, the usual ones where none are named; returns their names too.

    Arguments are those of `usual_models` and `load_photo_models`. Errors are theirs,
    and ValueError if the classifier is of other images than the purifier.
    """
    found, detector = usual_models(purifier, detector)
    named = {"purifier": found, "detector": detector, "classifier": classifier}
    models = load_photo_models(**named)
    try:
        check_models_match(models.purifier, models.detector, models.classifier)
    except ValueError as error:
        if purifier is not None:
            raise
        raise ValueError(
            f"{error} ({found} was taken because --purifier is missing)"
        ) from error
    return models, named


def open_images(
    models: PhotoModels,
    data: str | None,
    split: str = "test",
    data_dir: str | os.PathLike | None = None,
) -> Source:
    """Opens the data set that images come from.

    `data` is its name; by default that which the classifier learned on. Without one it
    is that of detector or purifier, else `generated` or, for models of grey images,
    `generated_grey`; so too, with a printed line, where the set of pretrained weights
    is not prepared and neither it nor a folder is named. Errors are those of
    `open_source`, and ValueError if nothing says what a classifier learned on.
    """
    parts = [x for x in (models.detector, models.purifier) if x]
    if models.classifier:
        parts = [models.classifier]
    learned = [name for model in parts if (name := _data_of(model))]
    grey = models.trained is not None and models.trained[-1] == 1
    generated = "generated_grey" if grey else "generated"
    # The configs of pretrained weights say what they learned in, see `packing`.
    shipped = all("learned_in" in model.config for model in parts)
    if learned and shipped and not data and not data_dir and not models.classifier:
        known = learned[0] in BUILT_IN
        if not known and not find_prepared(learned[0], resolve_data_dir(None)):
            told = f"{learned[0]} is not prepared here: generated images"
            print(told, file=sys.stderr, flush=True)
            learned = []
    if not data and not learned and models.classifier:
        raise ValueError(
            "the classifier does not say what images it learned on: name a data set "
            "(--data)"
        )
    return open_source(data or [*learned, generated][0], split, data_dir=data_dir)


def _data_of(model: LoadedModel) -> str | None:
    return model.config.get("data", {}).get("name")


def _knows(classifier: LoadedModel, source: Source) -> bool:
    """Returns whether a classifier is of the classes of a data set, as far as known."""
    named = _data_of(classifier) in (None, source.name)
    return named and classifier.num_classes == source.num_classes


def _entries(suite: str, corruption: str, severities: Sequence[int]) -> list[Entry]:
    for severity in severities:
        find_corruption(suite, corruption, severity)
    if suite == "uronet":
        return list(
            suite_degradations(suite, noises=[corruption], severities=severities)
        )
    return [CorruptionEntry(corruption, severity, suite) for severity in severities]


def enlarge(image: np.ndarray, least_side: int = _LEAST_SIDE) -> np.ndarray:
    """Returns an image for a page, uint8 `[H, W, 3]`, its pixels whole squares.

    Args:
        image: `[H, W, 1 or 3]` in `[0, 1]`.
        least_side: Shorter side of the result, at least, in pixels.
    """
    times = max(1, -(-least_side // min(image.shape[:2])))
    pixels = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def show_sight(sight: Sight, amplify: float) -> tuple[np.ndarray, ...]:
    """Returns image, purified picture and amplified noise pattern, enlarged."""
    noise = figures.show_noise(sight.noise, amplify)
    return tuple(enlarge(x) for x in (sight.image, sight.clean, noise))
