"""Run one command as a pod of the chart by `podman play kube`, as if the shared volume were a folder: `play_pod.py POD.json FOLDER WORDS...`.

Prints the container's log and ends with its exit code. FOLDER is /runs inside; the folder of the command's result is handed to the pod's user.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

USER = 65532


def give(folder: Path) -> None:
    """Let the image's user write; only root can hand a folder over, others open it."""
    if os.geteuid() == 0:
        os.chown(folder, USER, USER)
    else:
        folder.chmod(0o777)


def _podman(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["podman", *words], text=True, capture_output=True, check=False)
    if check and done.returncode:
        raise SystemExit(f"podman {words[0]} ended with {done.returncode}: {done.stderr}")
    return done


def main(pod_file: str, folder: str, *words: str) -> int:
    """Play, wait, show, take away."""
    pod = json.loads(Path(pod_file).read_text())
    pod["metadata"]["name"] += f"-{os.getpid()}"
    pod["spec"]["containers"][0]["command"] = [word.replace(folder, "/runs") for word in words]
    give(Path(words[words.index("--result") + 1]).parent)
    container = f"{pod['metadata']['name']}-base"
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(pod, file)
        file.flush()
        try:
            _podman("play", "kube", "--network=none", file.name)
            code = int(_podman("wait", container).stdout)
            log = _podman("logs", container)
            print(log.stdout + log.stderr, flush=True)
        finally:
            _podman("pod", "rm", "--force", "--ignore", pod["metadata"]["name"], check=False)
    return code


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
