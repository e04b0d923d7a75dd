import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F

from features.schemas import CLICK, DISLIKE, EVENT_CODE
from models.embedding.bags import PlainBags
from models.inputs.items import item_columns
from models.recommend.catalogue import plain_catalogue
from models.training.config import TrainConfig
from models.training.engine import PlainEngine
from models.two_tower.bags import Bag
from models.two_tower.inputs import TowerInputs
from models.two_tower.loss import sampled_softmax
from models.two_tower.model import TwoTower
from models.two_tower.schema import Block
from models.two_tower.towers import Tower, TwoTowerNet, bag_specs

TRAIN_CONFIG = TrainConfig(learning_rate=0.01, table_learning_rate=0.1, precision="float32")


def make_net(shop, config):
    _, _, schema, _ = shop.make_shop(config)
    torch.manual_seed(0)
    return TwoTowerNet(schema, config, shop.ITEM_COUNT)


def trained(shop, config, steps=8, net=None):
    net = make_net(shop, config) if net is None else net
    engine = PlainEngine(net, TRAIN_CONFIG, torch.device("cpu"))
    source = shop.make_source(config)
    for step in range(steps):
        epoch, place = divmod(step, source.steps_per_epoch)
        engine.step(next(source.iterate(epoch, place)), 1.0, 0.0)
    return net


def test_an_absent_feature_is_its_learned_default():
    tower = Tower([Block(name="a", column="a", width=4, bag="a"), Block(name="n", column="n", width=1)], [6, 3])
    with torch.no_grad():
        tower.default_W.copy_(torch.arange(5.0))
    given = TowerInputs({"a": Bag(np.array([0]), np.array([0, 1, 1]))}, np.array([[2.0], [np.nan]], np.float32))
    pooled = {"a": torch.tensor([[9.0, 9, 9, 9], [0, 0, 0, 0]])}
    found = tower(given.tensors(), pooled)
    expected = tower.layers(torch.tensor([[9.0, 9, 9, 9, 2], [0, 1, 2, 3, 4]]))
    torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True))


def test_history_and_items_share_tables(shop):
    _, _, schema, _ = shop.make_shop()
    tables, bags = bag_specs(schema, shop.CONFIG)
    shared = {bag.name for bag in bags if bag.table == "brand"}
    assert shared == {"item:brand", "user:history1.brand", "user:history3.brand"}
    assert {(table.name, table.rows, table.dimensions) for table in tables} >= {("item_id", 24, 8), ("brand", 5, 4)}


class PlainTask(TwoTowerNet):
    """The supervised loss alone, written down anew: this net has never heard of another task."""

    def loss(self, batch):
        vectors = self.vectors(batch.user, batch.item)
        probability = 1 - (1 - self.frequency(batch.candidates)) * (1 - batch.uniform)
        return sampled_softmax(
            *vectors,
            batch.positive_B,
            temperature=self.config.temperature,
            log_q_C=probability.log(),
            hidden=batch.hidden,
        )[0], {}


def test_weight_zero_is_the_plain_model_to_the_bit(shop):
    config = dataclasses.replace(shop.CONFIG, ssl_weight=0.0, ssl_masking="rfm", ssl_dropout=0.9, ssl_batch_size=5)
    _, _, schema, _ = shop.make_shop()
    torch.manual_seed(0)
    plain = trained(shop, shop.CONFIG, net=PlainTask(schema, shop.CONFIG, shop.ITEM_COUNT)).state_dict()
    for name, value in trained(shop, config).state_dict().items():
        assert torch.equal(value, plain[name]), name


def test_a_vanishing_weight_is_nearly_the_plain_model(shop):
    """The task's items and masks are drawn, yet nothing else of the run changes."""
    plain = trained(shop, shop.CONFIG).state_dict()
    for name, value in trained(shop, dataclasses.replace(shop.CONFIG, ssl_weight=1e-30)).state_dict().items():
        torch.testing.assert_close(value, plain[name], rtol=1e-4, atol=1e-4, msg=name)


def test_the_two_losses_have_temperatures_of_their_own_and_are_weighted(shop):
    config = dataclasses.replace(shop.CONFIG, ssl_weight=0.5, temperature=0.2, ssl_temperature=0.4, log_q="off")
    net = make_net(shop, config)
    batch = next(shop.make_source(config).iterate(0, 0))
    loss, told = net(batch)
    user_BD, item_RD = (vectors.detach() for vectors in net.vectors(batch.user, batch.item))
    count = len(batch.candidates)
    main_BC = user_BD @ item_RD[:count].T / 0.2
    main_BC[batch.hidden] = -torch.inf
    ssl_SS = item_RD[count : count + 12] @ item_RD[count + 12 :].T / 0.4
    main, ssl = F.cross_entropy(main_BC, batch.positive_B), F.cross_entropy(ssl_SS, torch.arange(12))
    torch.testing.assert_close(told["main_loss"].detach(), main)
    torch.testing.assert_close(told["ssl_loss"].detach(), ssl)
    torch.testing.assert_close(loss.detach(), main + 0.5 * ssl)


@pytest.mark.parametrize("ssl_weight", [0.0, 0.5])
def test_every_parameter_changes_and_the_loss_falls(shop, ssl_weight):
    config = dataclasses.replace(shop.CONFIG, ssl_weight=ssl_weight)
    net = make_net(shop, config)
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    first = float(net.loss(next(shop.make_source(config).iterate(0, 0)))[0].detach())
    trained(shop, config, steps=40, net=net)
    assert [name for name, value in net.named_parameters() if torch.equal(value, before[name])] == []
    assert float(net.loss(next(shop.make_source(config).iterate(0, 0)))[0].detach()) < 0.7 * first


def test_vectors_of_requests_and_items(shop):
    catalogue, cases, schema, items = shop.make_shop()
    config = dataclasses.replace(shop.CONFIG, min_history=1)
    net = TwoTowerNet(schema, config, shop.ITEM_COUNT, PlainBags(*bag_specs(schema, config)))
    model = TwoTower(net, schema, catalogue.item_ids, items)
    user_BD = model.user_vectors(cases.requests, catalogue)
    lengths = np.linalg.norm(user_BD, axis=1)
    has_history = np.diff(cases.requests.history_offsets) > 0
    assert lengths == pytest.approx(np.where(has_history, 1.0, 0.0), abs=1e-5)

    columns = item_columns(shop.item_table())
    item_ND = model.item_vectors(columns)
    np.testing.assert_allclose(item_ND, model.known_item_vectors(), atol=1e-6)
    # numbers mean nothing by themselves: the same items in another order, some of them unknown
    order = np.arange(23, -1, -1)
    other = plain_catalogue([*(f"new{number}" for number in range(3)), *(f"i{number:02d}" for number in order)])
    place = np.empty(24, np.int64)
    place[order] = np.arange(24) + 3
    moved = dataclasses.replace(cases.requests, history_items=place[cases.requests.history_items])
    np.testing.assert_allclose(model.user_vectors(moved, other), user_BD, atol=1e-6)


def test_longer_histories_than_those_of_training_are_cut(shop):
    """Dislikes among the newest entries count as entries, as in training."""
    catalogue, cases, schema, items = shop.make_shop()
    model = TwoTower(make_net(shop, shop.CONFIG), schema, catalogue.item_ids, items)
    events = np.array([EVENT_CODE[CLICK]] * 4 + [EVENT_CODE[DISLIKE], EVENT_CODE[CLICK]], np.int8)
    long = dataclasses.replace(
        cases.requests.take(np.array([0])),
        history_items=np.arange(6),
        history_events=events,
        history_times=np.arange(6),
        history_offsets=np.array([0, 6]),
    )
    short = dataclasses.replace(
        long,
        history_items=np.arange(3, 6),
        history_events=events[3:],
        history_times=np.arange(3, 6),
        history_offsets=np.array([0, 3]),
    )
    assert shop.CONFIG.max_history == 3
    np.testing.assert_array_equal(model.user_vectors(long, catalogue), model.user_vectors(short, catalogue))


def test_a_new_item_has_a_vector_through_its_other_features(shop):
    catalogue, _, schema, items = shop.make_shop()
    net = trained(shop, shop.CONFIG, steps=40)
    model = TwoTower(net, schema, catalogue.item_ids, items)
    table = shop.item_table()
    renamed = table.set_column(0, "item_id", pa.array([f"new{number}" for number in range(len(table))]))
    new_ND, old_ND = model.item_vectors(item_columns(renamed)), model.known_item_vectors()
    assert not np.allclose(new_ND, old_ND, atol=1e-3)
    assert len(np.unique(new_ND.round(4), axis=0)) > 20

    model.know_items(pa.array(["x"]), item_columns(renamed.slice(0, 1)))
    assert model.known_item_vectors()[0] == pytest.approx(new_ND[0], abs=1e-6)
