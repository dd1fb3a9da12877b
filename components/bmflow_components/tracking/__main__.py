"""Look at the registry of bmodels and change what is on the boxes: show, history, promote, rollback, fetch."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bmflow.cli import common

if TYPE_CHECKING:
    from bmflow_components.tracking.audit import Event
    from bmflow_components.tracking.store import Store

_EXAMPLES = """examples:
  python -m bmflow_components.tracking show shapes-bm1684x
  python -m bmflow_components.tracking history shapes-bm1684x
  python -m bmflow_components.tracking promote shapes-bm1684x --version 4 --reason "field test passed"
  python -m bmflow_components.tracking rollback shapes-bm1684x --reason "misses rings at night"
  python -m bmflow_components.tracking fetch shapes-bm1684x --version champion --to boxes/

The store is --store, else MLFLOW_TRACKING_URI, else mlflow/mlflow.db in this folder.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool."""
    parse = common.parser("python -m bmflow_components.tracking", __doc__ or "", _EXAMPLES)
    verbs = parse.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, (run, text) in _VERBS.items():
        sub = verbs.add_parser(verb, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument("name", help="registered model, such as shapes-bm1684x")
        sub.add_argument("--store", default="", help="MLflow store: sqlite:///FILE, postgresql://... or http(s)://...")
        _ARGUMENTS.get(verb, lambda sub: None)(sub)
    return common.main(parse, _run, argv)


def _run(options: argparse.Namespace) -> int:
    from bmflow_components.tracking.store import Store

    return options.run(Store.open(options.store), options)


def _add_change(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--reason", required=True, help="why, for the record")
    sub.add_argument("--who", default="", help="who decides (default: BMFLOW_USER, else the login name)")


def _add_promote(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--version", default="challenger", help="number or alias (default challenger)")
    _add_change(sub)


def _add_rollback(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--to", default="", metavar="VERSION", help="an earlier champion (default: the one before)")
    _add_change(sub)


def _add_fetch(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--version", default="champion", help="number or alias (default champion)")
    sub.add_argument("--to", required=True, metavar="FOLDER", help="where to put the files")


def _show(store: Store, options: argparse.Namespace) -> int:
    from bmflow_components.tracking import registry

    found = registry.versions(store, options.name) or [registry.get_version(store, options.name, "champion")]
    for version in found:
        figures = "  ".join(f"{name} {value:.4g}" for name, value in sorted(version.metrics.items()))
        print(f"{version.number:>4}  {', '.join(version.aliases) or '-':<12}  {version.sha256[:12]}  {figures}")
    if note := registry.drifted(store, options.name):
        print(note)
    return 0


def _history(store: Store, options: argparse.Namespace) -> int:
    from bmflow_components.tracking import registry

    events = registry.history(store, options.name)
    if options.json:
        print(json.dumps([{**event.body(), "sha256": event.sha256} for event in events], indent=1))
        return 0
    for event in events:
        _print(event)
    print(f"{options.name}: {len(events)} events, every link checked" + (f", head {events[-1].sha256}" if events else ""))
    return 0


def _add_history(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true", help="print JSON")


def _promote(store: Store, options: argparse.Namespace) -> int:
    from bmflow_components.tracking import registry

    _print(registry.promote(store, options.name, options.version, options.who, options.reason))
    return 0


def _rollback(store: Store, options: argparse.Namespace) -> int:
    from bmflow_components.tracking import registry

    _print(registry.rollback(store, options.name, options.to, options.who, options.reason))
    return 0


def _fetch(store: Store, options: argparse.Namespace) -> int:
    from bmflow_components.tracking import registry

    fetched = registry.fetch(store, options.name, options.version, options.to)
    print(f"{fetched.bmodel}: version {fetched.version.number}, digest checked")
    return 0


def _print(event: Event) -> None:
    figures = "  ".join(f"{name} {value:.4g}" for name, value in sorted(event.metrics.items()))
    change = f"{event.old or '-':>3} -> {event.new:<3}"
    print(f"{event.number:>4}  {event.time}  {event.action:<8}  {change}  {event.who}: {event.reason}  {figures}".rstrip())


_VERBS = {
    "show": (_show, "list the versions of a model with aliases, digests and figures"),
    "history": (_history, "list every promotion and rollback, and check that nobody changed the record"),
    "promote": (_promote, "make a version the champion"),
    "rollback": (_rollback, "make the champion before the present one champion again"),
    "fetch": (_fetch, "copy the files of a version here and check their digests"),
}
_ARGUMENTS = {"history": _add_history, "promote": _add_promote, "rollback": _add_rollback, "fetch": _add_fetch}

if __name__ == "__main__":
    raise SystemExit(main())
