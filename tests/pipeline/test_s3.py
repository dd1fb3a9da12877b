"""An S3-compatible store on loopback: as DVC's remote of the dataset, and as the run root that stages pass files through."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bmflow_components import contracts, example_data
from bmflow_components.example_data import DatasetOptions
from containers import ROOT, Image, podman, script

moto = pytest.importorskip("moto.server", reason="moto is not installed (extra dev)")
boto3 = pytest.importorskip("boto3", reason="boto3 is not installed (extra dev)")
pytest.importorskip("dvc", reason="DVC is not installed (extra dvc)")
pytest.importorskip("s3fs", reason="s3fs is not installed (extra dvc)")

KEY, SECRET = "AKIANEVERSHOWN1684", "hunter2-never-show-1684"
REGION = {"AWS_DEFAULT_REGION": "eu-central-1"}
COUNTS = {"train": 0, "calibration": 2, "evaluation": 2}
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Store:
    """A server, and the environment of a process that may use it."""

    address: str

    @property
    def variables(self) -> dict[str, str]:
        """What the chart gives to a stage."""
        return {"AWS_ENDPOINT_URL": self.address, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, **REGION}

    @property
    def env(self) -> dict[str, str]:
        """The whole environment of a process."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return {**kept, **self.variables, "PYTHONPATH": f"{ROOT / 'components'}:{ROOT / 'compiler'}", "OMP_NUM_THREADS": "1"}

    def names(self, bucket: str) -> set[str]:
        """Keys of a bucket, by a client of its own."""
        client = boto3.client(
            "s3", endpoint_url=self.address, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="eu-central-1"
        )
        return {item["Key"] for item in client.list_objects_v2(Bucket=bucket).get("Contents", ())}


@pytest.fixture(scope="module")
def store() -> Generator[Store]:
    """Empty buckets `data` and `runs`."""
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    found = Store(f"http://{host}:{port}")
    client = boto3.client("s3", endpoint_url=found.address, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="eu-central-1")
    for bucket in ("data", "runs"):
        client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    yield found
    server.stop()


@dataclass(frozen=True)
class Repository:
    """A clone without any data, and the folder that the data was pushed from."""

    clone: Path
    origin: Path

    def git(self, *words: str) -> str:
        """What Git answers."""
        return subprocess.run(["git", *words], cwd=self.origin, text=True, capture_output=True, check=True).stdout.strip()

    def md5(self, rev: str) -> str:
        """DVC's digest of the folder, as Git keeps it."""
        lines = self.git("show", f"{rev}:data.dvc").splitlines()
        return next(line.partition("md5: ")[2] for line in lines if "md5: " in line and "hash" not in line)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, store: Store) -> Repository:
    """Datasets at tags v1 and v2 on the store, and v3, which nobody pushed."""
    folder = tmp_path_factory.mktemp("dvc")
    origin = folder / "origin"
    origin.mkdir()

    def call(*words: str) -> None:
        done = subprocess.run(words, cwd=origin, env=store.env, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr

    dvc = (sys.executable, "-m", "dvc")
    call("git", "init", "-q")
    call("git", "config", "user.email", "a@example.com")
    call("git", "config", "user.name", "a")
    call(*dvc, "init", "-q")
    call(*dvc, "config", "core.analytics", "false")
    call(*dvc, "remote", "add", "--default", "store", "s3://data/shapes")
    for seed, tag in enumerate(("v1", "v2", "v3")):
        shutil.rmtree(origin / "data", ignore_errors=True)
        example_data.generate(origin / "data", DatasetOptions(seed, **COUNTS, size=64))
        call(*dvc, "add", "-q", "data")
        call("git", "add", "-A")
        call("git", "commit", "-qm", tag)
        call("git", "tag", tag)
        if tag != "v3":
            call(*dvc, "push", "-q")
    subprocess.run(["git", "clone", "-q", str(origin), str(folder / "clone")], check=True)
    return Repository(folder / "clone", origin)


@dataclass(frozen=True)
class Ended:
    """A stage that has ended."""

    code: int
    log: str
    folder: Path

    @property
    def result(self) -> dict[str, Any]:
        """Its result.json."""
        return json.loads((self.folder / "result.json").read_text())

    @property
    def digests(self) -> dict[str, str]:
        """Digest by output."""
        return {port: item["digest"] for port, item in self.result["outputs"].items()}


def command(folder: Path, python: str, repo: Path, rev: str) -> list[str]:
    """Command line of the stage dataset for a revision."""
    stage = contracts.stage("dataset")
    outputs = {port.name: str(folder / port.file) for port in stage.outputs}
    return contracts.argv(
        stage, {}, outputs, {"repo": str(repo), "rev": rev, "path": "data", **COUNTS}, str(folder / "result.json"), python
    )


def take(folder: Path, repository: Repository, rev: str, env: dict[str, str]) -> Ended:
    """Run the stage as a process."""
    folder.mkdir(exist_ok=True)
    words = command(folder, sys.executable, repository.clone, rev)
    done = subprocess.run(words, env=env, cwd=folder, text=True, capture_output=True, timeout=300, check=False)
    return Ended(done.returncode, done.stdout + done.stderr, folder)


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory, repository: Repository, store: Store) -> dict[str, Ended]:
    """Both revisions that were pushed."""
    folder = tmp_path_factory.mktemp("taken")
    return {rev: take(folder / rev, repository, rev, store.env) for rev in ("v1", "v2")}


def files(folder: Path) -> dict[str, str]:
    """SHA-256 by name of the pictures below a folder."""
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("images/*/*")}


def test_the_store_holds_the_data_under_the_digests_that_git_names(store: Store, repository: Repository) -> None:
    names = store.names("data")
    for rev, pushed in (("v1", True), ("v2", True), ("v3", False)):
        md5 = repository.md5(rev)
        assert (f"shapes/files/md5/{md5[:2]}/{md5[2:]}" in names) == pushed, rev


def test_a_revision_is_read_from_the_store_and_recorded_with_commit_and_digest(repository: Repository, taken: dict[str, Ended]) -> None:
    for rev, ended in taken.items():
        assert ended.code == 0, ended.log
        split = json.loads((ended.folder / "split.json").read_text())
        for record in (ended.result["facts"], split["source"]):
            assert record["commit"] == repository.git("rev-parse", rev)
            assert (record["kind"], record["rev"], record["md5"]) == ("dvc", rev, repository.md5(rev))
    assert taken["v1"].result["facts"]["digest"] != taken["v2"].result["facts"]["digest"]
    assert taken["v1"].result["key"] != taken["v2"].result["key"]


def test_every_picture_arrives_as_it_was_pushed(repository: Repository, taken: dict[str, Ended], tmp_path: Path) -> None:
    """Against the generator, which is what was pushed as v2."""
    example_data.generate(tmp_path / "again", DatasetOptions(1, **COUNTS, size=64))
    found = files(taken["v2"].folder / "dataset")
    assert len(found) == COUNTS["calibration"] + COUNTS["evaluation"]
    assert found == files(tmp_path / "again")
    assert not (repository.clone / "data").exists()
    assert not (repository.clone / ".dvc" / "tmp").exists()  # a revision is read without a lock, for folders that may not be written


def test_credentials_stand_nowhere(store: Store, repository: Repository, taken: dict[str, Ended]) -> None:
    """Neither in logs and files of stages, nor in the repository that was pushed from."""
    texts = [ended.log.encode() for ended in taken.values()]
    folders = [*(ended.folder for ended in taken.values()), repository.clone, repository.origin]
    texts += [file.read_bytes() for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert len(texts) > 20
    assert not any(secret.encode() in text for text in texts for secret in (KEY, SECRET))


def test_a_revision_that_was_not_pushed_is_a_failure_that_says_what_to_do(store: Store, repository: Repository, tmp_path: Path) -> None:
    ended = take(tmp_path / "v3", repository, "v3", store.env)
    assert ended.code == 1
    assert "data at v3: reading failed" in ended.result["error"]
    assert "is the data pushed to the remote (dvc push)" in ended.result["error"]
    assert not (ended.folder / "dataset").exists()


def test_a_store_that_is_gone_is_worth_another_try_and_shows_no_secret(store: Store, repository: Repository, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{probe.getsockname()[1]}"  # bound, but nobody listens
        ended = take(tmp_path / "gone", repository, "v1", {**store.env, "AWS_ENDPOINT_URL": gone, "AWS_MAX_ATTEMPTS": "1"})
    assert ended.code == 1
    assert ended.result["retryable"] is True
    assert SECRET not in ended.log + json.dumps(ended.result)


def test_without_credentials_the_stage_says_so(store: Store, repository: Repository, tmp_path: Path) -> None:
    env = {name: value for name, value in store.env.items() if name not in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    ended = take(tmp_path / "bare", repository, "v1", {**env, "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)})
    assert ended.code == 1
    assert "are its credentials in the environment?" in ended.result["error"]


@pytest.mark.container
def test_a_container_reads_the_same_from_a_repository_that_it_may_not_write(
    store: Store, repository: Repository, taken: dict[str, Ended], image: Image, tmp_path: Path
) -> None:
    """Read-only image and repository, no capability; the store is on this machine's loopback, so its network is used."""
    hardened = [option for option in script.HARDENED if not option.startswith("--network")]
    user = f"--user={os.getuid()}:{os.getgid()}"
    plain = [f"--env={name}={value}" for name, value in store.variables.items()]
    mounts = [f"--volume={repository.clone}:{repository.clone}:ro", f"--volume={tmp_path}:{tmp_path}"]
    done = podman(
        "run",
        *hardened,
        "--network=host",
        user,
        *plain,
        *mounts,
        image.name,
        *command(tmp_path, "python", repository.clone, "v1"),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Ended(0, "", tmp_path).digests == taken["v1"].digests


def test_stages_pass_files_on_through_a_run_root_in_the_store(store: Store, tmp_path: Path) -> None:
    """dataset and transform, once with their files in the store and once in a folder: every output has the same digest."""
    model = ROOT / "examples" / "shapes.onnx"
    if not model.is_file():
        pytest.skip("examples/shapes.onnx is absent")
    settings = {"dataset": {**COUNTS, "size": 96}, "transform": {"pixel_format": "rgb", "scale": "0.0039216,0.0039216,0.0039216"}}
    results: dict[str, list[dict[str, Any]]] = {}
    for root in ("s3://runs/one", str(tmp_path)):
        for name, params in settings.items():
            stage = contracts.stage(name)
            inputs = {} if name == "dataset" else {"model": str(model), "dataset": f"{root}/dataset/dataset"}
            outputs = {port.name: f"{root}/{name}/{port.file}" for port in stage.outputs}
            words = contracts.argv(stage, inputs, outputs, params, f"{root}/{name}/result.json", sys.executable)
            done = subprocess.run(words, env=store.env, cwd=tmp_path, text=True, capture_output=True, timeout=300, check=False)
            assert done.returncode == 0, done.stderr
            assert SECRET not in done.stdout + done.stderr
            results.setdefault(root, []).append(_result(store, root, name))
    remote, local = ([{port: item["digest"] for port, item in r["outputs"].items()} for r in found] for found in results.values())
    assert remote == local
    assert {"one/dataset/result.json", "one/transform/mlir/model.mlir"} <= store.names("runs")


def _result(store: Store, root: str, stage: str) -> dict[str, Any]:
    if not root.startswith("s3://"):
        return json.loads(Path(root, stage, "result.json").read_text())
    client = boto3.client("s3", endpoint_url=store.address, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="eu-central-1")
    bucket, _, key = root.removeprefix("s3://").partition("/")
    return json.loads(client.get_object(Bucket=bucket, Key=f"{key}/{stage}/result.json")["Body"].read())


def test_the_charts_own_check_finds_a_run_root_in_the_store(store: Store) -> None:
    """Run as `helm test` runs it; MLflow is not there, and it says so."""
    env = {**store.env, "BMFLOW_RUN_ROOT": "s3://runs/two", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, ROOT / "charts" / "bmflow" / "files" / "installation.py"], env=env, text=True, capture_output=True, check=False
    )
    assert "run root: s3://runs/two" in done.stdout, done.stderr
    assert (done.returncode, done.stderr.startswith("mlflow: ")) == (1, True)
    assert not [name for name in store.names("runs") if name.startswith("two/")]
