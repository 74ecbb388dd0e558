"""An attack to name things by, and what a browser would make of a page that shows it."""

from __future__ import annotations

from html.parser import HTMLParser

HOSTILE = (
    "</script><script>window.pwned=1</script><img src=x onerror='window.pwned=1'><svg onload=window.pwned=1> "
    '\u202egnp.exe\u2066 \x1b[31mred\x1b[0m \x1b]8;;http://example.com\x07link\x1b]8;;\x07 & "quoted" <!-- <b>bold</b> javascript:alert(1)'
)


class Tags(HTMLParser):
    """What a browser would make of a page: tags with attributes, and the text that is shown."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.skip = "", 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.skip += tag in ("script", "style")

    def handle_endtag(self, tag):
        self.skip -= tag in ("script", "style")

    def handle_data(self, data):
        self.text += "" if self.skip else data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)
