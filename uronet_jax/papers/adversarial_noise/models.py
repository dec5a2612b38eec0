"""What classifiers the experiments train: clean, on noises, on learned noise."""

from collections.abc import Mapping
from typing import Any

from uronet_jax.batches import check_number, check_whole
from uronet_jax.corruptions import list_severities
from uronet_jax.papers.kinds import Kind
from uronet_jax.training.run import Schedule

# Section of the config -> the data set that its models learn, another section.
NOISE_SECTIONS = {"noise_training": "data", "mnist_noise_training": "digits"}


def noise_section(config: Mapping[str, Any], role: str) -> Mapping[str, Any]:
    """Returns the section on the models of a data set."""
    (name,) = (name for name, own in NOISE_SECTIONS.items() if own == role)
    return config[name]


def noise_models(config: Mapping[str, Any], role: str) -> dict[str, str]:
    """Returns title -> kind of the models of a data set, the first one on clean images.

    That has no kind where it is the given classifier and not trained here.
    """
    section = noise_section(config, role)
    known = {title: f"{role}_{slug}" for title, slug, _ in _recipes(section)}
    unknown = sorted(set(section["models"]) - known.keys())
    if unknown:
        raise ValueError(
            f"no model {', '.join(unknown)} to learn {config[role]['title']}: choose "
            f"from {', '.join(known)}"
        )
    first = f"{role}_clean" if section["clean_steps"] else ""
    return {"Vanilla": first, **{x: known[x] for x in known if x in section["models"]}}


def scanned_models(config: Mapping[str, Any], role: str) -> dict[str, str]:
    """Returns title -> kind of the models of one sigma each, and one epsilon each."""
    section = noise_section(config, role)
    found = {f"GNT {x:g}": f"{role}_gnt_{x:g}" for x in section["sigmas"]}
    for epsilon in sorted({section["epsilon"], *section["epsilons"]}):
        slug = _scanned(epsilon) if epsilon != section["epsilon"] else "ant_1x1"
        found[f"ANT 1x1, epsilon {epsilon:g}"] = f"{role}_{slug}"
    return found


def _scanned(epsilon: float) -> str:
    return f"ant_1x1_{epsilon:g}"


def _drawn(noise: str, parameters: tuple[float, ...]) -> dict[str, Any]:
    """Returns that half of each batch has a noise, each image of a strength."""
    return {
        "degradation": {
            **{"suite": "", "noises": (noise,), "parameters": parameters},
            **{"clean_entries": 0, "clean_share": 0.5},
            **{"copies": 0, "folder": ""},
        }
    }


def _recipes(section: Mapping[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Returns title, name of a folder and sections of a config of every model."""
    found = [
        (f"GNT {sigma:g}", f"gnt_{sigma:g}", _drawn("gaussian_noise", (sigma,)))
        for sigma in section["sigmas"]
    ]
    found += [
        ("GNT mult", "gnt_mult", _drawn("gaussian_noise", section["sigma_set"])),
        ("Speckle", "speckle", _drawn("speckle_noise", section["speckle_set"])),
    ]
    usual = section["epsilon"]
    for title, slug, generator, replay, epsilon in (
        ("ANT 1x1", "ant_1x1", "1x1", True, usual),
        ("ANT 1x1 without replay", "ant_1x1_without_replay", "1x1", False, usual),
        ("ANT 3x3", "ant_3x3", "3x3", True, usual),
        *(
            (f"ANT 1x1, epsilon {x:g}", _scanned(x), "1x1", True, x)
            for x in section["epsilons"]
            if x != usual
        ),
    ):
        fields = ("rate", "restart_every", "restart_steps", "restart_rate")
        noise = {"epsilon": epsilon} | {name: section[name] for name in fields}
        shares = {"noise": 0.3 if replay else 0.5, "replay": 0.2 if replay else 0.0}
        shares |= {"replay_slices": 2, "degraded": 0.0}
        recipe = {"noise": {"generator": generator, **noise}, "shares": shares}
        found.append((title, slug, recipe))
    if section["pgd_steps"]:
        attack = {"epsilon": section["pgd_epsilon"], "norm": "linf"}
        attack |= {"step_size": section["pgd_step_size"], "steps": section["pgd_steps"]}
        found.append(("PGD training", "pgd_training", {"attack": attack}))
    return found


def noise_kinds(config: Mapping[str, Any]) -> dict[str, Kind]:
    """Returns the kinds of models; those on clean images come before the others.

    Raises:
        ValueError: If a strength of a noise is out of range, or there is none.
    """
    kinds = {}
    for name, role in NOISE_SECTIONS.items():
        section = config[name]
        _check_section(name, section)
        norms = [(f"{name}.{x}", section[x]) for x in ("epsilon", "generator_epsilon")]
        norms += [(f"{name}.epsilons", x) for x in section["epsilons"]]

        def schedule(num_steps, section=section):
            return Schedule(
                batch_size=section["batch_size"],
                num_steps=num_steps,
                checkpoint_every=section["checkpoint_every"],
                eval_batch_size=config["evaluation"]["batch_size"],
                steps_per_dispatch=config["steps_per_dispatch"],
                log_every=config["log_every"],
            )

        model = {"name": section["network"]}
        if section["clean_steps"]:
            kinds[f"{role}_clean"] = Kind(
                "classifier",
                model,
                schedule(section["clean_steps"]),
                section["clean_optimizer"],
                dtype=section["dtype"],
                norms=tuple(norms),
            )
        start = f"{role}_clean" if section["clean_steps"] else "classifier"
        for _, slug, sections in _recipes(section):
            steps, phase = section["num_steps"], "classifier"
            if "noise" in sections:
                phase, noise = "adversarial_noise", sections["noise"]
                every = noise["restart_every"] or steps
                steps += -(-steps // every) * noise["restart_steps"]
            elif "attack" in sections:
                phase = "adversarial_training"
            kinds[f"{role}_{slug}"] = Kind(
                phase,
                model,
                schedule(steps),
                section["optimizer"],
                variant_of=f"{role}_noise",
                initial=start,
                dtype=section["dtype"],
                sections=sections,
                norms=tuple(norms),
            )
    return kinds


def _check_section(name: str, section: Mapping[str, Any]) -> None:
    """Raises ValueError for what no model checks itself."""
    for field, low in (
        *(("generators", 1), ("generator_steps", 1), ("batch_size", 1)),
        *(("clean_steps", 0), ("pgd_steps", 0)),
        *(("eps_star_images", 0), ("attacked_images", 0)),
    ):
        check_whole(f"{name}.{field}", section[field], low)
    for field in ("attack_linf", "attack_l2"):
        check_number(f"{name}.{field}", section[field], 0.0)
    field = "generator_epsilon"
    check_number(f"{name}.{field}", section[field], above=0.0)
    for field in ("sigmas", "epsilons"):  # They name folders.
        names = [f"{x:g}" for x in section[field]]
        if len(set(names)) < len(names):
            raise ValueError(
                f"{name}.{field} must differ in six digits: {section[field]}"
            )
    for field in ("sigmas", "sigma_set", "speckle_set", "tested_sigmas"):
        for sigma in section[field]:
            check_number(f"{name}.{field}", sigma, 0.0)
    for field in ("sigma_set", "speckle_set"):
        if not section[field]:
            raise ValueError(
                f"{name}.{field} is empty: name at least one strength of the noise"
            )
    if name == "mnist_noise_training" and not section["clean_steps"]:
        raise ValueError(f"{name}.clean_steps must be above 0: no classifier is given")
    known = list_severities(section["suite"])
    if not set(section["tested_severities"]) <= set(known):
        raise ValueError(
            f"{name}.tested_severities must be some of {known}, those of "
            f"{section['suite']}: {tuple(section['tested_severities'])}"
        )
