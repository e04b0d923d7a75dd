import subprocess
import sys

import pytest

from models.embedding.bags import PlainBags
from models.embedding.spec import BagSpec, TableSpec

ITEM = TableSpec("item", 5, 4)


@pytest.mark.parametrize(
    ("tables", "bags", "told"),
    [
        ([ITEM], [], "expected at least one bag, got none"),
        ([ITEM, ITEM], [BagSpec("seen", "item")], "table 'item' comes more than once"),
        ([ITEM], [BagSpec("seen", "item"), BagSpec("seen", "item")], "bag 'seen' comes more than once"),
        ([ITEM], [BagSpec("seen", "items")], "bag 'seen': expected one of the tables item, got 'items'"),
        ([ITEM], [BagSpec("seen", "items")], "table 'item' has no bag"),
        (
            [ITEM],
            [BagSpec("seen", "item", "sum"), BagSpec("bought", "item", "mean")],
            "bags of table 'item': expected equal pooling, got {'seen': 'sum', 'bought': 'mean'}",
        ),
    ],
)
def test_bags_that_cannot_share_a_collection(tables, bags, told):
    with pytest.raises(ValueError, match=told):
        PlainBags(tables, bags)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ValueError, match="bag 'a': expected one of the tables item, got 'x'") as caught:
        PlainBags([ITEM], [BagSpec("a", "x"), BagSpec("b", "y")])
    assert "bag 'b': expected one of the tables item, got 'y'" in str(caught.value)
    assert "table 'item' has no bag" in str(caught.value)


def test_an_unknown_pooling():
    with pytest.raises(ValueError, match="one of mean, sum as pooling, got name 'a', pooling 'max'"):
        BagSpec("a", "item", "max")


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_that_is_none(scale):
    with pytest.raises(ValueError, match=f"table 'a': expected init_scale > 0 or None, got {scale}"):
        TableSpec("a", 2, 4, init_scale=scale)


def test_specs_import_no_torch():
    program = "import sys, models.embedding.spec; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
