"""The training stream: resumable bit for bit, the same however many shards; evaluation batches."""

import dataclasses
import itertools
import multiprocessing
from typing import Any

import numpy as np
import pytest
from absl import flags

from input_pipeline.augment import Augmentation
from input_pipeline.loader import (
    Batches,
    Pool,
    eval_batches,
    teacher_iterator,
    train_iterator,
    two_pool_iterator,
)
from input_pipeline.mixing import Mixing
from input_pipeline.preprocess import Preprocessing, from_grid
from input_pipeline.slices import Slice

PREPROCESSING = Preprocessing(image_size=32, intensity="hu", lung_mask="file", lung_dilation=0)
AUGMENTATION = Augmentation(
    flip_horizontal=True,
    flip_vertical=True,
    rotation_degrees=10.0,
    scaling=0.1,
    intensity_shift=0.05,
    intensity_gain=0.05,
    gamma=0.1,
    noise_sd=0.02,
    probability=0.8,
)


def make_slices(count: int) -> list[Slice]:
    """Slices whose number can be read from the label count: slice k has k + 1 lesion pixels."""
    rng = np.random.default_rng(0)
    slices = []
    for k in range(count):
        mask = np.zeros((32, 32), np.uint8)
        mask.flat[: k + 1] = 1
        image = rng.integers(-1000, 100, (32, 32)).astype(np.int16)
        slices.append(Slice(image, mask, mask, f"s{k}", f"p{k}", None))
    return slices


def make_iterator(
    count: int = 10, *, batch_size: int = 4, seed: int = 7, augmented: bool = True, **shard: Any
) -> Batches:
    return train_iterator(
        make_slices(count),
        PREPROCESSING,
        AUGMENTATION if augmented else None,
        batch_size=batch_size,
        seed=seed,
        **shard,
    )


def take(iterator: Batches, count: int) -> list[dict[str, np.ndarray]]:
    return list(itertools.islice(iterator, count))


def assert_same(first: list[dict[str, np.ndarray]], second: list[dict[str, np.ndarray]]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys() == {"image", "mask", "weight"}
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def numbers(batch: dict[str, np.ndarray]) -> list[int]:
    """Which slices a batch that was not augmented holds."""
    return [int(mask.sum()) - 1 for mask in batch["mask"]]


def test_shapes_and_dtypes() -> None:
    (batch,) = take(make_iterator(), 1)
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "image": ((4, 32, 32, 2), "float32"),
        "mask": ((4, 32, 32), "int32"),
        "weight": ((4, 32, 32, 1), "float32"),
    }


def test_every_epoch_holds_every_slice_once_in_a_new_order() -> None:
    stream = [n for batch in take(make_iterator(10, augmented=False), 10) for n in numbers(batch)]
    epochs = [stream[k : k + 10] for k in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_an_image_keeps_its_own_mask() -> None:
    slices = make_slices(10)
    for batch in take(make_iterator(10, augmented=False), 3):
        for image, n in zip(batch["image"], numbers(batch), strict=True):
            expected = (slices[n].image + 1250.0) / 1500.0
            np.testing.assert_allclose(image[..., 0], expected.clip(0, 1), atol=1e-6)


def test_restored_after_seven_batches_the_next_five_are_the_same_bits() -> None:
    uninterrupted = take(make_iterator(), 12)
    stopped = make_iterator()
    take(stopped, 7)
    fresh = make_iterator()
    fresh.set_state(stopped.get_state())
    assert_same(take(fresh, 5), uninterrupted[7:])


def test_worker_processes_make_the_same_batches_and_end_when_closed() -> None:
    """Their number may change when a training resumes."""
    flags.FLAGS.mark_as_parsed()  # as launch.cli does
    large = dataclasses.replace(PREPROCESSING, image_size=256)  # batches larger than a pipe

    def make(workers: int) -> Batches:
        return train_iterator(
            make_slices(10), large, AUGMENTATION, batch_size=4, seed=7, workers=workers
        )

    uninterrupted = take(make(0), 6)
    stopped = make(2)
    assert_same(take(stopped, 3), uninterrupted[:3])
    state = stopped.get_state()
    workers = multiprocessing.active_children()
    assert state == {"next_index": 3} and len(workers) == 2
    for worker in workers:
        worker.terminate()  # as a job's SIGTERM, which is for the training
    assert_same(take(stopped, 1), uninterrupted[3:4])
    stopped.close()
    assert not multiprocessing.active_children()
    resumed = make(1)
    resumed.set_state(state)
    assert_same(take(resumed, 3), uninterrupted[3:])
    resumed.close()


def test_same_seed_same_bits_another_seed_differs() -> None:
    first, again, other = (take(make_iterator(seed=seed), 5) for seed in (7, 7, 8))
    assert_same(first, again)
    assert any((a["image"] != b["image"]).any() for a, b in zip(first, other, strict=True))


def test_two_shards_see_together_what_one_sees() -> None:
    """Augmentation included, in every global step, across the ends of epochs."""
    whole = take(make_iterator(batch_size=4), 8)
    halves = [take(make_iterator(batch_size=2, shard_index=k, shard_count=2), 8) for k in range(2)]
    for step, batch in enumerate(whole):
        parts = np.concatenate([halves[k][step]["image"] for k in range(2)])
        assert {x.tobytes() for x in parts} == {x.tobytes() for x in batch["image"]}
    assert not (halves[0][0]["image"] == halves[1][0]["image"]).all()


def test_an_example_is_augmented_anew_in_every_epoch() -> None:
    batches = take(make_iterator(1, batch_size=1), 6)
    assert len({batch["image"].tobytes() for batch in batches}) > 3


def test_fewer_slices_than_a_batch_still_fill_it() -> None:
    (batch,) = take(make_iterator(3, batch_size=8, augmented=False), 1)
    assert sorted(set(numbers(batch))) == [0, 1, 2]


class Counting(list[Slice]):
    """Slices, and how often each was read."""

    def __init__(self, slices: list[Slice]) -> None:
        super().__init__(slices)
        self.reads = [0] * len(slices)

    def __getitem__(self, index):
        self.reads[index] += 1
        return super().__getitem__(index)


@pytest.mark.parametrize(("kept", "at_most"), [(4, 4), (2, 2), (0, 0)])
def test_slices_are_read_once_while_there_is_memory_and_the_batches_are_the_same(kept, at_most):
    slices, plain = Counting(make_slices(4)), Counting(make_slices(4))
    size = 32 * 32 * 16 / 1e9  # of a prepared slice
    limited = train_iterator(
        slices, PREPROCESSING, None, batch_size=4, seed=0, cache_gb=(kept + 0.5) * size
    )
    free = train_iterator(plain, PREPROCESSING, None, batch_size=4, seed=0)
    for one, other in zip(take(limited, 20), take(free, 20), strict=True):
        for name in other:
            np.testing.assert_array_equal(one[name], other[name])
    assert 4 <= sum(plain.reads) <= 8  # two threads may meet at one slice
    few = [count for count in slices.reads if count <= 2]
    assert kept - 1 <= len(few) <= at_most  # or take the memory of two for it
    assert all(count >= 20 for count in slices.reads if count > 2)


def test_a_bad_slice_is_named() -> None:
    slices = make_slices(3)
    slices[1] = Slice(slices[1].image, slices[1].mask, None, "nolung", "p", None)
    with pytest.raises(ValueError, match="nolung"):
        take(train_iterator(slices, PREPROCESSING, None, batch_size=3, seed=0), 1)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"count": 0}, "no slices"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"shard_index": 2, "shard_count": 2}, "shard_index is 2"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_iterator(**change)  # type: ignore[arg-type]


def test_evaluation_keeps_the_order_and_pads_the_last_batch() -> None:
    slices = make_slices(5)
    batches = list(eval_batches(slices, PREPROCESSING, batch_size=2))
    assert [len(batch.slices) for batch in batches] == [2, 2, 1]
    assert [item.id for batch in batches for item in batch.slices] == [f"s{k}" for k in range(5)]
    assert all(batch.image.shape == (2, 32, 32, 2) for batch in batches)
    assert not batches[-1].image[1].any()


def test_evaluation_gives_the_way_back_to_a_slice_of_its_own_size() -> None:
    image = np.linspace(-1000, 0, 20 * 40).reshape(20, 40).astype(np.int16)
    lung = np.ones((20, 40), np.uint8)
    item = Slice(image, None, lung, "wide", "p", None)
    (batch,) = eval_batches([item], PREPROCESSING, batch_size=1)
    back = from_grid(batch.image[0, ..., 0], batch.grids[0])
    assert back.shape == (20, 40)
    np.testing.assert_allclose(back * 1500 - 1250, image, atol=20)


def test_evaluation_of_nothing_is_nothing_and_a_bad_size_is_named() -> None:
    assert list(eval_batches([], PREPROCESSING, batch_size=2)) == []
    with pytest.raises(ValueError, match="batch_size is 0"):
        next(eval_batches(make_slices(1), PREPROCESSING, batch_size=0))


def make_two_pools(share: float = 0.25, *, mixed: bool = True, **given: Any) -> Any:
    """4 labelled slices, numbers 0 to 3, and 11 pseudo-labelled ones, of weight 0.4."""
    weight = np.full((32, 32), 102, np.uint8)
    options: dict[str, Any] = {"batch_size": 8, "seed": 3} | given
    pseudo = [dataclasses.replace(item, weight=weight) for item in make_slices(11)]
    changes = AUGMENTATION if mixed else None
    return two_pool_iterator(
        Pool(make_slices(4), changes),
        Pool(pseudo, changes),
        PREPROCESSING,
        labelled_share=share,
        mixing=Mixing(cutmix=0.5, copy_paste=0.5, amplitude=0.5) if mixed else Mixing(),
        **options,
    )


@pytest.mark.parametrize(("share", "labelled"), [(0.25, 2), (0.5, 4), (0.75, 6)])
def test_every_batch_has_the_same_share_of_labelled_slices(share: float, labelled: int) -> None:
    for batch in take(make_two_pools(share, mixed=False), 20):
        assert (batch["pseudo"] == 0).sum() == labelled
        assert (batch["pseudo"] == 1).sum() == 8 - labelled
        np.testing.assert_allclose(batch["weight"][batch["pseudo"] == 1], 0.4)
        np.testing.assert_allclose(batch["weight"][batch["pseudo"] == 0], 1)


def test_both_pools_are_used_up_before_they_start_again() -> None:
    batches = take(make_two_pools(0.5, mixed=False), 11)
    drawn: dict[int, list[int]] = {0: [], 1: []}
    for batch in batches:
        for number, pseudo in zip(numbers(batch), batch["pseudo"], strict=True):
            drawn[int(pseudo)].append(number)
    for pseudo, count in ((0, 4), (1, 11)):
        for start in range(0, 44, count):
            assert sorted(drawn[pseudo][start : start + count]) == list(range(count))


def test_a_mixed_slice_has_pixels_of_both_pools() -> None:
    """Weights 1 and 0.4 tell the pools apart; without geometric changes none is 0."""
    iterator = two_pool_iterator(
        Pool(make_slices(4), None),
        Pool(
            [
                dataclasses.replace(s, weight=np.full((32, 32), 102, np.uint8))
                for s in make_slices(5)
            ],
            None,
        ),
        PREPROCESSING,
        labelled_share=0.5,
        batch_size=4,
        seed=0,
        mixing=Mixing(cutmix=1.0),
    )
    for batch in take(iterator, 10):
        for weight in batch["weight"]:
            np.testing.assert_allclose(np.unique(weight), [0.4, 1], atol=1e-6)


def test_two_pools_resume_with_the_same_bits() -> None:
    whole = take(make_two_pools(), 6)
    first = make_two_pools()
    take(first, 3)
    again = make_two_pools()
    again.set_state(first.get_state())
    for one, other in zip(whole[3:], take(again, 3), strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_two_shards_of_two_pools_are_one() -> None:
    whole = take(make_two_pools(), 6)
    shards = [take(make_two_pools(batch_size=4, shard_index=k, shard_count=2), 6) for k in range(2)]
    for number, batch in enumerate(whole):
        for name in batch:
            np.testing.assert_array_equal(batch[name][0::2], shards[0][number][name])
            np.testing.assert_array_equal(batch[name][1::2], shards[1][number][name])


def test_one_pool_is_mixed_with_itself_and_resumes() -> None:
    mixing = Mixing(cutmix=1.0)
    plain, mixed = take(make_iterator(), 4), take(make_iterator(mixing=mixing), 4)
    differing = [
        np.any(one["image"] != other["image"], axis=(1, 2, 3))
        for one, other in zip(plain, mixed, strict=True)
    ]
    assert np.concatenate(differing).all()  # each has the slice it would have had, and a box
    first = make_iterator(mixing=mixing)
    take(first, 2)
    again = make_iterator(mixing=mixing)
    again.set_state(first.get_state())
    assert_same(mixed[2:], take(again, 2))


def make_pairs(**given: Any) -> Any:
    options: dict[str, Any] = {"batch_size": 4, "seed": 3} | given
    return teacher_iterator(
        Pool(make_slices(4), AUGMENTATION),
        Pool([dataclasses.replace(s, mask=None) for s in make_slices(11)], AUGMENTATION.geometric),
        PREPROCESSING,
        strong=AUGMENTATION.photometric,
        cutmix=0.5,
        **options,
    )


def test_both_views_of_an_unlabelled_slice_show_the_same_pixels() -> None:
    batches = take(make_pairs(), 10)
    boxes = [box.any() for batch in batches for box in batch["box"]]
    assert 0.3 < np.mean(boxes) < 0.7  # every second pair
    for batch in batches:
        weak, strong = batch["weak"], batch["strong"]
        np.testing.assert_array_equal(weak[..., 1], strong[..., 1])  # the lung mask stays
        for one, other, valid in zip(weak, strong, batch["valid"][..., 0] > 0, strict=True):
            assert np.corrcoef(one[valid, 0], other[valid, 0])[0, 1] > 0.9
    assert any(np.any(batch["weak"] != batch["strong"]) for batch in batches)


def test_pairs_resume_and_shard_with_the_same_bits() -> None:
    whole = take(make_pairs(), 6)
    first = make_pairs()
    take(first, 3)
    again = make_pairs()
    again.set_state(first.get_state())
    shards = [take(make_pairs(batch_size=2, shard_index=k, shard_count=2), 6) for k in range(2)]
    for number, (batch, resumed) in enumerate(zip(whole[3:], take(again, 3), strict=True), 3):
        for name in batch:
            np.testing.assert_array_equal(batch[name], resumed[name])
            np.testing.assert_array_equal(batch[name][0::2], shards[0][number][name])
            np.testing.assert_array_equal(batch[name][1::2], shards[1][number][name])
