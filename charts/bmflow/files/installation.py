"""Whether an installation can work: the package is there, the run root takes files, MLflow answers. Exit 0, or 1 with a line for each fault."""

import os
import sys
import urllib.error
import urllib.request
import uuid


def package() -> None:
    from bmflow_components.contracts import STAGES

    print(f"package: {len(STAGES)} stages")


def run_root() -> None:
    import fsspec

    system, path = fsspec.core.url_to_fs(os.environ["BMFLOW_RUN_ROOT"])
    probe = f"{path.rstrip('/')}/.probe-{uuid.uuid4().hex}"
    system.pipe_file(probe, b"bmflow")
    found = system.cat_file(probe)
    system.rm_file(probe)
    assert found == b"bmflow", f"wrote bmflow, read {found!r}"
    print(f"run root: {os.environ['BMFLOW_RUN_ROOT']}")


def mlflow() -> None:
    address = os.environ["MLFLOW_TRACKING_URI"]
    try:
        urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=20).close()
    except urllib.error.HTTPError as error:
        # A server that wants a name and a password first is a server that answers.
        if error.code not in (401, 403):
            raise
    print(f"MLflow: {address}")


faults = 0
for check in (package, run_root, mlflow):
    try:
        check()
    except Exception as error:
        faults += 1
        print(f"{check.__name__}: {type(error).__name__}: {error}", file=sys.stderr)
raise SystemExit(int(bool(faults)))
