"""Definitions: what survives a round trip, what is refused by name, and what changes a digest."""

from __future__ import annotations

import base64
import dataclasses
import enum
import functools
import importlib
import io
import math
import subprocess
import sys
import textwrap
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_spark import Feedback, scorer
from backfill_spark.errors import ScorerDefinitionError, ScorerLoadError
from backfill_spark.models import ScorerKind, ScorerSpec
from backfill_spark.scorers.stored_code import digest, loading, pickling

LIMIT = 5
WORDS = {"good": 1, "bad": -1}
LOCK = threading.Lock()


def helper(text: str) -> int:
    return len(text) + LIMIT


@functools.lru_cache(maxsize=4)
def cached_helper(text: str) -> int:
    return helper(text)


def factorial(n: int) -> int:
    return 1 if n < 2 else n * factorial(n - 1)


class Counter:
    weight = 2

    def __init__(self, text: str) -> None:
        self.text = text

    def count(self) -> int:
        return helper(self.text) * self.weight


class Mood(enum.Enum):
    GOOD = "good"


@dataclasses.dataclass
class Box:
    size: int = 3


@scorer
def inner_scorer(outputs: Any) -> Any:
    return helper(outputs)


def spec_of(made: pickling.Definition, name: str = "s", **changes: Any) -> ScorerSpec:
    return ScorerSpec(
        name=name,
        version=1,
        digest=made.digest,
        kind=ScorerKind.FUNCTION,
        parameters={},
        definition=made.definition,
        signature=("outputs",),
        sample_rate=1.0,
        **changes,
    )


@pytest.fixture(autouse=True)
def _nothing_loaded() -> None:
    loading._loaded.clear()


def again(function: Any) -> Any:
    return loading.load(spec_of(pickling.dump(function)))


ELSEWHERE = """
import ast, sys
sys.path.append(sys.argv[1])
from backfill_spark.models import ScorerKind, ScorerSpec
from backfill_spark.scorers.stored_code import loading as definition
spec = ScorerSpec("s", 1, "d", ScorerKind.FUNCTION, {}, sys.stdin.read(), ("outputs",), 1.0)
print(definition.load(spec)(ast.literal_eval(sys.argv[2])))
assert not [name for name in sys.modules if name.startswith("tests")]
"""


def elsewhere(function: Any, argument: object, tmp_path: Path) -> str:
    """Call the stored function in a process that has none of these modules; return the printed result."""
    made = pickling.dump(function)
    run = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(Path(__file__).parents[2]), repr(argument)],
        input=made.definition,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


one_line = lambda outputs: len(outputs) * LIMIT  # fmt: skip
first, second = (lambda outputs: 1), (lambda outputs: 2)


def of_one_line(outputs: Any) -> Any: return outputs.upper()  # fmt: skip


def uses_everything(outputs: Any, scale: Any = LIMIT, *, extra: Any = None) -> Any:
    """Docstring."""
    import json

    text = """
    kept
        exactly
    """
    box = Box()
    return [
        helper(outputs),
        cached_helper(outputs),
        factorial(3),
        Counter(outputs).count(),
        Mood.GOOD.value,
        box.size,
        WORDS["good"],
        inner_scorer(outputs),
        math.floor(1.5),
        json.dumps({"a": scale}),
        text,
        extra,
    ]


def uses_class_body(outputs: Any) -> Any:
    class Inner:
        limit = LIMIT

    return Inner.limit


def timed(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return [function(*args, **kwargs), LIMIT]

    return wrapper


@timed
def decorated(outputs):  # type: ignore[no-untyped-def] # as people write it
    return outputs


def closure(limit: Any) -> Any:
    def inside(outputs: Any) -> Any:
        return outputs[:limit]

    return inside


def returns_feedback(outputs: Any) -> Any:
    return Feedback(value=True, rationale=outputs).rationale


FUNCTIONS = [
    one_line,
    first,
    second,
    of_one_line,
    uses_everything,
    uses_class_body,
    decorated,
    closure(2),
    returns_feedback,
    functools.partial(uses_everything, scale=2),
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_gives_the_same_after_a_round_trip(function: Any) -> None:
    assert function("some text") == again(function)("some text")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_gives_the_same_in_a_process_that_lacks_its_module(function: Any, tmp_path: Path) -> None:
    assert str(function("some text")) == elsewhere(function, "some text", tmp_path)


def test_a_function_typed_in_a_repl_survives() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("import math\nK = 4\ndef f(outputs):\n    return math.sqrt(K) + len(outputs)\n", namespace)

    made = pickling.dump(namespace["f"])

    assert made.source_text is None
    assert loading.load(spec_of(made))("ab") == 4.0


def test_a_loaded_function_keeps_its_own_globals() -> None:
    loaded = again(one_line)

    assert loaded.__globals__ is not globals()
    assert loaded("ab") == 10


def test_the_source_is_kept_for_people() -> None:
    text = pickling.dump(decorated).source_text

    assert text is not None
    assert text.startswith("@timed\ndef decorated(outputs):")
    assert pickling.dump(one_line).source_text == "lambda outputs: len(outputs) * LIMIT"


def test_a_scorer_is_loaded_once_a_process() -> None:
    spec = spec_of(pickling.dump(of_one_line))

    assert loading.load(spec) is loading.load(spec)


# --- what cannot travel

OPEN_FILE = open(__file__, encoding="utf-8")  # noqa: PTH123, SIM115
BIG = list(range(4_000_000))


class DataFrame:
    """Stands for pyspark's."""


DataFrame.__module__ = "pyspark.sql.dataframe"
FRAME = DataFrame()


def holds_lock(outputs: Any) -> int:
    with LOCK:
        return 1


def holds_lock_in_helper(outputs: Any) -> Any:
    return holds_lock(outputs)


def holds_file(outputs: Any) -> Any:
    return OPEN_FILE.read()


def holds_frame(outputs: Any) -> Any:
    return FRAME


def holds_much(outputs: Any) -> Any:
    return len(BIG)


def holds_default(outputs: Any, lock: Any = LOCK) -> Any:
    return lock


def holds_deep(outputs: Any, boxes: Any = ({"a": [LOCK]},)) -> Any:
    return boxes


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (holds_lock, ["'holds_lock'", "the global 'LOCK'", "lock"]),
        (holds_lock_in_helper, ["the global 'holds_lock' → the global 'LOCK'"]),
        (holds_file, ["the global 'OPEN_FILE'", "an open file"]),
        (holds_frame, ["the global 'FRAME'", "a Spark DataFrame"]),
        (holds_much, ["MB", "the global 'BIG'", "10 MB"]),
        (holds_default, ["a default", "lock"]),
        (holds_deep, ["the item 'a'", "lock"]),
        (closure(LOCK), ["the enclosing variable 'limit'"]),
    ],
)
def test_what_cannot_travel_is_named(function: Any, words: Any) -> None:
    with pytest.raises(ScorerDefinitionError) as refused:
        pickling.dump(function)

    assert all(word in str(refused.value) for word in words), str(refused.value)


def test_registering_leaves_cloudpickle_as_it_was() -> None:
    from cloudpickle.cloudpickle import list_registry_pickle_by_value

    before = set(list_registry_pickle_by_value())
    pickling.dump(of_one_line)
    with pytest.raises(ScorerDefinitionError):
        pickling.dump(holds_lock)

    assert before == set(list_registry_pickle_by_value())


# --- what cannot be loaded


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no stored definition"),
        ("", "no stored definition"),
        ("%%%", "no base64"),
        (base64.b64encode(b"junk").decode(), "does not name a Python version"),
        (base64.b64encode(f"python {loading.PYTHON_VERSION}\njunk".encode()).decode(), "cannot be loaded"),
        (base64.b64encode(b"python 2.7\njunk").decode(), "registered with Python 2.7"),
        (base64.b64encode(f"python {loading.PYTHON_VERSION}\n".encode() + b"cnowhere\nf\n.").decode(), "'nowhere'"),
        (
            base64.b64encode(f"python {loading.PYTHON_VERSION}\n".encode() + b"(I1\nI2\nt.").decode(),
            "not a function",
        ),
    ],
)
def test_a_broken_definition_is_a_load_error_that_says_why(text: Any, words: str) -> None:
    spec = dataclasses.replace(spec_of(pickling.dump(of_one_line)), definition=text)

    with pytest.raises(ScorerLoadError, match=words):
        loading.load(spec)


def test_a_class_outside_the_closed_table_is_not_made() -> None:
    spec = dataclasses.replace(
        spec_of(pickling.dump(of_one_line)), kind=ScorerKind.BUILTIN, parameters={"class": "os.system"}
    )

    with pytest.raises(ScorerLoadError, match="RegexMatch"):
        loading.load(spec)


# --- digests


def module_from(tmp_path: Path, name: str, text: str) -> Any:
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")
    importlib.invalidate_caches()
    sys.modules.pop(name, None)
    return importlib.import_module(name)


BASE = """
    import json
    K = 3
    WORDS = {"a": 1, "b": 2}
    SET = {"x", "y", "z"}
    class C:
        w = 1
        def go(self):
            return K
    def helper(x):
        return x + 1
    def f(outputs, n=2):
        "doc"
        return helper(len(outputs)) + K + WORDS["a"] + n + len(SET) + C().go()
"""


@pytest.fixture
def digest_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def of(text: str) -> str:
        try:
            return digest.of_function(module_from(tmp_path, "digested", text).f)
        finally:
            sys.modules.pop("digested", None)

    return of


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"doc"', '"another"'),
        ("def f(outputs", "# a comment\n    def f(outputs"),
        ("return x + 1", "return (x  +  1)"),
        ('{"x", "y", "z"}', '{"z", "x", "y"}'),
        ("import json", "import json\n    import os\n    UNUSED = 4"),
        ("def f(outputs", "def same(function): return function\n    @same\n    def f(outputs"),
    ],
)
def test_what_decides_no_answer_leaves_the_digest(digest_of: Any, old: str, new: str) -> None:
    assert old in BASE
    assert digest_of(BASE) == digest_of(BASE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("K = 3", "K = 4"),
        ("K = 3", "K = 3.0"),
        ("K = 3", "K = True"),
        ('{"a": 1, "b": 2}', '{"a": 1, "b": 3}'),
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}'),
        ('{"x", "y", "z"}', '{"x", "y"}'),
        ("return x + 1", "return x + 2"),
        ("n=2", "n=3"),
        ("w = 1", "w = 2"),
        ("return K\n", "return -K\n"),
        ("return helper", "return -helper"),
    ],
)
def test_what_may_decide_an_answer_changes_the_digest(digest_of: Any, old: str, new: str) -> None:
    assert old in BASE
    assert digest_of(BASE) != digest_of(BASE.replace(old, new))


def test_a_helper_module_counts_by_what_is_used_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def of(helper_text: str) -> str:
        module_from(tmp_path, "digested_helper", helper_text)
        user = module_from(
            tmp_path, "digested_user", "import digested_helper\ndef f(outputs): return digested_helper.g(outputs)\n"
        )
        return digest.of_function(user.f)

    base = of("def g(x): return x\ndef other(x): return 1\n")

    assert base == of("def g(x): return x\ndef other(x): return 2\n")
    assert base != of("def g(x): return [x]\ndef other(x): return 1\n")


def test_a_digest_is_the_same_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "digested_there.py"
    path.write_text(textwrap.dedent(BASE), encoding="utf-8")
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(Path(__file__).parents[2])!r}]\n"
        "import digested_there\nfrom backfill_spark.scorers.stored_code import "
        "digest\nprint(digest.of_function(digested_there.f))"
    )

    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    ]

    assert runs[0] == runs[1]
    assert 65 == len(runs[0])


def test_a_digest_does_not_depend_on_registration_of_a_scorer_that_is_used() -> None:
    before = digest.of_function(uses_everything)
    global inner_scorer
    kept = inner_scorer
    try:
        assert kept.function is not None
        inner_scorer = scorer(name="renamed", description="other")(kept.function)
        assert before == digest.of_function(uses_everything)
    finally:
        inner_scorer = kept


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner)
        | st.sets(st.integers() | st.text())
        | st.builds(OrderedDict, st.dictionaries(st.text(), inner))
    ),
    max_leaves=10,
)


@given(values)
def test_a_captured_value_survives_and_has_one_digest(value: Any) -> None:
    function = closure(value)
    made = pickling.dump(function)
    loaded: Any = loading.load(spec_of(made))

    assert digest.shape_of(value) == digest.shape_of(loaded.__closure__[0].cell_contents)
    assert made.digest == digest.of_function(closure(value))


@given(st.integers(), st.integers())
def test_digests_differ_exactly_when_values_do(a: Any, b: Any) -> None:
    assert (a == b) == (digest.of_function(closure(a)) == digest.of_function(closure(b)))


def test_a_cycle_has_a_digest() -> None:
    loop: list[Any] = []
    loop.append(loop)

    assert digest.of_function(closure(loop)) == digest.of_function(closure(loop))


def test_a_memory_file_may_travel() -> None:
    assert again(closure(io.StringIO("text"))).__closure__[0].cell_contents.getvalue() == "text"


def test_a_function_loads_where_only_pyspark_has_cloudpickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Executors may have pyspark, pandas and pyarrow, and nothing else."""
    made = pickling.dump(closure(3))
    for name in [name for name in sys.modules if name.split(".")[0] == "cloudpickle"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [WithoutCloudpickle(), *sys.meta_path])
    loaded = loading.load(spec_of(made))
    assert loaded("abc") == closure(3)("abc")


class WithoutCloudpickle:
    """Finds everything but cloudpickle."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name.partition(".")[0] == "cloudpickle":
            raise ModuleNotFoundError(f"No module named {name!r}", name="cloudpickle")
