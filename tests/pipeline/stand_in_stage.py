"""A process with the contract of a stage and none of its work, for tests of what is around stages.

STAND_IN names a JSON file: by task folder (`deploy/bm1684x-INT8`) or stage name `{"exit": 3, "sleep": 2, "retryable": true, "once": true}`;
`once` means that the second try ends well.
Outputs hold the stage, its place and the digests of the inputs, so that a file of another run or candidate would be noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path


def main() -> int:
    """Act as `python -m bmflow_components STAGE ...`."""
    assert sys.argv[1:3] == ["-m", "bmflow_components"], sys.argv
    stage, words = sys.argv[3], sys.argv[4:]
    options = list(zip(words[::2], words[1::2], strict=True))
    result = Path(dict(options)["--result"])
    plan = json.loads(Path(os.environ["STAND_IN"]).read_text())
    does = next((plan[name] for name in plan if name == stage or str(result.parent).endswith(name)), {})
    print(f"{stage} at work, pid {os.getpid()}, token {os.environ.get('MLFLOW_TRACKING_TOKEN', 'unset')}", flush=True)
    result.parent.mkdir(parents=True, exist_ok=True)
    (result.parent / "pid").write_text(str(os.getpid()))
    time.sleep(does.get("sleep", 0))
    code = 0 if does.get("once") and result.is_file() else does.get("exit", 0)
    inputs = {path: hashlib.sha256(content(Path(path))).hexdigest() for name, path in options if name.startswith("--in-") and path}
    outputs = {}
    for name, path in options:
        if name.startswith("--out-") and code in (0, 3):
            text = json.dumps({"stage": stage, "place": str(result.parent), "params": sorted(words_of(options)), "inputs": inputs})
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text)
            outputs[name.removeprefix("--out-")] = {"path": path, "digest": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text)}
    status = {0: "done", 2: "bad_input", 3: "below_bar"}.get(code, "failed")
    found = {"status": status, "exit_code": code, "error": "said so" if code else "", "retryable": does.get("retryable", False), "key": "k"}
    result.write_text(
        json.dumps({**found, "outputs": outputs, "metrics": {"map50": 0.5}, "facts": does.get("facts", {}), "seconds": {"total": 0.1}})
    )
    return code


def words_of(options: list[tuple[str, str]]) -> list[str]:
    """Parameters as they were given."""
    return [f"{name}={value}" for name, value in options if not name.startswith(("--in-", "--out-", "--result", "--cache"))]


def content(path: Path) -> bytes:
    """A file's bytes; a file that is missing fails."""
    return path.read_bytes()


if __name__ == "__main__":
    raise SystemExit(main())
