import dataclasses

import numpy as np
import pytest
import torch

from models.two_tower.masking import mutual_information


def equal(one, other):
    """Whether two batches hold the same, tensor by tensor."""
    found = [one.candidates.equal(other.candidates), one.positive_B.equal(other.positive_B)]
    for mine, theirs in ((one.user, other.user), (one.item, other.item)):
        found.append(torch.equal(mine.numbers.nan_to_num(9), theirs.numbers.nan_to_num(9)))
        found += [all(map(torch.equal, mine.bags[name], theirs.bags[name])) for name in mine.bags]
    return all(found)


def test_positives_are_right_and_an_epoch_holds_an_example_at_most_once(shop):
    source = shop.make_source()
    batches = list(source.iterate(0, 0))
    assert len(batches) == source.steps_per_epoch == len(source.item_E) // 32
    found = np.concatenate([batch.candidates[batch.positive_B].numpy() for batch in batches])
    assert (np.bincount(found, minlength=24) <= np.bincount(source.item_E, minlength=24)).all()
    assert all((batch.candidates.diff() > 0).all() for batch in batches)


def test_even_negatives_are_as_likely_as_the_batch_says(shop):
    source, shares = shop.make_source(), []
    for epoch in range(60):
        for batch in source.iterate(epoch, 0):
            assert batch.uniform == 6 / 24
            positives = batch.candidates[batch.positive_B].unique()
            shares.append((len(batch.candidates) - len(positives)) / (shop.ITEM_COUNT - len(positives)))
    assert np.mean(shares) == pytest.approx(6 / 24, abs=0.02), "of the items that are no positives of the batch"


def test_another_positive_of_the_page_is_no_negative(shop):
    source = shop.make_source()
    pairs = 0
    for batch in source.iterate(0, 0):
        examples, candidates = batch.hidden
        own = batch.candidates[batch.positive_B[examples]]
        # second pages hold an item and its neighbour
        assert set(((batch.candidates[candidates] - own) % shop.ITEM_COUNT).tolist()) <= {1, 23}
        pairs += len(examples)
    assert pairs > 10


def test_resuming_in_the_middle_of_an_epoch_yields_the_same_batches(shop):
    config = dataclasses.replace(shop.CONFIG, ssl_weight=0.5)
    batches = list(shop.make_source(config).iterate(3, 0))
    again = list(shop.make_source(config).iterate(3, 2))
    assert all(equal(one, other) for one, other in zip(batches[2:], again, strict=True))
    assert not equal(batches[0], next(shop.make_source(config).iterate(2, 0)))


def test_processes_share_each_batch_and_know_what_the_others_hold(shop):
    ranks = [next(shop.make_source(rank=rank, world_size=2).iterate(1, 0)) for rank in range(2)]
    alone = next(shop.make_source(dataclasses.replace(shop.CONFIG, batch_size=64)).iterate(1, 0))
    together = np.concatenate([batch.candidates[batch.positive_B].numpy() for batch in ranks])
    assert together.tolist() == alone.candidates[alone.positive_B].tolist()
    for other in range(2):
        distinct = ranks[other].candidates[ranks[other].positive_B].unique()
        assert all(batch.in_batch[other].equal(distinct) for batch in ranks)


def test_the_self_supervised_task_draws_from_a_stream_of_its_own(shop):
    plain = list(shop.make_source().iterate(0, 0))
    supervised = list(shop.make_source(dataclasses.replace(shop.CONFIG, ssl_weight=0.5)).iterate(0, 0))
    for one, other in zip(plain, supervised, strict=True):
        count = len(one.candidates)
        assert one.candidates.equal(other.candidates)
        assert one.positive_B.equal(other.positive_B)
        assert len(other.item.numbers) == count + 2 * 12
        for name, (values, offsets) in one.item.bags.items():
            more_values, more_offsets = other.item.bags[name]
            assert more_offsets[: count + 1].equal(offsets)
            assert more_values[: len(values)].equal(values)


def test_self_supervised_items_are_drawn_evenly_and_once_a_batch(shop):
    source = shop.make_source(dataclasses.replace(shop.CONFIG, ssl_weight=0.5, ssl_dropout=0.0))
    counts = np.zeros(shop.ITEM_COUNT)
    rounds = 0
    for epoch in range(60):
        for batch in source.iterate(epoch, 0):
            values, offsets = batch.item.bags["item:item_id"]
            of_views = values[offsets[len(batch.candidates)] :].numpy()
            # complementary views: exactly one of them shows the item's id
            assert len(of_views) == 12 == len(np.unique(of_views))
            counts[of_views] += 1
            rounds += 1
    assert counts / rounds == pytest.approx(12 / 24, abs=0.1)


def test_information_is_that_of_the_item_table_prices_in_ranges(shop):
    source = shop.make_source(dataclasses.replace(shop.CONFIG, ssl_weight=0.5))
    names = [block.name for block in source.items.schema.item]
    brand, size = names.index("brand"), names.index("attribute.size")
    bags = [source.items.by_column[name] for name in ("brand", "attribute.size")]
    assert source.information_FF[brand, size] == pytest.approx(mutual_information(bags)[0, 1])
    assert source.information_FF[names.index("log_price"), names.index("item_id")] > 1


def test_what_cannot_be_trained_is_refused(shop):
    with pytest.raises(ValueError, match="at least 2 training examples per process, got 252 for 200 processes"):
        shop.make_source(world_size=200)
    alone = dataclasses.replace(shop.CONFIG, ssl_weight=0.1, item_features=("item_id",), history_features=("item_id",))
    with pytest.raises(ValueError, match="expected at least two, got item_id; set ssl_weight to 0"):
        shop.make_source(alone)
    with pytest.raises(ValueError, match="no training page has 30 earlier items of its user, 216 pages have fewer"):
        shop.make_cases(dataclasses.replace(shop.CONFIG, min_history=30))


def test_pages_without_history_are_counted_when_left_out(shop):
    _, cases = shop.make_cases(dataclasses.replace(shop.CONFIG, min_history=1))
    assert (len(cases), cases.left_out["pages.short_history"]) == (180, 36)
