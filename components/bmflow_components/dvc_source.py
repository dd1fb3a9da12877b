"""A folder of a DVC repository at a revision: what it is, and a copy of it."""

# pyright: reportMissingImports=false
# (DVC belongs to the extra `dvc`)

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmflow.errors import InputError

from bmflow_components import cache
from bmflow_components.tracking.redact import redact
from bmflow_components.uri import TransferError


@dataclass(frozen=True)
class DvcFolder:
    """Where the data lies.

    Attributes:
        repo: folder (absolute) or Git URL.
        rev: tag, branch or commit; empty for the working tree of a local repository, the main branch of a remote one.
    """

    repo: str
    rev: str
    path: str

    def describe(self) -> dict[str, Any]:
        """Commit and DVC's digest of the content; the digest of the files themselves where Git keeps them.

        Raises:
            InputError: no such repository, revision or path.
        """
        system = self._open()
        info = self._info(system)
        md5 = str(info.get("md5") or "")
        local = Path(self.repo, self.path)
        content = md5 or ("" if self.rev or not local.exists() else cache.digest(local))
        return {
            "kind": "dvc", "repo": redact(self.repo), "rev": self.rev, "path": self.path, "commit": str(system.repo.get_rev()),
            "md5": content, "workspace": not self.rev and local.exists(),
        }  # fmt: skip

    def fetch(self, target: Path) -> None:
        """Copy the folder to a new local one.

        Raises:
            InputError: no such repository, revision or path.
            TransferError: the remote cannot be read.
        """
        system = self._open()
        self._info(system)
        try:
            system.get(self.path, str(target), recursive=True)
        except Exception as error:  # remotes have classes of their own
            hint = "is the data pushed to the remote (dvc push), and are its credentials in the environment?"
            raise TransferError(f"{self}: reading failed ({type(error).__name__}: {redact(str(error))}); {hint}") from error

    def __str__(self) -> str:
        return redact(f"{self.repo}, {self.path}" + (f" at {self.rev}" if self.rev else ""))

    def _open(self) -> Any:
        try:
            from dvc.api import DVCFileSystem
            from dvc.repo import Repo
            from dvc.scm import RevError
        except ImportError as error:
            raise InputError(f"{self}: DVC is not installed ({error}); install the extra `dvc`") from error
        try:
            # A revision of a folder is read without writing to it; DVC's own way there takes a lock first.
            whole = not self.rev or not Path(self.repo).is_dir()
            system = DVCFileSystem(self.repo, rev=self.rev or None) if whole else DVCFileSystem(Repo(self.repo, rev=self.rev))
            _ = system.repo  # opened when first asked for
            return system
        except RevError as error:
            raise InputError(f"{self}: the repository has no revision '{self.rev}' ({redact(str(error))})") from error
        except Exception as error:  # DVC, scmrepo and the Git libraries under it have classes of their own
            text = f"{type(error).__name__}: {redact(str(error))}"
            if re.match(r"^(https?|ssh|git)://", self.repo):
                raise TransferError(f"{self}: cannot be read ({text})") from error
            if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES):
                raise InputError(
                    f"{self}: DVC takes a lock in a working tree and may not here ({text}); name a revision with --rev"
                ) from error
            raise InputError(f"{self}: no DVC repository ({text})") from error

    def _info(self, system: Any) -> dict[str, Any]:
        try:
            info = system.info(self.path)
        except FileNotFoundError as error:
            raise InputError(f"{self}: the repository has no such path at that revision") from error
        except Exception as error:  # a broken dvc.yaml at the revision, for one
            raise InputError(f"{self}: cannot be read ({type(error).__name__}: {redact(str(error))})") from error
        if info.get("type") != "directory":
            raise InputError(f"{self}: is a {info.get('type')}; expected a folder with images/ and annotations/")
        return dict(info)
