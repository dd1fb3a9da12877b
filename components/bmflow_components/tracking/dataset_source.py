"""Datasets under DVC as MLflow knows them: `dvc://<path>?repo=<repository>&rev=<revision>&md5=<digest>`.

MLflow finds the class through the entry point group `mlflow.dataset_source`.
"""

# pyright: reportMissingImports=false
# (MLflow and DVC belong to extras)

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode

from bmflow.errors import InputError
from mlflow.data.dataset_source import DatasetSource

from bmflow_components.tracking.redact import redact

SCHEME = "dvc://"


@dataclass(frozen=True)
class DvcDatasetSource(DatasetSource):
    """A path that DVC tracks, at a revision.

    Attributes:
        path: inside the repository.
        repo: folder or Git URL of the repository; empty for the current folder.
        rev: Git commit, tag or branch; empty for the working tree.
        md5: DVC's digest of the content, empty when not known.
    """

    path: str
    repo: str = ""
    rev: str = ""
    md5: str = ""

    @property
    def uri(self) -> str:
        """The `dvc://` address, without passwords."""
        query = {name: value for name, value in (("repo", redact(self.repo)), ("rev", self.rev), ("md5", self.md5)) if value}
        return SCHEME + quote(self.path) + (f"?{urlencode(query)}" if query else "")

    @classmethod
    def parse(cls, uri: str) -> DvcDatasetSource:
        """Read a `dvc://` address.

        Raises:
            InputError: no path, or something else in the query than repo, rev and md5.
        """
        path, _, query = uri.removeprefix(SCHEME).partition("?")
        values = parse_qs(query, keep_blank_values=True)
        if not uri.startswith(SCHEME) or not path or set(values) - {"repo", "rev", "md5"}:
            raise InputError(f"{redact(uri)}: expected dvc://<path>?repo=<repository>&rev=<revision>&md5=<digest>")
        return cls(unquote(path), **{name: found[0] for name, found in values.items()})

    def load(self, dst_path: str | None = None) -> str:
        """Copy the content to a folder (a new temporary one by default) and return its path.

        Raises:
            InputError: DVC is not installed, or there is no such repository, revision or path.
        """
        try:
            from dvc.api import DVCFileSystem
        except ImportError as error:
            raise InputError(f"{self.uri}: DVC is not installed ({error}); install the extra `dvc`") from error
        target = Path(dst_path or tempfile.mkdtemp(prefix="bmflow-dvc-")) / Path(self.path).name
        try:
            DVCFileSystem(self.repo or None, rev=self.rev or None).get(self.path, str(target), recursive=True)
        except Exception as error:  # DVC, Git and the remotes each have classes of their own
            raise InputError(f"{self.uri}: cannot be read ({type(error).__name__}: {redact(str(error))})") from error
        return str(target)

    @staticmethod
    def _get_source_type() -> str:
        return "dvc"

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return isinstance(raw_source, str) and raw_source.startswith(SCHEME)

    @classmethod
    def _resolve(cls, raw_source: Any) -> DvcDatasetSource:
        return cls.parse(raw_source)

    def to_dict(self) -> dict[str, Any]:
        """The fields and the address, without passwords."""
        return {**asdict(self), "repo": redact(self.repo), "uri": self.uri}

    @classmethod
    def from_dict(cls, source_dict: dict[Any, Any]) -> DvcDatasetSource:
        """The source of a dictionary made by `to_dict`."""
        return cls(**{name: source_dict.get(name, "") for name in ("path", "repo", "rev", "md5")})
