"""Build a semantic-ID bundle from the tables of a workspace.

Nothing is learned from after the split: vocabulary, SVD, collaborative vectors, regression and codebooks come from the
items known at the end of training (`available_from` not later than the last training page) and from training sequences,
the two-tower model included. Items that come later are encoded by the frozen encoder and get their nearest codes, as
appended items do. Where sequences have no real times (`order_only` in their manifest), every item counts as known.

Legend: `N` items, `L` levels.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.schemas import CLEAN_TABLES, TRAIN
from features.workspace import Workspace
from models.tokenizer.bundle import (
    CODEBOOKS,
    CODES,
    ENCODER,
    REPORT,
    ROOT,
    VECTORS,
    codes_file,
    json_file,
    publish,
    vectors_file,
)
from models.tokenizer.collaborative import Collaborative, from_sequences, from_vectors
from models.tokenizer.config import COOCCURRENCE, TWO_TOWER, SemanticIdConfig
from models.tokenizer.extra_level import with_extra_level
from models.tokenizer.plots import health_plots
from models.tokenizer.quantizer import Codes, Floats, Quantizer, make_quantizer, save_quantizer
from models.tokenizer.report import Health, check_gates, dividing_categories, measure_health
from models.tokenizer.vectors import ItemEncoder
from models.training.runs import Runs
from models.training.two_tower_run import read_item_vectors


@dataclasses.dataclass(frozen=True, kw_only=True)
class BundleReport:
    """What was built."""

    generation: str
    items: int
    later_items: int
    """Items not yet known at the end of training: encoded, but nothing was learned from them."""
    vector_width: int
    seconds: float
    path: str
    health: Health

    def lines(self) -> list[str]:
        """Return the report as lines for the terminal."""
        return [
            f"semantic IDs {self.generation}: {self.items} items ({self.later_items} later than training), vectors of "
            f"{self.vector_width} numbers, {self.seconds:.1f} s",
            *self.health.lines(),
            f"written to {self.path}",
        ]


def build_bundle(
    workspace: Workspace, config: SemanticIdConfig, seed: int, progress: Callable[[str], None] | None = None
) -> BundleReport:
    """Build, check and publish a generation; equal inputs, configuration and seed give the same one.

    Args:
        workspace: Reads `clean_items` and, where the configuration or the items ask for it, `sequences` or the newest
            two-tower run.
        config: Shape, sources and gates.
        seed: Of decompositions, k-means and training.
        progress: Told what is being done.

    Raises:
        ValueError: The items do not fit the configuration, or a health gate failed; nothing is published.
        FileNotFoundError: A table is missing, or the two-tower run.
    """
    started, say = time.monotonic(), progress or (lambda message: None)
    inputs = _read_inputs(workspace, config)
    say(f"vectors of {inputs.items.num_rows} items")
    encoder = ItemEncoder(config, seed)
    vectors_ND = _item_vectors(encoder, inputs, _collaborative(inputs, config, seed))
    say(f"{config.quantizer}: {config.levels} levels x {config.codes} codes")
    quantizer = make_quantizer(config, seed)
    codes_NL = _item_codes(quantizer, vectors_ND, inputs.known_N)
    categories = dividing_categories(inputs.items["category"].to_pylist())
    health = measure_health(codes_NL, config.codes, vectors_ND, quantizer.reconstruct(codes_NL), categories)
    check_gates(health, config)

    published_NL = _unique_codes(codes_NL, config) if config.extra_level else codes_NL
    content = {
        CODES: codes_file(inputs.items["item_id"].combine_chunks(), published_NL),
        CODEBOOKS: save_quantizer(quantizer),
        VECTORS: vectors_file(vectors_ND),
        **{f"{ENCODER}/{name}": data for name, data in encoder.files().items()},
    }
    extras = {f"plots/{name}": data for name, data in health_plots(codes_NL, config.codes).items()}
    extras[REPORT] = json_file(dataclasses.asdict(health))
    manifest = {"seed": seed, "inputs": inputs.fingerprints, "items": inputs.items.num_rows}
    generation = publish(workspace, config, content, extras, manifest)
    return BundleReport(
        generation=generation,
        items=inputs.items.num_rows,
        later_items=int((~inputs.known_N).sum()),
        vector_width=vectors_ND.shape[1],
        seconds=time.monotonic() - started,
        path=workspace.path(ROOT, generation),
        health=health,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Inputs:
    """Items in ascending id order, which of them were known before the split, and what else is needed."""

    items: pa.Table
    known_N: npt.NDArray[np.bool_]
    fingerprints: dict[str, str]
    sequences: pa.Table | None = None
    two_tower: tuple[pa.Array, Floats] | None = None
    """Ids and vectors of the two-tower run."""

    @property
    def known(self) -> pa.Table:
        """The items that were known."""
        return self.items.filter(self.known_N)


def _read_inputs(workspace: Workspace, config: SemanticIdConfig) -> _Inputs:
    table = workspace.table(CLEAN_TABLES["items"])
    items = table.read().sort_by("item_id").combine_chunks()
    if not items.num_rows:
        raise ValueError(
            f"table {table.name!r} has no items: expected at least one to give a semantic ID; see what `pagewise "
            "validate` rejects"
        )
    fingerprints = {table.name: table.manifest().fingerprint}
    known_N = np.ones(items.num_rows, bool)
    dated = items["available_from"].null_count < items.num_rows
    collaborative = config.collaborative if config.collaborative_dimensions else None
    two_tower = None
    if collaborative == TWO_TOWER:
        fingerprints[TWO_TOWER], two_tower = _two_tower_vectors(workspace)
    if not dated and collaborative != COOCCURRENCE:
        return _Inputs(items=items, known_N=known_N, fingerprints=fingerprints, two_tower=two_tower)
    source = workspace.table("sequences")
    sequences = source.read(["split", "page_times", "items", "events"])
    fingerprints[source.name] = source.manifest().fingerprint
    if dated and not source.manifest().notes.get("order_only"):
        known_N = known_items(items, sequences)
    return _Inputs(items=items, known_N=known_N, fingerprints=fingerprints, sequences=sequences, two_tower=two_tower)


def _two_tower_vectors(workspace: Workspace) -> tuple[str, tuple[pa.Array, Floats]]:
    """Return the name of the newest two-tower run, its item ids and vectors."""
    run = Runs(workspace, TWO_TOWER).open()
    return run.name, read_item_vectors(run.folder)


def known_items(items: pa.Table, sequences: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which items were available at the time of the last training page (no date: always available)."""
    training = sequences.filter(pc.equal(sequences["split"], TRAIN))
    end = pc.max(pc.list_flatten(training["page_times"]))
    if not end.is_valid:
        raise ValueError("sequences: expected pages of the training split, got none; check the split's dates")
    known: npt.NDArray[np.bool_] = np.asarray(pc.fill_null(pc.less_equal(items["available_from"], end), True))
    return known


def _collaborative(inputs: _Inputs, config: SemanticIdConfig, seed: int) -> Collaborative | None:
    """Return the collaborative vectors of the known items, None where there shall be none."""
    if not config.collaborative_dimensions:
        return None
    known_ids = inputs.known["item_id"].combine_chunks()
    if inputs.two_tower is not None:
        their_ids, vectors_MK = inputs.two_tower
        return from_vectors(vectors_MK, their_ids, known_ids)
    assert inputs.sequences is not None
    return from_sequences(
        inputs.sequences, known_ids, window=config.window, dimensions=config.collaborative_dimensions, seed=seed
    )


def _item_vectors(encoder: ItemEncoder, inputs: _Inputs, collaborative: Collaborative | None) -> Floats:
    items, known_N = inputs.items, inputs.known_N
    known_ND = encoder.fit(inputs.known, collaborative)
    vectors_ND = np.empty((items.num_rows, known_ND.shape[1]), np.float32)
    vectors_ND[known_N] = known_ND
    if not known_N.all():
        vectors_ND[~known_N] = encoder.encode(items.filter(~known_N))
    return vectors_ND


def _item_codes(quantizer: Quantizer, vectors_ND: Floats, known_N: npt.NDArray[np.bool_]) -> Codes:
    quantizer.fit(vectors_ND[known_N])
    known_NL = quantizer.assign(vectors_ND[known_N])
    codes_NL = np.empty((len(vectors_ND), known_NL.shape[1]), np.int32)
    codes_NL[known_N] = known_NL
    codes_NL[~known_N] = quantizer.encode(vectors_ND[~known_N])
    return codes_NL


def _unique_codes(codes_NL: Codes, config: SemanticIdConfig) -> Codes:
    unique_NL = with_extra_level(codes_NL)
    largest = int(unique_NL[:, -1].max()) + 1
    if largest > config.codes:
        raise ValueError(
            f"extra_level: {largest} items share one semantic ID, but a level numbers only {config.codes}; raise codes "
            f"or levels, or lower balance_slack (now {config.balance_slack})"
        )
    return unique_NL
