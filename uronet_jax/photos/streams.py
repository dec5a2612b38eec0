"""Work on many items of which few are held at a time.

Everything is a generator that pulls from the one before it, so that a chain of them
holds what its links hold, however long the list is.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import Any

import jax
import numpy as np


def bounded_map(
    pool: Executor,
    function: Callable[[Any], Any],
    items: Iterable[Any],
    cost: Callable[[Any], int],
    limit: int,
) -> Iterator[Any]:
    """Yields `function(item)` in order, computed ahead in `pool`.

    Items under way cost `limit` in all at most; or there is one.
    """
    waiting: collections.deque = collections.deque()
    total = 0
    for item in items:
        price = cost(item)
        while waiting and (total + price > limit or waiting[0][0].done()):
            future, paid = waiting.popleft()
            total -= paid
            yield future.result()
        waiting.append((pool.submit(function, item), price))
        total += price
        del item  # Else it would be held while waiting for the next one.
    while waiting:
        yield waiting.popleft()[0].result()


def in_batches(
    owners: Iterable[Any],
    items: Callable[[Any], Iterable[tuple[np.ndarray, int]]],
    call: Callable[[np.ndarray, np.ndarray], jax.Array],
    deliver: Callable[[Any, np.ndarray], None],
    batch_size: Callable[[tuple[int, ...]], int],
) -> Iterator[Any]:
    """Computes something for every item of every owner, and yields the owners.

    The devices work on a batch while the one before it is delivered. So at most the
    items of two batches are under way and their owners are held.

    Args:
        owners: What has items; one without any is yielded at once.
        items: Owner -> arrays and their numbers. Unsigned integers are shown as float32
            in `[0, 1]`, made when a batch is. Owners that follow each other share
            batches as long as their items have one shape.
        call: Batch float32 `[B, ...]`, numbers int32 `[B]` -> results `[B, ...]`. A
            batch that is not full ends with zeros.
        deliver: Takes an owner and the result of its next item.
        batch_size: Shape of an item -> B.
    """
    rows: list = []
    waiting: collections.deque = collections.deque()

    def dispatch():
        shape = rows[0][0].shape
        batch = np.zeros((batch_size(shape), *shape), np.float32)
        numbers = np.zeros(len(batch), np.int32)
        for i, (array, number, _, _) in enumerate(rows):
            whole = np.issubdtype(array.dtype, np.integer)
            largest = np.float32(np.iinfo(array.dtype).max if whole else 1)
            batch[i], numbers[i] = array.astype(np.float32) / largest, number
        waiting.append((call(batch, numbers), [row[2:] for row in rows]))
        rows.clear()

    def settle():
        results, whose = waiting.popleft()
        for result, (owner, last) in zip(np.asarray(results), whose, strict=False):
            deliver(owner, result)
            if last:
                yield owner

    for owner in owners:
        count = 0
        for (array, number), last in _marking_the_last(items(owner)):
            count += 1
            if rows and rows[0][0].shape != array.shape:
                dispatch()
            rows.append((array, number, owner, last))
            if len(rows) == batch_size(array.shape):
                dispatch()
            while len(waiting) > 1:
                yield from settle()
        if not count:
            yield owner
        del owner
    if rows:
        dispatch()
    while waiting:
        yield from settle()


def _marking_the_last(items):
    """Yields items, and of each whether it is the last."""
    before = None
    for item in items:
        if before is not None:
            yield before, False
        before = item
    if before is not None:
        yield before, True
