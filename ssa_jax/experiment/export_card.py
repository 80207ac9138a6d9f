"""What lies beside an exported network: how its images are made and what its numbers mean."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from input_pipeline.inference_slices import CROP_MARGIN
from input_pipeline.preprocess import HU_WINDOW, MIN_INNER, PERCENTILES, Preprocessing
from input_pipeline.verified import file_sha256

if TYPE_CHECKING:
    from ssa_jax.experiment.network import Network

WARNING = "Not a medical device: for research; nobody has checked the masks in a clinic."
INTENSITY = "intensity, in [0, 1]"
LUNG = "lung mask, 0 or 1"
RUN = {
    "onnx": """import onnxruntime

session = onnxruntime.InferenceSession("{file}")
(prob,) = session.run(["prob"], {{"image": image}})""",
    "stablehlo": """from pathlib import Path

import jax
from jax import export

jax.config.update("jax_compilation_cache_dir", "compiled")  # compiled once for each batch size
program = jax.jit(export.deserialize(bytearray(Path("{file}").read_bytes())).call)
prob = program(image)""",
}

MIRRORED = " It is the mean over the slice and its three mirror images."
DENSE = (
    " The logit of the last class against the one before it includes {density_slope:g} "
    "(intensity - {density_middle:g})."
)

PAGE = """# SSA-Net, {format}

**{warning}**

`{file}` segments lesions in axial slices of chest CT.

- Trained on: {trained_on}{made_up}
- Training slices: {training_slices}
- Training began: {training_began}
- Training step: {step}
- Lung masks in training: {training_lung_masks}
- SHA-256 of the weights: {weights_sha256}
- SHA-256 of `{file}`: {sha256}

## Run

```python
{run}
```

`image` is {image}. Channels: {channels}.

`prob` is {prob}, the probability of each class: {classes}. It is in [0, 1] and sums to 1.{more}

All is computed in float32{rounded}. When the file was made, its probabilities differed from those
of ssa_jax in float32 by {difference:.1e} at most.

## From a slice to the image

{to_image}

## From the probabilities to labels

{to_labels}

`prepare_slice` and `from_grid` in `input_pipeline/preprocess.py` of ssa_jax do this in Python.
`preprocessing.json` has the same values for programs.
"""


def record(
    network: "Network", file: Path, format: str, batch: int | None, check: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe an exported network, for programs.

    Args:
        network: the network.
        file: of the export.
        format: of the file.
        batch: number of images; None for any.
        check: how the file compared with the network.

    Returns:
        Values that JSON can hold.
    """
    prepared = network.preprocessing
    size, side = "B" if batch is None else batch, prepared.image_size
    classes = ["background", *network.class_names]
    origin = network.provenance
    return {
        "warning": WARNING,
        "file": file.name,
        "format": format,
        "sha256": file_sha256(file),
        "network": {
            "trained_on": origin.data,
            "training_slices": origin.slices,
            "training_began": origin.date,
            "training_lung_masks": _lungs(network),
            "made_up_data": origin.phantoms,
            "step": network.step,
            "weights_sha256": origin.weights,
            "computes_in": network.settings.model.dtype,
        },
        "input": {
            "name": "image",
            "dtype": "float32",
            "shape": [size, side, side, prepared.channels],
            "channels": [INTENSITY, LUNG][: prepared.channels],
        },
        "output": {
            "name": "prob",
            "dtype": "float32",
            "shape": [size, side, side, len(classes)],
            "classes": classes,
            "mean_over_mirror_images": network.settings.eval.flip,
            "density_slope": network.settings.eval.density_slope,
            "density_middle": network.settings.eval.density_middle,
            "least_share": network.settings.eval.least_share,
        },
        "preprocessing": _numbers(prepared),
        "from_slice_to_image": _to_image(prepared),
        "from_prob_to_labels": _to_labels(
            prepared, len(network.class_names), network.settings.eval.least_share
        ),
        "check": dict(check) | {"batches": list(check["batches"])},
    }


def page(told: Mapping[str, Any]) -> str:
    """Describe an exported network, for people, in Markdown.

    Args:
        told: its `record`.
    """
    origin, given, made = told["network"], told["input"], told["output"]
    classes = enumerate(made["classes"])
    mirrored = MIRRORED if made["mean_over_mirror_images"] else ""
    own = origin["computes_in"]
    return PAGE.format(
        **told,
        **{name: "unknown" if value is None else value for name, value in origin.items()},
        made_up=" (made-up chests alone)" if origin["made_up_data"] else "",
        run=RUN[told["format"]].format(file=told["file"]),
        image=_array(given),
        channels="; ".join(given["channels"]),
        prob=_array(made),
        classes=", ".join(f"{number} {name}" for number, name in classes),
        more=mirrored + (DENSE.format(**made) if made["density_slope"] else ""),
        rounded="" if own == "float32" else f"; ssa_jax itself computes in {own}",
        difference=told["check"]["largest_difference"],
        to_image=_numbered(told["from_slice_to_image"]),
        to_labels=_numbered(told["from_prob_to_labels"]),
    )


def _lungs(network: "Network") -> str:
    """Say what lung masks a network was trained with."""
    if network.preprocessing.lung_mask == "none":
        return "none"
    made_up = "those of the made-up chests" if network.provenance.phantoms else "unknown"
    return str(network.provenance.lungs or made_up)


def _numbers(prepared: Preprocessing) -> dict[str, Any]:
    """Return the options and constants of the preprocessing that slices of this kind need."""
    used = asdict(prepared) | {"hu_window": list(HU_WINDOW), "crop_margin": CROP_MARGIN}
    if prepared.intensity == "hu":
        del used["grey_values"]
        return used
    return used | {"percentiles": list(PERCENTILES)}


def _array(told: Mapping[str, Any]) -> str:
    """Return type and shape of an array in words."""
    dynamic = ", B any number of slices" if told["shape"][0] == "B" else ""
    return f"{told['dtype']} `[{', '.join(map(str, told['shape']))}]`{dynamic}"


def _numbered(steps: list[str]) -> str:
    """Return a numbered list."""
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, start=1))


def _to_image(prepared: Preprocessing) -> list[str]:
    """Return the steps from a slice to the image."""
    side = prepared.image_size
    steps = [
        "Take an axial slice on its own grid, without resampling to another spacing: rows from the "
        "patient's front to the back, columns from the patient's right to the left.",
        *(_from_hu() if prepared.intensity == "hu" else _from_grey(prepared)),
    ]
    kept = "Channel 0 is the intensity"
    if prepared.lung_mask != "none":
        steps.append(_lung_mask(prepared))
        kept += f" and channel 1 the lung mask{_grown(prepared.lung_dilation)}"
    return [
        *steps,
        f"Scale the slice, with its aspect ratio, until its longer side has {side} pixels; the "
        f"shorter one is rounded (half to even) and has {MIN_INNER} or more. The intensity "
        "bilinearly with antialiasing, as Pillow's `resize(..., BILINEAR)` of float32 does; a "
        "mask by the pixel under the new pixel's centre. Both have half-pixel centres.",
        f"Put it in the middle of a square of {side} x {side} zeros, h x w pixels of it from row "
        f"({side} - h) // 2 and column ({side} - w) // 2 on.",
        f"{kept}; channels come last.",
    ]


def _from_hu() -> list[str]:
    """Return the step from Hounsfield units to the intensity."""
    low, high = HU_WINDOW
    return [f"Intensity: (HU + {-low:g}) / {high - low:g}, clipped to [0, 1]."]


def _from_grey(prepared: Preprocessing) -> list[str]:
    """Return the steps from Hounsfield units or a picture to the intensity."""
    low, high = HU_WINDOW
    first, last = PERCENTILES
    greys = {
        "percentiles": "clipped to [0, 1], where low and high are the slice's own percentiles "
        f"{first:g} and {last:g}",
        "window": "clipped to [0, 1], where low is 0 and high 255",
        "anatomy": "clipped to [0, 1]. Of a scan low is 0 and high 255. Of a picture they are the "
        f"greys of {low:g} and {high:g} HU by its lung and soft tissue (`anatomy_range` in "
        "`input_pipeline/grey_values.py`), or its percentiles "
        f"{first:g} and {last:g} where these are not found",
    }
    return [
        f"Of a scan, grey = round(255 (HU + {-low:g}) / {high - low:g}), clipped to 0..255, and "
        "all slices are cut to the box around the lungs of the whole scan with "
        f"{CROP_MARGIN} pixels around. An 8-bit grey picture is taken as it is.",
        f"Intensity: (grey - low) / max(high - low, 1), {greys[prepared.grey_values]}.",
    ]


def _lung_mask(prepared: Preprocessing) -> str:
    """Return the step that makes the lung mask."""
    if prepared.intensity == "uint8" and prepared.lung_mask == "threshold":
        return (
            "Lung mask: 1 in the lungs as `threshold_lung_mask` in "
            "`input_pipeline/lungs/threshold.py` finds them in the grey slice alone, else 0."
        )
    return (
        "Lung mask: 1 in both lungs, else 0, on the slice's own grid. `ssa-jax lung_masks` finds "
        "the lungs of scans; masks should be made as those of the training (above)."
    )


def _grown(pixels: int) -> str:
    """Say by how much the lung mask is grown."""
    return f", grown by a disc of {pixels} pixels before it is scaled" if pixels else ""


def _to_labels(prepared: Preprocessing, classes: int, least_share: float) -> list[str]:
    """Return the steps from the probabilities to a scan's labels."""
    label = (
        "Label 1, lesion, where its probability is above 0.5, else 0."
        if classes == 1
        else "Label: the most probable class, of equally probable ones the lowest."
    )
    rare = [
        f"Where a class has less than {least_share:g} of the slice's lesion pixels, give them the "
        "most probable lesion class of the others."
    ] * (least_share > 0)
    cut = " and put it back where it was cut out" if prepared.intensity == "uint8" else ""
    return [
        "Cut the h x w pixels of the slice out of the square.",
        f"Scale the probability of each class to the slice's own size as above{cut}; clip it to "
        "[0, 1].",
        label,
        *rare,
        "In a scan, slices below and above the lungs are 0, and so are parts of lesion, connected "
        "in 3-D by faces, edges or corners, that touch no lung.",
    ]
