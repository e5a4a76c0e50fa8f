import numpy as np
import pytest

from jaxft.data.batches import (
    balanced_order,
    check_batch_fits,
    class_weights,
    device_positions,
    epoch_ends,
    eval_rows,
    num_eval_batches,
    share_of,
    shuffled_order,
)
from jaxft.errors import UserError

LABELS = np.array([0] * 12 + [1] * 3 + [2] * 5)


def test_each_epoch_sees_every_image_once_in_a_new_order():
    order = shuffled_order(10, 4, seed=0)
    seen = np.concatenate([order(step) for step in range(10)]).reshape(4, 10)
    assert [sorted(epoch) for epoch in seen.tolist()] == [list(range(10))] * 4
    assert len({tuple(epoch) for epoch in seen.tolist()}) == 4
    assert not np.array_equal(seen[0][:4], shuffled_order(10, 4, seed=1)(0))


@pytest.mark.parametrize(
    "make", [lambda seed: shuffled_order(20, 4, seed), lambda seed: balanced_order(LABELS, 4, seed)]
)
def test_batch_t_depends_on_nothing_but_seed_and_t(make):
    first = make(3)
    for step in range(50):
        first(step)
    np.testing.assert_array_equal(first(7), make(3)(7))
    assert not np.array_equal(make(3)(7), make(4)(7))
    assert first(7).dtype == np.int32


def test_the_order_stays_what_it_is():
    # Pinned: a run that is carried on must get the batches that it would have had.
    assert shuffled_order(10, 5, seed=3)(0).tolist() == [0, 4, 9, 7, 1]
    assert shuffled_order(10, 5, seed=3)(1_000_001).tolist() == [3, 5, 0, 1, 9]
    assert balanced_order(LABELS, 6, seed=3)(7).tolist() == [14, 6, 17, 15, 2, 13]


def test_the_balanced_order_goes_round_the_classes_and_through_each_of_them():
    order = balanced_order(LABELS, 4, seed=0)
    rows = np.concatenate([order(step) for step in range(90)])
    rounds = LABELS[rows].reshape(-1, 3)
    assert (np.sort(rounds, 1) == [0, 1, 2]).all()
    assert len({tuple(each) for each in rounds.tolist()}) == 6
    for label, count in enumerate((12, 3, 5)):
        own = rows[LABELS[rows] == label]
        turns = own[: len(own) // count * count].reshape(-1, count)
        assert (np.sort(turns, 1) == np.flatnonzero(label == LABELS)).all()
        assert len({tuple(each) for each in turns.tolist()}) > 1


def test_a_class_without_images_takes_no_part():
    labels = np.array([0, 2, 2, 2])
    rows = balanced_order(labels, 4, seed=0)(0)
    assert np.bincount(labels[rows], minlength=3).tolist() == [2, 0, 2]
    assert class_weights(labels, 3).tolist() == [2.0, 0.0, np.float32(2 / 3)]


def test_class_weights_are_inverse_counts_and_1_on_average():
    weights = class_weights(LABELS, 3)
    np.testing.assert_allclose(weights * np.bincount(LABELS), 20 / 3, rtol=1e-6)
    np.testing.assert_allclose(weights[LABELS].mean(), 1, rtol=1e-6)
    assert weights.dtype == np.float32


def test_evaluation_counts_every_image_once():
    batches = [eval_rows(10, share_of(4), step) for step in range(num_eval_batches(10, 4))]
    counted = [row for rows, weights in batches for row, weight in zip(rows, weights, strict=True) if weight]
    assert counted == list(range(10))
    assert {len(rows) for rows, _ in batches} == {4}
    assert max(rows.max() for rows, _ in batches) == 9


def test_microbatches_are_the_same_images_on_any_number_of_devices():
    assert device_positions(4, 2, 2).tolist() == [0, 1, 4, 5, 2, 3, 6, 7]
    assert device_positions(8, 1, 4).tolist() == list(range(8))
    for num_devices in (1, 2, 4):
        by_device = device_positions(8, 3, num_devices).reshape(num_devices, 3, -1)
        for k in range(3):
            assert by_device[:, k].reshape(-1).tolist() == list(range(8 * k, 8 * k + 8))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_shares_are_parts_of_the_whole(accumulate):
    whole = share_of(8, accumulate=accumulate, num_devices=4)
    parts = [share_of(8, accumulate=accumulate, num_devices=4, own=own) for own in ([0, 1], [2], [3])]
    assert np.concatenate([part.train for part in parts]).tolist() == whole.train.tolist()
    assert [part.test.tolist() for part in parts] == [[0, 1, 2, 3], [4, 5], [6, 7]]
    assert whole.train.dtype == whole.test.dtype == np.int32
    rows, weights = eval_rows(13, parts[1], 1)
    assert (rows.tolist(), weights.tolist(), rows.dtype) == ([12, 12], [1, 0], np.int32)


def test_epochs_end_after_all_their_images():
    assert epoch_ends(244, 32, 5) == [8, 16, 23, 31, 39]
    assert epoch_ends(8, 8, 2) == [1, 2]


def test_a_batch_larger_than_the_set():
    with pytest.raises(UserError, match=r"--batch-size 11 is larger than the training set \(10 images\).*size 10 or"):
        check_batch_fits(10, 11)
    check_batch_fits(1, 1)
    check_batch_fits(10, 3, 3)
    with pytest.raises(
        UserError, match=r"--accumulate 4 times --batch-size 3 is 12 .* \(10\). Pass --accumulate 3 or less"
    ):
        check_batch_fits(10, 3, 4)
