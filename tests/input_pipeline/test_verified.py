"""JSON files with a hash of what they hold."""

import json

import pytest

from input_pipeline.files import write_json
from input_pipeline.verified import HASH, file_sha256, keep_record, read_signed, signed

VALUE = {"b": [1, 0.1, None], "a": {"ü": "x", 3: True}}
STORED = {"b": [1, 0.1, None], "a": {"ü": "x", "3": True}}
MEND = "make it again"


def test_there_and_back_and_without_a_hash(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, signed(VALUE))
    assert read_signed(path, MEND) == STORED
    path.write_text(json.dumps({"a": 1}))  # of an older version
    assert read_signed(path, MEND) == {"a": 1}


def test_the_layout_and_the_order_of_a_file_do_not_count(tmp_path):
    path = tmp_path / "a.json"
    entries = json.loads(json.dumps(signed(VALUE)))
    path.write_text(json.dumps(dict(reversed(entries.items()))))
    assert read_signed(path, MEND) == STORED


def test_every_flipped_bit_is_found_or_changes_nothing(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, signed(VALUE))
    sound = path.read_bytes()
    refused = 0
    for place in range(len(sound)):
        for bit in range(8):
            damaged = bytearray(sound)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                found = read_signed(path, MEND)
            except ValueError as error:
                assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
                assert MEND in str(error)
                refused += 1
            else:  # a flip in white space, or in the name of the hash, which is then one entry more
                assert {name: found[name] for name in STORED} == STORED
    assert refused > 0.85 * 8 * len(sound)


def test_a_change_on_purpose_has_a_way_out(tmp_path):
    path = tmp_path / "a.json"
    entries = json.loads(json.dumps(signed(VALUE))) | {"b": 2}
    path.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=f"damaged or changed.*remove its entry '{HASH}'"):
        read_signed(path, MEND)
    del entries[HASH]
    path.write_text(json.dumps(entries))
    assert read_signed(path, MEND)["b"] == 2


@pytest.mark.parametrize("text", ["", "[1]", "3", "{", "[" * 100_000])
def test_what_is_no_object_is_refused(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.json: .*; make it again$"):
        read_signed(path, MEND)


def test_a_record_is_kept_and_another_one_refused(tmp_path):
    path = tmp_path / "out" / "record.json"
    given = {"what": "folds", "mend": "name another --workdir"}
    keep_record(path, {"scheme": "usual", "folds": [["a"], ["b"]]}, **given)
    before = path.read_bytes()
    keep_record(path, {"folds": (("a",), ("b",)), "scheme": "usual"}, **given)
    with pytest.raises(ValueError) as refused:
        keep_record(path, {"scheme": "ma", "folds": [["a"]]}, **given)
    assert str(refused.value) == (
        f"{path}: other folds than these (scheme is 'ma' here and 'usual' there, folds differ); "
        "name another --workdir"
    )
    assert path.read_bytes() == before


def test_the_hash_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_sha256(tmp_path / "a") == digest
