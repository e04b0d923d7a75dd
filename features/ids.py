r"""Which texts may name a user, an item, a page or an event.

An id is at most `MOST_ID_BYTES` bytes of UTF-8 without control characters (U+0000 to U+001F, U+007F): ids are parts of
keys, lines and URLs, and the store counts their bytes in 24 bits.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import MOST_ID_BYTES

ID = f"an id of at most {MOST_ID_BYTES} bytes without control characters"
"""What is expected, for messages."""
_CONTROL = r"[\x00-\x1f\x7f]"
_SPACE, _DELETE = 0x20, 0x7F


def is_id(text: str) -> bool:
    r"""Return whether one text may name something; see `wrong_ids` for many.

    Example:
        >>> is_id("user 7"), is_id("user\n7"), is_id("")
        (True, False, False)
    """
    return bool(text.strip()) and len(text.encode()) <= MOST_ID_BYTES and re.search(_CONTROL, text) is None


def absent_ids(values: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Return where there is no id: null, the empty text, or blanks only.

    Example:
        >>> absent_ids(pa.array(["user 7", " ", None])).tolist()
        [False, True, True]
    """
    return np.asarray(pc.fill_null(pc.equal(pc.utf8_trim_whitespace(values), ""), True))


def wrong_ids(values: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    r"""Return which texts are there, but too long for an id or with control characters.

    Args:
        values: Strings; null, the empty text and blanks are left to `absent_ids`.

    Example:
        >>> wrong_ids(pa.array(["user 7", "user\n7", None])).tolist()
        [False, True, False]
    """
    strings = pa.chunked_array([values]) if isinstance(values, pa.Array) else values
    wrong = pc.greater(pc.binary_length(strings), MOST_ID_BYTES)
    if any(map(_perhaps_control, strings.chunks)):
        wrong = pc.or_(wrong, pc.match_substring_regex(strings, _CONTROL))
    return np.asarray(pc.fill_null(wrong, False))


def _perhaps_control(strings: pa.StringArray) -> bool:
    """Return False where no byte of the texts is a control character: 100 times faster than to look text by text."""
    text = strings.buffers()[2]
    if text is None:
        return False
    held = np.frombuffer(text, np.uint8)
    return bool(((held < _SPACE) | (held == _DELETE)).any())
