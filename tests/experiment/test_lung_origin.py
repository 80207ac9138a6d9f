"""A network knows the lung masks that it was trained with, and says if it gets others."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import ssa_jax
from configs import covid_semiseg, ct_phantom
from configs import folder as folder_config
from input_pipeline.datasets import catalog
from input_pipeline.files import write_json
from input_pipeline.lungs.origin import RECORD, LungOrigin, origin_of_files
from input_pipeline.verified import file_sha256, read_signed, signed
from launch import cli, predict, prepare
from ssa_jax.evaluation.inference import Output
from ssa_jax.experiment import lung_masks, provenance
from ssa_jax.experiment import network as networks
from ssa_jax.experiment import workdir as workdirs
from ssa_jax.experiment.settings import Settings
from tests.support import lungmask_stand_in
from tests.support.phantom_chest import SPACING, chest

AFFINE = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])
THRESHOLD, FILES = LungOrigin("threshold"), LungOrigin("files")
SHA = "1234567890abcdef" * 4
UNET = LungOrigin("unet", "R231.pth", SHA)
OF_UNET = "lung masks of the U-Net (R231.pth, sha256 1234567890ab...)"


@pytest.fixture(scope="module")
def phantom():
    return chest()


def save(path: Path, voxels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels.transpose(2, 1, 0), AFFINE), path)
    return path


def run(main, *arguments) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.run(main, [str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def record(folder: Path, origin: LungOrigin) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RECORD, signed(origin._asdict()))


# From the files to the data set's card, and from there to the workdir.


def test_the_record_beside_the_masks_says_their_origin(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    assert origin_of_files([one / "a.nii.gz"]) == FILES
    record(one, UNET)
    assert origin_of_files([one / "a.nii.gz", one / "b.nii.gz"]) == UNET
    assert origin_of_files([one / "a.nii.gz", other / "a.nii.gz"]) == FILES
    record(other, UNET._replace(sha256="0" * 64))
    assert origin_of_files([one / "a.nii.gz", other / "a.nii.gz"]) == FILES
    record(other, UNET)
    assert origin_of_files([one / "a.nii.gz", other / "a.nii.gz"]) == UNET
    (one / RECORD).write_text("{")
    with pytest.raises(ValueError, match=rf"{RECORD}: not a JSON file .*restore it from a copy"):
        origin_of_files([one / "a.nii.gz"])
    (one / RECORD).write_text('{"method": "witchcraft"}')
    with pytest.raises(ValueError, match=rf"{RECORD}: holds .*witchcraft.*, expected the origin"):
        origin_of_files([one / "a.nii.gz"])


def source(folder: Path, phantom, *, lungs: bool) -> Path:
    """Two patients of six slices, with masks of their lungs or without."""
    for name in "ab":
        save(folder / f"images/{name}.nii.gz", phantom.voxels[20:26])
        save(folder / f"labels/{name}.nii.gz", (phantom.dense[20:26] > 0).astype(np.uint8))
        if lungs:
            save(folder / f"lungs/{name}.nii.gz", phantom.sides[20:26])
    (folder / "dataset.json").write_text('{"intensity": "hu"}')
    return folder


def trained(tmp_path: Path, lung_mask: str = "file") -> LungOrigin | None:
    """What a training on the records of `tmp_path` notes about its lungs, read back."""
    config = folder_config.get_config()
    config.data.update({"data_dir": str(tmp_path / "records"), "lung_mask": lung_mask})
    settings, workdir = Settings.from_config(config), tmp_path / f"work_{lung_mask}"
    provenance.keep_training(workdir, settings, slices=6)
    return provenance.read_provenance(workdir, settings).lungs


def test_the_card_and_the_workdir_hold_where_the_lungs_come_from(tmp_path, phantom, capsys):
    folder, records = source(tmp_path / "own", phantom, lungs=False), tmp_path / "records"
    build = ("folder", "--source", folder, "--data-dir", records, "--quiet")

    def card() -> dict:
        (path,) = records.rglob("source.json")
        return json.loads(path.read_text())["lungs"]

    assert run(prepare.main, *build) == 0
    assert card() == {"method": "threshold", "weights": None, "sha256": None}
    assert trained(tmp_path) == THRESHOLD
    source(folder, phantom, lungs=True)
    assert run(prepare.main, *build) == 0
    assert card()["method"] == "files"
    record(folder / "lungs", UNET)  # added later: the data set is built again
    assert run(prepare.main, *build) == 0
    assert card() == UNET._asdict()
    assert trained(tmp_path) == THRESHOLD  # a training keeps the note of its beginning
    (tmp_path / "work_file" / provenance.FILE).unlink()
    assert trained(tmp_path) == UNET
    assert trained(tmp_path, "threshold") == THRESHOLD
    assert trained(tmp_path, "none") is None
    (folder / "lungs" / RECORD).write_text("{}")
    capsys.readouterr()
    assert run(prepare.main, *build) == 2
    assert f"{folder / 'lungs' / RECORD}: holds {{}}, expected" in capsys.readouterr().err
    assert run(prepare.main, "folder", "--source", folder, "--check") == 3
    assert card() == UNET._asdict()


def test_older_records_and_workdirs_are_read(tmp_path, phantom):
    folder, records = source(tmp_path / "own", phantom, lungs=False), tmp_path / "records"
    assert run(prepare.main, "folder", "--source", folder, "--data-dir", records, "--quiet") == 0
    (path,) = records.rglob("source.json")
    card = json.loads(path.read_text())
    del card["lungs"]
    path.write_text(json.dumps(card))
    assert catalog.lung_origin("folder", data_dir=records, task="binary") is None
    assert trained(tmp_path) is None
    note = tmp_path / "work_file" / provenance.FILE
    stored = read_signed(note, "")
    assert stored.pop("lungs") is None
    write_json(note, signed(stored))
    assert trained(tmp_path) is None
    write_json(note, signed(stored | {"lungs": "all"}))
    with pytest.raises(ValueError, match=r"training.json: holds 'all', .*or remove it"):
        trained(tmp_path)


# What is said when the network gets others.

KIND = "; give --lungs unet:WEIGHTS for the same"
INSTEAD = "are used instead"
CASES = {
    "alike": (UNET, UNET._replace(weights="copy.npz"), ""),
    "the package": (UNET, UNET._replace(method="lungmask"), ""),
    "threshold": (UNET, THRESHOLD, f"trained with {OF_UNET}; threshold masks {INSTEAD}{KIND}"),
    "other weights": (
        UNET,
        UNET._replace(weights="Covid.pth", sha256="f" * 64),
        f"trained with {OF_UNET}; lung masks of the U-Net (Covid.pth, sha256 ffffffffffff...) "
        f"{INSTEAD}{KIND}",
    ),
    "files": (UNET, FILES, f"trained with {OF_UNET}; lung masks from files {INSTEAD}{KIND}"),
    "from files": (
        FILES,
        THRESHOLD,
        f"trained with lung masks from files; threshold masks {INSTEAD}; give --lungs DIR, a "
        "folder of masks made in the same way, for the same",
    ),
    "files both": (FILES, FILES, ""),
    "from threshold": (
        THRESHOLD,
        UNET,
        f"trained with threshold masks; {OF_UNET} {INSTEAD}; leave --lungs out for the same",
    ),
    "threshold both": (THRESHOLD, THRESHOLD, ""),
    "unknown": (None, THRESHOLD, ""),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_said_of_other_masks(case):
    lungs, used, sentence = CASES[case]
    known = provenance.UNKNOWN._replace(lungs=lungs)
    assert known.lung_notes(used) == ([sentence] if sentence else [])


def dense(image: np.ndarray) -> Output:
    lesion = (image[..., 0] > 0.6) & (image[..., 1] > 0.5)
    prob = np.stack([~lesion, lesion], axis=-1).astype(np.float32)
    return Output(prob, np.repeat(image[..., :1], 4, axis=-1))


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """Makes the workdir of a network that was trained with masks of an origin."""
    monkeypatch.setattr(workdirs, "trained_variables", lambda *_: ({}, 0))
    monkeypatch.setattr(networks, "make_predict", lambda *_, **__: lambda _: dense)

    def make(lungs: LungOrigin | None, configuration=ct_phantom, lung_mask="file") -> Path:
        config = configuration.get_config()
        config.data.update({"image_size": 64, "lung_mask": lung_mask})
        folder = tmp_path / f"work_{lung_mask}"
        workdirs.save_settings(Settings.from_config(config), folder)
        note = {"data": "folder", "slices": 6, "date": "2026-01-02"}
        note |= {"lungs": lungs and lungs._asdict()}
        write_json(folder / provenance.FILE, signed(note))
        return folder

    return make


def test_predict_prints_and_writes_it(tmp_path, workdir, capsys, monkeypatch, phantom):
    entries = lungmask_stand_in.state_dict(features=4)
    np.savez(tmp_path / "R231.npz", **entries)
    narrow = lung_masks.unet.LungUNet(features=4)
    monkeypatch.setattr(lung_masks.unet, "LungUNet", lambda: narrow)
    origin = LungOrigin("unet", "R231.npz", file_sha256(tmp_path / "R231.npz"))
    scan = save(tmp_path / "scan.nii.gz", phantom.voxels[20:23])
    lungs = tmp_path / "lungs"
    save(lungs / "scan.nii.gz", phantom.sides[20:23])
    network = workdir(origin)

    def check(name: str, wanted: str, *flags) -> None:
        out = tmp_path / name
        given = ("--workdir", network, "--out", out, "--intensity", "hu", "--no-pictures")
        assert run(predict.main, *given, *flags, scan) == 0
        said = [line for line in capsys.readouterr().err.splitlines() if "trained with" in line]
        with (out / "volumes.csv").open(newline="") as file:
            (row,) = csv.DictReader(file)
        assert said == ([f"{network}: {wanted}"] if wanted else [])
        assert row["notes"].startswith(wanted) and ("trained with" in row["notes"]) == bool(wanted)

    wanted = f"trained with {origin}; threshold masks are used instead{KIND}"
    check("a", wanted)
    check("b", "", "--lungs", f"unet:{tmp_path / 'R231.npz'}")
    check("c", wanted.replace("threshold masks", "lung masks from files"), "--lungs", lungs)
    record(lungs, origin)
    check("d", "", "--lungs", lungs)
    result = ssa_jax.load(network).segment(scan, intensity="hu")
    assert result.notes[0] == wanted
    same = ssa_jax.load(network).segment(scan, intensity="hu", lung=lungs / "scan.nii.gz")
    assert not any("trained with" in note for note in same.notes)


def test_networks_that_make_their_own_masks_say_nothing(tmp_path, workdir, phantom):
    scan = save(tmp_path / "scan.nii.gz", phantom.voxels[20:23])
    lungs = save(tmp_path / "lungs/scan.nii.gz", phantom.sides[20:23])
    for configuration, lung_mask, origin in (
        (covid_semiseg, "threshold", THRESHOLD),  # from each slice alone, whatever --lungs says
        (ct_phantom, "file", None),
    ):
        network = ssa_jax.load(workdir(origin, configuration, lung_mask))
        result = network.segment(scan, intensity="hu", lung=lungs)
        assert not any("trained with" in note for note in result.notes)


def test_the_weights_are_hashed_when_asked_for(workdir, monkeypatch):
    asked = []
    monkeypatch.setattr(networks, "weights_sha256", lambda _: asked.append(1) or "abc")
    network = ssa_jax.load(workdir(UNET))
    assert not asked
    assert network.provenance == provenance.Provenance(
        "folder", 6, "2026-01-02", "abc", phantoms=False, lungs=UNET
    )
    assert str(network.provenance) == "folder, 6 slices, 2026-01-02, weights abc"
    assert asked == [1]
