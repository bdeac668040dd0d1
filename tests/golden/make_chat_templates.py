#!/usr/bin/env python3
"""Chat templates and what transformers renders from them, as golden vectors.

  make_chat_templates.py [NAME...]

Every template, whole or a snippet, is compiled as transformers compiles chat templates (its Jinja2
sandbox, options, filters and globals) and rendered for a list of inputs into
tests/golden/chat_templates/NAME.json. A case that raises has "error": "raised" with the message where
the template called raise_exception, "syntax" where it does not compile, else "failed".
Needs transformers and jinja2.
"""
import json
import pathlib
import sys

import jinja2
import transformers
from transformers.utils import chat_template_utils

import chat_snippets

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "chat_templates"
DEMO = HERE.parent.parent / "demo" / "model" / "tokenizer_config.json"


# --- inputs -----------------------------------------------------------------------------------------------


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a place, \"now\" & later <b>",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Größe, naïve: 東京"},
                "days": {"type": "integer", "minimum": 0, "maximum": 10, "default": 1},
                "units": {"type": "string", "enum": ["C", "F"]},
                "precise": {"type": "number", "default": 0.5},
            },
            "required": ["place"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time", "description": "",
                                          "parameters": {"type": "object", "properties": {}}}}

CALLS = [
    user("Weather in Oslo and Rome?"),
    assistant("", tool_calls=[
        {"type": "function", "id": "call00001", "function": {"name": "get_weather", "arguments": {"place": "Oslo", "days": 2}}},
        {"type": "function", "id": "call00002", "function": {"name": "get_weather", "arguments": {"place": "Rome"}}},
    ]),
    {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "{\"sky\": \"snow\"}"},
    {"role": "tool", "name": "get_weather", "tool_call_id": "call00002", "content": "sun"},
    assistant("Snow and sun."),
    user("Thanks"),
]

CHATS = {
    "empty": [],
    "one": [user("Hi")],
    "two turns": [user("  Hello there \n"), assistant(" General Kenobi "), user("What's \"up\"?\n\n")],
    "system": [system("Be brief.\nAlways."), user("Why?"), assistant("Because."), user("And <why> & 'that'?")],
    "only system": [system("Only me")],
    "starts with assistant": [assistant("I start"), user("No")],
    "two users": [user("a"), user("b")],
    "unicode": [user("naïve Größe 東京 👩‍🔬"), assistant("Ωμέγα ΣΑΣ\u00a0x"), user("\u2028ı\u0301 ſ")],
    "thinking": [user("2+2?"), assistant("<think>\nsum\n</think>\n\n4"), user("3+3?"), assistant("<think>\nmore\n</think>\n\n6"), user("so?")],
    "reasoning field": [user("2+2?"), assistant("4", reasoning_content="add them"), user("again")],
    "last is assistant": [user("q"), assistant("<think>t</think>a")],
    "tool calls": CALLS,
    "parts": [{"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": "nice?"}]}],
    "null content": [user("x"), {"role": "assistant", "content": None}, user("y")],
    "no content": [user("x"), {"role": "assistant"}],
    "odd role": [{"role": "wizard", "content": "abracadabra"}],
}


def inputs(*names, tools=None, prompt=(True,), **extra):
    out = []
    for name in names or CHATS:
        for add in prompt:
            out.append({"messages": CHATS[name], "add_generation_prompt": add, "bos_token": "<s>", "eos_token": "</s>",
                        "tools": tools, "extra": extra})
    return out


# --- templates in the shapes of model families ------------------------------------------------------------

LLAMA2 = """\
{%- if messages and messages[0]['role'] == 'system' %}
    {%- set preamble = messages[0]['content'] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set preamble = false %}
    {%- set turns = messages %}
{%- endif %}
{%- for turn in turns %}
    {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must take turns: user, assistant, user, ...') }}
    {%- endif %}
    {%- if loop.first and preamble is not false %}
        {%- set body = '<<SYS>>\\n' + preamble + '\\n<</SYS>>\\n\\n' + turn['content'] %}
    {%- else %}
        {%- set body = turn['content'] %}
    {%- endif %}
    {%- if turn['role'] == 'user' %}
        {{- bos_token + '[INST] ' + body.strip() + ' [/INST]' }}
    {%- elif turn['role'] == 'assistant' %}
        {{- ' ' ~ body.strip() ~ ' ' ~ eos_token }}
    {%- endif %}
{%- endfor %}
"""

LLAMA3 = """\
{% for message in messages %}
{% set block = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' %}
{% if loop.index0 == 0 %}{% set block = bos_token + block %}{% endif %}
{{ block }}{% endfor %}
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}
"""

LLAMA31 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined and false %}{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "1 Jan 2025" %}{%- endif %}
{%- endif %}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}

{#- The first message may be the system's. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{%- if builtin_tools is defined %}
    {{- "Tools: " + builtin_tools | reject('equalto', 'code_interpreter') | join(", ") + "\\n\\n" }}
{%- endif %}
{{- "Today: " + date_string + "\\n\\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {{- "Answer with JSON calls of these functions:\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("Cannot put tools in the first user message when there's no first user message!") }}
    {%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' -}}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("One tool call at a time, got " ~ message.tool_calls|length) }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}
        {{- tool_call.arguments | tojson }}{{- "}" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

QWEN25 = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You help.' }}
    {%- endif %}
    {{- "\\n\\n# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools>\\n\\nAnswer with <tool_call>{\\"name\\": <name>, \\"arguments\\": <object>}</tool_call><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

QWEN3 = """\
{%- set ns = namespace(searching=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and (loop.last or (not loop.last and reasoning)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
                {%- if call.function %}{%- set call = call.function %}{%- endif %}
                {{- '<tool_call>\\n{"name": "' ~ call.name ~ '", "arguments": ' }}
                {%- if call.arguments is string %}{{- call.arguments }}{%- else %}{{- call.arguments | tojson }}{%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

MISTRAL = """\
{%- if messages and messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
                {{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" + eos_token }}{%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool_results" or message["role"] == "tool" %}
        {%- if message.content is defined and message.content.content is defined %}
            {%- set content = message.content.content %}
        {%- else %}
            {%- set content = message.content %}
        {%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' + content|string + ", " }}
        {{- '"call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
"""

GEMMA = """\
{{ bos_token }}
{%- if messages and messages[0].role == 'system' -%}
    {%- if messages[0].content is string -%}
        {%- set prefix = messages[0].content + '\\n\\n' -%}
    {%- else -%}
        {%- set prefix = messages[0].content[0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set prefix = "" -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\\n' }}
{%- endif -%}
"""

DEEPSEEK = """\
{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}\
{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='') %}\
{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}\
{{bos_token}}{{ns.system_prompt}}\
{%- for message in messages %}\
{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<|User|>' + message['content']}}{%- endif %}\
{%- if message['role'] == 'assistant' and message['tool_calls'] %}\
{%- set ns.is_tool = false -%}\
{%- for tool in message['tool_calls'] %}\
{%- if not ns.is_first %}{{'<|Assistant|><|calls|>' + tool['type'] + '<|sep|>' + tool['function']['name'] + '\\n```json\\n' + tool['function']['arguments']|tojson + '\\n```<|end|>'}}{%- set ns.is_first = true -%}\
{%- else %}{{'\\n<|call|>' + tool['type'] + '<|sep|>' + tool['function']['name'] + '\\n```json\\n' + tool['function']['arguments']|tojson + '\\n```<|end|>'}}{{'<|calls end|>'}}{%- endif %}\
{%- endfor %}{%- endif %}\
{%- if message['role'] == 'assistant' and not message['tool_calls'] %}\
{%- if ns.is_tool %}{{'<|outputs end|>' + message['content'] + '<|eos|>'}}{%- set ns.is_tool = false -%}\
{%- else %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<|Assistant|>' + content + '<|eos|>'}}{%- endif %}{%- endif %}\
{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}\
{%- if ns.is_output_first %}{{'<|outputs|><|output|>' + message['content'] + '<|output end|>'}}{%- set ns.is_output_first = false %}\
{%- else %}{{'\\n<|output|>' + message['content'] + '<|output end|>'}}{%- endif %}{%- endif %}\
{%- endfor -%}\
{% if ns.is_tool %}{{'<|outputs end|>'}}{% endif %}{% if add_generation_prompt and not ns.is_tool %}{{'<|Assistant|><think>\\n'}}{% endif %}"""

# Typed signatures from JSON schemas by a recursive macro, as gpt-oss and others do.
SCHEMAS = """\
{%- macro type_of(spec, level=0) -%}
    {%- if spec.enum -%}
        {{ spec.enum | map('tojson') | join(' | ') }}
    {%- elif spec.type == 'array' -%}
        {{ type_of(spec['items'], level=level + 1) }}[]
    {%- elif spec.type == 'object' and spec.properties -%}
        {
        {%- for name, inner in spec.properties.items() %}
            {{- '\\n' ~ '  ' * (level + 1) }}
            {%- if inner.description %}// {{ inner.description | replace('\\n', ' ') }}{{ '\\n' ~ '  ' * (level + 1) }}{% endif %}
            {{- name }}{{ '' if name in (spec.required or []) else '?' }}: {{ type_of(inner, level + 1) }}
            {%- if inner.default is defined %}, default {{ inner.default }}{% endif %},
        {%- endfor %}
        {{- '\\n' ~ '  ' * level }}}
    {%- else -%}
        {{ {'integer': 'number', 'number': 'number', 'string': 'string'}.get(spec.type, 'any') }}
    {%- endif -%}
{%- endmacro -%}
{%- for tool in tools or [] %}
type {{ tool.function.name }} = ({{ type_of(tool.function.parameters) }}) => any;
{% else %}
no tools
{% endfor %}
{%- for message in messages %}{{ message.role | upper }}: {{ message.content | default('(nothing)', true) }}
{% endfor %}
"""

GENERATION = """\
{%- for message in messages %}
{%- if message.role == 'assistant' %}
<a>{% generation %}{{ message.content }}</a>
{% endgeneration %}
{%- else %}
<{{ message.role[0] }}>{{ message.content }}
{% endif %}
{%- endfor %}
"""

FAMILIES = {
    "llama2": (LLAMA2, inputs()),
    "llama3": (LLAMA3, inputs(prompt=(True, False))),
    "llama3_tools": (LLAMA31, inputs("one", "system", "only system", "tool calls", tools=[WEATHER, CLOCK])
                     + inputs("two turns", "system") + inputs("system", tools=[WEATHER], tools_in_user_message=False)
                     + inputs("one", builtin_tools=["code_interpreter", "search", "math"], date_string="2 Feb 2026")),
    "qwen25": (QWEN25, inputs() + inputs("tool calls", "system", "one", tools=[WEATHER, CLOCK])),
    "qwen3": (QWEN3, inputs() + inputs("thinking", enable_thinking=False) + inputs("tool calls", tools=[CLOCK])),
    "mistral": (MISTRAL, inputs() + inputs("tool calls", "one", tools=[WEATHER, CLOCK])),
    "gemma": (GEMMA, inputs(prompt=(True, False))),
    "deepseek": (DEEPSEEK, inputs()),
    "schemas": (SCHEMAS, inputs("one", "two turns", "null content", "no content", tools=[WEATHER, CLOCK]) + inputs("one")),
    "generation": (GENERATION, inputs("two turns", "thinking")),
    "demo": (json.loads(DEMO.read_text(encoding="utf-8"))["chat_template"], inputs(prompt=(True, False))),
}

# --- what snippets see --------------------------------------------------------------------------------------

VARIABLES = {
    "messages": [user("Hi"), assistant("Yo")], "add_generation_prompt": False, "bos_token": "<s>", "eos_token": "</s>", "tools": None,
    "extra": {
        "n": 7, "zero": 0, "neg": -3, "f": 2.5, "big": 9007199254740993, "yes": True, "no": False, "nil": None,
        "s": "Hello World", "u": "straße ΣΑΣ ǆ éa\u0301", "blank": "", "nums": [3, 1, 2, 3], "words": ["b", "A", "c", "a"],
        "d": {"b": 1, "a": 2, "items": 3, "nested": {"x": [10, 20]}}, "none_list": [], "ws": " \t\n x\u00a0\u3000\x1c",
        "people": [{"name": "Zoe", "age": 30, "on": True, "tags": ["x"]}, {"name": "adam", "age": 25, "on": False},
                   {"name": "Bob", "age": 30, "on": True, "tags": []}],
        "mixed": [1, "a", None, 2.0, True, [1], {"k": "v"}],
        "deep": {"z": [1, {"y": "é\"\\/\n\t\u0007\u007f"}], "e": [], "o": {}, "t": True, "n": None, "f": 1e22, "g": 1e-7, "i": -0.0},
    },
}

# --- rendering --------------------------------------------------------------------------------------------


def compiled(source):
    return chat_template_utils._compile_jinja_template(source)


def render(source, given):
    """What a case adds to its input: the output, or how it failed."""
    try:
        template = compiled(source)
    except jinja2.TemplateError:
        return {"error": "syntax"}
    except SyntaxError:  # of the Python that Jinja2 makes
        return {"error": "syntax"}
    variables = {"messages": given["messages"], "tools": given["tools"], "documents": None,
                 "add_generation_prompt": given["add_generation_prompt"],
                 "bos_token": given["bos_token"], "eos_token": given["eos_token"], **given["extra"]}
    # As apply_chat_template: from a copy, plain.
    variables = chat_template_utils._plain_template_data(variables)
    try:
        return {"output": template.render(**variables)}
    except jinja2.TemplateError as error:
        if type(error) is jinja2.TemplateError:  # raise_exception
            return {"error": "raised", "message": str(error)}
        return {"error": "failed"}
    except Exception:  # TypeError and the like: whatever Python raises
        return {"error": "failed"}


def compact(path, head, cases):
    """One case a line."""
    line = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    text = line(head)[:-1] + ',"cases":[\n' + ",\n".join(map(line, cases)) + "\n]}\n"
    path.write_text(text, encoding="utf-8")


def main():
    wanted = set(sys.argv[1:])
    OUT.mkdir(exist_ok=True)
    for name, (source, given) in FAMILIES.items():
        if wanted and name not in wanted:
            continue
        cases = [{"input": one, **render(source, one)} for one in given]
        compact(OUT / f"{name}.json", {"template": source}, cases)
    for name, rows in chat_snippets.GROUPS.items():
        if wanted and f"snippets_{name}" not in wanted:
            continue
        cases = [{"template": source, **render(source, VARIABLES)} for source in rows]
        compact(OUT / f"snippets_{name}.json", {"input": VARIABLES}, cases)
    print(f"jinja2 {jinja2.__version__}, transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
