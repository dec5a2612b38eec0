"""The packages that the corruptions are compared with; each is optional."""

import importlib
from collections.abc import Mapping

import numpy as np

from uronet_jax.benchmarking.corruptions import CorruptionPeer

# Distribution -> module.
PACKAGES = {"imagecorruptions-imaug": "imagecorruptions", "corrupt-tta": "corrupt_tta"}


def corruption_peers(threads: int) -> tuple[Mapping[str, CorruptionPeer], list[str]]:
    """Imports the peers.

    Args:
        threads: That OpenCV, on which both build, may use.

    Returns:
        Distribution -> function of one image, and a note on each that is absent.
    """
    peers: dict[str, CorruptionPeer] = {}
    notes = []
    for distribution, module in PACKAGES.items():
        try:
            package = importlib.import_module(module)
        except ImportError as error:
            notes.append(
                f"{distribution} is absent ({error}): pip install uronet_jax[benchmark]"
            )
            continue
        peers[distribution] = _adapter(package.corrupt)
    if peers:
        import cv2

        cv2.setNumThreads(threads)
    return peers, notes


def _adapter(corrupt) -> CorruptionPeer:
    def run(image: np.ndarray, name: str, severity: int):
        return corrupt(image, severity=severity, corruption_name=name)

    return run
