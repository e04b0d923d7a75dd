"""The console script: picks the verb, reads the configuration, runs the command, turns failures into exit codes.

A verb's module in `pagewise.commands` is imported only when it is called, and imports heavy libraries only inside its
`run`, so that `pagewise --help` answers at once. Exit codes: 0 success, 1 failure, 2 a mistake in what was
asked, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import os
import select
import signal
import sys
import traceback
from collections.abc import Sequence

from pagewise import __version__
from pagewise.stopping import Stopping

OK, FAILURE, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


@dataclasses.dataclass(frozen=True)
class Verb:
    """A command: its `name` on the command line, the `module` that runs it and a line of `help`.

    `writes` says that it writes tables or models that the daily job writes, too: one at a time in a workspace. `reads`
    says that it does nothing without what lies in the workspace: there must be one.
    """

    name: str
    module: str
    help: str
    writes: bool = False
    reads: bool = False


VERBS: tuple[Verb, ...] = (
    Verb("demo", "demo", "the whole loop on a simulated marketplace, to a page over HTTP and a replay's verdict"),
    Verb("simulate", "simulate", "write the tables of a simulated marketplace", writes=True),
    Verb("import", "import_dataset", "write the tables of a public data set", writes=True),
    Verb(
        "validate",
        "validate",
        "check raw tables against their contract; bad rows go to dead_letters",
        writes=True,
        reads=True,
    ),
    Verb(
        "features",
        "features",
        "pages, item statistics, transitions and features from clean events",
        writes=True,
        reads=True,
    ),
    Verb("semantic-ids", "semantic_ids", "content vectors and semantic IDs of all items", writes=True, reads=True),
    Verb("sequences", "sequences", "training and evaluation sequences from pages", writes=True, reads=True),
    Verb(
        "train",
        "train",
        "train a model: two-tower, genrec or ranker; or the fusion: blend",
        writes=True,
        reads=True,
    ),
    Verb(
        "align",
        "align",
        "align GenRec with the ranker's taste; stops itself when the reward is exploited",
        writes=True,
        reads=True,
    ),
    Verb("evaluate", "evaluate", "full-catalogue metrics per slice, baselines beside them, intervals", reads=True),
    Verb("recommend", "recommend", "a page for every user, as Parquet, equal to the server's", reads=True),
    Verb("compare", "compare", "a study with intervals: embeddings, self-supervision, GenRec's variants or its costs"),
    Verb("replay", "replay", "would B have done better than A on logged pages? a verdict with its evidence"),
    Verb("register", "register", "pack a release and register it as the challenger", reads=True),
    Verb("promote", "promote", "make a registered release the champion, by the verdict of a replay", reads=True),
    Verb("rollback", "rollback", "make the previous champion the champion again", reads=True),
    Verb(
        "catalogue",
        "catalogue",
        "append items to a release without training, withdraw some, or show what was",
        reads=True,
    ),
    Verb("run", "run", "the daily job: every stage in order, skipping what is up to date", reads=True),
    Verb("stream", "stream", "take up the event stream: logs, online features, new items; until it is stopped"),
    Verb(
        "check-features",
        "check_features",
        "hold what the service read for pages against the tables; alerts",
        reads=True,
    ),
    Verb("serve", "serve", "answer recommendation requests over HTTP", reads=True),
    Verb("forget", "forget", "remove a person from tables, stream log and online store", reads=True),
    Verb("doctor", "doctor", "check this machine and print the mend for each failure"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; default: the process's.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = " ".join(["pagewise", *arguments[:1]])
    stopping = Stopping()
    try:
        with stopping:
            code = _dispatch(arguments, stopping)
            sys.stdout.flush()
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != signal.SIGTERM:  # that is how Ray, once started, ends
            raise
        by_hand = isinstance(stop, KeyboardInterrupt) and stopping.came is not signal.SIGTERM
        what, code = ("interrupted", INTERRUPTED) if by_hand else ("stopped by SIGTERM", TERMINATED)
        print(f"\n{name}: {what}; the same command goes on from what is complete", file=sys.stderr)
    except BrokenPipeError:
        # what is left in the buffer would fail once more when the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"{name}: stopped, nobody reads its output any more", file=sys.stderr)
        return FAILURE
    return code


def _dispatch(arguments: list[str], stopping: Stopping) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return OK if arguments else USAGE
    if arguments[0] in ("-V", "--version"):
        print(f"pagewise {__version__}")
        return OK
    verb = next((verb for verb in VERBS if verb.name == arguments[0]), None)
    if verb is None:
        print(_unknown_verb(arguments[0]), file=sys.stderr)
        return USAGE
    return _run_verb(verb, arguments[1:], stopping)


def usage() -> str:
    """Return the text of `pagewise --help`."""
    width = max(len(verb.name) for verb in VERBS)
    lines = [f"  {verb.name:<{width}}  {verb.help}" for verb in VERBS]
    return "\n".join(
        [
            "usage: pagewise VERB [options] [section.name=value ...]",
            "",
            "From raw event logs to pages of recommendations.",
            "",
            *lines,
            "",
            "`pagewise VERB --help` shows a verb's options; `pagewise demo` is the place to start.",
        ]
    )


def _unknown_verb(name: str) -> str:
    nearest = difflib.get_close_matches(name, [verb.name for verb in VERBS], n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "`pagewise --help` lists them."
    return f"pagewise: there is no command {name!r}; {hint}"


def _run_verb(verb: Verb, arguments: list[str], stopping: Stopping) -> int:
    from pagewise import invocation

    command: invocation.Command = importlib.import_module(f"pagewise.commands.{verb.module}")
    args = invocation.parse(verb.name, verb.help, command, arguments)
    try:
        invocation.check_workspace(args.workspace, must_exist=verb.reads)
        settings = invocation.load_settings(args)
        invocation.quieten_libraries(args.debug)
        invocation.announce(args, settings, command.SECTIONS)
        with invocation.turn(args) if verb.writes else contextlib.nullcontext():
            return command.run(args, settings)
    except Exception as error:
        if stopping.came is not None:  # Beam makes an error of its own of whatever it is interrupted by
            raise KeyboardInterrupt from error
        if isinstance(error, BrokenPipeError) and _output_is_closed():
            raise
        return _report(verb.name, error, args.debug)


def _output_is_closed() -> bool:
    """Whether it is standard output that nobody reads, as under `| head`, and not a connection that broke."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _report(verb: str, error: Exception, debug: bool) -> int:
    """Print one message: a user's mistake as it stands, anything else with its type."""
    if debug:
        traceback.print_exception(error)
    mistake = isinstance(
        error, ValueError | FileNotFoundError | NotADirectoryError | IsADirectoryError | PermissionError
    )
    if mistake:
        print(f"pagewise {verb}: {error}", file=sys.stderr)
        return USAGE
    hint = "" if debug else "\n(run it again with --debug to see where)"
    print(f"pagewise {verb} failed: {type(error).__name__}: {error}{hint}", file=sys.stderr)
    return FAILURE


if __name__ == "__main__":
    sys.exit(main())
