"""A page as a reader sees it: its elements, its words, its data."""

import html.parser
import json
import re

from vitreg.report.words import headline

HOSTILE = '"><img src=x onerror=alert(1)>.jpg'


class Page(html.parser.HTMLParser):
    """Elements with their attributes, and the text of each element by its id."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.inside = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        if tag in self.inside:
            while self.inside.pop() != tag:
                pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.inside):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def __contains__(self, words):
        return words in self.text


def said_of(sentence):
    """The sentence of a verdict as the page writes it: what is found, then its numbers, two sentences."""
    return " ".join(filter(None, headline(sentence)))


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def visible(text):
    """What is read without opening anything: no closed details, tables or charts."""
    for tag in ("details", "table", "svg", "script", "style", "head"):
        text = re.sub(rf"<{tag}\b.*?</{tag}>", " ", text, flags=re.S)
    return Page(text).text
