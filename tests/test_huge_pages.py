"""A command starts anew to have its memory in huge pages: once, as it was given, and only where that helps."""

import os
import subprocess
import sys

import pytest

from jaxft import huge_pages

CODE = """
import os, sys
from pathlib import Path
from jaxft import huge_pages
print("started", os.getpid(), sys.argv[1:], sys.flags.utf8_mode, flush=True)
huge_pages.ENABLED = Path(sys.argv[1])
huge_pages.start_with_huge_pages()
print("goes on", os.environ.get(huge_pages.VARIABLE))
"""
WORDS = {"always [madvise] never": 2, "[always] madvise never": 1, "always madvise [never]": 1}


@pytest.mark.skipif(
    sys.platform != "linux" or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""), reason="not Linux with glibc"
)
@pytest.mark.parametrize("enabled", WORDS)
def test_a_command_starts_anew_once_and_as_it_was_given(tmp_path, enabled):
    (tmp_path / "a file").write_text(f"{enabled}\n")
    environment = {key: value for key, value in os.environ.items() if key != huge_pages.VARIABLE}
    command = [sys.executable, "-X", "utf8", "-c", CODE, str(tmp_path / "a file"), "two words", ""]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    *starts, last = done.stdout.splitlines()
    assert len(starts) == WORDS[enabled]
    assert len(set(starts)) == 1  # The same process, the same words.
    assert last == f"goes on {huge_pages.TUNABLE if len(starts) == 2 else None}"


def test_a_user_s_own_settings_and_other_systems_are_left_alone(monkeypatch, tmp_path):
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "ENABLED", tmp_path / "enabled")
    monkeypatch.delenv(huge_pages.VARIABLE, raising=False)
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.35")
    assert huge_pages.of_use()
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.34")
    assert not huge_pages.of_use()
    monkeypatch.setattr(os, "confstr", lambda name: None)
    assert not huge_pages.of_use()
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.35")
    monkeypatch.setattr(huge_pages, "ENABLED", tmp_path / "missing")
    assert not huge_pages.of_use()
    monkeypatch.setattr(huge_pages, "ENABLED", tmp_path / "enabled")
    monkeypatch.setenv(huge_pages.VARIABLE, "glibc.malloc.check=3")
    assert not huge_pages.of_use()
