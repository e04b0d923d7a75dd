"""Files that somebody put where no stage looks: named, so that nobody waits for what they hold."""

from __future__ import annotations

import pyarrow.fs as pafs

from features.schemas import RAW_TABLES
from features.workspace import MANIFEST, Workspace, is_own_name
from pipelines.batch.raw import FORMATS

_PAGES = "pages"


def unread_files(workspace: Workspace) -> list[str]:
    """Return a warning for each folder of tables with files that are not read; what starts with `.` or `_` is none.

    Args:
        workspace: Its folder `tables` is looked through.
    """
    root = workspace.path("tables")
    selector = pafs.FileSelector(root, recursive=True, allow_not_found=True)
    found: dict[str, list[str]] = {}
    for info in workspace.filesystem.get_file_info(selector):
        parts = info.path.removeprefix(f"{root}/").split("/")
        if info.type != pafs.FileType.File or any(part.startswith((".", "_")) for part in parts):
            continue
        own = len(parts) > 1 and (is_own_name(info.base_name) or info.base_name == MANIFEST)
        if not own and not (len(parts) > 1 and parts[0] in RAW_TABLES and info.path.endswith(FORMATS)):
            found.setdefault("/".join(parts[:-1][:1]), []).append(info.path)
    return [_warning(table, sorted(paths)) for table, paths in sorted(found.items())]


def _warning(table: str, paths: list[str]) -> str:
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    if table in RAW_TABLES:
        why = f"expected names that end with {', '.join(FORMATS)}"
    elif table == _PAGES:
        why = "Pagewise makes this table itself; pages that you showed belong into tables/served_pages"
    else:
        why = f"your files belong into tables/ {', '.join(RAW_TABLES)}"
    return f"warning: not read: {paths[0]}{more}: {why}"
