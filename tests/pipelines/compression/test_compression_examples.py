"""Loaders of the comparison on small files with known content, and the split by time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kernels.hashing import hash_strings
from pipelines.compression.config import DATASETS
from pipelines.compression.examples import LOADERS, Examples, load_examples, split_by_time


def test_every_data_set_of_the_configuration_has_a_loader():
    assert tuple(LOADERS) == DATASETS


def test_films_lose_ratings_of_three_and_gain_what_is_known(films: Path):
    examples = load_examples("movielens-100k", films)
    assert len(examples.label_E) == 2700
    names = ["user_id", "item_id", "age", "gender", "occupation", "zip_code", "genres", "release_year"]
    assert list(examples.columns) == names
    user, item = int(examples.columns["user_id"][0].as_py()), int(examples.columns["item_id"][0].as_py())
    facts = [str(20 + user % 5), "MF"[user % 2], "writer", f"{user:05d}"]
    facts += ["Drama, War" if item % 2 else "Drama", str(1980 + item % 3)]
    assert [examples.columns[name][0].as_py() for name in names[2:]] == facts


def test_news_are_impressions_with_their_clicks(tmp_path: Path):
    (tmp_path / "behaviors.tsv").write_text(
        "1\tu1\t11/11/2019 9:05:58 AM\tN1 N2\tN3-1 N4-0\n2\tu2\t11/12/2019 6:11:30 PM\t\tN3-0 N1-1\n"
    )
    (tmp_path / "news.tsv").write_text("N3\tsports\ttennis\tA title\t\t\t\t\n")
    examples = load_examples("mind", tmp_path)
    assert examples.columns["user_id"].to_pylist() == ["u1", "u1", "u2", "u2"]
    assert examples.columns["item_id"].to_pylist() == ["N3", "N4", "N3", "N1"]
    assert examples.label_E.tolist() == [1, 0, 0, 1]
    assert examples.columns["category"].to_pylist() == ["sports", None, "sports", None]
    assert examples.columns["subcategory"].to_pylist() == ["tennis", None, "tennis", None]
    assert examples.columns["hour"].to_pylist() == ["9", "9", "18", "18"]


def test_criteo_numbers_become_buckets(tmp_path: Path):
    integers = ["", "0", "-2", "3", *["7"] * 9]
    for label in (0, 1):
        with (tmp_path / "train.txt").open("a") as file:
            file.write("\t".join([str(label), *integers, *["68fd1e64"] * 25, ""]) + "\n")
    examples = load_examples("criteo", tmp_path)
    first = {name: column[0].as_py() for name, column in examples.columns.items()}
    # floor(log(1 + 3)^2) = floor(1.92), floor(log(8)^2) = floor(4.32)
    assert [first[f"I{number}"] for number in (1, 2, 3, 4, 5)] == [None, "0", "0", "1", "4"]
    assert (first["C1"], first["C26"]) == ("68fd1e64", None)
    assert examples.item_field is None


def test_avazu_leaves_the_id_and_the_day_out(tmp_path: Path):
    (tmp_path / "train.csv").write_text("id,click,hour,C1,site_id\n11,0,14102103,1005,aa\n12,1,14102223,1005,bb\n")
    examples = load_examples("avazu", tmp_path)
    assert {name: column.to_pylist() for name, column in examples.columns.items()} == {
        "hour": ["03", "23"],
        "C1": ["1005", "1005"],
        "site_id": ["aa", "bb"],
    }
    assert examples.label_E.tolist() == [0, 1]


def made(times: list[int], labels: list[int]) -> Examples:
    names = pa.chunked_array([[f"v{number}" for number in range(len(times))]])
    return Examples(
        columns={"item": names}, label_E=np.array(labels, np.float32), time_E=np.array(times), item_field="item"
    )


def test_the_split_follows_time_and_keeps_moments_whole():
    # 20 examples, shuffled; validation begins at the 17th in time, which shares its moment with the 16th.
    times = [*range(15), 15, 15, 17, 18, 19]
    order = np.random.default_rng(1).permutation(20)
    examples = made([times[place] for place in order], [place % 2 for place in order])
    split = split_by_time(examples)
    assert [len(part.label_E) for part in (split.train, split.validation, split.test)] == [15, 3, 2]
    expected = hash_strings(pa.array([f"v{row}" for row in range(20) if examples.time_E[row] < 15]))
    assert split.fields[0].values_V.tolist() == sorted(expected.tolist())


def test_a_salt_changes_the_hashes_and_nothing_else():
    examples = made(list(range(20)), [0, 1] * 10)
    plain, salted = split_by_time(examples), split_by_time(examples, salt=1)
    assert plain.test.label_E.tolist() == salted.test.label_E.tolist()
    assert not set(plain.fields[0].values_V.tolist()) & set(salted.fields[0].values_V.tolist())


def test_parts_without_positives_are_told():
    with pytest.raises(ValueError, match="test: expected positives and negatives, got 0 of 2"):
        split_by_time(made(list(range(20)), [0, 1] * 9 + [0, 0]))


def test_examples_without_positives_are_told(films: Path, tmp_path: Path):
    (tmp_path / "ml.inter").write_text("user_id\titem_id\trating\ttimestamp\n1\t2\t1\t5\n")
    with pytest.raises(
        ValueError, match="movielens-100k: expected positive and negative examples, got 0 positives of 1"
    ):
        load_examples("movielens-100k", tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_examples("movielens-100k", tmp_path / "nowhere")
