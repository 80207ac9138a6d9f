"""Records of rounds that an older version wrote are read."""

import json

from configs import self_train_phantom
from ssa_jax.experiment import labelling, rounds
from ssa_jax.experiment.pools import Pools
from ssa_jax.experiment.run import Run, manifest_of
from ssa_jax.experiment.settings import Settings


def test_a_row_with_old_names_is_read(tmp_path):
    settings = Settings.from_config(self_train_phantom.get_config())
    run = Run(settings, tmp_path, Pools((), (), ()), lambda _: None, None, True)
    row = {"round": 2, "moved": 4, "renewed": 3, "validation_dsc": {"average": 0.5}}
    (tmp_path / "round_02").mkdir()
    (tmp_path / "round_02/round.json").write_text(json.dumps(row))
    read = rounds.train_round(run, 2)
    assert read == {"round": 2, "added": 4, "relabelled": 3, "validation_dsc": {"average": 0.5}}
    assert rounds.score_of(read) == 0.5


def test_a_round_without_a_score_is_not_the_best():
    assert str(rounds.score_of({"validation_dsc": {"average": None}})) == "nan"


def test_a_manifest_with_old_names_is_read(tmp_path, capsys):
    settings = Settings.from_config(self_train_phantom.get_config())
    run = Run(settings, tmp_path, Pools((), (), ()), lambda _: None, None, True)
    pseudo = tmp_path / "round_01/pseudo"
    pseudo.mkdir(parents=True)
    manifest = {"moved": 4, "renewed": 0, "warnings": ["3 of 4 pseudo-labels are nearly empty"]}
    (pseudo / "manifest.json").write_text(json.dumps(manifest))
    labelling.label_round(run, 1)  # it is there: nothing is labelled again
    assert "warning: round 1: 3 of 4" in capsys.readouterr().err
    assert manifest_of(pseudo)["added"] == 4
