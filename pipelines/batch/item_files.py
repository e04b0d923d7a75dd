"""One file of items, checked by the contract of the items table."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from features.schemas import ITEMS
from features.workspace import Workspace
from pipelines.batch.checks import Checked, check_rows, keep_first, without_places
from pipelines.batch.raw import FORMATS, read_batches


def checked_items(path: Path) -> Checked:
    """Read a file of items and check every row as `pagewise validate` does; of several rows of one item one is kept.

    Args:
        path: A Parquet, JSON-lines or CSV file.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It cannot be read, is of another format, or columns are missing or unknown.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file of items at {path}")
    if not path.name.endswith(FORMATS):
        raise ValueError(f"{path}: expected a file of items whose name ends with {', '.join(FORMATS)}")
    checked = [check_rows("items", batch, 0) for batch in read_batches(pafs.LocalFileSystem(), str(path.absolute()))]
    good = [part.rows for part in checked if part.rows.num_rows]
    unique = keep_first("items", pa.concat_tables(good) if good else ITEMS.empty_table(), [str(path)])
    return Checked(without_places(unique.rows), pa.concat_tables([*(part.dead for part in checked), unique.dead]))


def keep_refused(workspace: Workspace, dead: pa.Table) -> list[str]:
    """Write refused rows where they can be looked at and mended; return lines that say why they were refused and where.

    Args:
        workspace: The rows go to `runs/catalogue/`.
        dead: Dead letters; the same ones have the same file.
    """
    if not dead.num_rows:
        return []
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in dead.to_pylist()).encode()
    name = f"refused-{hashlib.sha256(content).hexdigest()[:12]}.jsonl"
    workspace.write_bytes(content, "runs", "catalogue", name)
    reasons = Counter(dead.column("reason").to_pylist())
    counts = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())
    first = dead.column("detail").drop_null().to_pylist()[:3]
    return [f"{dead.num_rows:,} rows refused ({counts}): {workspace.path('runs', 'catalogue', name)}", *first]
