"""Which language a browser asks for, and that we have the same to say in each."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from addons.words import LANGUAGES, language


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        pytest.param("", "en", id="nothing said"),
        pytest.param("uk", "uk", id="one"),
        pytest.param("uk-UA", "uk", id="a country's"),
        pytest.param("UK-ua", "uk", id="no case"),
        pytest.param("es-419,es;q=0.9,en;q=0.8", "es", id="a region's"),
        pytest.param("fr-FR,fr;q=0.9,es;q=0.5,en;q=0.4", "es", id="the best that we have"),
        pytest.param("en;q=0.3, uk;q=0.8", "uk", id="not the first but the dearest"),
        pytest.param("es,uk", "es", id="the first of equals"),
        pytest.param("uk;q=0,es;q=0.1", "es", id="refused"),
        pytest.param("uk ; Q = 0.5", "uk", id="white space"),
        pytest.param("*", "en", id="any"),
        pytest.param("de", "en", id="none of ours"),
        pytest.param("uk;q=high,es;q=0.2", "es", id="no number"),
        pytest.param("uk;q=nan,es;q=0.2", "es", id="a float's word"),
        pytest.param("uk;q=1e9,es;q=0.2", "es", id="a float's power"),
        pytest.param("uk;q=1.9,es", "uk", id="more than 1 is 1"),
        pytest.param("ukulele", "en", id="the beginning of another word"),
        pytest.param("de," * 500 + "uk", "en", id="beyond what a person chooses"),
        pytest.param("x" * 1023 + ",uk", "en", id="beyond what is read"),
        pytest.param("de-" + "a" * 1018 + ",es,uk", "en", id="cut in the middle"),
    ],
)
def test_a_browser_gets_the_language_it_likes_best(accepted: str, expected: str) -> None:
    assert language(accepted) == expected


@given(st.text(max_size=200) | st.text(alphabet="uke-s;q=01.,* \t", max_size=60))
@example("uk;" * 400)
@example("a-" * 500)
def test_whatever_is_asked_for_is_answered_in_a_language_of_ours(accepted: str) -> None:
    assert language(accepted) in LANGUAGES


def test_every_language_says_as_much_as_english() -> None:
    for name, words in LANGUAGES.items():
        assert words.leads.keys() == LANGUAGES["en"].leads.keys(), name
        assert all(all(texts) for texts in words.leads.values())
