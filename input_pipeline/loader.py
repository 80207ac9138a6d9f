"""Make batches of slices: an endless, resumable training stream, and ordered evaluation batches.

Random numbers depend on the seed and on an example's position in the stream only, not on time or
on the number of threads or processes: N shards together yield the examples of a single shard.
"""

import atexit
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import grain
import numpy as np
from numpy.typing import NDArray

from input_pipeline.augment import Augmentation, Example, augment
from input_pipeline.mixing import Mixing, draw_box, mix
from input_pipeline.preprocess import Grid, Prepared, Preprocessing, prepare_slice
from input_pipeline.slices import Slice

READ_THREADS = 2
PREFETCH_BATCHES = 4
NO_MIXING = Mixing()
GB = 1e9


@dataclass(frozen=True)
class Pool:
    """Slices that a training draws from, and how they are changed.

    Attributes:
        slices: labelled or pseudo-labelled.
        augmentation: random changes; None for none.
    """

    slices: Sequence[Slice]
    augmentation: Augmentation | None


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


class _Budget:
    """Memory for prepared slices, which the pools of a stream share."""

    def __init__(self, gigabytes: float) -> None:
        self._left = gigabytes * GB

    def take(self, size: int) -> bool:
        """Take so many bytes, if there are as many left (of two threads, one may take too many)."""
        if size > self._left:
            return False
        self._left -= size
        return True


class _PreparedSlices:
    """Prepared slices by index, kept while there is memory (16 bytes per pixel), else made anew.

    Which of them are kept changes nothing but the time: in a shuffled stream each is as likely to
    come next, so that the first ones are as good as any.
    """

    def __init__(
        self, slices: Sequence[Slice], preprocessing: Preprocessing, budget: _Budget
    ) -> None:
        self._slices = slices
        self._preprocessing = preprocessing
        self._budget = budget
        self._kept: dict[int, Example] = {}

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, index: int) -> Example:
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        made = _arrays(prepare_slice(self._slices[index], self._preprocessing))
        if self._budget.take(sum(array.nbytes for array in made.values())):
            self._kept[index] = made
        return made


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
    mixing: Mixing = NO_MIXING,
    cache_gb: float = math.inf,
    workers: int = 0,
    shard_index: int = 0,
    shard_count: int = 1,
) -> "Batches":
    """Return an endless stream of training batches, shuffled anew in every epoch.

    A batch may span the end of an epoch, so all batches have the same size. The shards take the
    examples of the global stream in turn: batch k of all shards together holds the examples,
    augmentation included, of batch k of a single shard with the sum of the batch sizes.

    Args:
        slices: labelled slices.
        preprocessing: how slices become network input.
        augmentation: random changes; None for none.
        batch_size: examples in each batch of this process, 1 or more.
        seed: 0 to 2**32 - 1; the same seed gives the same bits.
        mixing: how often a slice is mixed with another one of them.
        cache_gb: memory for prepared slices, which are read once then; the others are read and
            prepared each time. Of several workers each keeps its own in its share of the memory.
        workers: processes that read, prepare and augment; 0 for threads of this one. The batches
            are the same.
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
    source = _PreparedSlices(slices, preprocessing, _Budget(cache_gb / max(1, workers)))
    stream = _examples(source, augmentation, seed)
    if mixing:
        partners = _examples(source, augmentation, _derived(seed, 1))
        stream = _mixed(stream, partners, mixing, _derived(seed, 2))
    return _batched(stream, batch_size, shard_index, shard_count, workers)


def two_pool_iterator(
    labelled: Pool,
    pseudo: Pool,
    preprocessing: Preprocessing,
    *,
    labelled_share: float,
    batch_size: int,
    seed: int,
    mixing: Mixing = NO_MIXING,
    cache_gb: float = math.inf,
    workers: int = 0,
    shard_index: int = 0,
    shard_count: int = 1,
) -> "Batches":
    """Return an endless stream of labelled and pseudo-labelled slices in a fixed ratio.

    A slice of one pool is mixed with one of the other. Epochs of the pools end apart.

    Args:
        labelled: labelled slices.
        pseudo: pseudo-labelled slices.
        preprocessing: see `train_iterator`.
        labelled_share: share of the labelled slices in every batch, above 0 and below 1.
        batch_size: see `train_iterator`.
        seed: see `train_iterator`.
        mixing: how often a slice is mixed with one of the other pool.
        cache_gb: see `train_iterator`.
        workers: see `train_iterator`.
        shard_index: see `train_iterator`.
        shard_count: see `train_iterator`.

    Returns:
        As `train_iterator`; the batches also hold 'pseudo' `[B]` float32, 1 for a pseudo-labelled
        slice, else 0.

    Raises:
        ValueError: as `train_iterator`.
    """
    sources, budget = [], _Budget(cache_gb / max(1, workers))
    for pool in (labelled, pseudo):
        _check(len(pool.slices), batch_size, seed, shard_index, shard_count)
        sources.append(_PreparedSlices(pool.slices, preprocessing, budget))
    pools = list(zip(sources, (labelled.augmentation, pseudo.augmentation), strict=True))
    streams = []
    for number, (own, other) in enumerate((pools, pools[::-1])):
        stream = _examples(*own, _derived(seed, number))
        if mixing:
            partners = _examples(*other, _derived(seed, 2 + number))
            stream = _mixed(stream, partners, mixing, _derived(seed, 4 + number))
        streams.append(stream.map(partial(_marked, pseudo=number)))
    both = grain.MapDataset.mix(streams, [labelled_share, 1 - labelled_share])
    return _batched(both, batch_size, shard_index, shard_count, workers)


def teacher_iterator(
    labelled: Pool,
    unlabelled: Pool,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    seed: int,
    strong: Augmentation,
    cutmix: float,
    cache_gb: float = math.inf,
    workers: int = 0,
    shard_index: int = 0,
    shard_count: int = 1,
) -> "Batches":
    """Return an endless stream of pairs of a labelled and an unlabelled slice, for a teacher.

    Args:
        labelled: labelled slices.
        unlabelled: slices without labels; their augmentation makes the weak view.
        preprocessing: see `train_iterator`.
        batch_size: pairs in each batch of this process, 1 or more.
        seed: see `train_iterator`.
        strong: random changes of the weak view that make the strong one; changes of intensity.
        cutmix: probability that the slices of a pair exchange a box.
        cache_gb: see `train_iterator`.
        workers: see `train_iterator`.
        shard_index: see `train_iterator`.
        shard_count: see `train_iterator`.

    Returns:
        An iterator over batches as `training.consistency.labelled_by_teacher` takes them; it is
        resumed as that of `train_iterator`.

    Raises:
        ValueError: as `train_iterator`.
    """
    streams, budget = [], _Budget(cache_gb / max(1, workers))
    for number, pool in enumerate((labelled, unlabelled)):
        _check(len(pool.slices), batch_size, seed, shard_index, shard_count)
        source = _PreparedSlices(pool.slices, preprocessing, budget)
        streams.append(_examples(source, pool.augmentation, _derived(seed, number)))
    pair = partial(_pair, strong=strong, cutmix=cutmix)
    pairs = grain.experimental.ZipMapDataset(streams).seed(_derived(seed, 2)).random_map(pair)
    return _batched(pairs, batch_size, shard_index, shard_count, workers)


def _pair(
    both: tuple[Example, Example],
    rng: np.random.Generator,
    strong: Augmentation,
    cutmix: float,
) -> Example:
    """Return a labelled slice, two views of an unlabelled one, and the box that they exchange."""
    labelled, weak = both
    box = np.zeros(weak["weight"].shape, np.float32)
    if rng.random() < cutmix:
        box[draw_box(rng, box.shape[:2])] = 1
    changed = augment(weak, rng, strong)["image"]
    views = {"weak": weak["image"], "strong": changed, "valid": weak["weight"]}
    return labelled | views | {"box": box}


def _examples(
    source: _PreparedSlices, augmentation: Augmentation | None, seed: int
) -> grain.MapDataset:
    """Return the endless stream of a pool's augmented examples, shuffled anew in every epoch."""
    stream = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    if augmentation is None:
        return stream
    return stream.random_map(partial(augment, settings=augmentation))


def _mixed(
    stream: grain.MapDataset, partners: grain.MapDataset, mixing: Mixing, seed: int
) -> grain.MapDataset:
    """Return the examples of a stream, each mixed with that of another stream at its place."""

    def mix_pair(pair: tuple[Example, Example], rng: np.random.Generator) -> Example:
        return mix(*pair, rng, mixing)

    pairs = grain.experimental.ZipMapDataset([stream, partners])
    return pairs.seed(seed).random_map(mix_pair)


def _marked(example: Example, pseudo: int) -> Example:
    return example | {"pseudo": np.asarray(pseudo, np.float32)}


def _batched(
    stream: grain.MapDataset, batch_size: int, shard_index: int, shard_count: int, workers: int
) -> "Batches":
    """Return the batches of this process's share of an endless stream."""
    stream = stream[shard_index::shard_count].batch(batch_size, drop_remainder=True)
    return Batches(stream, workers)


class Batches:
    """An endless iterator of batches whose position can be saved and restored.

    Args:
        stream: of batches, by their place.
        workers: processes that make them; 0 for threads of this one.
    """

    def __init__(self, stream: grain.MapDataset, workers: int) -> None:
        self._stream = stream
        self._workers = workers
        self._next = 0
        self._iterator: grain.DatasetIterator | None = None

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if self._iterator is None:
            self._iterator = self._start()
        batch: dict[str, np.ndarray] = next(self._iterator)
        self._next += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Return the position, which JSON can hold, whatever the number of workers."""
        return {"next_index": self._next}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Move to a position that `get_state` returned."""
        self.close()
        self._next = state["next_index"]

    def close(self) -> None:
        """End the workers; the next batch starts them again."""
        if self._iterator is not None:
            self._iterator.close()
            atexit.unregister(self.close)
        self._iterator = None

    def _start(self) -> grain.DatasetIterator:
        options = grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=PREFETCH_BATCHES)
        ahead = self._stream[self._next :].to_iter_dataset(options)
        processes = grain.MultiprocessingOptions(self._workers, PREFETCH_BATCHES)
        atexit.register(self.close)  # before multiprocessing's own end, which waits for the workers
        return iter(ahead.mp_prefetch(processes, worker_init_fn=_end_with_parent))


def _end_with_parent(_: int, __: int) -> None:
    """Leave signals to the parent of this worker, and end with it, even if it is killed.

    A whole job is sent Ctrl-C and SIGTERM, at which the parent still needs some batches.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _derived(seed: int, number: int) -> int:
    """Return the seed of one of several streams."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


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
