"""Quality of pseudo-labels without a truth: class shares, agreement of rounds, and warnings."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ssa_jax.semi_supervised.trust import Trust

NEARLY_EMPTY, NEARLY_FULL = 0.001, 0.5  # share of a slice's pixels that are lesion
NAMED = 3  # slices that a warning names; the manifest names all


def class_pixels(
    labels: Iterable[tuple[np.ndarray, np.ndarray | None]], classes: int
) -> list[float]:
    """Sum the weights of the pixels of each class (P_c of equation 8).

    Args:
        labels: of each slice, mask `[H, W]` class index, and weight `[H, W]` uint8 in 255ths or
            None for 255.
        classes: K, background included.

    Returns:
        K sums, background first; a pixel of full weight counts 1.
    """
    total = np.zeros(classes)
    for mask, weight in labels:
        if weight is None:
            total += np.bincount(mask.ravel(), minlength=classes)
        else:
            counted = weight.ravel().astype(np.float64)
            total += np.bincount(mask.ravel(), counted, minlength=classes) / 255
    return [float(pixels) for pixels in total]


def agreement(pairs: Iterable[tuple[np.ndarray, np.ndarray]], classes: int) -> list[float | None]:
    """Compute the DSC of each lesion class between two sets of labels, all slices pooled.

    Args:
        pairs: class index `[H, W]` of each slice, before and after.
        classes: K, background included.

    Returns:
        K - 1 values in [0, 1]; None where neither set has the class.
    """
    both, sizes = np.zeros(classes), np.zeros(classes)
    for before, after in pairs:
        both += np.bincount(before[before == after], minlength=classes)
        sizes += np.bincount(before.ravel(), minlength=classes)
        sizes += np.bincount(after.ravel(), minlength=classes)
    return [float(2 * b / s) if s else None for b, s in zip(both[1:], sizes[1:], strict=True)]


def label_facts(
    labels: Iterable[tuple[str, np.ndarray, np.ndarray]],
    agreements: Sequence[float | None],
    names: Sequence[str],
    trust: Trust,
) -> dict[str, Any]:
    """Describe the pseudo-labels of a round, for the manifest stored with them.

    Args:
        labels: of each slice, id, mask `[H, W]` class index, and weight `[H, W]` uint8 in 255ths.
        agreements: of each lesion class with the round before, see `agreement`.
        names: of the lesion classes.
        trust: how the labels were made, for the warnings.

    Returns:
        'slices' (their number), 'share' (of each class in all pixels, by weight), 'ignored_share',
        'agreement' (of each class), 'nearly_empty' and 'nearly_full' (ids), and 'warnings'.
    """
    pixels, every = np.zeros(len(names) + 1), 0
    lesion: dict[str, float] = {}
    for name, mask, weight in labels:
        pixels += class_pixels([(mask, weight)], len(names) + 1)
        every += mask.size
        lesion[name] = float(((mask > 0) & (weight > 0)).mean())
    facts: dict[str, Any] = {
        "slices": len(lesion),
        "share": {name: float(n / every) for name, n in zip(names, pixels[1:], strict=True)},
        "ignored_share": float(1 - sum(pixels.tolist()) / every),
        "agreement": dict(zip(names, agreements, strict=True)),
        "nearly_empty": [name for name, share in lesion.items() if share < NEARLY_EMPTY],
        "nearly_full": [name for name, share in lesion.items() if share > NEARLY_FULL],
    }
    return facts | {"warnings": warnings_of(facts, trust)}


def warnings_of(facts: Mapping[str, Any], trust: Trust) -> list[str]:
    """List the warnings about the pseudo-labels of a round, for the user.

    Args:
        facts: what `label_facts` returns, without 'warnings'.
        trust: how the labels were made; it decides the remedy.
    """
    remedy = (
        "lower self_train.eta, or set self_train.adaptive_share"
        if trust.eta > 0 and not trust.adaptive_share
        else "no threshold removed it and the network itself does not find it: raise train.epochs, "
        "or weight the classes (loss.class_weight_over)"
    )
    found = [
        f"{name} has vanished from the pseudo-labels; {remedy}"
        for name, share in facts["share"].items()
        if not share
    ]
    for what, ids in (
        (f"nearly empty (lesion below {NEARLY_EMPTY:.1%} of the slice)", facts["nearly_empty"]),
        (f"nearly full (lesion above {NEARLY_FULL:.0%})", facts["nearly_full"]),
    ):
        if ids:
            listed = ", ".join(ids[:NAMED]) + (", ..." if len(ids) > NAMED else "")
            found.append(f"{len(ids)} of {facts['slices']} pseudo-labels are {what}: {listed}")
    return found
