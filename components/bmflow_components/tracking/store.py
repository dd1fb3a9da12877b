"""One MLflow tracking and registry server (or a SQLite file with a folder): every call has a time limit and survives a short absence.

A server that is gone is asked again with growing pauses, at most `Patience.gone_s`; then `TrackingError` (exit 1). Nothing is lost
by it: the stages' outputs stay on disk, and the same stage run again goes on where it stopped.
"""

# pyright: reportMissingImports=false
# (MLflow and DVC belong to extras)

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import logging
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bmflow.errors import BmflowError, InputError

from bmflow_components.tracking.redact import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOG = logging.getLogger("bmflow")
EXPERIMENT = "bmflow"
_T = TypeVar("_T")
_GONE = re.compile(r"failed with (?:timeout )?exception|failed with error code (?:429|50\d)|Max retries exceeded|database is locked")
_GONE_CLASSES = {"ConnectionError", "Timeout", "ConnectTimeout", "ReadTimeout", "ChunkedEncodingError", "OperationalError", "ProtocolError"}
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}  # fmt: skip
"""MLflow's own retries would multiply ours."""


class TrackingError(BmflowError):
    """MLflow cannot be reached or refused a call; exit code 1."""


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds.

    Attributes:
        gone_s: for a server that does not answer, all attempts together.
        call_s: for one call, uploads included.
        pause_s, longest_pause_s: between attempts, doubled each time.
    """

    gone_s: float = 180.0
    call_s: float = 300.0
    pause_s: float = 1.0
    longest_pause_s: float = 15.0

    @staticmethod
    def from_environment() -> Patience:
        """The defaults, or what BMFLOW_MLFLOW_PATIENCE_S and BMFLOW_MLFLOW_CALL_S say.

        Raises:
            InputError: they are no numbers.
        """
        return Patience(_seconds("BMFLOW_MLFLOW_PATIENCE_S", Patience.gone_s), _seconds("BMFLOW_MLFLOW_CALL_S", Patience.call_s))

    def pauses(self) -> Iterator[float]:
        """Pause after each failed attempt; ends when time is up."""
        end, pause = time.monotonic() + self.gone_s, self.pause_s
        while (left := end - time.monotonic()) > 0:
            yield min(pause, left)
            pause = min(2 * pause, self.longest_pause_s)


@dataclass(frozen=True)
class Store:
    """Where runs and models are kept.

    Attributes:
        uri: `sqlite:///...`, `postgresql://...`, `http://...` or `https://...`.
        artifacts: folder for files when `uri` names a database; None for a server, which has its own place.
    """

    uri: str
    artifacts: Path | None = None
    experiment: str = EXPERIMENT
    patience: Patience = field(default_factory=Patience)

    @staticmethod
    def open(uri: str = "", root: str | Path = "mlflow", experiment: str = EXPERIMENT, patience: Patience | None = None) -> Store:
        """The given store, else the one MLFLOW_TRACKING_URI names, else `<root>/mlflow.db` with files in `<root>/artifacts`.

        Raises:
            InputError: an address of another kind.
        """
        uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "") or f"sqlite:///{Path(root).resolve() / 'mlflow.db'}"
        patience = patience or Patience.from_environment()
        if uri.startswith(("http://", "https://")):
            return Store(uri, None, experiment, patience)
        if uri.startswith("sqlite:///"):
            folder = Path(uri.removeprefix("sqlite:///")).resolve().parent
            return Store(uri, folder / "artifacts", experiment, patience)
        if uri.startswith("postgresql"):
            return Store(uri, Path(root).resolve() / "artifacts", experiment, patience)
        raise InputError(f"MLflow store {redact(uri)}: expected sqlite:///FILE, postgresql://... or http(s)://...; set MLFLOW_TRACKING_URI")

    def __str__(self) -> str:
        return redact(self.uri)

    @cached_property
    def client(self) -> MlflowClient:
        """The client; the first use of a database file makes its tables.

        Raises:
            TrackingError: MLflow is not installed, or the store cannot be opened.
        """
        return self.call("open the store", self._open)

    def _open(self) -> MlflowClient:
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise TrackingError(f"MLflow is not installed ({error}); install the extra `mlflow`: pip install 'bmflow[mlflow]'") from error
        if self.artifacts and importlib.util.find_spec("sqlalchemy") is None:
            raise TrackingError(
                f"{self}: MLflow's client alone is installed, which opens servers only; install the extra `mlflow`, or give http(s)://..."
            )
        with self.alone():
            client = MlflowClient(self.uri, self.uri)
            if self.artifacts:
                client.search_experiments(max_results=1)
        return client

    def _make_current(self) -> None:
        """Tell MLflow, whose registry and artifact code looks at settings of the whole process."""
        mlflow = sys.modules.get("mlflow")
        if mlflow and mlflow.get_tracking_uri() != self.uri:
            mlflow.set_tracking_uri(self.uri)
            mlflow.set_registry_uri(self.uri)

    @contextlib.contextmanager
    def alone(self) -> Generator[None]:
        """Keep the other threads and processes of this machine out: for what is looked up first and then made.

        The lock lies beside a database file; for a server, which knows no lock, in the folder of temporary files.

        Raises:
            InputError: no lock can be written there.
        """
        file = Path(f"{self.uri.removeprefix('sqlite:///')}.lock") if self.uri.startswith("sqlite:///") else _server_lock(self.uri)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle = file.open("w")
        except OSError as error:
            raise InputError(f"{file}: cannot write here ({error.strerror}); choose another folder for the MLflow store") from error
        with contextlib.closing(handle):
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    @cached_property
    def experiment_id(self) -> str:
        """The experiment that holds the pipeline's runs; made on first use."""
        return self.experiment_named(self.experiment)

    def experiment_named(self, name: str) -> str:
        """Id of an experiment; made when there is none."""
        found = self.call("look for the experiment", self.client.get_experiment_by_name, name)
        if found:
            return found.experiment_id
        place = str(self.artifacts / re.sub(r"[^\w.-]+", "-", name)) if self.artifacts else None
        try:
            return self.call("make the experiment", self.client.create_experiment, name, place)
        except TrackingError:
            found = self.call("look for the experiment", self.client.get_experiment_by_name, name)
            if not found:
                raise
            return found.experiment_id  # somebody else made it in between

    def call(self, what: str, function: Callable[..., _T], *arguments: Any, **named: Any) -> _T:
        """Call MLflow: within the time limit, again while the server is gone.

        Args:
            what: the deed, for messages: "register the model".
        Raises:
            TrackingError: gone for good, too slow, or refused.
        """
        error: BaseException | None = None
        for pause in self.patience.pauses():
            try:
                return self._timed(what, function, *arguments, **named)
            except BmflowError:
                raise
            except Exception as failure:
                error = failure
                if not is_gone(failure):
                    raise TrackingError(f"MLflow at {self} refused to {what}: {_first_line(failure)}") from failure
            LOG.warning("MLflow at %s does not answer (%s); asking again in %.1f s", self, what, pause)
            time.sleep(pause)
        raise TrackingError(
            f"MLflow at {self} did not answer for {self.patience.gone_s:g} s (to {what}): {_first_line(error)}. Nothing is lost: the outputs "
            "of the stages are on disk; run this stage again when the server is back"
        ) from error

    def _timed(self, what: str, function: Callable[..., _T], *arguments: Any, **named: Any) -> _T:
        """Run in a thread of its own: a call that never returns must not hang the stage."""
        results: list[_T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                self._make_current()
                results.append(function(*arguments, **named))
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work, name=f"mlflow: {what}", daemon=True)
        thread.start()
        thread.join(self.patience.call_s)
        if thread.is_alive():
            raise TrackingError(
                f"MLflow at {self} took longer than {self.patience.call_s:g} s to {what}; nothing is lost: the outputs of the stages are on "
                "disk. Look at the server, then run this stage again (BMFLOW_MLFLOW_CALL_S sets the limit)"
            )
        if errors:
            raise errors[0]
        return results[0]


def is_gone(error: BaseException | None) -> bool:
    """Whether an error says that the server is away or overloaded, so that asking again may help."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "get_http_status_code", lambda: 0)()
        if type(error).__name__ in _GONE_CLASSES or _GONE.search(str(error)) or status in (429, 502, 503, 504):
            return True
        error = error.__cause__ or error.__context__
    return False


def _first_line(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines() if error else []
    return redact(lines[0] if lines else type(error).__name__)[:400]


def _server_lock(uri: str) -> Path:
    return Path(tempfile.gettempdir(), f"bmflow-{os.getuid()}-{hashlib.sha256(uri.encode()).hexdigest()[:16]}.lock")


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable, "")
    try:
        return float(text) if text else default
    except ValueError as error:
        raise InputError(f"{variable}: expected seconds, found {text!r}") from error
