"""The comparison: load, split, lay out, train every method at every size with every seed, measure, write."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.compression.config import COLLISIONLESS
from models.compression.layouts import Layout, build_layout, collisionless_bytes
from models.compression.training import PlacedPart, fit
from models.metrics.binary import auc, calibration_ratio, expected_calibration_error, log_loss
from pipelines.compression.baselines import BaselineResult, logistic_regression, popularity_prior
from pipelines.compression.config import CompareConfig
from pipelines.compression.examples import Part, SplitExamples, load_examples, split_by_time
from pipelines.compression.report import ComparisonReport, RunResult, fraction

Progress = Callable[[str], None]


def compare(
    config: CompareConfig,
    source: Path,
    folder: Path,
    seeds: Sequence[int],
    progress: Progress | None = None,
) -> ComparisonReport:
    """Run the comparison and write `comparison.{txt,json,csv,png}`.

    Every method has the same network, optimiser, seeds, order of examples and stopping rule; only the table differs.
    A seed also salts the values' hashes: the spread over seeds contains the luck of who collides with whom.
    Vocabularies are those of the training part; the test part is only measured, at the end of each run.

    Args:
        config: Data set, methods, sizes, network.
        source: Folder with the data set's files as published, or the main file.
        folder: Where the results are written; made if need be.
        seeds: Of initial weights, order of examples and hashes, from 0; each cell is run with each.
        progress: Called with one line per run.

    Raises:
        FileNotFoundError: The data are not there.
        ValueError: No seeds, a seed twice, unusable data, or a size too small for a method; before any training.
    """
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds: expected one or more from 0, each once, got {list(seeds)}")
    say = progress or (lambda line: None)
    examples = load_examples(config.dataset, source)
    split = split_by_time(examples)
    _layouts(config, split)  # a table too small is told before anything is trained
    runs = _baselines(split, say)
    for seed in seeds:
        salted = split_by_time(examples, salt=seed)
        for (method, share), layout in _layouts(config, salted).items():
            runs.append(_run(config, method, share, layout, salted, seed))
            say(f"seed {seed}, {method} {fraction(share)}: AUC {runs[-1].auc:.4f}, {runs[-1].seconds:.1f} s")
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    report = ComparisonReport(
        dataset=config.dataset,
        examples={name: len(part.label_E) for name, part in parts.items()},
        positives={name: int(part.label_E.sum()) for name, part in parts.items()},
        vocabularies={field.name: len(field.values_V) for field in split.fields},
        collisionless_bytes=collisionless_bytes(split.fields, config.width),
        seeds=tuple(seeds),
        runs=tuple(runs),
        folder=folder,
    )
    report.write()
    return report


def _layouts(config: CompareConfig, split: SplitExamples) -> dict[tuple[str, float | None], Layout]:
    whole = collisionless_bytes(split.fields, config.width)
    cells: list[tuple[str, float | None]] = []
    for method in config.methods:
        cells += [(method, None)] if method == COLLISIONLESS else [(method, share) for share in config.budgets]
    return {
        (method, share): build_layout(
            method,
            split.fields,
            width=config.width,
            budget_bytes=whole if share is None else int(whole * share),
            exact_values=config.exact_values,
            probes=config.probes,
        )
        for method, share in cells
    }


def _placed(layout: Layout, part: Part) -> PlacedPart:
    rows_EFK = torch.from_numpy(layout.place(part.columns))
    return PlacedPart(rows_EFK=rows_EFK, label_E=torch.from_numpy(part.label_E))


def _run(
    config: CompareConfig, method: str, share: float | None, layout: Layout, split: SplitExamples, seed: int
) -> RunResult:
    started = time.monotonic()
    train, validation, test = (_placed(layout, part) for part in (split.train, split.validation, split.test))
    fitted = fit(layout, train, validation, config, seed=seed)
    return RunResult(
        method=method,
        share=share,
        seed=seed,
        bytes=fitted.network.embeddings.bytes,
        validation_log_loss=fitted.validation_log_loss,
        epochs=fitted.epochs,
        seconds=time.monotonic() - started,
        **_metrics(fitted.probabilities(test), test.label_E.numpy()),
    )


def _baselines(split: SplitExamples, say: Progress) -> list[RunResult]:
    makers: dict[str, Callable[[], BaselineResult]] = {"logistic_regression": lambda: logistic_regression(split)}
    if item_field := split.item_field:
        makers["popularity_prior"] = lambda: popularity_prior(split, item_field)
    runs = []
    for name, make in makers.items():
        started = time.monotonic()
        result = make()
        runs.append(
            RunResult(
                method=name,
                share=None,
                seed=None,
                bytes=result.bytes,
                validation_log_loss=result.validation_log_loss,
                epochs=0,
                seconds=time.monotonic() - started,
                **_metrics(result.test_E, split.test.label_E),
            )
        )
        say(f"{name}, setting {result.setting:g}: AUC {runs[-1].auc:.4f}, {runs[-1].seconds:.1f} s")
    return runs


def _metrics(probability_E: npt.NDArray[np.float64], label_E: npt.NDArray[np.float32]) -> dict[str, Any]:
    return {
        "auc": auc(probability_E, label_E),
        "log_loss": log_loss(probability_E, label_E),
        "calibration_ratio": calibration_ratio(probability_E, label_E),
        "calibration_error": expected_calibration_error(probability_E, label_E),
    }
