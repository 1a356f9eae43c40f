"""Windows and their order."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from training.data.windows import (
    TokenWindows,
    WindowOrder,
    WindowShare,
    collate_windows,
    positions_in_documents,
    turns,
)

SHARES = [WindowShare("a", 80, 0, 10, 0.7), WindowShare("b", 32, 10, 14, 0.1), WindowShare("c", 48, 14, 20, 0.2)]


class Vector:
    """Stands for a TokenVector: ids 0, 1, 2 ..."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, window):
        return np.arange(self.length, dtype=np.int64)[window]


class Ids(Vector):
    """Stands for a TokenVector: the ids given."""

    def __init__(self, ids):
        self.ids = np.array(ids, dtype=np.int64)
        self.length = len(ids)

    def __getitem__(self, window):
        return self.ids[window]


def test_a_window_of_t_tokens_has_t_predictions():
    windows = TokenWindows(Vector(9), length=4)
    assert [windows[i]["input_ids"].tolist() for i in range(len(windows))] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [windows[i]["shift_labels"].tolist() for i in range(len(windows))] == [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("tokens", "whole", "with_tail"), [(0, 0, 0), (1, 0, 0), (2, 0, 1), (4, 0, 1), (5, 1, 1), (6, 1, 2)]
)
def test_number_of_windows(tokens, whole, with_tail):
    assert len(TokenWindows(Vector(tokens), 4)) == whole
    assert len(TokenWindows(Vector(tokens), 4, keep_tail=True)) == with_tail


def test_with_the_tail_every_token_but_the_first_is_predicted_once():
    windows = TokenWindows(Vector(11), 4, keep_tail=True)
    (batch,) = DataLoader(windows, batch_size=9, collate_fn=collate_windows)
    assert batch["input_ids"].shape == (3, 4)
    counted = batch["shift_labels"][batch["shift_labels"] != -100]
    assert counted.tolist() == list(range(1, 11))
    assert torch.equal(batch["labels"] != -100, batch["shift_labels"] != -100)


def test_labels_repeat_the_input():
    batch = collate_windows([TokenWindows(Vector(9), 4)[1]])
    assert batch["labels"].tolist() == batch["input_ids"].tolist() == [[4, 5, 6, 7]]
    assert batch["shift_labels"].tolist() == [[5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("ids", "positions"),
    [
        ([0, 5, 6, 0, 7, 8], [0, 1, 2, 0, 1, 2]),
        ([5, 6, 0, 7, 0, 8], [0, 1, 0, 1, 0, 1]),  # the first document began in the window before
        ([5, 6, 7], [0, 1, 2]),
        ([0, 0, 5], [0, 0, 1]),  # an empty document
        ([5, 0], [0, 0]),
    ],
)
def test_positions_restart_where_a_document_begins(ids, positions):
    assert positions_in_documents(torch.tensor(ids), document_start=0).tolist() == positions


def test_windows_carry_positions_only_where_documents_are_masked():
    tokens = Ids([0, 5, 6, 0, 7, 8, 9, 0, 5])
    assert "position_ids" not in collate_windows([TokenWindows(tokens, 4)[0]])
    windows = TokenWindows(tokens, 3, keep_tail=True, document_start=0)
    batch = collate_windows([windows[index] for index in range(len(windows))])
    assert batch["input_ids"].tolist() == [[0, 5, 6], [0, 7, 8], [9, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2], [0, 1, 2], [0, 0, 0]]
    assert batch["shift_labels"].tolist() == [[5, 6, 0], [7, 8, 9], [0, 5, -100]]


def test_documents_in_one_window_give_the_logits_of_each_alone(tiny_model):
    model = tiny_model()
    first, second, third = [7, 8, 9, 10], [0, 11, 12], [0, 13, 14, 15, 16]
    windows = TokenWindows(Ids([*first, *second, *third, 0]), 12, document_start=0)
    batch = collate_windows([windows[0]])
    packed = model(batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits[0]
    alone = torch.cat([model(torch.tensor([document])).logits[0] for document in (first, second, third)])
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)  # fp32; sums in another order
    unmasked = model(batch["input_ids"], use_cache=False).logits[0]
    assert (unmasked - alone)[len(first) :].abs().max() > 0.1


def test_each_epoch_visits_every_window_once_in_an_order_of_its_own():
    order = list(WindowOrder(10, 30, seed=1, shuffle=True))
    epochs = [order[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_order_depends_on_seed_and_epoch_alone():
    long, again = list(WindowOrder(10, 30, 1, True)), list(WindowOrder(10, 30, 1, True))
    assert long == again
    assert list(WindowOrder(10, 15, 1, True)) == long[:15]
    assert list(WindowOrder(10, 30, 2, True)) != long
    torch.manual_seed(5)
    assert list(WindowOrder(10, 30, 1, True)) == long


def test_without_shuffling_the_order_is_that_of_the_text():
    assert list(WindowOrder(4, 6, 1, shuffle=False)) == [0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize("shares", [[1.0], [0.5, 0.5], [0.7, 0.1, 0.2], [0.94, 0.03, 0.02, 0.01], [1 / 7] * 7], ids=str)
def test_at_any_moment_each_has_had_its_share_to_less_than_one(shares):
    had = [0] * len(shares)
    for turn, who in zip(range(1, 2001), turns(shares), strict=False):
        had[who] += 1
        assert all(abs(had[each] - turn * share) < 1 for each, share in enumerate(shares))


def test_weighted_corpora_have_epochs_and_orders_of_their_own():
    order = list(WindowOrder(20, 1200, 1, True, SHARES))
    for share, visits in zip(SHARES, (840, 120, 240), strict=True):
        own = [window for window in order if share.first <= window < share.end]
        size = share.end - share.first
        epochs = [own[start : start + size] for start in range(0, visits, size)]
        assert len(own) == visits
        assert all(sorted(epoch) == list(range(share.first, share.end)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1
    assert list(WindowOrder(20, 60, 1, True, SHARES)) == order[:60]
    assert list(WindowOrder(20, 60, 2, True, SHARES)) != order[:60]


def test_weighted_corpora_without_shuffling_come_in_the_order_of_their_texts():
    order = list(WindowOrder(20, 100, 1, False, SHARES))
    assert [window for window in order if window < 10] == list(range(10)) * 7
    assert [window for window in order if 10 <= window < 14] == [10, 11, 12, 13] * 2 + [10, 11]
    assert len({order[start] >= 10 for start in range(10)}) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_workers_do_not_change_the_order(workers):
    windows, order = TokenWindows(Vector(41), 4), WindowOrder(10, 12, 3, True)
    loader = DataLoader(windows, batch_size=3, sampler=order, collate_fn=collate_windows, num_workers=workers)
    seen = [row[0].item() // 4 for batch in loader for row in batch["input_ids"]]
    assert seen == list(order)
