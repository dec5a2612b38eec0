"""uronet_jax: protects image classifiers from degraded pictures.

Nothing heavy is imported here; the names below load on first use.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Name -> the module that defines it.
_EXPORTS = {
    "Defense": "uronet_jax.defense",
    "corrupt": "uronet_jax.corruptions",
    "list_corruptions": "uronet_jax.corruptions",
    "list_pretrained": "uronet_jax.pretrained",
    "load_defense": "uronet_jax.loading",
    "load_model": "uronet_jax.loading",
    "load_pretrained": "uronet_jax.loading",
    "make_defense": "uronet_jax.defense",
    "open_source": "uronet_jax.data",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
