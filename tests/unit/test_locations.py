"""Table names and paths, without a JVM."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_spark.errors import NameRefusedError
from backfill_spark.locations import Location


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
