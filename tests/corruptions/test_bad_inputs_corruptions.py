"""Corruptions that are asked for wrongly, and the one error that says so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uronet_jax import corruptions
from uronet_jax.corruptions import (
    CORRUPTIONS,
    corrupt,
    degrade,
    frost,
    make_degradation,
    suite_degradations,
    weather,
)
from uronet_jax.corruptions.blur import glass_blur
from uronet_jax.corruptions.filters import gaussian_matrix
from uronet_jax.corruptions.geometry import sample_bilinear
from uronet_jax.data.frost import load_frost, load_suite_frost
from uronet_jax.image_quality import psnr, ssim

IMAGES = np.full((2, 32, 32, 3), 0.5, np.float32)
NOISE = ("gaussian_noise", 0.1)

# Name, severity, and what the message holds.
NAMES = [
    ("fog", 1, "<suite>/<corruption>"),
    ("fogg", None, "nearest: 'fog'"),
    ("cifar_c/fogg", 1, "nearest: 'fog'"),
    ("cifar/fog", 1, "nearest: 'cifar_c'"),
    ("uronet/SKN", 1, "nearest: 'SPKN', .*choose from GN, UN, SPN, SN, IN, SPKN"),
    ("uronet/GN", 4, r"\[1, 3\]: 4"),
    ("cifar_c/fog", 0, r"\[1, 5\]: 0"),
    ("cifar_c/fog", 6, r"\[1, 5\]: 6"),
    ("cifar_c/fog", 3.0, r"integer in .*: 3\.0"),
    ("cifar_c/fog", True, "integer in .*: True"),
    ("cifar_c/fog", None, "integer in .*: None"),
    ("CIFAR_C/fog", 1, "unknown suite 'CIFAR_C' .nearest: 'cifar_c'"),
    ("cifar_c/fog", "1", "integer in .*: '1'"),
]


@pytest.mark.parametrize(("name", "severity", "message"), NAMES)
def test_names_and_severities(name, severity, message, key):
    with pytest.raises(ValueError, match=message):
        corrupt(key, IMAGES, name, severity=severity)


# Corruption, a parameter of it, and what the message holds.
PARAMETERS = [
    ("gaussian_noise", {"scale": -0.1}, r"scale must be finite and in \[0.*: -0.1$"),
    ("gaussian_noise", {"scale": float("nan")}, "scale must be finite .*: nan$"),
    ("gaussian_noise", {"scale": np.full((2,), 0.1)}, "scale must be a scalar or"),
    ("speckle_noise", {"scale": float("inf")}, "scale must be finite .*: inf$"),
    ("uniform_noise", {"half_width": -0.1}, "half_width must be finite .*: -0.1$"),
    ("uniform_noise", {"contrast": 2.0}, r"contrast must be .* \[0, 1\]: 2"),
    ("salt_and_pepper_noise", {"amount": 1.1}, r"amount must be .* 1.0\]: 1.1$"),
    ("impulse_noise", {"amount": -0.1}, r"amount must be .* 1.0\]: -0.1$"),
    ("shot_noise", {"rate": 0.0}, r"rate must be finite and in \[0.001, .*: 0.0$"),
    ("gaussian_blur", {"sigma": -1.0}, "sigma must be .*: -1.0$"),
    ("gaussian_blur", {"sigma": np.nan}, "sigma must be .*: nan$"),
    ("defocus_blur", {"radius": 0.0}, "radius must be .*: 0.0$"),
    ("defocus_blur", {"radius": 32.0}, "radius must be .*: 32.0$"),
    ("defocus_blur", {"alias_blur": 0.0}, "alias_blur must be .*: 0.0$"),
    ("glass_blur", {"max_delta": 0}, "max_delta must be .*: 0$"),
    ("glass_blur", {"max_delta": 16}, "max_delta must be .*: 16$"),
    ("glass_blur", {"iterations": 1.5}, "iterations must be .*: 1.5$"),
    ("glass_blur", {"move_probability": 1.1}, "move_probability must be .*: 1.1$"),
    ("motion_blur", {"radius": 2.5}, "radius must be .*: 2.5$"),
    ("motion_blur", {"radius": -1}, "radius must be .*: -1$"),
    ("motion_blur", {"sigma": 0.0}, "sigma must be .*: 0.0$"),
    ("zoom_blur", {"factors": (1.0, 0.9)}, "factor must be .*: 0.9$"),
    ("brightness", {"amount": 1.5}, "amount must be .*: 1.5$"),
    ("fog", {"amount": -1.0}, "amount must be .*: -1.0$"),
    ("fog", {"decay": 0.0}, "decay must be .*: 0.0$"),
    ("snow", {"scale": -1.0}, "scale must be .*: -1.0$"),
    ("snow", {"zoom": 0.9}, "zoom must be .*: 0.9$"),
    ("snow", {"radius": -1}, "radius must be .*: -1$"),
    ("snow", {"sigma": 0.0}, "sigma must be .*: 0.0$"),
    ("snow", {"blend": 1.1}, "blend must be .*: 1.1$"),
    ("snow", {"loc": float("nan")}, "loc must be .*: nan$"),
    ("frost", {"frost_weight": -1.0}, "frost_weight must be .*: -1.0$"),
    ("spatter", {"liquid": "oil"}, "'water' or 'mud'"),
    ("spatter", {"scale": -0.1}, "scale must be .*: -0.1$"),
    ("spatter", {"sigma": float("nan")}, "sigma must be .*: nan$"),
    ("spatter", {"threshold": -1.0}, "threshold must be .*: -1.0$"),
    ("spatter", {"strength": -1.0}, "strength must be .*: -1.0$"),
    ("spatter", {"loc": float("inf")}, "loc must be .*: inf$"),
    ("contrast", {"factor": -0.1}, r"factor must be a finite number in \[0"),
    ("contrast", {"factor": np.nan}, "factor must be a finite number"),
    ("saturate", {"factor": np.inf}, "factor must be a finite number"),
    ("saturate", {"offset": 2.0}, r"offset .* in \[-1, 1\]: 2"),
    ("pixelate", {"factor": 1.1}, r"factor must be a finite number in \[0, 1\]"),
    ("pixelate", {"factor": 0.03}, "0.03 leaves no pixel of a side of 32"),
    ("jpeg_compression", {"quality": 0}, "quality must be an integer in"),
    ("jpeg_compression", {"quality": 101}, "quality must be an integer in"),
    ("jpeg_compression", {"quality": 50.5}, "quality must be an integer .*: 50.5"),
    (
        "jpeg_compression",
        {"fidelity": "good"},
        "fidelity 'good': choose .*fast",
    ),
    ("elastic_transform", {"alpha": -1.0}, "alpha must be .*: -1.0$"),
    ("elastic_transform", {"sigma": -0.1}, "sigma must be .*: -0.1$"),
    ("elastic_transform", {"affine": float("nan")}, "affine must be .*: nan$"),
    ("shear", {"shear": 1.6}, "shear must be .*: 1.6$"),
    ("rotate", {"angle": -0.1}, "angle must be .*: -0.1$"),
    ("scale", {"factor": 0.0}, "factor must be .*: 0.0$"),
    ("translate", {"distance": float("inf")}, "distance must be .*: inf$"),
    ("canny_edges", {"sigma": -1.0}, "sigma must be .*: -1.0$"),
    ("banding", {"amplitude": -0.1}, "amplitude must be .*: -0.1$"),
    ("dead_columns", {"count": 2.0}, "count must be an integer"),
    ("dead_columns", {"count": 33}, r"count must be an integer in \[0, 32\]: 33"),
    ("zoom_blur", {"factors": ()}, "at least one number"),
    ("zoom_blur", {"factors": 1.5}, "at least one number: 1.5"),
    ("frost", {"textures": IMAGES}, "textures is of a wrong type, ndarray: see the"),
    ("fog", {"map_size": 16}, "map_size must be a power of two and at least 32.*16"),
    # A number is one number: a list would be one of each channel.
    *(
        (name, {parameter: wrong}, f"^{parameter} must (be|hold) ")
        for name, entry in CORRUPTIONS.items()
        for parameter in entry.example
        for wrong in ("x", None, [0.1, 0.2, 0.3])
        if (name, wrong) != ("zoom_blur", [0.1, 0.2, 0.3])
    ),
]


@pytest.mark.parametrize(("name", "change", "message"), PARAMETERS)
def test_parameters(name, change, message, key):
    entry = CORRUPTIONS[name]
    with pytest.raises(ValueError, match=message):
        entry(key, IMAGES, **{**entry.example, **change})


BAD_IMAGES = [
    (np.uint8(IMAGES), None, "/ 255"),
    (IMAGES + 1, None, r"in \[0, 1\]: found 1\.5"),
    (IMAGES - 1, None, r"found -0\.5"),
    (IMAGES * np.nan, None, "NaN"),
    (IMAGES[0], None, "B, H, W, C"),
    (IMAGES[:0], None, "non-empty"),
    (IMAGES, np.arange(3), "one integer per image"),
    (IMAGES, np.zeros(2), "one integer per image"),
]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_images(name, key):
    entry = CORRUPTIONS[name]
    small = [(IMAGES[:, :27], None, "at least 28 pixels .*27x32")]
    for images, index, message in BAD_IMAGES + small * (entry.smallest_side > 1):
        with pytest.raises(ValueError, match=message):
            entry(key, images, index=index, **entry.example)


def entry(name, channels=3, **changes):
    images = np.zeros((1, 32, 32, channels), np.float32)
    operation = CORRUPTIONS[name]
    operation(jax.random.key(0), images, **{**operation.example, **changes})


def contrast(**changes):
    corrupt(jax.random.key(0), IMAGES, "cifar_c/contrast", severity=1, **changes)


def drawn(degradation, images=IMAGES):
    degrade(jax.random.key(0), images, degradation)


def frosted(textures):
    entry("frost", textures=corruptions.stack_textures(textures, "the folder"))


def pictures(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.png").write_bytes(content)
    return folder


GLASS = {"sigma": 1.0, "max_delta": 1, "iterations": 1}
SWAPS = [GLASS, {**GLASS, "swap": True}]
FOG = {"amount": 1.0, "decay": 2.0}
FOGS = [FOG, {**FOG, "map_size": 64}]
FROST = {"image_weight": 1.0, "frost_weight": 0.4}
TEXTURES = corruptions.stack_textures([np.zeros((40, 60, 3))], "here")
FROSTS = [FROST, {**FROST, "textures": TEXTURES}]
SHAPE = (32, 32, 3)
MIXED = corruptions.Degradation(jnp.zeros(2, jnp.int32), jnp.float32(0))
ROWS = [
    *(
        (
            f"{channels} channels, {name}",
            lambda _, n=name, c=channels: entry(n, c),
            f"1 or 3 channels: {channels}",
        )
        for name in ("saturate", "jpeg_compression", "spatter", "snow", "frost")
        for channels in (2, 4)
    ),
    ("a parameter", lambda _: contrast(sigma=1.0), "no parameter 'sigma'.*factor"),
    ("an option", lambda _: contrast(index2=1.0), "no parameter 'index2'"),
    (
        "a factor",
        lambda _: contrast(factor=-1.0),
        r"factor must be .* in \[0, inf\): -1.0",
    ),
    (
        "swaps",
        lambda _: glass_blur.constants(SHAPE, SWAPS),
        "all severities must agree on swap",
    ),
    (
        "fogs",
        lambda _: weather.fog.constants(SHAPE, FOGS),
        "map_size must be the same at all severities: .*64",
    ),
    (
        "frosts",
        lambda _: frost.frost.constants(SHAPE, FROSTS),
        "textures must be the same at all severities",
    ),
    (
        "frosts of images",
        lambda _: frost.frost.run(jax.random.key(0), IMAGES, FROSTS, 0),
        "textures must be the same at all severities",
    ),
    (
        "a border",
        lambda _: gaussian_matrix(28, 1.0, border="wrap"),
        "border must be 'nearest' or 'reflect': 'wrap'",
    ),
    (
        "sigma",
        lambda _: gaussian_matrix(28, [1.0]),
        r"sigma must be a finite number in .*: \[1.0\]",
    ),
    (
        "another border",
        lambda _: sample_bilinear(IMAGES, IMAGES[..., 0], IMAGES[..., 0], "wrap"),
        r"border must be one of \['reflect-101', .*: 'wrap'",
    ),
    # Noises, mixed.
    (
        "a suite",
        lambda _: suite_degradations("cifar"),
        "unknown suite 'cifar' .*choose from uronet, cifar_c",
    ),
    (
        "a noise",
        lambda _: suite_degradations(noises=["gn"]),
        "'gn' .nearest: 'GN'.: choose from GN, UN, SPN",
    ),
    ("a text", lambda _: suite_degradations(noises="GN"), r"several, .* \('GN',\)"),
    (
        "no noise",
        lambda _: suite_degradations("cifar_c", noises=["fog"]),
        "unknown noise 'fog': choose from .*gaussian_noise",
    ),
    (
        "a severity",
        lambda _: suite_degradations(severities=[4]),
        r"severity of uronet/GN must be an integer in \[1, 3\]: 4",
    ),
    (
        "one severity",
        lambda _: suite_degradations(severities=1),
        r"severities must be several, such as \(1,\)",
    ),
    (
        "a reading",
        lambda _: suite_degradations(spn_reading="per_element"),
        "choose from per_pixel, per_channel",
    ),
    (
        "another reading",
        lambda _: suite_degradations(un_reading="low-contrast"),
        "nearest: 'low_contrast'",
    ),
    ("nothing", lambda _: make_degradation([]), "at least one .name, parameter. entry"),
    ("of a suite", lambda _: make_degradation([("GN", 0.1)]), "unknown noise 'GN'"),
    (
        "too much",
        lambda _: make_degradation([("impulse_noise", 60.0)]),
        r"amount must be .* 1.0\]: 60.0",
    ),
    (
        "a number?",
        lambda _: make_degradation([("shot_noise", "60")]),
        "rate must be finite .*: 60",
    ),
    ("no list", lambda _: make_degradation(NOISE), r"entries \(name, parameter\)"),
    ("names", lambda _: make_degradation(["gaussian_noise"]), "found 'gaussian_noise'"),
    ("no mix", lambda _: drawn([NOISE]), "must be what make_degradation returns"),
    ("half a mix", lambda _: drawn(MIXED), "both be scalar"),
    (
        "a list",
        lambda _: drawn(make_degradation([NOISE]), IMAGES.tolist()),
        "images must be an array of NumPy or JAX, not a list",
    ),
    # Photographs of frost.
    ("none", lambda _: frosted([]), "no frost pictures in the folder"),
    (
        "small",
        lambda _: frosted([np.zeros((31, 60, 3))]),
        r"from the folder must be at least 32x32, .*\[31, 60\]",
    ),
    (
        "grey",
        lambda _: frosted([np.zeros((40, 60))]),
        r"pictures from the folder must be \[H, W, 3\]: \(40, 60\)",
    ),
    (
        "0 to 255",
        lambda _: frosted([np.full((40, 60, 3), 255.0)]),
        r"pictures from the folder must be finite and in \[0.0, 1.0\]: \[+255",
    ),
    ("no folder", lambda f: load_frost(f / "nowhere"), "no folder .*nowhere"),
    ("no pictures", load_frost, "no frost pictures .*frost1.png"),
    (
        "text",
        lambda f: load_frost(pictures(f, frost1=b"x")),
        "cannot read .*frost1.png",
    ),
    (
        "no pixel",
        lambda f: load_frost(f, scale=0.0),
        r"scale of frost pictures must .* number in \(0, 1\]: 0.0",
    ),
    (
        "no frost",
        lambda f: load_suite_frost(f, "uronet"),
        "imagenet_c, tiny_c, cifar_c only, not uronet",
    ),
    # How alike two images are.
    *(
        (f"{name}, {metric.__name__}", lambda _, m=metric, x=pair: m(*x), message)
        for metric in (psnr, ssim)
        for name, pair, message in (
            ("shapes", (IMAGES, IMAGES[:1]), "images must have the same shape"),
            ("integers", (IMAGES, np.uint8(IMAGES)), "floating-point.*uint8"),
            ("one image", (IMAGES[0], IMAGES[0]), "B, H, W, C"),
            ("lists", (IMAGES.tolist(), IMAGES), "images must be an array of NumPy"),
        )
    ),
    ("tiny", lambda _: ssim(IMAGES[:, :10], IMAGES[:, :10]), "at least 11 x 11"),
]


def test_a_degradation_that_is_right():
    for entry in (NOISE, list(NOISE), (NOISE[0], jnp.float32(0.1))):
        assert make_degradation([entry]).parameter == np.float32(0.1)


@pytest.mark.parametrize(("name", "call", "message"), ROWS)
def test_what_is_wrong_is_told(name, call, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        call(tmp_path)
