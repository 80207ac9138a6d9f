"""A trained network with its settings, its preprocessing and its compiled prediction."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.inference_slices import (
    PictureSlices,
    ScanSlices,
)
from input_pipeline.io.find import is_picture_name
from input_pipeline.io.scan import Scan
from input_pipeline.loader import eval_batches
from input_pipeline.lungs.doubts import grey_doubts, lung_doubts, picture_doubts
from input_pipeline.lungs.origin import LungOrigin
from input_pipeline.preprocess import Preprocessing, from_grid, normalize
from input_pipeline.slices import Slice
from ssa_jax.evaluation.inference import (
    Output,
    Predict,
    make_predict,
    most_probable,
    without_rare_classes,
)
from ssa_jax.evaluation.scoring import SlicePrediction
from ssa_jax.experiment import factory, workdir
from ssa_jax.experiment.export import Exported, export
from ssa_jax.experiment.lesion_volumes import missing_note
from ssa_jax.experiment.lung_masks import lung_labels
from ssa_jax.experiment.progress import progress
from ssa_jax.experiment.provenance import UNKNOWN, Provenance, joined, read_provenance
from ssa_jax.experiment.segmentation import (
    Reading,
    Segmentation,
    check_pictures,
    read_source,
    remove_outside_lungs,
)
from ssa_jax.experiment.settings import Settings
from ssa_jax.figures.overlays import SlicePicture
from ssa_jax.training.distributed import say
from ssa_jax.training.state import Variables, weights_sha256


class Network:
    """A trained network, see `load`.

    Attributes:
        settings: of its training.
        preprocessing: of the slices that it predicts.
        name: its workdir, for messages.
        step: training step of its checkpoint.

    Args:
        settings: see above.
        predict: the compiled prediction with its variables, see `inference.make_predict`.
        name: see above.
        step: see above.
        trained_on: what it was trained on, without the hash of its weights.
        variables: on the host; None of an ensemble, and while it is being trained.
    """

    def __init__(
        self,
        settings: Settings,
        predict: Predict,
        *,
        name: str = "network",
        step: int = 0,
        trained_on: Provenance = UNKNOWN,
        variables: Variables | None = None,
    ) -> None:
        self.settings = settings
        self.preprocessing: Preprocessing = factory.preprocessing(settings)
        self.name = name
        self.step = step
        self._trained_on = trained_on
        self._variables = variables
        self._predict = predict

    def __repr__(self) -> str:
        """Say what it finds, where it is kept and what it was trained on."""
        return f"<Network of {', '.join(self.class_names)}: {self.name}, {self._trained_on}>"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the lesion classes 1, 2, ..."""
        return self.settings.class_names

    @cached_property
    def provenance(self) -> Provenance:
        """What it was trained on; unknown while it is being trained."""
        if self._variables is None:
            return self._trained_on
        return self._trained_on._replace(weights=weights_sha256(self._variables))

    @property
    def variables(self) -> Variables:
        """Its weights, 'params' and 'batch_stats', on the host: those that `evaluate` uses."""
        assert self._variables is not None, "an ensemble or a network in training has none"
        return self._variables

    @property
    def _made_by(self) -> str:
        return f"SSA-Net: {self.provenance}"

    def predict(
        self,
        slices: Sequence[Slice],
        *,
        prepared_by: Preprocessing | None = None,
        batch_size: int | None = None,
    ) -> Iterator[SlicePrediction]:
        """Predict slices, in order, each on its own grid.

        The probabilities are resized to the own grid before the class is chosen, and classes that
        are rarer than `eval.least_share` there are given to the others.

        Args:
            slices: labelled or not.
            prepared_by: their preprocessing; None for `preprocessing`.
            batch_size: slices predicted at once; None for `eval.batch_size`.

        Yields:
            The prediction of each slice.

        Raises:
            ValueError: a slice cannot be preprocessed; the message names it.
        """
        size = batch_size or self.settings.eval.batch_size
        least = self.settings.eval.least_share
        for batch in eval_batches(slices, prepared_by or self.preprocessing, batch_size=size):
            output = self._predict(batch.image)
            rows = zip(batch.slices, batch.grids, output.prob, output.attention, strict=False)
            for item, grid, prob, attention in rows:
                own = np.clip(from_grid(prob, grid), 0.0, 1.0)
                maps = partial(from_grid, attention, grid)
                labels = without_rare_classes(most_probable(own), own, least)
                yield SlicePrediction(item, own, labels, maps)

    def segment(
        self,
        source: Any,
        *,
        intensity: str | None = None,
        series: str | None = None,
        axes: str | None = None,
        spacing: Sequence[float] | None = None,
        lung: str | Path | None = None,
    ) -> Segmentation:
        """Segment a scan or a picture; `ssa-jax predict` gives the same mask.

        Args:
            source: path of a NIfTI file, a DICOM file or folder, or an 8-bit picture (PNG, JPEG);
                a nibabel image; or an array `[i, j, k]`.
            intensity: of a NIfTI file, an image or an array: 'hu' (Hounsfield units), or 'windowed'
                (0..255 of the window -1250..250 HU). DICOM is always 'hu'.
            series: of a DICOM folder that holds several: its number, UID or description; '3:2' is
                acquisition 2 of series 3.
            axes: directions of the axes of an array, or of a file that does not state them: letters
                of R/L, A/P and S/I, 'LPS' for instance.
            spacing: mm along the axes of an array.
            lung: file of lung labels on the scan's grid (1 right, 2 left, or 1 for both), or of a
                picture's lung mask; or a method, 'threshold' (by intensity and shape) or
                'unet:WEIGHTS'. None is 'threshold'.

        Returns:
            The segmentation, on the source's own grid.

        Raises:
            ValueError: the source cannot be used, or the network needs other inputs.
            OSError: a file cannot be opened.
        """
        if isinstance(source, str | Path) and is_picture_name(Path(source)):
            mask = None if lung in (None, "threshold") else [Path(str(lung))]
            prepared = check_pictures(self.preprocessing, mask is not None, self.name)
            slices = PictureSlices([Path(source)], prepared, mask)
            (prediction,) = self.predict(slices, prepared_by=slices.prepared_by)
            return self.picture_segmentation(prediction)
        scan = read_source(source, Reading(intensity, series, axes, spacing))
        labels, origin = lung_labels(scan, lung or "threshold")
        result = self.segment_scan(scan, labels, keep_prob=True, montage=0, quiet=True)
        return replace(result, notes=(*self.lung_notes(origin), *result.notes))

    def lung_notes(self, used: LungOrigin) -> list[str]:
        """Say if lung masks of scans are others than those that the network was trained with.

        Args:
            used: origin of the masks.

        Returns:
            A sentence, or nothing.
        """
        prepared = self.preprocessing
        if prepared.intensity == "uint8" and prepared.lung_mask == "threshold":
            return []  # computed from each slice alone, whatever the masks of the scan
        return self._trained_on.lung_notes(used)

    def segment_scan(
        self, scan: Scan, lung: np.ndarray, *, keep_prob: bool, montage: int, quiet: bool
    ) -> Segmentation:
        """Segment a scan that was read already.

        Args:
            scan: in HU.
            lung: `[slices, rows, columns]` lung labels: 0 none, 1 right, 2 left.
            keep_prob: whether `Segmentation.prob` is kept, four bytes for each voxel and class.
            montage: number of slices to draw, spread over the lungs.
            quiet: show no progress.

        Returns:
            The segmentation, on the scan's own grid.
        """
        labels = np.zeros(scan.voxels.shape, np.uint8)
        slices = ScanSlices(scan, lung, self.preprocessing)
        wanted = set(np.linspace(0, len(slices) - 1, montage).astype(int)) if montage else set()
        drawn: list[SlicePicture] = []
        kept: list[tuple[Any, np.ndarray]] = []
        size = max(1, min(self.settings.eval.batch_size, len(slices)))
        predictions = self.predict(slices, prepared_by=slices.prepared_by, batch_size=size)
        with progress(len(slices), quiet=quiet) as bar:
            for number, prediction in enumerate(predictions):
                place = (slices.places[number], *slices.window)
                labels[place] = prediction.labels
                if keep_prob:
                    kept.append((place, prediction.prob))
                if number in wanted:
                    title = f"{scan.id}, slice {place[0] + 1} of {len(labels)}"
                    drawn.append(self.picture(prediction, title, slices.prepared_by))
                bar.update()
        removed = remove_outside_lungs(labels, lung)
        prob = tuple(kept) if keep_prob else None
        doubts = lung_doubts(lung, scan.voxels, scan.spacing)
        notes = (*scan.notes, *missing_note(lung, scan), *doubts)
        return Segmentation(
            self.class_names, scan, lung, removed, drawn, notes, self._made_by, labels, prob
        )

    def picture_segmentation(self, prediction: SlicePrediction) -> Segmentation:
        """Return the segmentation of a picture.

        Args:
            prediction: of the picture.
        """
        prob = (((slice(None), slice(None)), prediction.prob),)
        lung, labels = prediction.slice.lung, prediction.labels
        image = prediction.slice.image
        notes = [] if lung is None else picture_doubts(image, lung)
        if self.preprocessing.grey_values == "anatomy":
            notes = notes or grey_doubts(image)
        return Segmentation(
            self.class_names, None, lung, np.zeros(0), (), tuple(notes), self._made_by, labels, prob
        )

    def export(
        self, out: str | Path, *, format: str = "onnx", batch: int | None = None
    ) -> Exported:
        """Write inference as one file for other programs; `ssa-jax export` does the same.

        Args:
            out: folder to write to, new or empty: the network, and how images are made for it.
            format: 'onnx', or 'stablehlo' (of `jax.export`).
            batch: number of images that the file takes at once; None for any.

        Returns:
            The files, and how the network's numbers and the file's compare.

        Raises:
            ValueError: an ensemble, an unknown format, a batch below 1, a package is missing, or
                the file's probabilities are not those of the network.
            FileExistsError: the folder is not empty.
            OSError: it cannot be written.
        """
        if self._variables is None:
            raise ValueError(f"{self.name}: an ensemble has no weights; export each network")
        return export(self, Path(out), format, batch)

    def picture(
        self, prediction: SlicePrediction, title: str, prepared_by: Preprocessing | None = None
    ) -> SlicePicture:
        """Return a prediction as a row of a picture.

        Args:
            prediction: of a slice.
            title: of the row.
            prepared_by: the slice's preprocessing; None for `preprocessing`.
        """
        item = prediction.slice
        used = prepared_by or self.preprocessing
        return SlicePicture(
            image=normalize(item.image, used.intensity, used.grey_values),
            truth=item.mask,
            prediction=prediction.labels,
            attention=list(prediction.attention().transpose(2, 0, 1)),
            title=title.replace("$", r"\$"),  # matplotlib typesets formulas between dollars
        )


def compile_network(settings: Settings) -> Callable[[Variables], Network]:
    """Make a function from variables to their network; prediction is compiled once.

    Args:
        settings: of the networks.
    """
    predict = make_predict(factory.build_model(settings), flip=settings.eval.flip)
    return lambda variables: Network(settings, predict(variables))


def load(
    folder: str | Path | Sequence[str | Path], checkpoint: str = "best", dtype: str | None = None
) -> Network:
    """Load the network of a workdir, or an ensemble of several.

    Args:
        folder: a workdir of `ssa-jax train` or `ssa-jax import_torch`, or of one round or fold; or
            several, or one of `ssa-jax cross_validate` for those of its folds: the mean of the
            networks' probabilities counts, see `ensemble`.
        checkpoint: 'best' (by validation DSC) or 'last'.
        dtype: of the computation, 'float32' or 'bfloat16'; None for that of the training.

    Raises:
        FileNotFoundError: a folder is no workdir, or has no such checkpoint.
        ValueError: an unknown checkpoint or dtype, a workdir's files are damaged, or networks that
            make no ensemble.
    """
    given = [folder] if isinstance(folder, str | Path) else folder
    folders = workdir.with_folds(map(Path, given))
    read = {one: workdir.load_settings(one).computed_in(dtype) for one in folders}
    return restore(read, checkpoint)


def restore(networks: Mapping[Path, Settings], checkpoint: str) -> Network:
    """Load the network of a workdir, or an ensemble of several; equal ones are compiled once.

    Args:
        networks: workdirs and their settings; `data.data_dir` may differ.
        checkpoint: 'best' or 'last'.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: an unknown checkpoint, its files are damaged, or as `ensemble`.
    """
    make = cache(make_predict)
    restored = []
    for folder, settings in networks.items():
        variables, step = workdir.trained_variables(settings, folder, checkpoint)
        predict = make(factory.build_model(settings), flip=settings.eval.flip)(variables)
        origin = read_provenance(folder, settings)
        restored.append(
            Network(
                settings,
                predict,
                name=str(folder),
                step=step,
                trained_on=origin,
                variables=variables,
            )
        )
    for note in dict.fromkeys(filter(None, map(factory.dtype_note, networks.values()))):
        say(note)
    return ensemble(restored)


def ensemble(networks: Sequence[Network]) -> Network:
    """Return a network whose probabilities are the mean of those of several.

    Their attention is averaged as well. It has no weights of its own, so that it is not exported.

    Args:
        networks: of the same classes, prepared images, origin of lung masks and `eval.least_share`;
            one of them alone is returned as it is.

    Raises:
        ValueError: there are none, or they differ; the message names the first that does.
    """
    if not networks:
        raise ValueError("no workdir is named; expected one or more")
    first, *others = networks
    for other in others:
        theirs = _in_common(other)
        for what, mine in _in_common(first).items():
            if mine != theirs[what]:
                raise ValueError(
                    f"{other.name}: its {what} {theirs[what]}, those of {first.name} {mine}; "
                    "expected the same in all networks of an ensemble"
                )
    if not others:
        return first

    def predict(image: np.ndarray) -> Output:
        outputs = [network._predict(image) for network in networks]
        return Output(*(np.mean(parts, axis=0) for parts in zip(*outputs, strict=True)))

    origins = [network.provenance for network in networks]
    name = ", ".join(network.name for network in networks)
    return Network(first.settings, predict, name=name, step=first.step, trained_on=joined(origins))


def _in_common(network: Network) -> dict[str, Any]:
    """Return what all networks of an ensemble must have in common, by its name in a message."""
    return {
        "classes are": network.class_names,
        "images are prepared by": network.preprocessing,
        "lung masks are": network.provenance.lungs,
        "rare classes have a share below": network.settings.eval.least_share,
    }
