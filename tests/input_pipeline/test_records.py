"""Records that are checked by their hashes when they are read."""

import numpy as np
import pytest

from input_pipeline import pseudo_labels
from input_pipeline.pseudo_labels import PseudoLabel, PseudoLabels, PseudoWriter
from input_pipeline.records import HASHES, Records, record_sha256

MEND = "build it again"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Five records in three shards."""
    monkeypatch.setattr(pseudo_labels, "SHARD_SLICES", 2)
    writer = PseudoWriter(tmp_path / "pseudo", range(5))
    rng = np.random.default_rng(0)
    for shard in writer.todo(0, 1):
        labels = [
            PseudoLabel(k, f"slice{k}", *rng.integers(0, 255, (2, 9, 9), np.uint8))
            for k in writer.shard_indices(shard)
        ]
        writer.write(shard, labels)
    writer.labels()
    writer.finish({})
    return tmp_path / "pseudo"


def shards(folder):
    return sorted(folder.glob("*.array_record-*"))


def read_all(folder):
    return [record_sha256(record) for record in Records(folder, "train", MEND)]


def test_the_hashes_are_of_the_records_in_their_order(folder):
    records = Records(folder, "train", MEND)
    assert [name for name, _ in records.hashes()] == [f"slice{k}" for k in range(5)]
    assert [sha for _, sha in records.hashes()] == read_all(folder)
    stored = records.hashes()
    (folder / HASHES).unlink()  # as in an older version: computed, and nothing is checked
    assert Records(folder, "train", MEND).hashes() == stored


def test_what_a_record_holds_decides_its_hash():
    record = {"id": b"a", "mask": np.zeros((2, 3), np.uint8)}
    same = {"mask": np.zeros((2, 3), np.uint8), "id": "a"}
    assert record_sha256(record) == record_sha256(same)
    others = [
        record | {"id": b"b"},
        record | {"mask": np.zeros((3, 2), np.uint8)},
        record | {"mask": np.zeros((2, 3), np.int8)},
        record | {"mask": np.eye(2, 3, dtype=np.uint8)},
        {"id": b"a", "lung": record["mask"]},
    ]
    assert len({record_sha256(one) for one in [record, *others]}) == 6


def test_exchanged_shards_are_found(folder):
    first, second = shards(folder)[:2]
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    with pytest.raises(ValueError, match=r"00000-of-00003: damaged or exchanged: record 0 of"):
        PseudoLabels(folder)[0]


def test_a_shard_of_another_round_is_found(folder, tmp_path):
    writer = PseudoWriter(tmp_path / "other", range(2))
    blank = np.zeros((9, 9), np.uint8)
    writer.write(0, [PseudoLabel(k, f"slice{k}", blank, blank) for k in range(2)])
    writer.labels()
    writer.finish({})
    shards(folder)[1].write_bytes(shards(tmp_path / "other")[0].read_bytes())
    labels = PseudoLabels(folder)
    assert labels[1].id == "slice1"
    with pytest.raises(ValueError, match=r"00001-of-00003: damaged or exchanged: record 2 of"):
        labels[2]


def test_every_way_to_damage_a_folder_is_one_line_or_changes_nothing(folder):
    sound = read_all(folder)
    rng = np.random.default_rng(0)
    refused = 0
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for kind in ("empty", "half", "gone", *["flip"] * 6):
            damaged = bytearray(content)
            damaged[rng.integers(len(content))] ^= 1 << rng.integers(8)
            made = {"empty": b"", "half": content[: len(content) // 2], "flip": damaged}
            path.unlink() if kind == "gone" else path.write_bytes(made[kind])
            try:
                found = read_all(folder)
            except ValueError as error:
                assert str(error).startswith(str(folder)) and "\n" not in str(error), error
                assert str(error).endswith(MEND) or MEND in str(error)
                refused += 1
            else:
                assert found == sound, (path, kind)
            path.write_bytes(content)
    assert refused > 20


def test_fewer_records_than_were_written(folder):
    path = folder / "dataset_info.json"
    text = path.read_text()
    assert '"2",\n        "2",\n        "1"' in text
    path.write_text(
        text.replace('"2",\n        "2",\n        "1"', '"2",\n        "2",\n        "0"')
    )
    with pytest.raises(ValueError, match="split 'train' has 4 records, expected 5; build it again"):
        Records(folder, "train", MEND)
