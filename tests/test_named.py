"""What a command line names: files, folders, patterns, lists."""

import os
from pathlib import Path

import pytest

from jaxft.data.named import find_images
from jaxft.errors import UserError

FILES = ("b.jpg", "a.PNG", "sub/c.webp", "sub/deep/d.tiff", "notes.txt", ".hidden.jpg", ".cache/e.jpg", "empty/x.gif")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of empty files, in which the command runs."""
    for name in FILES:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


IN_FOLDER = ["photos/a.PNG", "photos/b.jpg", "photos/sub/c.webp", "photos/sub/deep/d.tiff"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["photos"], IN_FOLDER),
        (["photos/"], IN_FOLDER),
        (["./photos"], [f"./{name}" for name in IN_FOLDER]),
        (["photos/notes.txt", "photos/.hidden.jpg"], ["photos/notes.txt", "photos/.hidden.jpg"]),
        (["photos/*"], [*IN_FOLDER[:2], "photos/notes.txt", *IN_FOLDER[2:]]),
        (["photos/**/*.[jw]*"], ["photos/b.jpg", "photos/sub/c.webp"]),
        (["photos/sub/deep", "photos"], [IN_FOLDER[3], *IN_FOLDER[:3]]),
        (["photos/b.jpg", "./photos/../photos/b.jpg", "photos"], ["photos/b.jpg", *IN_FOLDER[:1], *IN_FOLDER[2:]]),
        (["photos/empty", "photos/sub/deep"], IN_FOLDER[3:]),
    ],
)
def test_words(here, words, found):
    assert find_images(words) == found


def test_home_is_found_in_quotes_too(here):
    assert find_images(["~/photos/*.jpg"]) == [str(here / "photos/b.jpg")]


def test_a_file_called_like_a_pattern_is_itself(here):
    (here / "[ab]*.jpg").touch()
    assert find_images(["[ab]*.jpg"]) == ["[ab]*.jpg"]


def test_links_are_followed_and_a_circle_ends(here):
    (here / "photos/sub/up").symlink_to(here / "photos")
    (here / "photos/linked.jpg").symlink_to(here / "photos/b.jpg")
    (here / "photos/broken.jpg").symlink_to(here / "nothing")
    (here / "photos/more").symlink_to(here / "elsewhere")
    (here / "elsewhere").mkdir()
    (here / "elsewhere/z.png").touch()
    found = ["a.PNG", "b.jpg", "broken.jpg", "linked.jpg", "more/z.png", "sub/c.webp", "sub/deep/d.tiff"]
    assert find_images(["photos"]) == [f"photos/{name}" for name in found]


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        (b"photos/b.jpg\nphotos/notes.txt\n", ["photos/b.jpg", "photos/notes.txt"]),
        (b"photos/b.jpg\r\n\r\ngone.jpg", ["photos/b.jpg", "gone.jpg"]),
        (b"photos/b.jpg\0two\nlines.jpg\0", ["photos/b.jpg", "two\nlines.jpg"]),
        (b"photos\nphotos/b.jpg\n", IN_FOLDER),
        (b"\xff.jpg\n", [os.fsdecode(b"\xff.jpg")]),
        (b"*.jpg\n", ["*.jpg"]),
    ],
)
def test_a_list(here, listed, found):
    assert find_images(["-"], listed) == found


def test_a_list_among_words(here):
    assert find_images(["photos/b.jpg", "-", "photos/sub"], b"photos/notes.txt") == [
        "photos/b.jpg",
        "photos/notes.txt",
        *IN_FOLDER[2:],
    ]


def test_a_folder_that_is_left_out(here):
    assert find_images(["photos"], leave_out=Path("photos/sub")) == IN_FOLDER[:2]
    assert find_images(["photos"], leave_out=Path("photos/nothing")) == IN_FOLDER
    assert find_images(["photos/sub/c.webp"], leave_out=Path("photos/sub")) == IN_FOLDER[2:3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photos", "photso"], "^photso: no such file or folder. Pass photographs, folders of them, patterns such as"),
        (["photos/*.bmp"], r"^photos/\*.bmp: matches nothing. Pass"),
        (["https://example.org/a.jpg"], "^https://example.org/a.jpg: an address, which is not fetched. Download it"),
        (["photos/empty"], r"^no image in photos/empty: pass photographs, or folders that hold some \(.jpg .jpeg"),
        (["-"], "^no image: standard input is empty"),
        (["a\nb"], r"^a\\nb: no such file"),
    ],
)
def test_mistakes(here, words, message):
    with pytest.raises(UserError, match=message):
        find_images(words)


def test_an_address_in_a_list(here):
    with pytest.raises(UserError, match="s3://bucket/a.jpg: an address"):
        find_images(["-"], b"photos/b.jpg\ns3://bucket/a.jpg\n")


def test_a_folder_that_cannot_be_read(here, monkeypatch):
    def scandir(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"^photos: cannot be read \(Permission denied\). Mend its permissions."):
        find_images(["photos"])
