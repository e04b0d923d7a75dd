"""Prints the tables of the proof in `docs/replay.md`: `python tests/replay_proof/prove.py [PART ...]`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from harmless_worlds import RareReward
from proof_runs import (
    BETTER,
    PAGES,
    SEEDS,
    Replicates,
    World,
    fitting,
    harmless,
    powerful,
    scene,
    ships,
    upper_bound,
)
from rare_rewards import false_ships

SIZES = (2_000, 5_000, 20_000, 80_000)
MODELLED = ("dr", "sndr", "iips_dr", "iips_sndr")
SHOWN = ("ips", "snips", "dm", "dr", "pi", "mips", "rips", "cascade_dr", "iips", "iips_dr", "iips_sndr")
PROMISES = {one.name: one.promise for one in fitting(None)}
RARE_SHARES, RARE_REWARDS = (0.8, 0.9, 0.95, 0.98, 0.99), (6, 10, 25, 50, 100, 150, 200)
KINDS = ("", "bootstrap_", "always_valid_")


def coverage(seeds: Sequence[int]) -> Iterator[str]:
    """Intervals of all estimators, with a fixed reward model that is wrong everywhere."""
    yield from _coverage(Replicates.of(scene(BETTER), seeds))


def fitted(seeds: Sequence[int]) -> Iterator[str]:
    """Intervals with a reward model that is fitted to each log by folds of users."""
    yield from _coverage(Replicates.of(scene(BETTER, model="fitted"), seeds, names=MODELLED))


def dependent(seeds: Sequence[int]) -> Iterator[str]:
    """Intervals where clicks depend on the item above."""
    yield from _coverage(Replicates.of(scene(BETTER, answers="item_above"), seeds))


def errors(seeds: Sequence[int]) -> Iterator[str]:
    """Root mean squared error and bias against the number of pages."""
    found = [Replicates.of(scene(BETTER), seeds, pages, names=SHOWN) for pages in SIZES]
    yield f"true difference {found[0].truth:+.5f}"
    yield from _row(
        "estimator", *(f"RMSE, {pages:,} pages" for pages in SIZES), *(f"bias, {pages:,}" for pages in SIZES)
    )
    yield from _row(*["---"] * (1 + 2 * len(SIZES)))
    for name in found[0].names:
        squared = [f"{np.sqrt(np.square(one.error(name)).mean()):.5f}" for one in found]
        yield from _row(f"`{name}`", *squared, *(f"{one.error(name).mean():+.5f}" for one in found))


def false_ship(seeds: Sequence[int]) -> Iterator[str]:
    """How often a challenger is shipped that is no better."""
    yield from _row("challenger", "true difference", "shipped", "rate", "95 % upper bound")
    yield from _row(*["---"] * 5)
    for what, world in harmless():
        yield from _shipped(what, world, seeds)


def power(seeds: Sequence[int]) -> Iterator[str]:
    """How often a challenger is shipped that is better by the minimum detectable effect."""
    yield from _row("challenger", "true difference", "shipped", "rate", "95 % upper bound")
    yield from _row(*["---"] * 5)
    yield from _shipped("better by the minimum detectable effect", powerful(), seeds)


def rare_rewards(seeds: Sequence[int]) -> Iterator[str]:
    """How often a challenger that is just as good is shipped where rewards are few (2,000 pages; seed 0)."""
    gates = ("interval alone", "with `rewarded_users`", "with `unseen_rewards`", "with both")
    yield from _row("the log shows it on", "rewards expected", *gates)
    yield from _row(*["---"] * 6)
    for share in RARE_SHARES:
        for rewards in RARE_REWARDS:
            rates = false_ships(RareReward(share, rewards), len(seeds))
            yield from _row(f"{share:.0%}", str(rewards), *(f"{rate:.2%}" for rate in rates))


PARTS: dict[str, Callable[[Sequence[int]], Iterator[str]]] = {
    part.__name__: part for part in (coverage, fitted, dependent, errors, false_ship, power, rare_rewards)
}


def _coverage(found: Replicates) -> Iterator[str]:
    yield f"true difference {found.truth:+.5f}"
    names = ("linearised", "bootstrap", "always-valid")
    yield from _row("estimator", "promise", "bias", "RMSE", "mean se", *names)
    yield from _row(*["---"] * 8)
    for name in found.names:
        error_N = found.error(name)
        figures = [
            f"{error_N.mean():+.5f}",
            f"{np.sqrt(np.square(error_N).mean()):.5f}",
            f"{found.se(name).mean():.5f}",
        ]
        covered = [f"{found.covered(name, kind) / len(found):.2%}" for kind in KINDS]
        yield from _row(f"`{name}`", PROMISES[name], *figures, *covered)


def _shipped(what: str, world: World, seeds: Sequence[int]) -> Iterator[str]:
    count = sum(ships(world, seed) for seed in seeds)
    rate, most = count / len(seeds), upper_bound(count, len(seeds))
    yield from _row(what, f"{world.difference:+.5f}", f"{count} of {len(seeds)}", f"{rate:.2%}", f"{most:.2%}")


def _row(*cells: str) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART")
    parser.add_argument("--replicates", type=int, default=len(SEEDS))
    options = parser.parse_args()
    seeds = SEEDS[: options.replicates]
    for name in options.parts:
        started = time.process_time()
        print(
            f"\n## {name}: {PARTS[name].__doc__}\nseeds {seeds[0]} to {seeds[-1]}, about {PAGES:,} pages each",
            flush=True,
        )
        for line in PARTS[name](seeds):
            print(line, flush=True)
        print(f"{time.process_time() - started:.0f} s of one core", flush=True)


if __name__ == "__main__":
    main()
