"""Replies on disk, shared by runs and processes."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any


class Cache:
    """A table from what was asked to what was replied, in an SQLite file.

    Args:
        file: Where it lies; its folder is made. None for a cache that keeps nothing.
    """

    def __init__(self, file: Path | None) -> None:
        self._connection: sqlite3.Connection | None = None
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(file, timeout=30.0, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")  # readers do not block writers
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)"
            )

    def get(self, question: Any) -> str | None:
        """The reply to ``question``, anything that JSON can hold; None where it was not asked."""
        if self._connection is None:
            return None
        found = self._connection.execute(
            "SELECT reply FROM replies WHERE key = ?", (_key(question),)
        ).fetchone()
        return None if found is None else str(found[0])

    def put(self, question: Any, reply: str) -> None:
        """Keep a reply."""
        if self._connection is not None:
            self._connection.execute(
                "INSERT OR REPLACE INTO replies VALUES (?, ?)", (_key(question), reply)
            )

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()


def _key(question: Any) -> str:
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
