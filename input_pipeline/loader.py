"""Slices to batches: an endless, resumable training stream and ordered evaluation batches (grain).

Chance depends on the seed and an example's place in the stream, never on the clock, the number of
threads or the number of processes: N shards together see what one shard would see.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import grain
import numpy as np
from numpy.typing import NDArray

from input_pipeline.augment import Augmentation, Example, augment
from input_pipeline.preprocess import Grid, Prepared, Preprocessing, Slice, prepare

READ_THREADS = 2
PREFETCH_BATCHES = 4


@dataclass(frozen=True)
class EvalBatch:
    """Slices in their given order, ready for the network.

    Attributes:
        image: [B, S, S, C] float32; the places after the last slice are zeros.
        slices: the real slices of this batch, at most B.
        grids: one per slice: how to bring its prediction back to its own grid.
    """

    image: NDArray[np.float32]
    slices: list[Slice]
    grids: list[Grid]


class _PreparedSlices:
    """Random access to prepared slices, each made on first use and kept (16 bytes a pixel)."""

    def __init__(self, slices: Sequence[Slice], preprocessing: Preprocessing) -> None:
        self._slices = slices
        self._preprocessing = preprocessing
        self._kept: dict[int, Example] = {}

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, index: int) -> Example:
        if index not in self._kept:
            made = prepare(self._slices[index], self._preprocessing)
            self._kept[index] = _arrays(made)
        return self._kept[index]


def _arrays(made: Prepared) -> Example:
    """The arrays of a prepared slice, read-only since the cache shares them."""
    arrays = {"image": made.image, "mask": made.mask, "weight": made.weight}
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


def train_iterator(
    slices: Sequence[Slice],
    preprocessing: Preprocessing,
    augmentation: Augmentation | None,
    *,
    batch_size: int,
    seed: int,
    shard_index: int = 0,
    shard_count: int = 1,
) -> grain.DatasetIterator:
    """An endless stream of training batches, shuffled anew in every epoch.

    Batches run across the ends of epochs, so none is short. The global stream is dealt out to the
    shards in turn: batch k of all shards together holds the examples, augmentation included, of
    batch k of one shard with the sum of the batch sizes.

    Args:
        slices: labelled slices with random access; each is read and prepared once.
        preprocessing: how a slice becomes network input.
        augmentation: random changes, None for none.
        batch_size: examples per batch of this process.
        seed: 0 to 2**32 - 1; the same seed gives the same bits.
        shard_index: number of this process.
        shard_count: number of processes.

    Returns:
        An iterator over {'image' [B, S, S, C] float32, 'mask' [B, S, S] int32, 'weight'
        [B, S, S, 1] float32}. `get_state()` and `set_state(state)` resume it bit for bit.

    Raises:
        ValueError: no slices, or a number outside its range; later, from the iterator, a slice
            that cannot be prepared.
    """
    _check(len(slices), batch_size, seed, shard_index, shard_count)
    source = _PreparedSlices(slices, preprocessing)
    stream = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    if augmentation is not None:
        stream = stream.random_map(partial(augment, settings=augmentation))
    stream = stream[shard_index::shard_count].batch(batch_size, drop_remainder=True)
    options = grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=PREFETCH_BATCHES)
    return iter(stream.to_iter_dataset(options))


def eval_batches(
    slices: Sequence[Slice], preprocessing: Preprocessing, *, batch_size: int
) -> Iterator[EvalBatch]:
    """All slices once, in their order, in batches of one size (the last padded with zeros).

    While a batch is being used, a thread reads the next one, and as many as there are further
    cores prepare its slices.

    Args:
        slices: slices, labelled or not.
        preprocessing: how a slice becomes network input.
        batch_size: B.

    Raises:
        ValueError: `batch_size` is below 1, or a slice cannot be prepared.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more")

    def make(start: int) -> EvalBatch:
        chosen = [slices[k] for k in range(start, min(start + batch_size, len(slices)))]
        made = list(workers.map(partial(prepare, p=preprocessing), chosen))
        image = np.zeros((batch_size, *made[0].image.shape), np.float32)
        image[: len(made)] = [item.image for item in made]
        return EvalBatch(image, chosen, [item.grid for item in made])

    if not slices:
        return
    cores = max(1, (os.cpu_count() or 1) - 1)  # one is left to whoever uses the batches
    with ThreadPoolExecutor(cores) as workers, ThreadPoolExecutor(1) as reader:
        coming = reader.submit(make, 0)
        for start in range(batch_size, len(slices), batch_size):
            batch, coming = coming.result(), reader.submit(make, start)
            yield batch
        yield coming.result()


def _check(count: int, batch_size: int, seed: int, shard_index: int, shard_count: int) -> None:
    if count < 1:
        raise ValueError("there are no slices to train on; check the split and its hold-out")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more per process")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}, expected 0 to {2**32 - 1}")
    if not 0 <= shard_index < shard_count:
        raise ValueError(f"shard_index is {shard_index}, expected 0 to {shard_count - 1}")
