"""Defences under attack: what every threat model leaves of a defence, as a table."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from uronet_jax.attacks import MisleadingEvaluation
from uronet_jax.evaluation.attack_judge import AttackExamples, AttackJudge, Outcome
from uronet_jax.evaluation.misleading import find_warnings
from uronet_jax.evaluation.threat_models import (
    THREAT_MODELS,
    AttackRun,
    Attempt,
    ThreatModel,
    describe_run,
    make_plan,
    make_run,
)
from uronet_jax.progress import progress_bar

# The sanity check: any image is allowed. Small steps from the image itself, since
# random images are easy to detect and hard to leave.
_SANITY = {"epsilon": 1.0, "steps": 50, "step_size": 0.02}


def attack_table(
    judge: AttackJudge,
    runs: Sequence[AttackRun],
    threats: Sequence[ThreatModel] = tuple(THREAT_MODELS.values()),
    *,
    sanity: bool = False,
    rows: Sequence[Mapping[str, Any]] = (),
    on_row: Callable[[dict[str, Any], AttackExamples | None], None] | None = None,
    num_examples: int = 0,
    progress: bool = False,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Evaluates a defence under every threat model with every attack.

    There is no row where the two do not suit each other, see `make_plan`: `apgd_t` has
    none under `detector_aware`.

    Args:
        judge: Holds models and images.
        runs: The attacks, see `make_run`.
        threats: The threat models.
        sanity: Whether the defence is first attacked with a budget of all intensities,
            on the first batch, in few steps: whatever it does, that must break it.
        rows: Those of an earlier call that was cut short; they are not made again.
        on_row: Called with every new row, and its examples, as soon as it is there.
        num_examples: How many images `on_row` gets.
        progress: Whether there is a progress bar.

    Returns:
        All rows, and the warnings of `misleading.find_warnings` about them, which are
        also issued as `MisleadingEvaluation`: each as soon as it is known, those that
        compare the best of several attacks at the end. A row holds:

        - `threat`, `attack`, `norm`, `epsilon` (None: the smallest perturbation),
          `parameters`, `gradient_free` (whether the attack looks at no gradient), and
          `sanity` for a row of the sanity check;
        - `num_images`, `clean_accuracy` of the defence and `undefended_clean_accuracy`
          of the classifier alone;
        - `undefended_accuracy`: of the classifier alone on the adversarial images;
        - `robust_accuracy` of the defence on them, and its 95 % interval (Wilson),
          `robust_accuracy_low` and `robust_accuracy_high`;
        - with a detector: `false_alarm_rate` on the clean images, `detection_rate` on
          the images that the defence had right and has wrong now (None if there are
          none), and `robust_or_detected_accuracy`, the share either right or flagged,
          with its interval likewise;
        - `median_linf` and `median_l2` of the perturbations that made the defence
          wrong where it was right; of a minimal attack, of all that reached the goal
          of the threat model where it was not reached before (None if there are none);
        - `not_found`: where that goal is not reached; `attempts`, the same of each
          attempt alone;
        - `zero_gradients`: the share of the images to be attacked at which in no
          attempt the classifier's loss has a gradient; `randomness` of the defence:
          `none`, `single draw`, or `averaged` over draws by the attacker;
        - `seconds`, compilation included. What several threat models attempt alike is
          computed once and counted in each.

        Shares are of all images, those included that were wrong before any attack.

    Raises:
        ValueError: See `AttackJudge.attack`; what is wrong with threat models or
            attacks before any attack.
    """
    for threat in threats:
        judge.check_threat(threat)
    for run in runs:
        judge.check_run(run)
    plan = [(run, threat, {}) for run, threat in make_plan(runs, threats)]
    rows = [dict(row) for row in rows]
    known = [_identity(row) for row in rows]
    warned = {_subject(warning) for warning in find_warnings(rows, complete=False)}

    def issue(complete):
        found = find_warnings(rows, complete=complete)
        for warning in found:
            if _subject(warning) not in warned:
                warned.add(_subject(warning))
                warnings.warn(warning["message"], MisleadingEvaluation, stacklevel=3)
        return found

    if sanity:
        check = make_run("ifgsm_linf", **_SANITY)
        aware = [threat for threat in threats if threat.target == "defense"]
        plan = [(check, threat, {"sanity": True}) for threat in aware] + plan
    plan = [
        (run, threat, extra)
        for run, threat, extra in plan
        if _identity({**describe_run(threat, run), **extra}) not in known
    ]
    cache: dict[Attempt, Outcome] = {}
    previous = None
    shown = {"description": "attacks", "unit": "attack", "shown": progress}
    with progress_bar(len(plan), **shown) as bar:
        for run, threat, extra in plan:
            if (run, extra) != previous:
                cache.clear()
            previous = run, extra
            row, examples = judge.attack(
                threat,
                run,
                num_batches=1 if extra else None,
                num_examples=num_examples,
                cache=cache,
            )
            row |= extra
            rows.append(row)
            if on_row is not None:
                on_row(row, examples)
            issue(complete=False)
            bar.update()
    return rows, issue(complete=True)


def _identity(row):
    return [
        row.get(name)
        for name in ("threat", "attack", "epsilon", "parameters", "sanity")
    ]


def _subject(warning):
    # The message too: a row may be weaker than several others.
    return warning["kind"], str(warning["where"]), warning["message"]
