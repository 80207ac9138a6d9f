"""Which settings a workdir lets a later command change."""

import json
import shutil

import pytest

from configs import ct_phantom
from ssa_jax.experiment.settings import Settings
from ssa_jax.experiment.workdir import (
    DIVERGED_FILE,
    GOES_ON,
    changed_settings,
    goes_on,
    load_settings,
    save_settings,
)
from tests.support.small_training import tree

SETTINGS = Settings.from_config(ct_phantom.get_config())


@pytest.fixture
def workdir(tmp_path):
    """A workdir of this version, whose slices are known by hash."""
    save_settings(SETTINGS, tmp_path / "W")
    (tmp_path / "W" / "data.json").write_text("{}")
    return tmp_path / "W"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("train.epochs", 400),
        ("train.validate_every", 7),
        ("train.mapping", "shard_map"),
        ("model.spatial_conv_impl", "scan"),
        ("eval.batch_size", 3),
        ("eval.tolerance", 1.0),
        ("data.data_dir", "elsewhere"),
        ("data.source_dir", "elsewhere"),
        ("self_train.eta", 0.5),
    ],
)
def test_what_a_training_may_change(workdir, field, value):
    changed = SETTINGS.replace({field: value})
    (told,) = changed_settings(changed, workdir, GOES_ON)
    assert told == f"{field} is {value!r} now and was {SETTINGS.flat()[field]!r}"
    assert load_settings(workdir) == SETTINGS  # nothing is written yet
    save_settings(changed, workdir, GOES_ON)
    assert load_settings(workdir) == changed


FIXED = sorted(
    name
    for name in SETTINGS.flat()
    if name not in GOES_ON and not name.startswith("self_train.") and name != "data.task"
)


@pytest.mark.parametrize("field", FIXED)
def test_what_a_training_may_not_change(workdir, field):
    before = tree(workdir)
    old = SETTINGS.flat()[field]
    change = {bool: lambda: not old, str: lambda: f"{old}x", float: lambda: old / 2 + 0.001}
    change[tuple] = lambda: (*old, 1)
    new = change.get(type(old), lambda: old + 1)()
    with pytest.raises(ValueError) as refused:
        save_settings(SETTINGS.replace({field: new}), workdir, GOES_ON)
    assert f": {field} is {new!r} here and {old!r} there; use that configuration" in str(
        refused.value
    )
    assert "(what may change: data.cache_gb, data.data_dir, data.source_dir" in str(refused.value)
    assert tree(workdir) == before


def test_rounds_and_folds_keep_their_length(workdir):
    for field in ("train.epochs", "train.validate_every", "self_train.max_rounds"):
        with pytest.raises(ValueError, match=f"{field} is 99 here"):
            changed_settings(SETTINGS.replace({field: 99}), workdir)
    moved = SETTINGS.replace({"data.data_dir": "elsewhere", "train.mapping": "shard_map"})
    assert len(changed_settings(moved, workdir)) == 2


def test_a_diverged_training_may_change_what_is_advised(workdir):
    advised = {"optim.learning_rate": 1e-5, "optim.clip_norm": 0.5, "model.dtype": "bfloat16"}
    changed = SETTINGS.replace(advised)
    with pytest.raises(ValueError, match=r"learning_rate is 1e-05 here"):
        changed_settings(changed, workdir, GOES_ON)
    (workdir / DIVERGED_FILE).write_text("{}")
    assert len(changed_settings(changed, workdir, GOES_ON)) == 3
    with pytest.raises(ValueError, match=r": seed is 8 here and"):
        changed_settings(changed.replace({"seed": 8}), workdir, GOES_ON)


def test_without_hashes_of_the_slices_the_data_may_not_move(workdir):
    (workdir / "data.json").unlink()  # as in an older version
    with pytest.raises(ValueError, match=r"data\.data_dir is 'elsewhere' here"):
        changed_settings(SETTINGS.replace({"data.data_dir": "elsewhere"}), workdir, GOES_ON)


def test_checkpoints_without_their_configuration_are_refused(workdir, tmp_path):
    (workdir / "checkpoints/best/3").mkdir(parents=True)
    (workdir / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json: not found, though checkpoints are there"):
        save_settings(SETTINGS, workdir)
    assert not (workdir / "config.json").exists()
    shutil.rmtree(workdir / "checkpoints/best/3")  # empty folders of a training that never began
    save_settings(SETTINGS, workdir)
    assert load_settings(workdir) == SETTINGS


def test_a_configuration_of_an_older_version_is_read(workdir):
    fields = json.loads((workdir / "config.json").read_text())
    del fields["content_sha256"]
    (workdir / "config.json").write_text(json.dumps(fields))
    assert load_settings(workdir) == SETTINGS
    fields["content_sha256"] = 64 * "0"
    (workdir / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"config\.json: damaged or changed"):
        load_settings(workdir)


def test_the_fields_of_an_online_teacher_may_not_change(tmp_path):
    online = SETTINGS.replace({"train.consistency": True})
    save_settings(online, tmp_path)
    changed = online.replace({"self_train.eta": 0.5})
    with pytest.raises(ValueError, match=r"self_train\.eta is 0\.5 here and 0\.95 there"):
        changed_settings(changed, tmp_path, goes_on(changed))
