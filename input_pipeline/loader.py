"""Make batches of slices: an endless, resumable training stream, and ordered evaluation batches.

Random numbers depend on the seed and on an example's position in the stream only, not on time or
on the number of threads or processes: N shards together yield the examples of a single shard.
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
from input_pipeline.preprocess import Grid, Prepared, Preprocessing, prepare_slice
from input_pipeline.slices import Slice

READ_THREADS = 2
PREFETCH_BATCHES = 4


@dataclass(frozen=True)
class EvalBatch:
    """Consecutive slices as network input.

    Attributes:
        image: `[B, S, S, C]` float32; zeros after the last slice.
        slices: the slices of this batch, at most B.
        grids: one for each slice; maps its prediction back to its own grid.
    """

    image: NDArray[np.float32]
    slices: list[Slice]
    grids: list[Grid]


class _PreparedSlices:
    """Prepared slices by index, each prepared on first use and kept (16 bytes per pixel)."""

    def __init__(self, slices: Sequence[Slice], preprocessing: Preprocessing) -> None:
        self._slices = slices
        self._preprocessing = preprocessing
        self._kept: dict[int, Example] = {}

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, index: int) -> Example:
        if index not in self._kept:
            made = prepare_slice(self._slices[index], self._preprocessing)
            self._kept[index] = _arrays(made)
        return self._kept[index]


def _arrays(made: Prepared) -> Example:
    """Return the arrays of a prepared slice, made read-only because the cache shares them."""
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
    """Return an endless stream of training batches, shuffled anew in every epoch.

    A batch may span the end of an epoch, so all batches have the same size. The shards take the
    examples of the global stream in turn: batch k of all shards together holds the examples,
    augmentation included, of batch k of a single shard with the sum of the batch sizes.

    Args:
        slices: labelled slices; each is read and prepared once.
        preprocessing: how slices become network input.
        augmentation: random changes; None for none.
        batch_size: examples in each batch of this process, 1 or more.
        seed: 0 to 2**32 - 1; the same seed gives the same bits.
        shard_index: number of this process, from 0.
        shard_count: number of processes.

    Returns:
        An iterator over dictionaries of 'image' `[B, S, S, C]` float32, 'mask' `[B, S, S]` int32
        and 'weight' `[B, S, S, 1]` float32. Its `get_state()` and `set_state(state)` resume it
        bit for bit.

    Raises:
        ValueError: there are no slices, or a number is outside its range; the iterator raises it
            if a slice cannot be prepared.
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
    """Yield all slices once, in order, in batches of one size (the last padded with zeros).

    While the caller uses a batch, one thread reads the next one and other threads, one for each
    further core, prepare its slices.

    Args:
        slices: slices, labelled or not.
        preprocessing: how slices become network input.
        batch_size: slices in each batch (B), 1 or more.

    Yields:
        The batches.

    Raises:
        ValueError: `batch_size` is below 1, or a slice cannot be prepared.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more")

    def make(start: int) -> EvalBatch:
        chosen = [slices[k] for k in range(start, min(start + batch_size, len(slices)))]
        made = list(workers.map(partial(prepare_slice, preprocessing=preprocessing), chosen))
        image = np.zeros((batch_size, *made[0].image.shape), np.float32)
        image[: len(made)] = [item.image for item in made]
        return EvalBatch(image, chosen, [item.grid for item in made])

    if not slices:
        return
    cores = max(1, (os.cpu_count() or 1) - 1)  # one is left for the caller
    with ThreadPoolExecutor(cores) as workers, ThreadPoolExecutor(1) as reader:
        pending = reader.submit(make, 0)
        for start in range(batch_size, len(slices), batch_size):
            batch, pending = pending.result(), reader.submit(make, start)
            yield batch
        yield pending.result()


def _check(count: int, batch_size: int, seed: int, shard_index: int, shard_count: int) -> None:
    """Check the arguments of `train_iterator`."""
    if count < 1:
        raise ValueError("no slices to train on, expected 1 or more; check the split and hold-out")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more per process")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}, expected 0 to {2**32 - 1}")
    if not 0 <= shard_index < shard_count:
        raise ValueError(f"shard_index is {shard_index}, expected 0 to {shard_count - 1}")
