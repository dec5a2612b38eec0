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
    ("uint8", lambda _: transform(np.uint8(IMAGES)), "need floating-point images.* /"),
    ("one image", lambda _: transform(IMAGES[0]), r"batch of images \[B, H, W, C\]"),
    ("none", lambda _: transform(IMAGES[:0]), "non-empty batch"),
    ("NCHW", lambda _: transform(IMAGES.transpose(0, 3, 1, 2)), r"like \[B, C, H, W\]"),
    ("a list", lambda _: transform(IMAGES.tolist()), "an array of NumPy or JAX, not a"),
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
    ("even", lambda _: transform(IMAGES, size=4), "size must be odd, such as 3 or 5:"),
    (
        "too large",
        lambda _: transform(IMAGES, "resize_pad", smallest=1.5),
        "smallest must be at most canvas",
    ),
    # Names and parameters.
    ("a name", lambda _: parse_purifier("blur"), "transformation 'blur': choose from"),
    ("near", lambda _: make_transformation("jpg"), "'jpg' .nearest: 'jpeg'"),
    ("a number", lambda _: parse_purifier("jpeg:60"), "'60' is no parameter=number"),
    ("a word", lambda _: parse_purifier("jpeg:quality=fine"), "'quality=fine' is no p"),
    ("another", lambda _: parse_purifier("jpeg:qualty=3"), "nearest: 'quality'"),
    ("half", lambda _: parse_purifier("jpeg:quality=7.5"), "quality must be an intege"),
    ("twice", lambda _: parse_purifier("jpeg:quality=7,quality=9"), "is no parameter="),
    ("too much", lambda _: parse_purifier("jpeg:quality=101"), r"in \[1, 100\]: 101"),
    ("text", lambda _: make_transformation("jpeg", quality="75"), "an integer .*: '75"),
    ("unlike", lambda _: loading.load_purifier("medain"), "nearest: 'median'"),
    # Chains and defences.
    ("no chain", lambda _: chain(), "at least one purifier"),
    ("a word in it", lambda _: chain("jpeg"), "'jpeg' is no purifier: .*parse_purifie"),
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
    ("no patches", lambda _: loading.load_purifier("quilting"), "needs a database of"),
    ("no file", lambda f: load(f, b""), "is damaged or no array"),
    ("oblong", lambda f: load(f, BRIGHT[:, :4]), r"\[N, P, P, C\], found float32\[3,"),
    ("of uint8", lambda f: load(f, np.uint8(BRIGHT)), "floating-point windows"),
    ("of NaN", lambda f: load(f, BRIGHT * np.nan), "NaN or infinite"),
    ("bright", lambda f: load(f, BRIGHT), r"in \[0, 1\], found 2 to 2"),
    (
        "no dictionary",
        lambda f: load(f, BRIGHT[..., 0], "sparse_layer:dictionary"),
        r"need .* \[N, P, P, C\], found",
    ),
    ("grey", lambda _: quilting(PATCHES, IMAGES[..., :1]), "1 channels and the patche"),
    ("narrow", lambda _: quilting(PATCHES, IMAGES[:, :4]), r"larger than .* \(4 x 10"),
    ("overlap", lambda _: quilt(IMAGES, PATCHES, overlap=5), r"than the overlap \(5\)"),
    ("a patch", lambda _: extract_patches(IMAGES, 1, size=11), r"integer in \[1, 10\]"),
    ("colours", lambda _: sparse(IMAGES[..., :1]), r"1 channels and the filters \[3\]"),
    ("tiny", lambda _: sparse(IMAGES[:, :2]), "2 x 10 pixels are smaller than .* 3 x"),
    ("filters", lambda _: learn(size=13), "size must be an integer"),
    ("images", lambda _: learn(batch_size=17), "batch_size must be an integer"),
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
