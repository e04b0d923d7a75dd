"""`pagewise doctor`: checks this machine and prints the mend for each failure."""

from __future__ import annotations

import argparse

from pagewise.settings import Settings

SECTIONS = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no arguments of its own."""


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Run every check; succeed when all do."""
    from pagewise import health

    failures = 0
    for check in health.checks(args.workspace, settings):
        finding = health.examine(check)
        failures += not finding.ok
        print(f"{'ok  ' if finding.ok else 'FAIL'} {finding.name:<12} {finding.detail}", flush=True)
        if not finding.ok:
            print(f"     {'':<12} mend: {finding.mend}", flush=True)
    print(
        "all is well" if not failures else f"{failures} of {len(health.checks(args.workspace, settings))} checks failed"
    )
    return 1 if failures else 0
