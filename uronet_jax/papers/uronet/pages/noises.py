"""Which noises are the paper's, told by what they do to classifiers without defence.

The paper leaves open how some noises are drawn. A noise here is another than the
paper's if each of the paper's classifiers that was measured on it, undefended, is
further than `SAME_NOISE` points from its published accuracy. A classifier counts if its
accuracy on clean images is within `SAME_CLASSIFIER` points of the published one. Where
a noise has several readings, this is said of the one that drew it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

SAME_NOISE = 10.0
SAME_CLASSIFIER = 5.0
CLEAN = "clean"
# Columns that name a noise, and those that name its severity.
_PLACES = (
    ("train_noise", "train_severity"),
    ("test_noise", "test_severity"),
    ("noise", "severity"),
    ("noise", "test_severity"),
    ("noise", "inferred_severity"),
    ("noise", "remover_train_severity"),
)
# Table 11 names its remover by noise alone.
_SPN_REMOVER = "URoNet (SPN"

# How a suite draws what the paper leaves open, of salt-and-pepper and uniform noise.
Readings = tuple[str | None, str | None]
_READ = ("SPN", "UN")


class Undefended(NamedTuple):
    """Accuracy of a classifier of the paper without defence, in percent.

    Attributes:
        dataset: Title of the data set.
        classifier: As the paper calls it.
        noise: Noise and severity, such as `UN-3`, or `CLEAN`.
        readings: Of the suite that drew the noise.
        ours: What was measured.
        published: The paper's.
        result: Name of the file.
        network: Which network it is, see `classifiers.Origin`.
    """

    dataset: str
    classifier: str
    noise: str
    readings: Readings
    ours: float
    published: float
    result: str
    network: tuple[str, str] = ("", "")

    @property
    def gap(self) -> float:
        """Distance from the published accuracy."""
        return round(abs(self.ours - self.published), 2)

    @property
    def reading(self) -> str | None:
        """How the noise was drawn; None where the paper leaves nothing open."""
        name = self.noise.partition("-")[0]
        return self.readings[_READ.index(name)] if name in _READ else None


def readings(config: Mapping[str, Any]) -> Readings:
    """Returns the readings of a config's suite."""
    suite = config.get("suite") or {}
    return suite.get("spn_reading"), suite.get("un_reading")


def rests_on(cell: Mapping[str, Any]) -> set[str]:
    """Returns the noises that a number depends on, such as `{"UN-3", "GN-1"}`.

    Args:
        cell: Of `comparison.compare`. Where Figure 6 and Table 11 name no severity,
            removers of the mildest are used.
    """
    found = {
        f"{cell[noise]}-{cell[severity]}"
        for noise, severity in _PLACES
        if cell.get(noise) and cell.get(severity)
    }
    if cell.get("train_noise") and not cell.get("train_severity"):
        found.add(f"{cell['train_noise']}-1")
    if str(cell.get("defence", "")).startswith(_SPN_REMOVER):
        found.add("SPN-1")
    return found


def other_noises(measured: Iterable[Undefended]) -> dict[Readings, dict[str, str]]:
    """Finds the noises that are not the paper's.

    Args:
        measured: In the order in which they are to be named.

    Returns:
        Readings -> noise and severity -> the numbers that tell, with the reading that
        was used and whether another that was measured comes within the bound.
    """
    measured = list(measured)

    def network(x):
        return x.result, x.dataset, x.classifier

    alike = {
        network(x) for x in measured if x.noise == CLEAN and x.gap <= SAME_CLASSIFIER
    }
    by_noise: dict[tuple, list[Undefended]] = {}
    for x in measured:
        if x.noise != CLEAN and network(x) in alike:
            by_noise.setdefault((x.readings, x.noise, x.dataset), []).append(x)
    found: dict[Readings, dict[str, str]] = {}
    for (drawn, noise, _), members in by_noise.items():
        if all(x.gap > SAME_NOISE for x in members):
            first = members[0]
            text = (
                f"undefended {first.classifier} {first.ours:.2f} against "
                f"{first.published:.2f} %"
            )
            if first.reading:
                alternatives = [
                    x
                    for (_, name, dataset), others in by_noise.items()
                    for x in others
                    if (name, dataset) == (noise, first.dataset)
                    and x.reading != first.reading
                ]
                text = f"reading `{first.reading}`: {text}; {_nearest(alternatives)}"
            found.setdefault(drawn, {}).setdefault(noise, text)
    return found


def _nearest(alternatives: Sequence[Undefended]) -> str:
    """Says whether another reading of a noise comes within the bound."""
    if not alternatives:
        return "no other reading was measured"
    best = min(alternatives, key=lambda x: x.gap)
    if best.gap > SAME_NOISE:
        return f"no other measured reading comes within {SAME_NOISE:g} points"
    return (
        f"the reading `{best.reading}` comes within {SAME_NOISE:g} points, "
        f"{best.ours:.2f} %"
    )
