"""What the documentation shows, taken apart: blocks of code, commands in them, links, anchors."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from livekit.plugins.whisper.config import CONFIG_FILE, PREFIX, STTConfig

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1``` *$", re.MULTILINE | re.DOTALL)
SEPARATORS = {"|", "||", "&&", ";", "&", "\n"}
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    path: Path
    line: int
    """Of its first line of code."""
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A simple command of a shell, its comment left out."""

    where: str
    variables: tuple[str, ...]
    """Names of the variables that are set for it."""
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.where} {' '.join(self.words)}"


def documents() -> list[Path]:
    """What a user reads."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(paths: list[Path]) -> list[Block]:
    """Every fenced block, in order."""
    found = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            indent, language, code = match.groups()
            code = re.sub(f"^{indent}", "", code, flags=re.MULTILINE)
            line = text.count("\n", 0, match.start()) + 2
            found.append(Block(path, line, language, code))
    return found


def prose(path: Path) -> str:
    """A document without its fenced blocks."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def commands(where: object, code: str) -> list[Command]:
    """The simple commands of a shell script, those inside `$(…)` among them.

    Of a session (lines that begin with a prompt), what is typed.
    """
    lines = code.replace("\\\n", " ").splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    found: list[Command] = []
    for line in lines:
        for inner in re.findall(r"\$\(([^()]*)\)", line):
            found += commands(where, inner)
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in SEPARATORS:
                words.append(word)
            elif words:
                found.append(_command(str(where), words))
                words = []
    return [command for command in found if command.words]


def _command(where: str, words: list[str]) -> Command:
    end = next((n for n, word in enumerate(words) if word in (">", ">>", "<")), len(words))
    words, variables = words[:end], []
    while words and ASSIGNMENT.fullmatch(words[0]):
        variables.append(words.pop(0).partition("=")[0])
    while words and words[0] in ("sudo", "export", "time", "exec"):
        words = words[1:] if words[0] != "export" else []
    return Command(where, tuple(variables), tuple(words))


def anchors(path: Path) -> set[str]:
    """What `#…` can lead to, as GitHub names headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#* *$", prose(path), re.MULTILINE):
        text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.replace("`", "").lower()).replace(" ", "-")
        number = 0
        while (unique := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(unique)
    found |= set(re.findall(r'<a (?:id|name)="([^"]+)"', path.read_text(encoding="utf-8")))
    return found


def links(path: Path) -> list[str]:
    """The targets of links and pictures that lead to files here."""
    text = re.sub(r"`[^`\n]*`", "", prose(path))
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)", text)
    targets += re.findall(r"^\[[^\]]+\]:\s*(\S+)", text, re.MULTILINE)
    targets += re.findall(r'(?:src|href)="([^"]+)"', text)
    return [each for each in targets if not re.match(r"[a-z]+:", each)]


def dead_links(path: Path) -> list[str]:
    """Links to files here, and to places in them, that lead nowhere."""
    found = []
    for link in links(path):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


def is_setting(variable: str) -> bool:
    """Whether an environment variable is one of ours."""
    name = variable.removeprefix(PREFIX).lower()
    return variable == CONFIG_FILE or name in STTConfig.model_fields


def unknown_settings(path: Path) -> list[str]:
    """The `STT_…` that a document names and that are none."""
    named = set(re.findall(r"\bSTT_[A-Z][A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8")))
    return sorted(name for name in named if not is_setting(name))


def inline(path: Path) -> list[str]:
    """What stands between backticks in the text."""
    return re.findall(r"`([^`\n]+)`", prose(path))
