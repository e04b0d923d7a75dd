"""Small files in the publishers' layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings of 60 users and 40 films a minute apart: users like films of their own parity, mostly."""
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(7)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for number in range(3000):
        user, item = rng.integers(0, 60), rng.integers(0, 40)
        likes = (user % 2 == item % 2) ^ (rng.random() < 0.1)
        rating = 3 if number % 10 == 9 else (4 if likes else 2)
        lines.append(f"{user}\t{item}\t{rating}\t{1_000_000_000 + 60 * number}")
    (folder / "ml.inter").write_text("\n".join(lines) + "\n")
    items = [f"{item}\tFilm {item}\t{1980 + item % 3}\tDrama{' War' if item % 2 else ''}" for item in range(40)]
    (folder / "ml.item").write_text("\n".join(["item_id\tmovie_title\trelease_year\tclass", *items]) + "\n")
    users = [f"{user}\t{20 + user % 5}\t{'MF'[user % 2]}\twriter\t{user:05d}" for user in range(60)]
    (folder / "ml.user").write_text("\n".join(["user_id\tage\tgender\toccupation\tzip_code", *users]) + "\n")
    return folder
