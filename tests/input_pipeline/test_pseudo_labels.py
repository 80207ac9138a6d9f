"""A round's pseudo-labels on disk: whole, in order, the same bits, and never half."""

import hashlib

import numpy as np
import pytest

from input_pipeline import pseudo_labels
from input_pipeline.pseudo_labels import (
    PseudoLabel,
    PseudoLabels,
    PseudoSlices,
    PseudoWriter,
    read_manifest,
)
from input_pipeline.slices import Slice

INDICES = [7, 3, 11, 0, 5]


def label(index):
    rng = np.random.default_rng(index)
    shape = (20 + index, 30)
    mask, weight = rng.integers(0, 3, shape), rng.integers(0, 256, shape)
    sums = rng.random((3, 2))
    return PseudoLabel(index, f"slice{index}", mask.astype(np.uint8), weight.astype(np.uint8), sums)


@pytest.fixture(autouse=True)
def two_a_shard(monkeypatch):
    monkeypatch.setattr(pseudo_labels, "SHARD_SLICES", 2)


def write(folder, processes=1):
    for process in range(processes):
        writer = PseudoWriter(folder, INDICES)
        for shard in writer.todo(process, processes):
            writer.write(shard, map(label, writer.shard_indices(shard)))
    assert len(writer.labels()) == len(INDICES)
    writer.finish({"eta": 0.5})


def hashes(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_there_and_back(tmp_path):
    folder = tmp_path / "pseudo"
    write(folder)
    labels = PseudoLabels(folder)
    assert [item.index for item in labels] == INDICES
    for item in labels:
        expected = label(item.index)
        assert item.id == expected.id
        np.testing.assert_array_equal(item.mask, expected.mask)
        np.testing.assert_array_equal(item.weight, expected.weight)
        np.testing.assert_array_equal(item.confidence, expected.confidence)
    assert labels[-1].index == 5
    assert [item.index for item in labels[1:3]] == [3, 11]
    assert read_manifest(folder) == {"eta": 0.5}
    assert len(list(folder.glob("*.array_record-*-of-00003"))) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["pseudo"]


def test_equal_labels_are_equal_bits_whoever_writes_them(tmp_path):
    for name, processes in (("a", 1), ("b", 1), ("c", 3), ("d", 5)):
        write(tmp_path / name, processes)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b") == hashes(tmp_path / "c")
    assert hashes(tmp_path / "a") == hashes(tmp_path / "d")


def test_processes_share_the_shards():
    writer = PseudoWriter(pseudo_labels.Path("nowhere"), range(13))
    parts = [writer.todo(process, 3) for process in range(3)]
    assert parts == [[0, 3, 6], [1, 4], [2, 5]]
    assert [k for shard in range(7) for k in writer.shard_indices(shard)] == list(range(13))


def test_what_breaks_off_is_done_again_and_the_rest_is_not(tmp_path):
    folder = tmp_path / "pseudo"
    writer = PseudoWriter(folder, INDICES)
    writer.write(0, map(label, writer.shard_indices(0)))

    def breaking():
        yield label(11)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writer.write(1, breaking())
    (tmp_path / ".pseudo.unfinished" / ".left.123").write_bytes(b"half")  # of a SIGKILL
    assert not folder.exists()
    again = PseudoWriter(folder, INDICES)
    assert again.todo(0, 1) == [1, 2]
    for shard in again.todo(0, 1):
        again.write(shard, map(label, again.shard_indices(shard)))
    again.labels()
    again.finish({"eta": 0.5})
    write(tmp_path / "whole")
    assert hashes(folder) == hashes(tmp_path / "whole")


def test_slices_take_label_and_weight_and_keep_the_rest(tmp_path):
    write(tmp_path / "pseudo")
    image = np.zeros((4, 4), np.uint8)
    unlabelled = [Slice(image, None, None, f"slice{k}", f"p{k}", None) for k in range(12)]
    slices = PseudoSlices(PseudoLabels(tmp_path / "pseudo"), unlabelled)
    assert len(slices) == 5
    assert [item.patient for item in slices[:2]] == ["p7", "p3"]
    np.testing.assert_array_equal(slices[4].mask, label(5).mask)
    np.testing.assert_array_equal(slices[4].weight, label(5).weight)
    unlabelled[7] = unlabelled[6]
    with pytest.raises(ValueError, match="slice7: the unlabelled split has slice6 in its place"):
        slices[0]


def test_a_damaged_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="absent: no pseudo-labels can be read"):
        PseudoLabels(tmp_path / "absent")
    write(tmp_path / "pseudo")
    (tmp_path / "pseudo" / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest.json: not a JSON file"):
        read_manifest(tmp_path / "pseudo")
