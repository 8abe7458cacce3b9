"""Run by the frameworks' environment: `python ask_llama_index.py URL PROMPT`; prints what LlamaIndex' OpenAILike got, as JSON."""

from __future__ import annotations

import json
import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

url, prompt = sys.argv[1:]
asked = {"api_base": url, "api_key": "none", "model": "toy", "temperature": 0, "max_tokens": 12, "max_retries": 0}
chat, plain = OpenAILike(**asked, is_chat_model=True), OpenAILike(**asked, is_chat_model=False)
off = OpenAILike(**asked, is_chat_model=True, additional_kwargs={"extra_body": {"larimar": {"memory": "off"}}})
messages = [ChatMessage(role="system", content="be brief"), ChatMessage(role="user", content=prompt)]
print(
    json.dumps(
        {
            "text": chat.chat(messages).message.content,
            "streamed": "".join(chunk.delta or "" for chunk in chat.stream_chat(messages)),
            "off": off.chat(messages).message.content,
            "completed": plain.complete(prompt).text,
            "completed_stream": "".join(chunk.delta or "" for chunk in plain.stream_complete(prompt)),
        }
    )
)
