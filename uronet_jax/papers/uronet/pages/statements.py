"""What the URoNet paper claims of its tables and figures.

A qualitative claim is about an order, such as "worse than"; a numerical one about the
paper's own numbers. Where the paper says both in one sentence, there are two claims.
"""

import dataclasses
from typing import Literal

from uronet_jax.papers.uronet.pages import rules
from uronet_jax.papers.uronet.pages.rules import SEES, Rule

Kind = Literal["qualitative", "numerical"]


@dataclasses.dataclass(frozen=True)
class Claim:
    """Something the paper says.

    Attributes:
        experiment: Whose cells can tell.
        kind: Whether it is about an order or about published numbers.
        text: What it says.
        rule: Which of our numbers it speaks of, and their limits.
        below: Whether it says that they are below their limits, not above.
        average: Whether it is about their mean, not about each.
        things: What the numbers are of.
        misses: Whether it is that detectors of noises miss something: of those that do
            not find their own noise it says nothing.
    """

    experiment: str
    kind: Kind
    text: str
    rule: Rule
    below: bool = False
    average: bool = False
    things: str = "cells"
    misses: bool = False


_UN_3 = {"train_noise": "UN", "train_severity": "3"}
_SPKN_1 = {"train_noise": "SPKN", "train_severity": "1"}
_ON_CIFAR_10 = {"dataset": "CIFAR-10"}
_BUT_UN_3 = {rules.trained: "UN-3"}
_FIGURE_6 = "uronet_figure06.csv"
_OWN, _TRANSFERRED = rules.published_numbers(
    _FIGURE_6, classifier="ResNet", train_noise="GN"
)
(_SPN_GAIN,) = rules.published_numbers(_FIGURE_6, train_noise="SPN")
_GREY_GAINS = {
    noise: rules.section_3_3(ablation="grey", test_noise=noise)[0]
    for noise in ("GN", "UN", "SPN")
}
(_OTHER_DROP,) = rules.section_3_3(ablation="detector_other", **_ON_CIFAR_10)
_LEAST_PATTERN_DROP, _LARGEST_PATTERN_DROP = rules.section_3_3(
    ablation="detector_image_only"
)
(_ONE_HEAD_GAIN,) = rules.section_3_3(ablation="dcae")

CLAIMS = (
    Claim(
        "table2",
        "numerical",
        "a detector trained on UN-3 finds 17 of the 18 degradations, all but IN-1 "
        "(98.39 % at least)",
        rules.each(98.39, without={rules.tested: "IN-1"}, **_UN_3),
    ),
    Claim(
        "table2",
        "numerical",
        "a detector trained on SPKN-1 finds all 18 (88.93 % at least)",
        rules.each(88.93, **_SPKN_1),
    ),
    Claim(
        "table2",
        "qualitative",
        "training on the mildest severity of a noise generalises better than on the "
        "strongest (6 of 6 noises)",
        rules.mildest_against_strongest,
        things="noises",
    ),
    Claim(
        "table2",
        "qualitative",
        f"detectors trained on SPN miss UN-3 (judged as below {SEES:g} %)",
        rules.each(
            SEES, rules.trained, train_noise="SPN", test_noise="UN", test_severity="3"
        ),
        below=True,
        misses=True,
    ),
    Claim(
        "table3",
        "numerical",
        "on CIFAR-100 a detector trained on SPKN-1 finds all 18 (67.93 % at least)",
        rules.each(67.93, **_SPKN_1),
    ),
    Claim(
        "table4",
        "numerical",
        "a detector trained on GN-1 of CIFAR-10 serves CIFAR-100 (90.89 % at least)",
        rules.each(90.89, train_dataset="CIFAR-10", train_noise="GN"),
    ),
    Claim(
        "table5",
        "qualitative",
        "detectors trained on noise miss attacks, those of UN-3 aside (judged as below "
        f"{SEES:g} %)",
        rules.each(SEES, rules.trained, without=_BUT_UN_3, **_ON_CIFAR_10),
        below=True,
        misses=True,
    ),
    Claim(
        "table5",
        "numerical",
        "detectors trained on noise find attacks, those of UN-3 aside, in 58.24 % at "
        "most",
        rules.each(58.24, rules.trained, without=_BUT_UN_3, **_ON_CIFAR_10),
        below=True,
        misses=True,
    ),
    Claim(
        "table5",
        "qualitative",
        f"a detector trained on UN-3 sees attacks (judged as above {SEES:g} %)",
        rules.each(SEES, rules.attacked, **_ON_CIFAR_10, **_UN_3),
    ),
    Claim(
        "table5",
        "numerical",
        "a detector trained on UN-3 finds IFGSM in 82.86 % and PGD in 99.46 %, or more",
        rules.each(None, rules.attacked, **_ON_CIFAR_10, **_UN_3),
    ),
    Claim(
        "table6",
        "numerical",
        "a detector trained on IFGSM finds all 18 noises (87.02 % at least)",
        rules.each(87.02, **_ON_CIFAR_10, train_attack="IFGSM40"),
    ),
    Claim(
        "table7",
        "qualitative",
        "on CIFAR-10 every remover raises the accuracy on its noise at every severity "
        "(108 of 108 cells)",
        rules.removers_against_none,
    ),
    Claim(
        "table7",
        "numerical",
        "on CIFAR-10 the accuracy behind the removers is on average at least as "
        "published",
        rules.removers_against_published,
        average=True,
    ),
    Claim(
        "table7",
        "qualitative",
        "on CIFAR-10 the remover of the severity met does on average better than those "
        "of the other two",
        rules.same_severity_against_others,
        average=True,
    ),
    Claim(
        "table8",
        "qualitative",
        "on CIFAR-100 every remover raises the accuracy on its noise at every severity "
        "(108 of 108 cells)",
        rules.removers_against_none,
    ),
    Claim(
        "table8",
        "numerical",
        "on CIFAR-100 the accuracy behind the removers is on average at least as "
        "published",
        rules.removers_against_published,
        average=True,
    ),
    Claim(
        "table11",
        "qualitative",
        "behind the SPN remover a ResNet keeps more accuracy on attacked images than "
        "with three other defences (IFGSM 51.47 % and PGD 55.01 % at best)",
        rules.uronet_against_defences,
    ),
    Claim(
        "table11",
        "numerical",
        "behind the SPN remover a ResNet keeps 54.59 % under IFGSM and 64.66 % under "
        "PGD, or more",
        rules.each(
            None,
            rules.attacked,
            classifier="ResNet",
            defence="URoNet (SPN-trained remover)",
        ),
    ),
    Claim(
        "table12",
        "qualitative",
        "two heads remove noise better than one",
        rules.two_heads_against_one(0.0),
    ),
    Claim(
        "table12",
        "numerical",
        f"two heads give {_ONE_HEAD_GAIN:g} points more than one at least",
        rules.two_heads_against_one(_ONE_HEAD_GAIN),
    ),
    Claim(
        "figure6",
        "qualitative",
        "under PGD a remover trained on GN gives a ResNet back more if the attack was "
        "made on it than on another network",
        rules.own_against_transferred,
    ),
    Claim(
        "figure6",
        "numerical",
        "under PGD a remover trained on GN gives a ResNet back "
        f"{_OWN:+.2f} points if the attack was made on it, {_TRANSFERRED:+.2f} if on "
        "another network, or more",
        rules.gaussian_gains(_OWN, _TRANSFERRED),
    ),
    Claim(
        "figure6",
        "qualitative",
        "of all removers that of SPN gives back most under attacks, on average",
        rules.salt_and_pepper_against_others,
        things="other removers",
    ),
    Claim(
        "figure6",
        "numerical",
        f"the remover of SPN gives back {_SPN_GAIN:+.2f} points on average, or more",
        rules.salt_and_pepper_gain(_SPN_GAIN),
    ),
    Claim(
        "ablations",
        "qualitative",
        "a VGG detector is on average worse than the Wide-ResNet",
        rules.usual_detector_against("detector_other"),
        average=True,
        things=f"tests ({rules.OWN_LESS_OTHER})",
    ),
    Claim(
        "ablations",
        "numerical",
        f"trained on GN and tested on UN-1, VGG finds {_OTHER_DROP:g} points less, or "
        "even fewer",
        rules.usual_detector_on_uniform("detector_other", _OTHER_DROP),
    ),
    Claim(
        "ablations",
        "qualitative",
        "without the noise pattern the detector is on average worse",
        rules.usual_detector_against("detector_image_only"),
        average=True,
        things=f"tests ({rules.OWN_LESS_OTHER})",
    ),
    Claim(
        "ablations",
        "numerical",
        "without the noise pattern the detector finds on average "
        f"{_LEAST_PATTERN_DROP:g} points "
        f"less at least (the paper: {_LEAST_PATTERN_DROP:g} to "
        f"{_LARGEST_PATTERN_DROP:g})",
        rules.usual_detector_against("detector_image_only", _LEAST_PATTERN_DROP),
        average=True,
        things=f"tests ({rules.OWN_LESS_OTHER})",
    ),
    Claim(
        "ablations",
        "qualitative",
        "on grey Fashion-MNIST removers of GN, UN and SPN give accuracy back",
        rules.grey_removers_against_none(dict.fromkeys(_GREY_GAINS, 0.0)),
    ),
    Claim(
        "ablations",
        "numerical",
        "on grey Fashion-MNIST removers give back at least "
        + ", ".join(f"{noise} {gain:+g}" for noise, gain in _GREY_GAINS.items())
        + " points",
        rules.grey_removers_against_none(_GREY_GAINS),
    ),
)
# What nobody can check, and why.
OPEN = (
    "Tables 9 and 10 (Tiny ImageNet and ImageNette are not run here)",
    "Tables 13 and 14 (corruptions, severities and classifiers are not named)",
)
