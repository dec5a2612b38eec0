"""Which fields of an experiment's config change no number."""

from collections.abc import Mapping
from typing import Any

# Sections whose batches are only looked at: how many at once is the machine's affair.
_LOOKED_AT = ("evaluation", "attack")
# Whole fields, and fields of any section.
_FIELDS = ("pipeline", "log_every", "steps_per_dispatch", "checkpoint_every")


def without_machine_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config of `configs/reproduce.py` without what suits the machine.

    That is how often models are saved and logged, how data reach the devices, and how
    many images are judged or attacked at once.
    """
    found = {k: v for k, v in config.items() if k not in _FIELDS}
    for name, section in found.items():
        if isinstance(section, Mapping):
            left_out = (*_FIELDS, "batch_size") if name in _LOOKED_AT else _FIELDS
            found[name] = {k: v for k, v in section.items() if k not in left_out}
    return found
