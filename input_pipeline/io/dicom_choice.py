"""Choose one stack of slices: of several series, and of several acquisitions in one series."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from input_pipeline.io.dicom_file import Image, Series

SAME_PLACE_MM = 0.02  # slices closer than this are at the same position
SCOUT_DEGREES = 30.0  # slices at a larger angle to the others are localisers
MOST_SCOUTS = 3  # a series has at most this many localisers
TAGS = (  # by whose values acquisitions are told apart, and what to call them
    ("AcquisitionNumber", "acquisition number"),
    ("TemporalPositionIdentifier", "temporal position"),
    ("NominalPercentageOfCardiacPhase", "cardiac phase in %"),
    ("EchoNumbers", "echo"),
    ("KVP", "kVp"),
    ("ConvolutionKernel", "kernel"),
    ("StackID", "stack"),
    ("ImageType", "image type"),
    ("SliceThickness", "thickness in mm"),
)
ORDERED = (  # tags that increase from slice to slice, and from one acquisition to the next
    ("AcquisitionDateTime", "acquired"),
    ("AcquisitionTime", "acquired at"),
    ("ContentTime", "made at"),
    ("InstanceNumber", "numbered"),
)


def choose_series(path: Path, images: Sequence[Image], wanted: str | None) -> list[Image]:
    """Return the slices of the series that the user names, or of the only one.

    A series of a few pictures that are not axial is one of localisers, if there are others.

    Args:
        path: file or folder, for messages.
        images: slices of any series, at least one.
        wanted: UID, number or description of a series; None if there is only one.

    Raises:
        ValueError: there are several series, or no single one is the wanted one; the message lists
            each with the flag that chooses it.
    """
    found: dict[str, list[Image]] = {}
    for image in images:
        found.setdefault(image.series.uid, []).append(image)
    if wanted is not None:
        chosen = [slices for slices in found.values() if is_named(slices[0].series, wanted)]
        if len(chosen) == 1:
            return chosen[0]
        raise ValueError(
            f"{path}: no single series is {wanted!r}, expected the number, UID or description of "
            f"one: {_listed(list(found.values()))}"
        )
    plain = {uid: slices for uid, slices in found.items() if not are_scouts(slices)} or found
    if len(plain) == 1:
        return next(iter(plain.values()))
    raise ValueError(
        f"{path}: holds {len(plain)} series, expected one; choose one: "
        f"{_listed(list(plain.values()))}"
    )


def is_named(series: Series, wanted: str) -> bool:
    """Return whether a series has this UID, number or description.

    Args:
        series: the series.
        wanted: what the user states.
    """
    named = " ".join(wanted.split()).casefold()
    return named in (series.uid, series.number, series.description.casefold()) and bool(named)


def are_scouts(images: Sequence[Image]) -> bool:
    """Return whether a series holds nothing but a few pictures that are not axial: localisers.

    Args:
        images: its slices.
    """
    steep = np.cos(np.radians(SCOUT_DEGREES))
    return len(images) <= MOST_SCOUTS and all(abs(image.normal[2]) < steep for image in images)


def split_wanted(wanted: str | None, images: Sequence[Image]) -> tuple[str | None, str | None]:
    """Return the series and the acquisition that '3:2' (acquisition 2 of series 3) names.

    Args:
        wanted: what the user states; None if nothing.
        images: slices; a series of them may have a colon in its description.
    """
    if wanted is None or any(is_named(image.series, wanted) for image in images):
        return wanted, None
    series, colon, acquisition = wanted.rpartition(":")
    return (series, acquisition) if colon and acquisition.isdigit() else (wanted, None)


def choose_acquisition(
    path: Path,
    images: list[Image],
    wanted: str | None,
    differ: Callable[[Sequence[Sequence[Image]]], bool],
) -> list[Image]:
    """Return the slices of one acquisition of a series.

    A series has several if its slices differ in geometry, or at one position, and a tag tells them
    apart; or if slices of several acquisition numbers lie between one another.

    Args:
        path: file or folder, for messages.
        images: slices of one series, sorted by position.
        wanted: number of the acquisition; None if there is only one.
        differ: says whether slices at one position differ.

    Raises:
        ValueError: there are several acquisitions and none is chosen, or the wanted one is absent.
    """
    found: dict[str, tuple[str, list[Image]]] = {}
    groups = places(images)
    if len(kinds_of(images)) > 1 or differ(groups):
        found = _apart(images)
    elif _interleaved([group[0] for group in groups]):
        found = _by_value(images, *TAGS[0])
    if not found:
        own = {image.marks.get("AcquisitionNumber") for image in images}
        if wanted in (None, "1") or own == {wanted}:
            return images
        raise ValueError(
            f"{path}: has one acquisition, expected one numbered {wanted}; leave :{wanted} out"
        )
    if wanted in found:
        return found[wanted][1]
    series = images[0].series
    name = series.number if series.number != "?" else series.uid
    choices = "; ".join(
        f"--series {name}:{key} ({title}, {len(slices)} slices)"
        for key, (title, slices) in found.items()
    )
    got = f"holds {len(found)} acquisitions in one series"
    if wanted is not None:
        got = f"has no acquisition {wanted} in series {name}"
    raise ValueError(f"{path}: {got}, expected one; choose one: {choices}")


def places(images: Sequence[Image]) -> list[list[Image]]:
    """Group sorted slices by position.

    Args:
        images: sorted by height, at least one.
    """
    groups = [[images[0]]]
    for image in images[1:]:
        if image.height - groups[-1][0].height < SAME_PLACE_MM:
            groups[-1].append(image)
        else:
            groups.append([image])
    return groups


def kinds_of(images: Sequence[Image]) -> list[list[Image]]:
    """Group slices by size, spacing and orientation, the largest group first.

    Args:
        images: slices, in any order.
    """
    kinds: list[list[Image]] = []
    for image in images:
        for kind in kinds:
            if _fits(image, kind[0]):
                kind.append(image)
                break
        else:
            kinds.append([image])
    return sorted(kinds, key=len, reverse=True)


def _fits(image: Image, other: Image) -> bool:
    """Return whether two slices have the same size, spacing and orientation."""
    return (
        image.shape == other.shape
        and np.allclose(image.spacing, other.spacing, rtol=1e-3)
        and np.allclose(image.directions, other.directions, atol=1e-2)
    )


def _apart(images: Sequence[Image]) -> dict[str, tuple[str, list[Image]]]:
    """Return acquisitions by number, each with a title; empty if no tag tells them apart."""
    for name, title in TAGS:
        found = _by_value(images, name, title)
        if len(found) > 1 and all(_is_stack(slices) for _, slices in found.values()):
            return found
    for name, title in ORDERED:
        found = _by_order(images, name, title)
        if found:
            return found
    return {}


def _by_value(images: Sequence[Image], name: str, title: str) -> dict[str, tuple[str, list[Image]]]:
    """Group slices by the value of a tag; an acquisition number is its own number."""
    groups: dict[str, list[Image]] = {}
    for image in images:
        groups.setdefault(image.marks.get(name, "none"), []).append(image)
    values = sorted(groups, key=_number)
    own = name == "AcquisitionNumber" and all(value.isdigit() for value in values)
    return {
        (value if own else str(count)): (f"{title} {value}", groups[value])
        for count, value in enumerate(values, start=1)
    }


def _by_order(images: Sequence[Image], name: str, title: str) -> dict[str, tuple[str, list[Image]]]:
    """Group slices by their rank, at each position, in a tag that increases with time."""
    if any(not np.isfinite(_number(image.marks.get(name, ""))[0]) for image in images):
        return {}
    ranked = [
        sorted(group, key=lambda image: _number(image.marks[name])) for group in places(images)
    ]
    if len({len(group) for group in ranked}) != 1:
        return {}
    found, before = {}, -np.inf
    for count, slices in enumerate(zip(*ranked, strict=True), start=1):
        values = sorted((image.marks[name] for image in slices), key=_number)
        if _number(values[0])[0] <= before:
            return {}
        before = _number(values[-1])[0]
        found[str(count)] = (f"{title} {values[0]} to {values[-1]}", list(slices))
    return found if all(_is_stack(slices) for _, slices in found.values()) else {}


def _interleaved(images: Sequence[Image]) -> bool:
    """Say whether slices of different acquisition numbers lie between one another."""
    ranges = []
    for _, slices in _by_value(images, *TAGS[0]).values():
        heights = [image.height for image in slices]
        ranges.append((min(heights), max(heights)))
    for index, (low, high) in enumerate(ranges):
        for other_low, other_high in ranges[:index]:
            shared = min(high, other_high) - max(low, other_low)
            if shared > 0.5 * min(high - low, other_high - other_low) > 0:
                return True
    return False


def _is_stack(images: Sequence[Image]) -> bool:
    """Say whether slices, sorted by position, are several, of one kind, and at a place each."""
    alone = all(len({image.key for image in group}) == 1 for group in places(images))
    return len(images) > 1 and alone and len(kinds_of(images)) == 1


def _listed(found: Sequence[Sequence[Image]]) -> str:
    """Return the series as text, each with the flag that chooses it."""
    found = sorted(found, key=lambda slices: _number(slices[0].series.number))
    series = [slices[0].series for slices in found]
    numbers = [one.number for one in series]
    studies, patients = {one.study for one in series}, {one.patient for one in series}
    parts = []
    for slices, one in zip(found, series, strict=True):
        alone = one.number != "?" and numbers.count(one.number) == 1
        about = [
            one.description,
            f"{len(slices)} slices" + _of_mm(slices),
            _shared(slices, "ConvolutionKernel", "kernel {}"),
            f"study of {one.study[1] or 'unknown date'}" if len(studies) > 1 else "",
            f"patient {one.patient or 'unnamed'}" if len(patients) > 1 else "",
        ]
        flag = f"--series {one.number if alone else one.uid}"
        parts.append(f"{flag} ({', '.join(filter(None, about))})")
    return "; ".join(parts)


def _of_mm(slices: Sequence[Image]) -> str:
    """Return the thickness of slices as text; empty if it is unknown or not one."""
    return _shared(slices, "SliceThickness", " of {} mm")


def _shared(slices: Sequence[Image], name: str, form: str) -> str:
    """Return the value of a tag in words, if all slices have the same."""
    values = {image.marks.get(name) for image in slices}
    return "" if len(values) != 1 or None in values else form.format(*values)


def _number(value: str) -> tuple[float, str]:
    """Return a key that sorts numbers by size, before other text."""
    try:
        return float(value), value
    except ValueError:
        return np.inf, value
