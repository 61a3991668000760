"""What two hypotheses agree on stays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from livekit.plugins.whisper.agreement import Agreement

TEXTS = st.lists(st.lists(st.sampled_from(["I", "eye", "saw,", "saw", "a", "ship."]), max_size=6))


def test_first_hypothesis_is_shown_and_nothing_of_it_is_stable() -> None:
    agreement = Agreement()
    assert agreement.add("He might") == "He might"
    assert agreement.stable == ""


def test_what_two_in_a_row_say_is_stable() -> None:
    agreement = Agreement()
    agreement.add("He might have")
    assert agreement.add("He might even have been") == "He might even have been"
    assert agreement.stable == "He might"
    assert agreement.add("He might even have been made") == "He might even have been made"
    assert agreement.stable == "He might even have been"


def test_what_is_stable_does_not_change_any_more() -> None:
    agreement = Agreement()
    agreement.add("I saw a")
    agreement.add("I saw a ship")
    assert agreement.add("Eyes are shut now") == "I saw a now"
    assert agreement.stable == "I saw a"


def test_case_and_punctuation_are_no_disagreement() -> None:
    agreement = Agreement()
    agreement.add("So. it goes")
    agreement.add("so, It goes on")
    assert agreement.stable == "so, It goes"


def test_scripts_without_spaces_agree_letter_by_letter() -> None:
    agreement = Agreement()
    agreement.add("今日は天")
    assert agreement.add("今日は天気がいい") == "今日は天気がいい"
    assert agreement.stable == "今日は天"


@given(TEXTS)
def test_stable_only_grows_and_begins_what_is_shown(texts: list[list[str]]) -> None:
    agreement = Agreement()
    before = ""
    for words in texts:
        shown = agreement.add(" ".join(words))
        assert agreement.stable.startswith(before)
        assert shown.startswith(agreement.stable)
        before = agreement.stable
