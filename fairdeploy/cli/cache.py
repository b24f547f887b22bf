"""``fairdeploy cache``: what the store holds, whether it is whole, and what may go."""

from __future__ import annotations

import time
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Column, Table
from rich.text import Text

from fairdeploy.cli.common import Common, print_json, stdout
from fairdeploy.entries import Held, held, used
from fairdeploy.errors import ConfigError, ExitCode
from fairdeploy.store import Store

DAY_S = 24 * 3600


def ls(*, common: Common | None = None) -> int:
    """List what the store holds, by station: how many results, how large, how old."""
    common = common or Common()
    found = held(_root(common))
    stations = [_station(name, list(ones)) for name, ones in groupby(found, key=lambda one: one.folder.parent.name)]
    if common.json:
        print_json("cache ls", stations=stations, results=[_plain(one) for one in found])
        return ExitCode.DONE
    columns = (Column(name, justify="right") for name in ("results", "MB", "oldest, days", "newest, days"))
    table = Table("station", *columns, box=None, padding=(0, 2))
    for one in [*stations, _station("all", found)]:
        ages = (f"{one[key]:.1f}" for key in ("oldest_days", "newest_days"))
        table.add_row(*map(Text, (one["station"], str(one["results"]), f"{one['size_bytes'] / 1e6:.1f}", *ages)))
    stdout().print(table)
    return ExitCode.DONE


def verify(*, common: Common | None = None) -> int:
    """Read every result again and name those that are not as they were written; then exit 5.

    A build makes such a result again by itself.
    """
    common = common or Common()
    found = held(_root(common))
    bad = {one.name: damage for one in found if (damage := one.damage())}
    code = ExitCode.INTEGRITY if bad else ExitCode.DONE
    if common.json:
        print_json("cache verify", exit_code=int(code), results=len(found), damaged=bad)
        return code
    for name, damage in bad.items():
        print(f"{name}: {', '.join(damage)}")
    print(f"{len(found)} results, {len(bad)} damaged")
    return code


def prune(
    *,
    older_than_days: Annotated[float | None, Parameter(help="What was made before so many days.")] = None,
    unused: Annotated[bool, Parameter(negative="", help="What no build of this project refers to.")] = False,
    dry_run: Annotated[bool, Parameter(negative="", help="Only say what would be removed.")] = False,
    common: Common | None = None,
) -> int:
    """Remove results by age, or those that no build under build/ refers to; with both, what meets both.

    What is removed is made again when a build needs it.
    """
    common = common or Common()
    root = _root(common)
    if older_than_days is None and not unused:
        raise ConfigError("say what to remove: --unused, --older-than-days, or both")
    if older_than_days is not None and not older_than_days >= 0:
        raise ConfigError(f"--older-than-days is {older_than_days}: give a number from 0")
    builds = [file.parent.name for file in sorted(common.folder.glob("build/*/build.json"))]
    gone = Store(root).prune(
        spare=used(root, [name for name in builds if name != "latest"]) if unused else (),
        made_before=None if older_than_days is None else time.time() - older_than_days * DAY_S,
        dry=dry_run,
    )
    if common.json:
        print_json("cache prune", dry_run=dry_run, removed=[_plain(one) for one in gone])
        return ExitCode.DONE
    for one in gone:
        print(f"{one.name} {one.entry.label if one.entry else '(cannot be read)'}")
    size_mb = sum(one.size_bytes for one in gone) / 1e6
    print(f"{'would remove' if dry_run else 'removed'} {len(gone)} results, {size_mb:.1f} MB")
    return ExitCode.DONE


def _root(common: Common) -> Path:
    root = common.folder / ".fairdeploy" / "store"
    if not root.is_dir():
        raise ConfigError("no store here: 'fairdeploy build' makes one", file=root)
    return root


def _days(one: Held) -> float:
    return round((time.time() - one.made) / DAY_S, 3)


def _station(name: str, ones: list[Held]) -> dict[str, Any]:
    ages = [_days(one) for one in ones] or [0.0]
    size_bytes = sum(one.size_bytes for one in ones)
    return {
        "station": name,
        "results": len(ones),
        "size_bytes": size_bytes,
        "oldest_days": max(ages),
        "newest_days": min(ages),
    }


def _plain(one: Held) -> dict[str, Any]:
    label = one.entry.label if one.entry else None
    return {"name": one.name, "label": label, "size_bytes": one.size_bytes, "age_days": _days(one)}
