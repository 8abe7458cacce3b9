"""What a conversation asks the memory."""

from __future__ import annotations

import pytest

from models.scope.conversation import asks


@pytest.mark.parametrize(
    ("messages", "alone"),
    [
        (["Where is Acme Rockets?", "And who runs it?"], ["who runs Acme Rockets?"]),
        (["Tell me about Acme Rockets.", "Who runs it?"], ["who runs Acme Rockets?"]),
        (["Who runs Acme?", "Where is it based?"], ["where is Acme based?"]),
        (["Where is Acme?", "What is two and two?"], []),
        (["Who runs Acme?"], []),
        (["Who runs Acme?", "Thanks!"], []),
        (["Who runs Acme?", ""], []),
    ],
)
def test_a_message_that_refers_back_is_made_to_stand_alone(messages: list[str], alone: list[str]) -> None:
    assert asks(messages) == [messages[-1], *alone]


def test_subjects_are_looked_for_from_the_last_message_back() -> None:
    found = asks(["Who runs Acme?", "Where is Bolt?", "Who owns it?"])
    assert found == ["Who owns it?", "who owns Bolt?", "who owns Acme?"]
