"""Chats as a tokenizer's template writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from harness.errors import BadInput


def written(
    tokenizer: Any, model: str, chat: Sequence[Mapping[str, str]], answer_next: bool, arguments: Mapping[str, Any]
) -> str:
    """A chat as text; without its system messages where the template refuses them, as in lm-eval's transformers backend.

    Args:
        tokenizer: a transformers tokenizer.
        model: its name, for errors.
        chat: messages.
        answer_next: whether the text ends where an answer begins; else the last message is open.
        arguments: given to the template.

    Raises:
        BadInput: there is no template, or it refuses the chat.
    """
    if tokenizer.chat_template is None:
        raise BadInput(f"apply_chat_template: the tokenizer of {model} has no chat template; leave the option out")

    def write(messages: Sequence[Mapping[str, str]]) -> str:
        return tokenizer.apply_chat_template(  # type: ignore[no-any-return]
            list(messages),
            tokenize=False,
            add_generation_prompt=answer_next,
            continue_final_message=not answer_next,
            **arguments,
        )

    try:
        return write(chat)
    except jinja2.TemplateError as error:
        others = [message for message in chat if message["role"] != "system"]
        if len(others) == len(chat):
            raise BadInput(f"apply_chat_template: the template of {model} refuses a chat ({error})") from None
    try:
        return write(others)
    except jinja2.TemplateError as error:
        raise BadInput(f"apply_chat_template: the template of {model} refuses a chat ({error})") from None
