"""What users read: README and the pages of docs/, their headings and sections, and where their links lead."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
README = PAGES["README.md"]
EVERYTHING = "\n".join(PAGES.values())

_FENCE = re.compile(r" *```")
_HEADING = re.compile(r"(#{1,6}) +(.+)")
_CODE = re.compile(r"(?<!`)(`+)(?!`)(?:(?!\n\n).)+?(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"\]\(\s*([^)\s]+)[^)]*\)|^ {0,3}\[[^\]]+\]: *(\S+)", re.MULTILINE)


def prose(text: str) -> str:
    """The same lines, those of code blocks empty: what looks like a heading or a link is none there."""
    lines, fenced = [], False
    for line in text.splitlines():
        fence = _FENCE.match(line) is not None
        lines.append("" if fence or fenced else line)
        fenced ^= fence
    return "\n".join(lines)


def headings(text: str) -> Iterator[tuple[int, int, str]]:
    """Each with the number of its line, and its level."""
    for number, line in enumerate(prose(text).splitlines()):
        if found := _HEADING.fullmatch(line.rstrip()):
            yield number, len(found[1]), found[2]


def section(page: str, title: str) -> str:
    """What stands below a heading, with the smaller headings below it."""
    lines = PAGES[page].splitlines(keepends=True)
    found = list(headings(PAGES[page]))
    ((start, level, _),) = [one for one in found if one[2] == title]
    end = next((number for number, other, _ in found if number > start and other <= level), len(lines))
    return "".join(lines[start + 1 : end])


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings: small letters, digits, `_` and `-`; the second of one name has `-1`."""
    made: set[str] = set()
    seen: Counter[str] = Counter()
    for _, _, title in headings(text):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        made.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return made


def links(text: str) -> list[str]:
    """Where the links and pictures lead, in their order."""
    return [inline or defined for inline, defined in _LINK.findall(_CODE.sub("`", prose(text)))]


def fault(page: str, link: str) -> str:
    """What is wrong with a link of a page; nothing where that is for others to say."""
    if re.match(r"[a-z]+:", link):
        return ""
    path, _, anchor = link.partition("#")
    target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
    if not target.is_relative_to(ROOT) or not target.exists():
        return f"{link}: there is no such file"
    if anchor and anchor not in anchors(target.read_text()):
        return f"{link}: there is no such heading"
    return ""
