"""Table names and paths, without a JVM."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_spark.errors import NameRefusedError
from backfill_spark.settings.locations import Location, absolute, read_text


def test_no_injection_is_a_table_name(shared: Path) -> None:
    """Every text of the corpus is refused as a name, and as a path or name but for the one plain path."""
    names = json.loads((shared / "corpora/name_injections.json").read_text(encoding="utf-8"))["names"]
    for name in names:
        with pytest.raises(NameRefusedError):
            Location.of_name(name)
        if name != "file:/etc/passwd":
            with pytest.raises(NameRefusedError):
                Location.parse(name)
        with pytest.raises(NameRefusedError):
            Location.parse(name, roots=["/data"])


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("traces", "`traces`"),
        ("main.traces", "`main`.`traces`"),
        ("Cat.s_1._t", "`Cat`.`s_1`.`_t`"),
        ("a" * 128, f"`{'a' * 128}`"),
        ("/data/my traces", "delta.`/data/my traces`"),
        ("./traces", "delta.`./traces`"),
        ("s3a://bucket/traces", "delta.`s3a://bucket/traces`"),
        ("file:/tmp/traces", "delta.`file:/tmp/traces`"),
        ("/data/a..b/c", "delta.`/data/a..b/c`"),
    ],
)
def test_a_location_is_quoted_for_sql(text: str, quoted: str) -> None:
    """A text with a slash or a scheme is a path, any other a name; both are shown as given."""
    location = Location.parse(text)
    assert (text, quoted) == (location.shown, location.quoted)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a.",
        ".a",
        "a..b",
        "1a",
        "a-b",
        "a\n",
        "ａ",
        "a" * 129,
        "a.b.c.d",
        "parquet.x",
        "DELTA.t",
        "text.secret",
    ],
)
def test_a_bad_name_is_refused(text: str) -> None:
    """Names are one to three parts of ASCII letters, digits and underscores, and no `format.path`."""
    with pytest.raises(NameRefusedError):
        Location.of_name(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " /a",
        "/a\n",
        "/a/..",
        "../a",
        "/a/%2e%2e/b",
        "/a/%252E./b",
        "/a/{b,..}/c",
        "a\\..\\b",
        "/a`b",
        "/a%60b",
        "/a\x00b",
    ],
)
def test_a_bad_path_is_refused(text: str) -> None:
    """Control characters, backticks and `..` are refused in any spelling."""
    with pytest.raises(NameRefusedError):
        Location.of_path(text)


@pytest.mark.parametrize(
    ("path", "is_inside"),
    [
        ("{root}", True),
        ("{root}/a/b", True),
        ("file://{root}/a", True),
        ("file:{root}/a", True),
        ("{root}er", False),
        ("file:/etc/passwd", False),
        ("{root}/link/x", False),
        ("{root}/l%69nk/x", False),
        ("{root}/*", False),
        ("s3a://{root}/a", False),
        ("s3a://bucket/data/t", True),
        ("s3a://bucket/database", False),
        ("s3a://other/data/t", False),
        ("S3A://bucket//data/t", True),
    ],
)
def test_roots_hold_after_normalising(tmp_path: Path, path: str, is_inside: bool) -> None:
    """Schemes, symlinks, doubled slashes and percent signs do not lead out of the roots."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to("/etc")
    roots = [str(root), "s3a://bucket/data"]
    text = path.format(root=root)
    if is_inside:
        assert text == Location.of_path(text, roots).path
    else:
        with pytest.raises(NameRefusedError):
            Location.of_path(text, roots)


@given(st.text(max_size=40), st.lists(st.sampled_from(["/", "data", "s3a://b/"]), max_size=2))
def test_any_text_is_refused_or_safe_to_quote(text: str, roots: list[str]) -> None:
    """No text raises anything else, and none can close its own backtick."""
    try:
        location = Location.parse(text, roots)
    except NameRefusedError:
        return
    assert "`" not in location.shown
    assert location.quoted.count("`") % 2 == 0


def test_a_location_is_one_of_the_two() -> None:
    """The constructor checks too, so that no unchecked location exists."""
    for values in ({}, {"path": "/a", "name": "a"}, {"name": "a`b"}, {"path": "/a/../b"}):
        with pytest.raises(NameRefusedError):
            Location(**values)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("traces", "/here/traces"),
        ("./a/./b//c/", "/here/a/b/c"),
        ("/x/./c/", "/x/c"),
        ("//x", "/x"),
        ("../x", "/x"),
        ("./../x/", "/x"),
        ("..", "/"),
        (".", "/here"),
        ("./", "/here"),
        ("~/a", "/me/a"),
        ("/100% a=b #1/ü", "/100% a=b #1/ü"),
        ("a%20b", "/here/a%20b"),
        ("file:/x", "file:/x"),
        ("file:///x/", "file:/x"),
        ("FILE:////x/./y", "file:/x/y"),
        ("file://localhost/x", "file:/x"),
        ("file://LocalHost/x", "file:/x"),
        (Path("/a b/é#?%=/x").as_uri(), "file:/a b/é#?%=/x"),
        ("file:/100% sure", "file:/100% sure"),
        ("s3a://bucket/a%20b/", "s3a://bucket/a%20b/"),
        ("abfss://$web@account/x", "abfss://$web@account/x"),
    ],
)
def test_a_path_is_made_absolute(monkeypatch: pytest.MonkeyPatch, text: str, place: str) -> None:
    """From the folder given; file URIs lose their percent signs, which Spark would take as they stand."""
    monkeypatch.setenv("HOME", "/me")
    assert place == absolute(text, "/here")
    assert place == absolute(absolute(text, "/here"), "/elsewhere")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("file://host/x", "is on the machine 'host'"),
        ("file:x", "without a whole path"),
        ("file:", "without a whole path"),
        ("file://localhost", "without a whole path"),
        ("file:/a%FFb", "no UTF-8"),
        ("file:/a%2e%2e/..", "'..' part"),
        ("file:/a/%2e%2E/b", "'..' part"),
        ("a/../x", "'..' part"),
        ("../a/../x", "'..' part"),
        ("../%2e%2e/x", "'..' part"),
        ("", "is empty"),
        (" x", "begins or ends with a blank"),
        ("$HOME/x", "environment variable"),
        ("/a/${USER}/x", "environment variable"),
        ("~nobody-of-this-name/x", "user who is not known"),
    ],
)
def test_a_path_that_means_no_one_place_is_refused(text: str, why: str) -> None:
    """By name: never a folder called `~` or `$HOME`, never this machine's folder for another machine's."""
    with pytest.raises(NameRefusedError, match=re.escape(why)):
        absolute(text, "/here")


def test_a_relative_path_wants_a_working_directory() -> None:
    """One that was removed is said; whole paths do not need it."""
    assert absolute("/x", "") == "/x"
    with pytest.raises(NameRefusedError, match="working directory is gone"):
        absolute("x", "")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_is_read_by_its_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    """The mark is no part of the text."""
    (tmp_path / "f").write_text("é = 1", encoding=encoding)
    assert read_text(tmp_path / "f") == "é = 1"
