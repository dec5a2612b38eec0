"""Compares every attack with foolbox and torchattacks, on one network and its images.

  pip install -e ".[oracles]"
  python -m launch.attack_agreement --classifier=resnet20.npz --dataset=cifar10 \
      --out=docs/results/attack_agreement.json

A row that the file holds already is not measured again. Times are of a second call, so
without compilation; everybody uses as many threads as the process may (`taskset` limits
them). Let nothing else run beside it.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

from launch import cli
from uronet_jax.adapters import foolbox_model
from uronet_jax.attacks import (
    ATTACKS,
    AttackStep,
    adaptive,
    autoattack,
    balls,
    flax_logits,
    misclassification,
)
from uronet_jax.attacks.auto.versions import VERSIONS
from uronet_jax.attacks.objectives import is_wrong
from uronet_jax.data import open_source
from uronet_jax.host import num_threads
from uronet_jax.loading import LoadedModel, load_classifier
from uronet_jax.reports import results, tables
from uronet_jax.reports.provenance import provenance

FOOLBOX, TORCHATTACKS = "foolbox", "torchattacks"
LINF, L2 = 1 / 255, 0.1
OURS = "uronet_jax"


class Pair(NamedTuple):
    """One attack here and there.

    Attributes:
        attack: Key of `ATTACKS`, or `autoattack_` and a norm.
        peer: Package.
        make: `(module of the package) -> attack`; of torchattacks called with the
            network too.
        parameters: Keyword arguments of ours.
        deterministic: Whether the two do the same steps, so that each image counts.
        images: How many are attacked at most, where the peer is slow.
    """

    attack: str
    peer: str
    make: Callable[..., Any]
    parameters: dict[str, Any]
    deterministic: bool = False
    images: int = 10**9

    @property
    def to_the_end(self) -> bool:
        """Whether the peer goes on after a success, so that ours must too."""
        return self.attack.startswith(("fgsm", "ifgsm", "pgd"))


_PGD = {"steps": 20, "epsilon": LINF, "step_size": LINF / 5}
_PGD_L2 = {"steps": 20, "epsilon": L2, "step_size": L2 / 5}
_START = {"random_start": False}
# AutoAttack shortened, so that the last of its attacks have images left in little time.
_SHORT = {"apgd": 20, "fab": 10, "square": 200}
_CW = {"binary_search_steps": 5, "steps": 100, "step_size": 0.01}

PAIRS = (
    Pair("fgsm_linf", FOOLBOX, lambda fb: fb.FGSM(), {"epsilon": LINF}, True),
    Pair(
        "fgsm_linf",
        TORCHATTACKS,
        lambda ta, network: ta.FGSM(network, eps=LINF),
        {"epsilon": LINF},
        True,
    ),
    Pair(
        "fgsm_l2", FOOLBOX, lambda fb: fb.L2FastGradientAttack(), {"epsilon": L2}, True
    ),
    Pair(
        "ifgsm_linf",
        FOOLBOX,
        lambda fb: fb.LinfBasicIterativeAttack(
            abs_stepsize=LINF / 5, steps=20, random_start=False
        ),
        _PGD,
        True,
    ),
    Pair(
        "ifgsm_linf",
        TORCHATTACKS,
        lambda ta, network: ta.BIM(network, eps=LINF, alpha=LINF / 5, steps=20),
        _PGD,
        True,
    ),
    Pair(
        "ifgsm_l2",
        FOOLBOX,
        lambda fb: fb.L2BasicIterativeAttack(
            abs_stepsize=L2 / 5, steps=20, random_start=False
        ),
        _PGD_L2,
        True,
    ),
    Pair(
        "pgd_linf",
        FOOLBOX,
        lambda fb: fb.LinfPGD(abs_stepsize=LINF / 5, steps=20, random_start=False),
        _PGD | _START,
        True,
    ),
    Pair(
        "pgd_linf",
        TORCHATTACKS,
        lambda ta, network: ta.PGD(network, eps=LINF, alpha=LINF / 5, steps=20),
        _PGD,
    ),
    Pair(
        "pgd_l2",
        TORCHATTACKS,
        lambda ta, network: ta.PGDL2(
            network, eps=L2, alpha=L2 / 5, steps=20, random_start=False
        ),
        _PGD_L2 | _START,
        True,
    ),
    Pair(
        "apgd_ce_linf",
        TORCHATTACKS,
        lambda ta, network: ta.APGD(network, eps=LINF, steps=50),
        {"epsilon": LINF, "steps": 50},
    ),
    Pair(
        "apgd_ce_l2",
        TORCHATTACKS,
        lambda ta, network: ta.APGD(network, norm="L2", eps=L2, steps=50),
        {"epsilon": L2, "steps": 50},
    ),
    Pair(
        "apgd_dlr_linf",
        TORCHATTACKS,
        lambda ta, network: ta.APGD(network, eps=LINF, steps=50, loss="dlr"),
        {"epsilon": LINF, "steps": 50},
    ),
    Pair(
        "apgd_dlr_l2",
        TORCHATTACKS,
        lambda ta, network: ta.APGD(network, norm="L2", eps=L2, steps=50, loss="dlr"),
        {"epsilon": L2, "steps": 50},
    ),
    Pair(
        "apgd_t_linf",
        TORCHATTACKS,
        lambda ta, network: ta.APGDT(network, eps=LINF, steps=50, n_classes=10),
        {"epsilon": LINF, "steps": 50},
    ),
    Pair(
        "apgd_t_l2",
        TORCHATTACKS,
        lambda ta, network: ta.APGDT(
            network, norm="L2", eps=L2, steps=50, n_classes=10
        ),
        {"epsilon": L2, "steps": 50},
    ),
    Pair(
        "square_linf",
        TORCHATTACKS,
        lambda ta, network: ta.Square(
            network, eps=2 * LINF, n_queries=500, resc_schedule=False
        ),
        {"epsilon": 2 * LINF, "steps": 500},
    ),
    Pair(
        "square_l2",
        TORCHATTACKS,
        lambda ta, network: ta.Square(
            network, norm="L2", eps=3 * L2, n_queries=500, resc_schedule=False
        ),
        {"epsilon": 3 * L2, "steps": 500},
    ),
    Pair(
        "autoattack_linf",
        TORCHATTACKS,
        lambda ta, network: _short_autoattack(ta, network, norm="Linf", eps=LINF),
        {"epsilon": LINF},
    ),
    Pair(
        "autoattack_l2",
        TORCHATTACKS,
        lambda ta, network: _short_autoattack(ta, network, norm="L2", eps=L2),
        {"epsilon": L2},
    ),
    Pair("deepfool_l2", FOOLBOX, lambda fb: fb.L2DeepFoolAttack(steps=50), {}, True),
    Pair(
        "deepfool_linf", FOOLBOX, lambda fb: fb.LinfDeepFoolAttack(steps=50), {}, True
    ),
    Pair("ddn_l2", FOOLBOX, lambda fb: fb.DDNAttack(steps=100), {"steps": 100}),
    Pair(
        "carlini_wagner_l2",
        FOOLBOX,
        lambda fb: fb.L2CarliniWagnerAttack(
            binary_search_steps=5, steps=100, stepsize=0.01
        ),
        _CW,
        images=16,
    ),
    Pair(
        "fab_linf",
        TORCHATTACKS,
        lambda ta, network: ta.FAB(network, eps=16 * LINF, steps=20),
        {"steps": 20},
        images=16,
    ),
    Pair(
        "fab_l2",
        TORCHATTACKS,
        lambda ta, network: ta.FAB(network, norm="L2", eps=16 * L2, steps=20),
        {"steps": 20},
        images=16,
    ),
)


def _short_autoattack(torchattacks, network, **kwargs):
    attack = torchattacks.AutoAttack(network, n_classes=10, seed=0, **kwargs)
    for part in attack._autoattack.attacks:
        if part.attack == "Square":
            part.rescale_schedule, part.n_queries = False, _SHORT["square"]
        else:
            part.steps = _SHORT["fab" if part.attack == "FAB" else "apgd"]
    return attack


def _autoattack(norm, images, labels, logits_fn, epsilon):
    steps = [
        AttackStep(
            step.name, step.attack, {**step.parameters, "steps": _SHORT[step.attack]}
        )
        for step in VERSIONS["standard"]
    ]
    result = autoattack(
        jax.random.key(0),
        images,
        labels,
        logits_fn,
        epsilon=epsilon,
        norm=norm,
        version=steps,
        batch_size=32,
    )
    return result.images


def compare(
    pair: Pair, model: LoadedModel, images: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """Returns the row of a pair.

    Args:
        pair: Which.
        model: A classifier that has a twin in PyTorch.
        images: float32 `[N, H, W, C]` in `[0, 1]`, which it classifies rightly.
        labels: Integer `[N]`.

    Raises:
        ImportError: If the peer is not installed.
    """
    images, labels = images[: pair.images], labels[: pair.images]
    logits_fn = flax_logits(model.module, model.variables, train=False)
    whole = pair.attack.startswith("autoattack")
    attack = None if whole else ATTACKS[pair.attack]
    norm = pair.attack.rsplit("_", 1)[1]

    def ours() -> np.ndarray:
        key = jax.random.key(0)
        if whole:
            return _autoattack(norm, images, labels, logits_fn, **pair.parameters)
        if attack.minimal or not pair.to_the_end:
            found = attack(key, images, logits_fn, labels, **pair.parameters)
        else:
            loss_fn = misclassification(logits_fn, labels, loss=attack.loss)
            loss_fn = adaptive.without_success(loss_fn)
            found = attack.on_loss(key, images, loss_fn, **pair.parameters)
        return np.asarray(found)

    theirs, name = _peer(pair, model, logits_fn, images, labels)
    outcomes = {OURS: ours(), name: theirs()}
    wrong, sizes = {}, {}
    for who, adversarial in outcomes.items():
        wrong[who] = np.asarray(is_wrong(logits_fn(jnp.asarray(adversarial)), labels))
        sizes[who] = np.asarray(balls.size(adversarial - images, norm))
    both = wrong[OURS] & wrong[name]
    seconds = {}
    for who, attack_again in ((OURS, ours), (name, theirs)):
        start = time.perf_counter()
        attack_again()
        seconds[who] = time.perf_counter() - start
    return {
        "attack": pair.attack,
        "peer": name,
        "norm": norm,
        "minimal": not whole and attack.minimal,
        "deterministic": pair.deterministic,
        "parameters": pair.parameters | (_SHORT if whole else {}),
        "num_images": len(images),
        "time_ratio": seconds[OURS] / seconds[name],
        "success": float(wrong[OURS].mean()),
        "peer_success": float(wrong[name].mean()),
        "share_differing": float((wrong[OURS] != wrong[name]).mean()),
        "median_norm": float(np.median(sizes[OURS][both])) if both.any() else None,
        "peer_median_norm": float(np.median(sizes[name][both])) if both.any() else None,
    }


def _peer(pair, model, logits_fn, images, labels):
    if pair.peer == FOOLBOX:
        import foolbox

        network = foolbox_model(logits_fn)
        attack = pair.make(foolbox.attacks)
        epsilon = pair.parameters.get("epsilon")

        def run() -> np.ndarray:
            inputs = jnp.asarray(images), jnp.asarray(labels)
            if hasattr(attack, "run") and epsilon is not None:
                return np.asarray(attack.run(network, *inputs, epsilon=epsilon))
            return np.asarray(attack(network, *inputs, epsilons=None)[1])

        return run, f"foolbox {foolbox.__version__}"
    import importlib.metadata

    import torch
    import torchattacks

    from launch.benchmark_peers import TorchPeer

    peer = TorchPeer(
        platform=jax.devices()[0].platform,
        dtype="float32",
        threads=num_threads(),
    )
    # Some of its attacks cannot take channels-last memory.
    twin = peer.network(model.module, model.variables, images.shape[-1])
    twin = twin.to(memory_format=torch.contiguous_format)
    attack = pair.make(torchattacks, twin)

    def run_torch() -> np.ndarray:
        torch.manual_seed(0)
        tensor = peer.tensor(images).contiguous()
        adversarial = attack(
            tensor, torch.tensor(labels.astype(np.int64)).to(tensor.device)
        )
        return adversarial.detach().permute(0, 2, 3, 1).cpu().numpy()

    return run_torch, f"torchattacks {importlib.metadata.version('torchattacks')}"


def right_images(
    model: LoadedModel, dataset: str, data_dir: str | None, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first test images that the classifier gets right, and their labels.

    Raises:
        ValueError: If the data set is of another shape, or there are too few.
        FileNotFoundError: If it is not there.
    """
    source = open_source(dataset, "test", data_dir=data_dir)
    if tuple(source.image_shape) != model.image_shape:
        raise ValueError(
            f"{dataset} has images of {list(source.image_shape)}, the classifier was "
            f"made for {list(model.image_shape)}"
        )
    if not 1 <= count <= len(source) // 2:
        raise ValueError(f"num_images must be 1 to {len(source) // 2}: {count}")
    images, labels = source.read(np.arange(2 * count))
    images = images.astype(np.float32) / 255
    logits = model.module.apply(model.variables, images, train=False)
    right = np.flatnonzero(np.argmax(logits, axis=-1) == labels)[:count]
    if len(right) < count:
        raise ValueError(f"fewer than half of the images of {dataset} are right")
    return images[right], np.asarray(labels)[right]


def measure(
    pairs: Sequence[Pair],
    model: LoadedModel,
    images: np.ndarray,
    labels: np.ndarray,
    path: Path,
    config: dict[str, Any],
) -> dict[str, Any]:
    """Measures what the file does not hold yet and writes it after every row.

    Raises:
        ValueError: If the file holds another comparison.
    """
    rows: list[dict[str, Any]] = []
    spent = 0.0
    if path.exists():
        stored = results.load(path)
        if stored.kind != "attack_agreement" or stored.content["config"] != config:
            raise ValueError(f"{path} holds another result: choose another --out")
        rows, spent = stored.content["rows"], stored.content["seconds"]
    done = {(row["attack"], row["peer"].split()[0]) for row in rows}
    start, result = time.perf_counter(), {}
    for pair in tqdm(pairs, desc="attacks"):
        if (pair.attack, pair.peer) in done:
            continue
        rows.append(compare(pair, model, images, labels))
        seconds = spent + time.perf_counter() - start
        result = {
            "schema": results.ATTACK_AGREEMENT,
            "rows": rows,
            **provenance(config, seconds=seconds),
        }
        tables.write_json(path, result)
    return result or results.load(path).content


def main(argv: list[str]) -> None:
    """Measures and writes."""
    del argv
    values = flags.FLAGS
    model = load_classifier(values.classifier)
    images, labels = right_images(
        model, values.dataset, values.data_dir, values.num_images
    )
    config = {
        "classifier": model.config["model"]["name"],
        "dataset": values.dataset,
        "num_images": values.num_images,
        "seed": 0,
        "threads": num_threads(),
    }
    result = measure(PAIRS, model, images, labels, Path(values.out), config)
    print(f"wrote {values.out}: {len(result['rows'])} rows")


if __name__ == "__main__":
    flags.DEFINE_string("classifier", None, "Run or .npz of a ResNet.", required=True)
    flags.DEFINE_string("dataset", "cifar10", "Name of the prepared data set.")
    flags.DEFINE_string("data_dir", None, "Folder of the prepared data sets.")
    flags.DEFINE_integer("num_images", 32, "Test images that are right without attack.")
    flags.DEFINE_string("out", None, "JSON file to write to.", required=True)
    cli.run(main)
