"""The text of a first recipe: it runs as it is, and its comments show what people change next."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import yaml

from stillhouse.gen.source.guess import Guess
from stillhouse.schemas.endpoint_url import is_near
from stillhouse.schemas.licences import hosts_of, known_terms

_COMMENT_AT = 44
_MOST_OTHERS = 8
HEAD = """\
# Made by `stillhouse init`. It runs as it is:
#   stillhouse plan {file}              what would be asked, and what it would cost; nothing is sent
#   stillhouse run {file} --limit 20    a pilot of 20 rows; without --limit the rest
# `stillhouse schema` prints every field with its meaning. Paths are relative to the folder where you type the command.
"""
_INSTEAD = """\
  # A real teacher instead; its answers need another dataset.path:
  # - name: deepseek-r1
  #   base_url: http://localhost:8000/v1    # any server that speaks OpenAI's chat API
  #   model: deepseek-ai/DeepSeek-R1
  #   api_key: env:TEACHER_API_KEY          # where the key is, never the key itself
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """The teacher to ask; the built-in simulator if there is no URL."""

    url: str | None
    model: str
    api_key: str | None
    terms: dict[str, str]

    @property
    def name(self) -> str:
        """The teacher's name in the dataset."""
        return slug(self.model.rpartition("/")[2]) if self.url else "simulator"


def slug(text: str, *, otherwise: str = "teacher") -> str:
    """A short name of letters, digits, `.`, `_` and `-`."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._").lower()
    return plain[:60] or otherwise


def key_for(url: str) -> str | None:
    """A reference to the key that a server is likely to need, named after its host; None for a local server."""
    host = next(iter(hosts_of([url])), "")
    if is_near(host):
        return None
    labels = [label for label in host.split(".")[:-1] if label not in ("api", "www", "inference", "v1")]
    return f"env:{re.sub(r'[^A-Z0-9]', '_', (labels or ['teacher'])[-1].upper())}_API_KEY"


def recipe_text(*, file: str, name: str, path: str, dataset: str, found: Guess, asked: Asked) -> str:
    """The recipe's YAML; `file` is its name, quoted for a shell."""
    parts = [
        HEAD.format(file=file),
        _line(f"name: {scalar(name)}", "the dataset's name"),
        "",
        *_source(path, found),
        "",
        *_ask(found),
        "",
        *teacher_lines(asked),
        "",
        "dataset:",
        _line(
            f"  path: {scalar(dataset)}",
            "a local folder or s3://bucket/prefix; to ask differently, use another",
        ),
        _line("  # prompts_per_shard: 1000", "prompts in one Parquet file"),
    ]
    return "\n".join(parts) + "\n"


def _source(path: str, found: Guess) -> Iterator[str]:
    yield "source:"
    yield _line(f"  path: {scalar(path)}", "a file, a folder, a glob or an s3:// URL; or a list of them")
    if found.prompt is not None:
        yield _line(f"  prompt: {scalar(found.prompt)}", "the column that is asked")
    if found.messages is not None:
        yield _line(f"  messages: {scalar(found.messages)}", "the column that holds the conversation to be answered")
    if found.drops_answer:
        yield _line("  answer: drop", "the assistant's last turn moves to source_answer; the teacher answers again")
    if found.id is not None:
        yield _line(f"  id: {scalar(found.id)}", "your own id; it comes back as prompt_id")
    others = [other for other in found.others if other.isprintable() and len(other) <= 40]
    more = f"; there are also: {', '.join(others[:_MOST_OTHERS])}" if others else ""
    kept: list[str | dict[str, str]] = [
        keep.name if keep.type is None else {keep.name: keep.type} for keep in found.keep
    ]
    keep = f"  keep: {_flow(kept)}" if kept else "  # keep: [column]"
    yield _line(keep, f"columns copied into every record{more}")


def _ask(found: Guess) -> Iterator[str]:
    yield "ask:"
    yield _line("  # system: You are a careful assistant.", "the system message; a template too")
    if found.template is not None:
        yield _line(f"  template: {scalar(found.template)}", "Jinja over the row's columns")
    elif found.prompt is not None and found.prompt.isidentifier():
        example = f'  # template: "{{{{ {found.prompt} }}}}\\nThink step by step."'
        yield _line(example, "Jinja over the row's columns")
    yield _line("  samples: 1", "answers per prompt")
    yield _line("  # temperature: 0.7", "omitted: the teacher's own default")
    yield _line("  max_tokens: 4096", "maximum length of an answer in tokens, including reasoning")


def teacher_lines(asked: Asked) -> Iterator[str]:
    """The section `teachers`, line by line."""
    yield from _real(asked) if asked.url else _simulator()


def _simulator() -> Iterator[str]:
    yield "teachers:"
    yield _line("  - name: simulator", "the name in the dataset's `teacher` column")
    yield _line("    api: simulator", "the built-in teacher: free, on this machine, with made-up answers")
    yield _line("    simulator: {latency_s: 0.2}", "its behaviour: `stillhouse schema` lists the settings")
    yield _line("    limits: {in_flight: 32}", "requests in flight at once")
    yield _INSTEAD.rstrip()


def _real(asked: Asked) -> Iterator[str]:
    yield "teachers:"
    yield _line(f"  - name: {scalar(asked.name)}", "the name in the dataset's `teacher` column")
    yield _line(f"    base_url: {scalar(asked.url or '')}", "or `endpoints: [...]`, which share the load")
    yield _line(f"    model: {scalar(asked.model)}", "as the server calls it")
    key = f"    api_key: {asked.api_key}" if asked.api_key else "    # api_key: env:TEACHER_API_KEY"
    yield _line(key, "where the key is stored, never the key itself; or file:/path")
    yield _line("    limits: {in_flight: 32}", "requests in flight; also requests_per_minute, output_tokens_per_minute")
    yield _line("    # price: {input: 0.5, output: 2}", "USD per million tokens, so that `plan` can show the cost")
    if asked.terms:
        yield _line(f"    terms: {_flow(asked.terms)}", "what its terms say about training on its answers")
    elif known := known_terms(asked.model, hosts=hosts_of([asked.url or ""])):
        yield f"    # terms: known ({known.license})"


def _line(text: str, comment: str) -> str:
    return f"{text:<{_COMMENT_AT}}  # {comment}"


def scalar(value: str) -> str:
    """The text on one line of YAML, quoted if necessary."""
    dumped = yaml.safe_dump(value, allow_unicode=True, width=float("inf")).removesuffix("\n").removesuffix("\n...")
    return dumped if "\n" not in dumped else json.dumps(value, ensure_ascii=False)


def _flow(value: Sequence[str | dict[str, str]] | dict[str, str]) -> str:
    return yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, width=float("inf"), sort_keys=False
    ).rstrip("\n")
