"""Freed memory is kept, where the C library can be told to."""

import ctypes

import pytest
from tinyseq.backends.memory import keep_memory


def test_memory_is_kept_unless_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Library:
        def mallopt(self, option: int, value: int) -> int:
            calls.append(option)
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("os.confstr", lambda name: "glibc 2.36", raising=False)
    monkeypatch.setenv("TINYSEQ_KEEP_MEMORY", "0")
    keep_memory()
    assert not calls
    monkeypatch.delenv("TINYSEQ_KEEP_MEMORY")
    keep_memory()
    assert calls == [-3, -1, -2]
    monkeypatch.setattr("os.confstr", lambda name: None, raising=False)
    keep_memory()
    assert len(calls) == 3
