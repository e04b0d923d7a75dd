"""Rows for an endless stream of ids: who gets one, who loses it, and what the next owner finds."""

from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load_file
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingBagCollection

from kernels.hashing import GOLDEN, reference_mix
from models.training import collisions
from models.training.admission import FREE, mix_ids
from models.training.collision_config import CollisionConfig
from models.training.distributed import process_group, shard

WORKER = Path(__file__).with_name("collisions_worker.py")
IDS = "bags.collection._managed_collision_collection._managed_collision_modules.user._mch_sorted_raw_ids"
ROWS = IDS.replace("sorted_raw_ids", "remapped_ids_mapping")
WEIGHT = "bags.collection._embedding_module.embedding_bags.user.weight"


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5))
def test_ids_are_mixed_as_the_hashes_are(ids):
    expected = [min(reference_mix((number + GOLDEN) % 2**64) >> 1, FREE - 1) for number in ids]
    assert mix_ids(torch.tensor(ids, dtype=torch.int64)).tolist() == expected


@pytest.mark.parametrize(("optimizer", "eviction"), [("rowwise_adagrad", "lru"), ("adagrad", "lfu"), ("sgd", "lru")])
def test_ids_that_come_get_rows_and_find_them_fresh(collisions_worker, optimizer, eviction):
    with process_group(collisions_worker.CPU):
        collisions_worker.check(collisions_worker.stream(optimizer, eviction))


def test_without_the_mend_adagrads_sums_stay(collisions_worker, monkeypatch):
    """The three steps an id had its row, with gradients of 1, leave a sum of 3: the next owner would learn slowly."""
    monkeypatch.setattr(collisions, "mend_eviction", lambda sharded: None)
    with process_group(collisions_worker.CPU):
        facts = collisions_worker.stream("adagrad", "lru")
    assert float(facts.new_sums.max()) == 3
    with pytest.raises(AssertionError):
        collisions_worker.check(facts)


def test_without_the_mend_row_wise_adagrad_stops(collisions_worker, monkeypatch):
    # FBGEMM's own reset of evicted rows has no CPU kernel: this is torch's answer to the call
    monkeypatch.setattr(collisions, "mend_eviction", lambda sharded: None)
    with process_group(collisions_worker.CPU), pytest.raises(NotImplementedError, match="reset_weight_momentum"):
        collisions_worker.stream("rowwise_adagrad", "lru")


@pytest.mark.parametrize("mended", [True, False])
def test_unsharded_rows_that_pass_on_get_new_vectors(collisions_worker, monkeypatch, mended):
    if not mended:
        theirs = ManagedCollisionEmbeddingBagCollection.forward
        monkeypatch.setattr(collisions.CollisionCollection, "forward", theirs)
    model = collisions_worker.bags("lru")
    for _ in range(4):
        collisions_worker.look_up(model, collisions_worker.OLD)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(5.0)
    for _ in range(2):
        vectors = collisions_worker.look_up(model, collisions_worker.NEW[:4])
    assert bool((vectors.abs() <= collisions_worker.SCALE).all()) is mended


def test_evaluation_admits_nobody(collisions_worker):
    model = collisions_worker.bags().eval()
    vectors = [collisions_worker.look_up(model, collisions_worker.OLD) for _ in range(4)][-1]
    assert bool((vectors == vectors[0]).all())


def test_ids_of_batches_larger_than_the_first_are_counted(collisions_worker):
    """TorchRec makes room for 1.25 times the first batch and drops what is more."""
    model = collisions_worker.bags(interval=3)
    collisions_worker.look_up(model, [])
    for _ in range(2):
        vectors = collisions_worker.look_up(model, collisions_worker.NEW[:11])
    assert len({tuple(vector) for vector in vectors.tolist()}) == 11


def test_an_unsharded_state_is_read_into_shards(collisions_worker):
    model = collisions_worker.bags()
    for _ in range(4):
        collisions_worker.look_up(model, collisions_worker.OLD)
    expected = collisions_worker.look_up(model.eval(), collisions_worker.OLD)
    with process_group(collisions_worker.CPU):
        other = collisions_worker.bags()
        other.load_state_dict(model.state_dict())
        shard(other, collisions_worker.TrainConfig(), collisions_worker.CPU)
        torch.testing.assert_close(collisions_worker.look_up(other.eval(), collisions_worker.OLD), expected)


def test_ids_admitted_on_one_process_are_not_spread_over_two(collisions_worker):
    admission = collisions_worker.bags().collection._managed_collision_collection._managed_collision_modules["user"]
    half = admission.rebuild_with_output_id_range((0, 6), [0, 6, 12])
    half._output_segments_tensor.copy_(admission._output_segments_tensor)
    with pytest.raises(ValueError, match=r"shard boundary at rows 0 and 6, got boundaries \[0, 12\]"):
        half.validate_state()


def test_the_shards_of_two_processes_become_one(collisions_worker):
    """Each is sorted, and its shared last row counts as seen infinitely often; in one table the first is just free."""
    admission = collisions_worker.bags("lfu").collection._managed_collision_collection._managed_collision_modules[
        "user"
    ]
    free = [FREE] * 5
    admission._mch_sorted_raw_ids.copy_(torch.tensor([5, *free, 2**62, *free]))
    admission._mch_counts.copy_(torch.tensor([3, 0, 0, 0, 0, FREE, 2, 0, 0, 0, 0, FREE]))
    admission._output_segments_tensor[:3] = torch.tensor([0, 6, 12])
    admission.validate_state()
    assert admission._mch_sorted_raw_ids.tolist() == [5, 2**62] + [FREE] * 10
    assert admission._mch_remapped_ids_mapping.tolist() == [0, 6, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11]
    assert admission._mch_counts.tolist() == [3, 2] + [0] * 10
    assert admission._output_segments_tensor[:3].tolist() == [0, 12, -1]


def test_a_wrong_configuration_is_refused():
    with pytest.raises(ValueError, match="eviction_interval >= 1, got 'fifo' and 0"):
        CollisionConfig(eviction="fifo", eviction_interval=0)


@pytest.mark.integration
@pytest.mark.slow
def test_two_processes_admit_and_evict_and_one_goes_on_from_them(collisions_worker, launch, tmp_path):
    done = launch("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", WORKER, tmp_path)
    assert done.returncode == 0, done.stderr
    two = load_file(tmp_path / "state.safetensors")
    admitted = rows_by_id(two)
    assert len(admitted) >= 4
    with process_group(collisions_worker.CPU):
        model, one = collisions_worker.trained(tmp_path / "run", epochs=2)
        model.eval()
        assert rows_by_id(one) == admitted
        assert torch.equal(one[WEIGHT], two[WEIGHT])
        known = [number for number in collisions_worker.NEW if mix_ids(torch.tensor([number])).item() in admitted]
        rows = [admitted[int(number)] for number in mix_ids(torch.tensor(known))]
        torch.testing.assert_close(collisions_worker.look_up(model.bags, known), two[WEIGHT][rows])
        later = rows_by_id(collisions_worker.trained(tmp_path / "run", epochs=4)[1])
    assert len(later) > len(admitted)


def rows_by_id(state: dict[str, torch.Tensor]) -> dict[int, int]:
    pairs = zip(state[IDS].tolist(), state[ROWS].tolist(), strict=True)
    return {number: row for number, row in pairs if number != FREE}
