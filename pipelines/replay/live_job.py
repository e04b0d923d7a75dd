"""A live champion/challenger split, read out from the logs of the service: who was served by which arm."""

from __future__ import annotations

import dataclasses
import datetime as dt
import time as clock
from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa

from features.schemas import PAGES
from features.workspace import Workspace
from models.registry import CHALLENGER, CHAMPION
from pipelines.batch.arrow import decode, milliseconds
from pipelines.batch.runner import running_pipeline
from pipelines.batch.transforms import split_by_shard
from pipelines.replay.config import ReplayConfig
from pipelines.replay.live import LivePages, LiveSums
from pipelines.replay.logged import read_batch
from pipelines.replay.logs import LoggedPages, counted_pages, read_pages, repeated_of, survey
from pipelines.replay.planning import minimum_detectable_effect
from pipelines.replay.publishing import folder_name, inputs_digest, reward_words
from pipelines.replay.readout import LiveReadout, check_share, read_out
from pipelines.replay.report import Contender, Question, ReplayReport
from pipelines.replay.state import packed, unpacked
from pipelines.replay.transforms import Repeated
from pipelines.replay.verdicts import FOLDER, compared_now, refusals_recorded

_OF_PAGE = ("request_id", "user_id", "timestamp", "arm", "release", "context")
COLUMNS = (*_OF_PAGE, "items", "events", "event_times", "values")
"""What of a page a read-out looks at."""
_Arm = tuple[str, str | None]
_SHARD_ROWS = 1 << 19
"""Pages of a shard of users, about: they are in memory together."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """Who was split from when on.

    Attributes:
        challenger: Release of the newest page of a challenger.
        champion: Release of the newest page of a champion.
        starts_ms: From when on both were arms.
        quiet_ms: From when on, until `starts_ms`, no challenger had an arm: no user was treated unlike others.
        others: Arm and release of the others since `starts_ms`, in words.
    """

    challenger: str | None
    champion: str | None
    starts_ms: int
    quiet_ms: int
    others: tuple[str, ...]


def find_split(logs: LoggedPages) -> Split:
    """Return the newest split in the logs.

    Raises:
        ValueError: No page says that a challenger made it.
    """
    first: dict[_Arm, int] = {}
    last: dict[_Arm, int] = {}
    filesystem = Workspace(logs.uri).filesystem
    for path in logs.files:
        for part in read_pages(filesystem, path, ["timestamp", "arm", "release"]):
            times = part.append_column("ms", pa.array(milliseconds(part.column("timestamp"))))
            spans = times.group_by(["arm", "release"]).aggregate([("ms", "min"), ("ms", "max")])
            for row in spans.to_pylist():
                key = (row["arm"], row["release"])
                first[key] = min(first.get(key, row["ms_min"]), row["ms_min"])
                last[key] = max(last.get(key, row["ms_max"]), row["ms_max"])
    newest = {arm: max((key for key in last if key[0] == arm), key=last.__getitem__, default=None)
              for arm in (CHAMPION, CHALLENGER)}  # fmt: skip
    challenger, champion = newest[CHALLENGER], newest[CHAMPION]
    if challenger is None or champion is None:
        missing = CHALLENGER if challenger is None else CHAMPION
        raise ValueError(
            f"expected pages of both arms, got none of the {missing}; a split is made by `pagewise serve` with "
            "serve.challenger_share above 0 and a registered challenger"
        )
    starts = max(first[challenger], first[champion])
    earlier = [last[key] + 1 for key in last if key[0] == CHALLENGER and first[key] < starts]
    others = sorted(f"{arm} {release}" for arm, release in last if arm in newest and last[arm, release] >= starts
                    and (arm, release) not in (challenger, champion))  # fmt: skip
    return Split(
        challenger=challenger[1],
        champion=champion[1],
        starts_ms=starts,
        quiet_ms=min(max(earlier, default=0), starts),
        others=tuple(others),
    )


def replay_live(
    workspace: Workspace,
    config: ReplayConfig,
    *,
    challenger_share: float,
    beam_options: Sequence[str] = (),
) -> ReplayReport:
    """Read a live split out.

    Args:
        workspace: Its table `pages` is the log where `config.logs` names no other.
        config: Reward, unit, window, gates.
        challenger_share: Share of users that the challenger serves, as the service was configured.
        beam_options: Beam's own options; default: in this process.

    Raises:
        FileNotFoundError: There are no logs.
        ValueError: They hold no split.
    """
    started = clock.monotonic()
    logs = survey(workspace, config.logs, since=config.since, until=config.until, hours=config.attribution_hours)
    check_share(challenger_share)
    split = find_split(logs)
    pair = (split.challenger or CHALLENGER, split.champion)
    digest = inputs_digest(logs, config, dataclasses.asdict(split), challenger_share)
    compared = compared_now(workspace, *pair, digest, config)
    with refusals_recorded(workspace, *pair):
        sums = _summed(workspace, logs, config, split, digest, beam_options)
        readout = read_out(sums, config, challenger_share=challenger_share, compared=compared)
    return _report(readout, logs, split, config, workspace, clock.monotonic() - started)


def _summed(
    workspace: Workspace,
    logs: LoggedPages,
    config: ReplayConfig,
    split: Split,
    digest: str,
    beam_options: Sequence[str],
) -> LiveSums:
    uri = workspace.root if workspace.is_local else workspace.uri
    path = ("runs", "replay_sums", f"{digest}.npz")
    with running_pipeline(beam_options) as pipeline:
        _ = pipeline | SumArms(logs, config, split) | "write" >> beam.Map(_write, uri, path)
    return unpacked(workspace.read_bytes(*path), LiveSums(config))


class SumArms(beam.PTransform):
    """Logged pages -> one `LiveSums`: users meet their pages by shard.

    Args:
        logs: The pages.
        config: Of the read-out.
        split: Which pages are of which arm.
    """

    def __init__(self, logs: LoggedPages, config: ReplayConfig, split: Split) -> None:
        super().__init__()
        self.logs, self.config, self.split = logs, config, split

    def expand(self, start: beam.Pipeline) -> beam.PCollection:
        """Read, shard by user, add up."""
        repeated = start | "repeated" >> Repeated(self.logs)
        shards = -(-self.logs.rows // _SHARD_ROWS)
        return (
            start
            | "files" >> beam.Create(self.logs.files)
            | "read" >> beam.FlatMap(_read, self.logs, shards, beam.pvalue.AsList(repeated))
            | "users" >> beam.GroupByKey()
            | "sum" >> beam.Map(_sum, self.config, self.split)
            | "together" >> beam.CombineGlobally(_Merge(self.config))
        )


class _Merge(beam.CombineFn):
    """`LiveSums` -> one."""

    def __init__(self, config: ReplayConfig) -> None:
        self.config = config

    def create_accumulator(self) -> LiveSums:
        return LiveSums(self.config)

    def add_input(self, sums: LiveSums, other: LiveSums) -> LiveSums:
        return sums.merge(other)

    def merge_accumulators(self, parts: Iterable[LiveSums]) -> LiveSums:
        sums = LiveSums(self.config)
        for part in parts:
            sums.merge(part)
        return sums

    def extract_output(self, sums: LiveSums) -> LiveSums:
        return sums


def _read(
    path: str, logs: LoggedPages, shards: int, repeated: list[tuple[str, np.ndarray]]
) -> Iterator[tuple[int, bytes]]:
    for pages, _ in counted_pages(logs, path, repeated_of(path, repeated), COLUMNS):
        yield from split_by_shard(pages, "user_id", shards)


def _sum(shard: tuple[int, Iterable[bytes]], config: ReplayConfig, split: Split) -> LiveSums:
    pages = decode(shard[1])
    pages = pages.filter(pa.array(milliseconds(pages.column("timestamp")) >= split.quiet_ms))
    whole = pa.table({name: pages.column(name) if name in COLUMNS else pa.nulls(len(pages), PAGES.field(name).type)
                      for name in PAGES.names})  # fmt: skip
    rewards_R = read_batch(whole, config).rewards_RP.sum(axis=1)
    releases = (split.champion, split.challenger)
    return LiveSums(config).add(LivePages.of(pages, rewards_R, split.starts_ms, releases))


def _write(sums: LiveSums, uri: str, path: Sequence[str]) -> None:
    Workspace(uri).write_bytes(packed(sums), *path)


def _report(
    readout: LiveReadout, logs: LoggedPages, split: Split, config: ReplayConfig, workspace: Workspace, seconds: float
) -> ReplayReport:
    began = dt.datetime.fromtimestamp(split.starts_ms / 1000, dt.UTC)
    notes = [
        f"a live split, read out from what both arms really earned; it began at {began:%Y-%m-%d %H:%M} UTC",
        "the interval that decides is the always valid one: this may be read at any time and as often as one likes",
        _cuped_words(readout, split),
        *(f"{count:,} pages were left out: {reason}" for reason, count in sorted(readout.left_out.items())),
    ]
    if split.others:
        notes.append(f"other releases had an arm meanwhile, whose pages are left out: {', '.join(split.others)}")
    digest = readout.verdict.compared.inputs
    return ReplayReport(
        question=Question(
            champion=_contender(CHAMPION, split.champion, readout, 0),
            challenger=_contender(CHALLENGER, split.challenger, readout, 1),
            logs=config.logs or workspace.table("pages").root,
            window=logs.window(),
            pages=logs.rows,
            counted=sum(readout.pages),
            users=sum(readout.users),
            reward=reward_words(config),
            unit=config.unit,
            candidates="each arm showed its own",
            logged_by=(CHAMPION, CHALLENGER),
            inputs=digest,
        ),
        verdict=readout.verdict,
        estimates=readout.estimates,
        diagnostics=None,
        detectable=minimum_detectable_effect(
            readout.estimates[-1].se, config.confidence, always_valid_users=sum(readout.users)
        ),
        notes=tuple(notes),
        seconds=seconds,
        folder=workspace.path(FOLDER, folder_name(logs, digest)),
    )


def _cuped_words(readout: LiveReadout, split: Split) -> str:
    if len(readout.estimates) > 1:
        return f"CUPED leaves {readout.variance_ratio:.0%} of the variance"
    since = " since another challenger had an arm" if split.quiet_ms else ""
    return f"no CUPED: these users have no reward before the split{since}"


def _contender(arm: str, release: str | None, readout: LiveReadout, place: int) -> Contender:
    counts = f"{readout.pages[place]:,} pages of {readout.users[place]:,} users"
    return Contender(spec=arm, title=f"the {arm}'s arm, release {release or 'unknown'}, {counts}", release=release)
