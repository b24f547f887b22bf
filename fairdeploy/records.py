"""Records: frozen, digested, written atomically.

Everything that goes to disk is a `Record`. Its digest is the SHA-256 of its canonical JSON (RFC 8785), so
that a record can name its parents and a verdict cannot be attached to another file.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any, Self

import rfc8785
from pydantic import BaseModel, ConfigDict, ValidationError

from fairdeploy.errors import IntegrityError


class Record(BaseModel):
    """Base of all records: frozen, unknown keys refused, NaN and infinity refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, as 64 hexadecimal digits."""
        return digest(self.model_dump(mode="json"))

    def save(self, path: Path) -> None:
        """Write the record as indented JSON in the order of its fields, atomically."""
        import json

        text = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False)
        write_atomic(path, (text + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a record that `save` wrote.

        Raises
        ------
        IntegrityError
            If the file is missing, is not JSON or does not follow the schema.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise IntegrityError(f"{path}: not a valid {cls.__name__} record ({error})") from error


def canonical_json(value: Any) -> bytes:
    """Return the canonical JSON of plain data (RFC 8785): sorted keys, shortest numbers, UTF-8."""
    return rfc8785.dumps(value)


def digest(value: Any) -> str:
    """Return the SHA-256 of plain data's canonical JSON, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
