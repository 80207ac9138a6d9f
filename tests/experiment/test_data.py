"""The parts of a training: splits that the user stated, stored ones, and drawn ones."""

import pytest

from configs import folder as config
from input_pipeline.datasets import catalog
from input_pipeline.splits import save_split
from ssa_jax.experiment import data, pools
from ssa_jax.experiment.settings import Settings
from tests.input_pipeline.datasets.test_volume_builder import save, save_folder, volume


@pytest.fixture
def settings(tmp_path):
    """Settings of a folder of two labelled volumes and one without a label."""
    save_folder(tmp_path / "source")
    fields = {"data.data_dir": str(tmp_path / "records"), "data.validation_slices": 2}
    return Settings.from_config(config.get_config()).replace(fields)


def build(tmp_path, *splits):
    rows = [f"{n}.nii.gz,{'abc'[n]},{split}" for n, split in enumerate(splits)]
    (tmp_path / "source/patients.csv").write_text("\n".join(["file,patient,split", *rows]))
    source, data_dir = tmp_path / "source", tmp_path / "records"
    catalog.build("folder", source_dir=source, data_dir=data_dir, task="binary")


def patients(slices):
    return {item.patient for item in slices}


def test_the_stated_validation_validates(tmp_path, settings):
    """`validation_slices` draws nothing where the user has stated who validates."""
    build(tmp_path, "validation", "train", "unlabelled")
    training, validation = data.training_slices(settings, tmp_path / "W")
    assert (patients(training), patients(validation)) == ({"b"}, {"a"})
    assert len(validation) == 6 and not (tmp_path / "W").exists()
    again = data.evaluation_slices(settings, tmp_path / "W", "validation")
    assert patients(again) == {"a"}
    slices = pools.draw_pools(settings, data.plan(settings, tmp_path / "W"))
    assert patients(slices.unlabelled) == {"c"}
    pools.check_pools(settings, slices)


def test_it_is_said_that_records_are_built(tmp_path, settings, capsys):
    """Where there is no terminal nothing else is printed for minutes."""
    named = settings.replace({"data.source_dir": str(tmp_path / "source")})
    data.build_records(named)
    assert f"{tmp_path / 'records/folder'}" in capsys.readouterr().err.splitlines()[0]
    data.build_records(named)
    assert "building" not in capsys.readouterr().err


def test_a_stored_split_counts_more(tmp_path, settings):
    """A cross-validation stores its folds of the training part before it trains."""
    save(tmp_path / "source/labels/2.nii.gz", volume(2, (1, 2))["mask"])
    build(tmp_path, "train", "train", "validation")
    train = data.open_split(settings, "train")
    parts = [[item.id for item in train if item.patient == patient] for patient in "ab"]
    save_split(tmp_path / "W/splits.json", *parts)
    training, validation = data.training_slices(settings, tmp_path / "W")
    assert (patients(training), patients(validation)) == ({"a"}, {"b"})
    assert patients(data.training_slices(settings, tmp_path / "other")[1]) == {"c"}


def test_without_a_stated_validation_it_is_drawn(tmp_path, settings):
    build(tmp_path, "train", "train", "unlabelled")
    training, validation = data.training_slices(settings, tmp_path / "W")
    assert {*patients(training), *patients(validation)} == {"a", "b"}
    assert not patients(training) & patients(validation)
    assert (tmp_path / "W/splits.json").exists()


def test_the_stated_test_part_is_no_part_of_training(tmp_path, settings):
    build(tmp_path, "test", "train", "unlabelled")
    assert patients(data.evaluation_slices(settings, tmp_path / "W", "test")) == {"a"}
    with pytest.raises(ValueError, match="takes all 1 patients"):
        data.training_slices(settings, tmp_path / "W")
