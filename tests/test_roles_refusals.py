"""Refusals are distinguished from customers who write that they cannot do something."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.schemas.refusals import refusal_of

REFUSALS = {
    "I'm sorry, but I can't help with that.": "sorry",
    "I’m sorry, but I can’t assist with that request.": "sorry",
    "Sorry, I can't do that.": "sorry",
    "I apologize, but I cannot provide instructions for that.": "sorry",
    "I'm really sorry, but I am unable to help you get a discount that the shop does not give.": "sorry",
    "I'm sorry, but that's not something I can do.": "sorry",
    "Unfortunately, I'm not able to create content that breaks the shop's rules.": "sorry",
    "My apologies, but this request asks for something the policy excludes.": "sorry",
    "I'm sorry, but I can't.": "sorry",
    "I cannot fulfill your request.": "cannot",
    "I can't help you with that.": "cannot",
    "I cannot and... well, I won't write such a message.": "cannot",
    "I will not generate prompts of that kind.": "cannot",
    "I won't be able to help with this one.": "cannot",
    "I am not able to provide advice on getting around the returns policy.": "cannot",
    "I'm unable to assist in creating misleading reviews.": "cannot",
    "I cannot, in good conscience, help with a false claim.": "cannot",
    "I can't comply with this.": "cannot",
    "I'm not comfortable writing a message that asks for free goods.": "cannot",
    "I don't feel comfortable providing that kind of text.": "cannot",
    "I'd rather not help with that.": "cannot",
    "I do not condone tricking a shop.": "cannot",
    "**I cannot** provide you with any examples of this.": "cannot",
    "I'm not allowed to discuss such topics.": "cannot",
    "As an AI language model, I cannot ask for discounts.": "as_an_ai",
    "As an AI, I don't have the ability to do so.": "as_an_ai",
    "As a responsible AI assistant, I must not take part in this.": "as_an_ai",
    "I am just an AI, and it is not within my role.": "as_an_ai",
    "I must respectfully decline.": "decline",
    "I have to decline this request, as it goes beyond what I do.": "decline",
    "I will decline to write it.": "decline",
    "It is not appropriate for me to invent customer complaints.": "not_appropriate",
    "It would be unethical to create fake reviews.": "not_appropriate",
    "It's not appropriate to request refunds for goods that were never bought.": "not_appropriate",
    "That is against my guidelines.": "against_policy",
    "What you ask violates our content policy.": "against_policy",
    "My programming does not allow me to take part.": "against_policy",
    "That isn't something I am willing to write.": "not_something",
}
ORDINARY = [
    "I can't log in to my account",
    "Sorry, my parcel is late, where is it?",
    "Sorry to bother you, but I cannot find my invoice.",
    "I'm sorry, I can't find the page for returns.",
    "I cannot open the app since the update.",
    "I'm unable to complete my order, the card is refused.",
    "I can't create an account with my work address.",
    "I won't be at home on Friday, can you deliver on Monday?",
    "I am not able to track my parcel.",
    "I can't provide a receipt because I lost it.",
    "I can't write a review, the button does nothing.",
    "I cannot give you the order number, the mail is gone.",
    "Unfortunately I cannot attend the appointment tomorrow.",
    "I'm afraid I broke the lid, can I get a new one?",
    "I must decline the offer, thank you.",
    "I have to refuse the parcel if it comes damaged.",
    "I will not pay for shipping twice.",
    "As an AI startup, we would like to order ten chairs.",
    "As a student, I cannot afford the full price. Is there a discount?",
    "It is not acceptable to wait three weeks for an answer.",
    "It's not okay to share my address with other companies.",
    "Is it against your policy to return opened boxes?",
    "That's not what I ordered.",
    "This is not something we sell in our own shop, do you?",
    "I couldn't help but notice that the price went up.",
    "Can you help me with my order?",
    "I don't want to create another account.",
    "My apologies, I sent the wrong photo before.",
    "I'm not comfortable sharing my card number by phone.",
    "I can't generate a shipping label for my return.",
    "How do I decline cookies on your site?",
    "Your assistant said it cannot help me, so I write to you.",
    "Of course! Please tell me the order number.",
    "Sure, here is a message that asks for a discount.",
    "",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_recognised_by_its_kind(text: str) -> None:
    assert refusal_of(text) == REFUSALS[text]


@pytest.mark.parametrize("text", ORDINARY)
def test_an_ordinary_message_is_none(text: str) -> None:
    assert refusal_of(text) == ""


def test_only_the_beginning_counts() -> None:
    assert refusal_of("Where is my order? " * 12 + "I'm sorry, but I can't help with that.") == ""


@given(st.text(max_size=400))
def test_any_text_has_an_answer(text: str) -> None:
    assert refusal_of(text).isidentifier() or refusal_of(text) == ""


def test_a_hostile_text_takes_no_time() -> None:
    begin = time.thread_time()
    for text in ("i cannot " * 100, "sorry " * 100, "i can't provide a " + "a " * 500, "as an ai ai ai " * 50):
        refusal_of(text)
    assert time.thread_time() - begin < 0.5
