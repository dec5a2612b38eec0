"""What people use for each input transformation, with the usual parameters of ours.

Packages are imported where they are used, since they are optional. Where a paper's
program is a loop in Python there is such a loop here.
"""

import io
import random
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from uronet_jax import host
from uronet_jax.transformations import TRANSFORMATIONS
from uronet_jax.transformations.sparse_layer import load_dictionaries

# Float images `[N, 32, 32, 3]` in `[0, 1]` -> what a transformation makes of them.
PeerFunction = Callable[[np.ndarray], np.ndarray]


class Peer(NamedTuple):
    """Who does the work of a transformation.

    Attributes:
        package: Distribution, whose version is stated.
        make: `(patches) -> function`; `patches` are quilting's.
        images: How many it is given; a slow one fewer than ours.
        same: Whether it makes the same images, and is compared.
        note: What is to be known of the comparison.
    """

    package: str
    make: Callable[[np.ndarray], PeerFunction]
    images: int = 64
    same: bool = True
    note: str = ""


def _usual(name: str) -> dict[str, Any]:
    return dict(TRANSFORMATIONS[name].parameters)


def _bytes(images):
    return np.uint8(np.rint(images * 255))


def _make_jpeg(patches):
    from PIL import Image

    def compress(image):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", **_usual("jpeg"))
        return np.asarray(Image.open(file))

    return lambda images: (
        np.stack([compress(x) for x in _bytes(images)]) / np.float32(255)
    )


def _make_bit_depth(patches):
    levels = np.float32(2 ** _usual("bit_depth")["bits"] - 1)
    return lambda images: np.rint(images * levels) / levels


def _make_median(patches):
    from scipy import ndimage

    window = (1, *2 * [_usual("median")["size"]], 1)
    return lambda images: ndimage.median_filter(images, window, mode="reflect")


def _make_total_variation(patches):
    from skimage.restoration import denoise_tv_bregman

    usual = _usual("total_variation")
    options = {"weight": 1 / usual["weight"], "max_num_iter": 60, "eps": 0.0}

    def minimise(images):
        kept = np.random.default_rng(0).random(images.shape) >= usual["drop_rate"]
        filled = (
            denoise_tv_bregman(x, channel_axis=-1, **options) for x in images * kept
        )
        return np.clip(np.stack(list(filled)), 0, 1)

    return minimise


def _make_total_variation_art(patches):
    from art.defences.preprocessor import TotalVarMin

    usual = _usual("total_variation_art")
    options = {"prob": usual["keep_rate"], "lamb": usual["weight"]}
    defence = TotalVarMin(**options, clip_values=(0.0, 1.0))
    return lambda images: defence(images)[0]


def _make_feature_distillation(patches):
    from scipy import fft

    usual = _usual("feature_distillation")
    steps = np.full((8, 1, 8, 1), usual["high_step"], np.float32)
    steps[:4, :, :4] = usual["low_step"]
    options = {"axes": (2, 4), "norm": "ortho"}

    def distil(images):
        batch, height, width, channels = images.shape
        blocks = 255 * images.reshape(batch, height // 8, 8, width // 8, 8, channels)
        blocks = np.rint(fft.dctn(blocks, **options) / steps) * steps
        blocks = fft.idctn(blocks, **options) / 255
        return np.clip(blocks, 0, 1).reshape(images.shape)

    return distil


def _make_resize_pad(patches):
    from PIL import Image

    usual = _usual("resize_pad")

    def resize(image):
        size = len(image)
        whole = round(usual["canvas"] * size)
        side = random.randint(round(usual["smallest"] * size), whole - 1)
        place = [random.randint(0, whole - side) for _ in range(2)]
        canvas = Image.new("RGB", (whole, whole), (128, 128, 128))
        small = Image.fromarray(image)
        canvas.paste(small.resize((side, side), Image.Resampling.NEAREST), place)
        return np.asarray(canvas.resize((size, size), Image.Resampling.BILINEAR))

    return lambda images: (
        np.stack([resize(x) for x in _bytes(images)]) / np.float32(255)
    )


def _make_wavelet(patches):
    import pywt  # noqa: F401 scikit-image needs it.
    from skimage.restoration import denoise_wavelet

    options = {"sigma": _usual("wavelet")["sigma"], "convert2ycbcr": True}

    def denoise(images):
        found = [denoise_wavelet(x, channel_axis=-1, **options) for x in images]
        return np.clip(np.stack(found), 0, 1)

    return denoise


def _make_pixel_deflection(patches):
    denoise, usual = _make_wavelet(patches), _usual("pixel_deflection")
    window = usual["window"]

    def deflect(image):
        image = image.copy()
        height, width, channels = image.shape
        for _ in range(-(-usual["deflections"] // channels)):
            for channel in range(channels):
                x, y = random.randrange(height), random.randrange(width)
                while True:
                    a = x + random.randint(-window, window)
                    b = y + random.randint(-window, window)
                    if 0 < a < height and 0 < b < width:
                        break
                image[x, y, channel] = image[a, b, channel]
        return image

    return lambda images: denoise(np.stack([deflect(x) for x in images]))


def _make_sparse_layer(patches):
    with warnings.catch_warnings():  # That pyFFTW is absent, where it is.
        warnings.simplefilter("ignore")
        from sporco import fft, signal
        from sporco.admm.cbpdn import ConvBPDN
    fft.pyfftw_threads = host.num_threads()
    usual = _usual("sparse_layer")
    options = {"Verbose": False, "RelStopTol": 5e-3, "AuxVarObj": False}
    options |= {"MaxMainIter": usual["iterations"]}
    filters = next(x for x in load_dictionaries() if x.shape[-1] == 3)
    filters = np.ascontiguousarray(np.moveaxis(filters, 0, -1))

    def code(image):
        low, high = signal.tikhonov_filter(image, usual["smoothing"], 16)
        solver = ConvBPDN(filters, high, usual["weight"], ConvBPDN.Options(options))
        solver.solve()
        found = low + solver.reconstruct().squeeze()
        return np.clip(found / found.max(), 0, 1)

    return lambda images: np.stack([code(x) for x in images])


def _cut(errors):
    """Returns the column of the cheapest path down `errors`, by row."""
    cost, turns = errors[0], []
    for row in errors[1:]:
        padded = np.pad(cost, 1, constant_values=np.inf)
        before = np.stack([padded[i : i + len(row)] for i in range(3)])
        turns.append(before.argmin(0) - 1)
        cost = row + before.min(0)
    path = [int(cost.argmin())]
    for turn in reversed(turns):
        path.append(path[-1] + int(turn[path[-1]]))
    return np.array(path[::-1])


def _make_quilting(patches):
    overlap, size = _usual("quilting")["overlap"], patches.shape[1]
    flat = patches.reshape(len(patches), -1) - 0.5
    norms = (flat**2).sum(1)
    along = np.arange(size)

    def quilt(image):
        tops, lefts = (
            np.minimum(np.arange(0, n - overlap, size - overlap), n - size)
            for n in image.shape[:2]
        )
        places = [np.s_[y : y + size, x : x + size] for y in tops for x in lefts]
        queries = np.stack([image[place].ravel() for place in places]) - 0.5
        nearest = (norms - 2 * queries @ flat.T).argmin(1)
        canvas = np.zeros_like(image)
        for place, chosen in zip(places, nearest, strict=True):
            new, old = patches[chosen], canvas[place]
            errors = ((new - old) ** 2).sum(-1)
            fresh = np.ones((size, size), bool)
            if place[1].start:
                fresh &= along >= _cut(errors[:, :overlap])[:, None]
            if place[0].start:
                fresh &= along[:, None] >= _cut(errors.T[:, :overlap])
            canvas[place] = np.where(fresh[..., None], new, old)
        return canvas

    return lambda images: np.stack([quilt(x) for x in images])


def _make_gaussian_noise(patches):
    rng, scale = np.random.default_rng(0), _usual("gaussian_noise")["scale"]

    def add(images):
        noise = rng.standard_normal(images.shape, np.float32)
        return np.clip(images + np.float32(scale) * noise, 0, 1)

    return add


PEERS: dict[str, Peer] = {
    "jpeg": Peer("Pillow", _make_jpeg),
    "bit_depth": Peer("NumPy", _make_bit_depth),
    "median": Peer("SciPy", _make_median),
    "total_variation": Peer(
        "scikit-image",
        _make_total_variation,
        same=False,
        note="denoise_tv_bregman knows no dropped elements; it does 60 rounds, as many "
        "sweeps as the released solver makes of photographs",
    ),
    "total_variation_art": Peer(
        "adversarial-robustness-toolbox", _make_total_variation_art, 4, same=False
    ),
    "feature_distillation": Peer("SciPy", _make_feature_distillation),
    "resize_pad": Peer("Pillow", _make_resize_pad, same=False, note="in 8 bits"),
    "wavelet": Peer("scikit-image", _make_wavelet, 16),
    "pixel_deflection": Peer(
        "scikit-image",
        _make_pixel_deflection,
        16,
        same=False,
        note="the loop over pixels is in Python, as that of the authors",
    ),
    "sparse_layer": Peer(
        "sporco",
        _make_sparse_layer,
        8,
        same=False,
        note="on some images SPORCO's penalty circles until the last step; ours is "
        "kept after 100 steps, and ends before",
    ),
    "quilting": Peer(
        "NumPy",
        _make_quilting,
        4,
        note="no package has it; the loop over windows is in Python",
    ),
    "gaussian_noise": Peer("NumPy", _make_gaussian_noise, same=False),
}
