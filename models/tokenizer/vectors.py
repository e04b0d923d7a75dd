"""An item's whole vector: content, and beside it the collaborative part, measured or guessed from content.

Legend: `N` items, `D` width of a content vector, `K` width of a collaborative vector.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors.numpy import load, save

from models.tokenizer.collaborative import Collaborative, fit_regression
from models.tokenizer.config import SemanticIdConfig
from models.tokenizer.content import ContentEncoder, Floats, make_content_encoder, unit_rows

_REGRESSION = "regression.safetensors"


class ItemEncoder:
    """Turns items into the vectors that are quantised: `[content x weight | collaborative x weight]`.

    Args:
        config: Sources, sizes and weights of the two parts.
        seed: Of the decomposition of the texts.
    """

    def __init__(self, config: SemanticIdConfig, seed: int) -> None:
        self.config = config
        self.content: ContentEncoder = make_content_encoder(config, seed)
        self.regression_DK: Floats | None = None

    def fit(self, items: pa.Table, collaborative: Collaborative | None) -> Floats:
        """Learn from items known before the split and their collaborative vectors; return the items' vectors.

        Items without a collaborative vector get the regression's guess for it.

        Args:
            items: Rows of the items table.
            collaborative: Vectors of these rows; None for no collaborative part.
        """
        self.content.fit(items)
        content_ND = self.content.encode(items)
        if collaborative is None:
            return self._weighted(content_ND, None)
        measured_NK, warm_N = collaborative.vectors_NK, collaborative.warm_N
        self.regression_DK = fit_regression(content_ND[warm_N], measured_NK[warm_N])
        return self._weighted(
            content_ND, np.where(warm_N[:, None], measured_NK, _guess(content_ND, self.regression_DK))
        )

    def encode(self, items: pa.Table) -> Floats:
        """Return the vectors of items that came later: nothing but their content is known."""
        content_ND = self.content.encode(items)
        guessed_NK = None if self.regression_DK is None else _guess(content_ND, self.regression_DK)
        return self._weighted(content_ND, guessed_NK)

    def files(self) -> dict[str, bytes]:
        """Return what `restore` needs, by file name; no pickle."""
        files = self.content.files()
        if self.regression_DK is not None:
            files[_REGRESSION] = save({"regression": self.regression_DK})
        return files

    def restore(self, files: dict[str, bytes]) -> None:
        """Take over what `files` returned."""
        self.content.restore(files)
        self.regression_DK = load(files[_REGRESSION])["regression"] if _REGRESSION in files else None

    def _weighted(self, content_ND: Floats, collaborative_NK: npt.NDArray[np.floating] | None) -> Floats:
        parts = [self.config.content_weight * content_ND]
        if collaborative_NK is not None:
            parts.append(self.config.collaborative_weight * collaborative_NK)
        return np.ascontiguousarray(np.concatenate(parts, axis=1), np.float32)


def _guess(content_ND: Floats, regression_DK: Floats) -> Floats:
    return unit_rows(content_ND @ regression_DK)
