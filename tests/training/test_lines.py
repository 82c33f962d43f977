from mru.training.lines import cut, printable, short


def test_what_a_terminal_would_obey_is_escaped():
    assert printable("a b\n\t\x1b[31m\x07\x00\x85\u202e\u2028\udcff") == (
        r"a b\n\t\x1b[31m\x07\x00\x85\u202e\u2028\udcff"
    )
    assert printable("é日 ∞ 'x'") == "é日 ∞ 'x'"


def test_what_is_long_loses_its_middle():
    assert cut("x" * 20, 20) == "x" * 20
    text = "".join(chr(65 + i % 26) for i in range(1000))
    found = cut(text, 100)
    assert len(found) == 100
    start, end = found.split(" ... ")
    assert text.startswith(start)
    assert text.endswith(end)
    assert min(len(start), len(end)) >= 40


def test_short_values():
    assert short(8) == "8"
    assert short({"a": [1, None]}) == "{'a': [1, None]}"
    assert len(short("\x1b" * 10**6)) == len(short("x" * 61)) == 60
