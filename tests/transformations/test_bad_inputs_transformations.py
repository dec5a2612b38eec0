"""Input transformations that are asked for wrongly, and the one error."""

import jax
import numpy as np
import pytest

from uronet_jax import loading
from uronet_jax.defense import make_defense
from uronet_jax.purifiers import chain, make_transformation, parse_purifier
from uronet_jax.transformations import TRANSFORMATIONS
from uronet_jax.transformations.dictionary_learning import learn_dictionary
from uronet_jax.transformations.quilting import extract_patches, quilt

IMAGES = np.random.default_rng(0).random((2, 12, 10, 3), np.float32)
PATCHES = np.random.default_rng(1).random((30, 5, 5, 3), np.float32)
BRIGHT = np.full((3, 5, 5, 1), 2.0, np.float32)
KEY, LABELS = jax.random.key(0), np.arange(5)


def transform(images, name="median", **options):
    TRANSFORMATIONS[name](images, key=KEY, index=np.arange(len(images)), **options)


def quilting(patches, images=IMAGES):
    make_transformation("quilting")(patches, images)


def sparse(images, size=3):
    filters = np.ones((4, size, size, 3), np.float32) / size
    make_transformation("sparse_layer")((filters,), images)


def learn(**changes):
    learn_dictionary(IMAGES[..., :1], **changes)


def load(folder, content, name="quilting:patches"):
    path = folder / "file.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    loading.load_purifier(f"{name}={path}")


ROWS = [
    # Images; the same of every transformation.
    (
        "uint8",
        lambda _: transform(np.uint8(IMAGES)),
        "need floating-point images.* / 255",
    ),
    ("one image", lambda _: transform(IMAGES[0]), r"batch of images \[B, H, W, C\]"),
    ("none", lambda _: transform(IMAGES[:0]), "non-empty batch"),
    (
        "NCHW",
        lambda _: transform(IMAGES.transpose(0, 3, 1, 2)),
        r"looks like \[B, C, H, W\]",
    ),
    (
        "a list",
        lambda _: transform(IMAGES.tolist()),
        "an array of NumPy or JAX, not a list",
    ),
    (
        "numbers of images",
        lambda _: make_transformation("gaussian_noise")(
            None, IMAGES, KEY, np.arange(5)
        ),
        "one integer per image",
    ),
    (
        "no key",
        lambda _: make_transformation("gaussian_noise")(None, IMAGES),
        "gaussian_noise is random: give it a key",
    ),
    (
        "even",
        lambda _: transform(IMAGES, size=4),
        "size must be odd, such as 3 or 5: 4",
    ),
    (
        "too large",
        lambda _: transform(IMAGES, "resize_pad", smallest=1.5),
        r"smallest must be at most canvas \(1.107.*: 1.5",
    ),
    # Names and parameters.
    (
        "a name",
        lambda _: parse_purifier("blur"),
        "unknown transformation 'blur': choose from jpeg",
    ),
    (
        "near",
        lambda _: make_transformation("jpg"),
        "unknown transformation 'jpg' .nearest: 'jpeg'",
    ),
    ("a number", lambda _: parse_purifier("jpeg:60"), "'60' is no parameter=number"),
    (
        "a word",
        lambda _: parse_purifier("jpeg:quality=fine"),
        "'quality=fine' is no parameter=number",
    ),
    (
        "near another",
        lambda _: parse_purifier("jpeg:qualty=3"),
        "unknown parameter 'qualty' .nearest: 'quality'",
    ),
    (
        "another",
        lambda _: parse_purifier("jpeg:speed=3"),
        "unknown parameter 'speed': choose from quality",
    ),
    (
        "half",
        lambda _: parse_purifier("jpeg:quality=7.5"),
        r"quality must be an integer in \[1, 100\]: 7.5",
    ),
    (
        "twice",
        lambda _: parse_purifier("jpeg:quality=7,quality=9"),
        "'quality=9' is no parameter=number",
    ),
    (
        "too much",
        lambda _: parse_purifier("jpeg:quality=101"),
        r"quality must be an integer in \[1, 100\]: 101",
    ),
    (
        "text",
        lambda _: make_transformation("jpeg", quality="75"),
        r"quality must be an integer in \[1, 100\]: '75'",
    ),
    (
        "unlike",
        lambda _: loading.load_purifier("medain"),
        "no purifier 'medain' .nearest: 'median'",
    ),
    # Chains and defences.
    ("no chain", lambda _: chain(), "at least one purifier"),
    (
        "a word in it",
        lambda _: chain("jpeg"),
        "'jpeg' is no purifier: .*parse_purifier",
    ),
    (
        "no variables",
        lambda _: chain(*2 * [make_transformation("jpeg")])(None, IMAGES),
        "variables of a chain are 2, those of each purifier or None",
    ),
    (
        "a word before a network",
        lambda _: make_defense("jpeg", None, lambda v, x: x),
        "'jpeg' is no purifier",
    ),
    # Files.
    (
        "no patches",
        lambda _: loading.load_purifier("quilting"),
        "needs a database of clean patches, as quilting:patches=",
    ),
    ("no file", lambda f: load(f, b""), r"file.npy is damaged or no array \(.npy\)"),
    (
        "a text",
        lambda f: load(f, b"no array"),
        r"file.npy is damaged or no array \(.npy\)",
    ),
    (
        "oblong",
        lambda f: load(f, BRIGHT[:, :4]),
        r"\[N, P, P, C\], found float32\[3, 4, 5, 1\]",
    ),
    (
        "of uint8",
        lambda f: load(f, np.uint8(BRIGHT)),
        "floating-point windows .*found uint8",
    ),
    ("of NaN", lambda f: load(f, BRIGHT * np.nan), "NaN or infinite"),
    (
        "bright",
        lambda f: load(f, BRIGHT),
        r"intensities must be in \[0, 1\], found 2 to 2",
    ),
    (
        "no dictionary",
        lambda f: load(f, BRIGHT[..., 0], "sparse_layer:dictionary"),
        r"need .* \[N, P, P, C\], found",
    ),
    (
        "grey",
        lambda _: quilting(PATCHES, IMAGES[..., :1]),
        "images have 1 channels and the patches 3",
    ),
    (
        "narrow",
        lambda _: quilting(PATCHES, IMAGES[:, :4]),
        r"5 x 5 pixels .* not larger than the images \(4 x 10\)",
    ),
    (
        "overlap",
        lambda _: quilt(IMAGES, PATCHES, overlap=5),
        r"5 x 5 pixels must be larger than the overlap \(5\)",
    ),
    (
        "a patch",
        lambda _: extract_patches(IMAGES, 1, size=11),
        r"size must be an integer in \[1, 10\]: 11",
    ),
    (
        "colours",
        lambda _: sparse(IMAGES[..., :1]),
        r"images have 1 channels and the filters \[3\]",
    ),
    (
        "tiny",
        lambda _: sparse(IMAGES[:, :2]),
        "2 x 10 pixels are smaller than filters of 3 x 3",
    ),
    ("filters", lambda _: learn(size=13), r"size must be an integer in \[2, 10\]: 13"),
    (
        "images",
        lambda _: learn(batch_size=17),
        r"batch_size must be an integer in \[1, 2\]: 17",
    ),
    *(
        (
            f"{name}: {parameter}={value}",
            lambda _, n=name, p=parameter, v=value: make_transformation(n, **{p: v}),
            f"{parameter} must be .*: {value!r}$",
        )
        for name, entry in TRANSFORMATIONS.items()
        for parameter, (low, high) in entry.ranges.items()
        for value in (low - 1, high + 1, "x", None)
    ),
]


@pytest.mark.parametrize(("name", "call", "message"), ROWS)
def test_what_is_wrong_is_told(name, call, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        call(tmp_path)
