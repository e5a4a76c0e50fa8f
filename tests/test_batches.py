import numpy as np
import pytest

from jaxft.data.batches import batch_order, epoch_ends, eval_batches, train_batches
from jaxft.data.canvas import Decoded
from jaxft.errors import UserError


def numbered(num: int) -> Decoded:
    images = np.broadcast_to(np.arange(num, dtype=np.uint8)[:, None, None, None], (num, 4, 4, 3))
    labels = np.arange(num, dtype=np.int32)
    return Decoded(images, np.stack([labels + 1] * 2, 1), labels, tuple(map(str, labels)), ())


def test_each_epoch_sees_every_image_once_in_a_new_order():
    order = batch_order(10, 4, seed=0)
    seen = np.concatenate([order(step) for step in range(10)]).reshape(4, 10)
    assert [sorted(epoch) for epoch in seen.tolist()] == [list(range(10))] * 4
    assert len({tuple(epoch) for epoch in seen.tolist()}) == 4
    assert not np.array_equal(seen[0][:4], batch_order(10, 4, seed=1)(0))


def test_batch_t_depends_on_nothing_but_seed_and_t():
    first, second = train_batches(numbered(10), 4, 3), train_batches(numbered(10), 4, 3)
    for step in (0, 1, 2):
        first(step)
    for ours, theirs in zip(first(7), second(7), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_rows_of_a_batch_belong_together():
    batch = train_batches(numbered(10), 4, 0)(5)
    np.testing.assert_array_equal(batch.images[:, 0, 0, 0], batch.labels)
    np.testing.assert_array_equal(batch.sizes[:, 0], batch.labels + 1)
    assert batch.positions.tolist() == [0, 1, 2, 3]


def test_evaluation_counts_every_image_once():
    batches = list(eval_batches(numbered(10), 4))
    counted = [label for batch in batches for label, weight in zip(batch.labels, batch.weights, strict=True) if weight]
    assert counted == list(range(10))
    assert {len(batch.labels) for batch in batches} == {4}


def test_epochs_end_after_all_their_images():
    assert epoch_ends(244, 32, 5) == [8, 16, 23, 31, 39]
    assert epoch_ends(8, 8, 2) == [1, 2]


def test_a_batch_larger_than_the_set():
    with pytest.raises(UserError, match=r"--batch-size 11 is larger than the training set \(10 images\).*size 10 or"):
        train_batches(numbered(10), 11, 0)
