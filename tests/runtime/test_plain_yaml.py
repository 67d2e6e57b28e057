import pytest

from sop.runtime.plain_yaml import MAX_CHARACTERS, parse_yaml, yaml_text

# Ten times as many values in each line as in the one above.
ALIASES = "a: &a [1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{above}'] * 10)}]\n"
    for above, name in zip("abcdefghijk", "bcdefghijkl", strict=True)
)
MERGES = "a: &a {x: 1, y: 2}\n" + "".join(
    f"{name}: &{name} {{<<: [*{above}, *{above}]}}\n"
    for above, name in zip("abcdefghijklmnopqr", "bcdefghijklmnopqrs", strict=True)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1\nb: [x, 2.5, null, true]", {"a": 1, "b": ["x", 2.5, None, True]}),
        ("a: 1e-3", {"a": 0.001}),
        ("a: 2020-12-15", {"a": "2020-12-15"}),
        ("a: 2020-13-45", {"a": "2020-13-45"}),
        ("a: &x {b: 1}\nc: {<<: *x, d: 2}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
        ("a: '[[['", {"a": "[[["}),
        ("", None),
    ],
)
def test_values(text: str, value: object) -> None:
    assert parse_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\nb: " + "1" * 5000, "line 2: '1111"),
        ("a: 0x" + "f" * 50_000, "63 bits"),
        (f"a: {2**63}", "line 1: '9223372036854775808' is not an integer of at most 63 bits"),
        ("a: !!int abc", "line 1: 'abc' is not an integer"),
        ("a: !!int ''", "line 1: '' is not an integer"),
        ("a: !!float abc", "line 1: 'abc' is not a number"),
        ("a: !!bool 3", "line 1: '3' is not true or false"),
        ("a: " + "[" * 3000, "nested"),
        ("a: " + "{b: " * 3000, "nested"),
        ("- " * 2000, "nested"),
        (ALIASES, "aliases expand to more than 100000 values"),
        (MERGES, "aliases expand to more than 100000 values"),
        ("a: &x [*x]", "aliases expand to more than 100000 values"),
        ("a: &x {b: *x}", "aliases expand to more than 100000 values"),
        ("a: *x", "line 1: found undefined alias 'x'"),
        ("a: !!binary aGk=", "line 1: the tag tag:yaml.org,2002:binary is not allowed"),
        ("a: !!set {b}", "line 1: the tag tag:yaml.org,2002:set is not allowed"),
        ("a: !!python/name:os.getcwd", "os.getcwd is not allowed"),
        ("a: \x1b[31m", "special characters are not allowed"),
        ("a: b\na: c", 'line 2: found duplicate key "a"'),
        ("x" * (MAX_CHARACTERS + 1), "longer than 1000000 characters"),
    ],
    ids=lambda text: text[:12],
)
def test_text_that_is_refused_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_yaml(text)
    assert reason in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 200


def test_values_in_messages() -> None:
    endless: list[object] = [1]
    endless.append(endless)
    shown = {
        "null": None,
        "true": True,
        "3": 3,
        "0.5": 0.5,
        ".inf": float("inf"),
        "-.inf": float("-inf"),
        ".nan": float("nan"),
        "'10'": "10",
        r"'a\n\x1b[31m'": "a\n\x1b[31m",
        "[1, 'x', null]": [1, "x", None],
        "{a: {b: false}}": {"a": {"b": False}},
        "an integer of 40000 bits": 2**40000 - 1,
        "[1, [1, [1, ...]]]": endless,
    }
    assert {yaml_text(value): value for value in shown.values()} == shown
    assert len(yaml_text([["x" * 10_000] * 10_000])) < 100
