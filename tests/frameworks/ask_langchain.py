"""Run by the frameworks' environment: `python ask_langchain.py URL PROMPT`; prints what LangChain's ChatOpenAI got, as JSON."""

from __future__ import annotations

import json
import sys

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

url, prompt = sys.argv[1:]
asked = {"base_url": url, "api_key": "none", "model": "toy", "temperature": 0, "max_tokens": 12, "max_retries": 0}
chat = ChatOpenAI(**asked)
off = ChatOpenAI(**asked, extra_body={"larimar": {"memory": "off"}})
messages = [SystemMessage("be brief"), HumanMessage(prompt)]
answer = chat.invoke(messages)
print(
    json.dumps(
        {
            "text": answer.content,
            "usage": answer.usage_metadata,
            "streamed": "".join(str(chunk.content) for chunk in chat.stream(messages)),
            "batch": [one.content for one in chat.batch([messages, messages])],
            "off": off.invoke(messages).content,
        }
    )
)
