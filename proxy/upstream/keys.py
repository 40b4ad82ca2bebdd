"""Upstream keys of tenants' own, by where they are found: the database names the place, and never holds a key."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG

from proxy.errors import KeyMissing

log = logging.getLogger(__name__)

#: A file is looked at so often at most. It is read again when it was changed or replaced.
_STALE_S = 1.0
_BYTES_MAX = 8 * 1024
_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(slots=True)
class _File:
    looked_at: float
    version: tuple[int, int, int]
    secret: str = field(repr=False)


class UpstreamKeys:
    """Finds the secret that a reference (`env:NAME` or `file:PATH`) names. Keeps those of files, while they stand."""

    def __init__(
        self, environment: Mapping[str, str] = os.environ, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._environment = environment
        self._monotonic = monotonic
        self._files: dict[str, _File] = {}
        self._missing: dict[str, str] = {}

    def secret(self, reference: str) -> str:
        """Raises `KeyMissing`, and logs once why, where there is nothing that can be a key."""
        kind, _, name = reference.partition(":")
        try:
            secret = self._of_file(name) if kind == "file" else self._environment.get(name, "").strip()
            if not _TOKEN.fullmatch(secret):
                raise ValueError("it holds no key" if secret else "it is empty or not there")
        except (OSError, ValueError) as error:
            self._files.pop(name, None)
            trouble = (error.strerror if isinstance(error, OSError) else "") or str(error)
            if self._missing.get(reference) != trouble:
                self._missing[reference] = trouble
                log.error(
                    "a tenant's upstream key cannot be found at %s, and its requests fail: %s", reference, trouble
                )
            raise KeyMissing(
                "The upstream key of your account cannot be found. Whoever runs this service must mend it."
            ) from None
        if self._missing.pop(reference, None):
            log.info("the upstream key at %s is found again", reference)
        return secret

    def _of_file(self, path: str) -> str:
        now = self._monotonic()
        known = self._files.get(path)
        if known is not None and now - known.looked_at < _STALE_S:
            return known.secret
        found = Path(path).stat()
        if not S_ISREG(found.st_mode):
            raise ValueError("it is not a file")
        version = (found.st_mtime_ns, found.st_ino, found.st_size)
        if known is None or known.version != version:
            known = _File(now, version, _read(path))
            self._files[path] = known
        known.looked_at = now
        return known.secret


def _read(path: str) -> str:
    with Path(path).open("rb") as file:
        return file.read(_BYTES_MAX).decode("ascii", "replace").strip()
