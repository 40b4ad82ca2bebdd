"""README and docs/ hang together: each link, and each mention of a section elsewhere, leads to what is there."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from proxy.store.database import RESTORE
from tests.documents import PAGES, README, ROOT, anchors, fault, headings, links, section

#: In messages and comments: (docs/operating.md, Backup and restore).
_MENTION = re.compile(r"\((README|docs/[\w.-]+), ([^)\n]+)\)")
_MENTIONING = [path for part in ("proxy", "config") for path in (ROOT / part).rglob("*.*") if path.suffix != ".pyc"]


@pytest.mark.parametrize("page", PAGES)
def test_each_link_leads_to_a_file_and_a_heading(page: str) -> None:
    assert [wrong for link in links(PAGES[page]) if (wrong := fault(page, link))] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_each_page_is_reached_from_readme_and_has_one_title(page: str) -> None:
    assert page in {link.partition("#")[0] for link in links(README)}
    levels = [level for _, level, _ in headings(PAGES[page])]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))


def test_each_section_that_messages_and_comments_name_is_there() -> None:
    found = [mention for path in _MENTIONING for mention in _MENTION.findall(path.read_text())]
    assert _MENTION.findall(RESTORE)[0] in found
    assert len(found) >= 2
    for page, title in found:
        assert title in [one for _, _, one in headings(PAGES["README.md" if page == "README" else page])]


TEXT = """# A page, and `its_title`

See [one](#see-also), [two](other.md#x "a title"),
[a link
over two lines](#see-also-1) and `[none](#code)`, or `[none
either](#code)`. ![A picture](a.svg) [elsewhere](https://example.com/#x)

```sh
# no heading
echo "[none](#code)"
```

## See also

1. A step.

   ```sh
   # none
   ```

### *Below* [it](#x)

## See also

The end.

[defined]: #see-also
"""


def test_headings_and_links_are_those_that_are_shown() -> None:
    assert anchors(TEXT) == {"a-page-and-its_title", "see-also", "below-it", "see-also-1"}
    found = ["#see-also", "other.md#x", "#see-also-1", "a.svg", "https://example.com/#x", "#x", "#see-also"]
    assert links(TEXT) == found


def test_a_section_ends_with_the_next_heading_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PAGES, "page.md", TEXT.replace("## See also\n\nThe", "## More\n\nThe"))
    assert section("page.md", "See also").endswith("\n### *Below* [it](#x)\n\n")
    assert section("page.md", "More") == "\nThe end.\n\n[defined]: #see-also\n"
    with pytest.raises(ValueError, match="not enough"):
        section("page.md", "no heading")


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("limits.md", ""),
        ("limits.md#entitlements", ""),
        ("#backup-and-restore", ""),
        ("../config/billing.toml", ""),
        ("mailto:someone@example.com", ""),
        ("docs/limits.md", "no such file"),
        ("../../x", "no such file"),
        ("/etc", "no such file"),
        ("limits.md#backup-and-restore", "no such heading"),
        ("#Backup-and-restore", "no such heading"),
    ],
)
def test_a_link_that_leads_nowhere_is_told(link: str, words: str) -> None:
    said = fault("docs/operating.md", link)
    assert words in said
    assert bool(words) == bool(said)
