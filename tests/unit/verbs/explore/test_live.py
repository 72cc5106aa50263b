"""The live explorer sends the documents of the static one, one by one; what cannot be read is one sentence; nothing is kept."""

import asyncio
import html
import io
import json
import socket
import struct
import tempfile
import threading
import zlib
from dataclasses import replace

import pytest
import torch
from PIL import Image
from tests.unit.verbs.explore.live_session import asking, drop, one_line, picture, refused, session, small

import vitreg as package
from vitreg.report.explore.document import first_parts
from vitreg.verbs.explore.live import app as live_app
from vitreg.verbs.explore.live import measuring
from vitreg.verbs.explore.measure import EVERYTHING, attended, document_of
from vitreg.verbs.explore.options import ExploreOptions
from vitreg.verbs.look.models import lookers
from vitreg.verbs.look.one import see

pytest.importorskip("timm")


@pytest.fixture(scope="module")
def two():
    with session([small(), small(class_token=False, global_pool="avg", reg_tokens=3)]) as found:
        yield found


@pytest.fixture
def client(two):
    return asking(two)


def answers_of(session):
    """What stands behind the gate."""
    return session.app._app.routes[0].endpoint.__self__


@pytest.mark.parametrize("model", [0, 1])
def test_a_document_is_that_of_the_static_page(client, tmp_path, model):
    (tmp_path / "a.png").write_bytes(picture())
    models = [small(), small(class_token=False, global_pool="avg", reg_tokens=3)]
    static = package.explore(models, tmp_path / "a.png", precision="fp32").parts
    found = drop(client, model=model).json()
    for end in ("", "-features"):
        assert found["parts"][found["name"] + end] == json.loads(static[f"p0m{model}{end}"])
    for end in ("-read", "-b0", "-b1"):
        part = client.get(f"data/{found['name']}{end}")
        assert part.json() == json.loads(static[f"p0m{model}{end}"])
    assert found["sentence"] == found["parts"][found["name"]]["sentence"]


def test_queries_and_keys_before_rotary_embedding_are_sent_where_there_are_any(two, client):
    with session([small("vit_small_patch16_rope_224")]) as turned:
        asked = asking(turned)
        name = drop(asked).json()["name"]
        assert asked.get(f"data/{name}-b1-before").json() != asked.get(f"data/{name}-b1").json()
    name = drop(client).json()["name"]
    assert one_line(client.get(f"data/{name}-b1-before"), 404)


def test_the_page_is_the_same_without_photos_and_may_ask_its_server_only(two, client):
    page = client.get("")
    assert page.headers["content-type"].startswith("text/html")
    assert "connect-src 'self'" in html.unescape(page.text)
    assert "Choose photos" in page.text
    manifest = json.loads(page.text.partition('id="explorer">')[2].partition("</script>")[0])
    assert (manifest["photos"], manifest["live"]["given"], len(manifest["models"])) == ([], [], 2)


def test_photos_of_the_command_line_are_measured_when_a_page_asks(tmp_path):
    (tmp_path / "mine.png").write_bytes(picture(3))
    (tmp_path / "broken.png").write_bytes(picture()[:200])
    with session([small()], [tmp_path]) as given:
        page = asking(given).get("").text
        assert '"given":["mine.png"]' in page
        assert "broken.png could not be read: truncated file." in page
        own = drop(asking(given), picture(3)).json()
        assert drop(asking(given), given=0).json()["parts"]["d1"] == own["parts"]["d0"]
        assert refused(asking(given).post("photos", params={"model": 0, "given": 1})).startswith("the photo could not")


def large():
    """A picture whose header says 20000 x 20000; nobody gets as far as its pixels."""
    data = bytearray(picture())
    data[16:24] = struct.pack(">II", 20_000, 20_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


BAD = {
    "broken": (lambda: picture(kind="jpeg")[:900], "a.png could not be read: truncated file."),
    "20000 pixels": (large, "a.png could not be read: 400 megapixels, more than the limit of 179."),
    "no image": (lambda: b"<html>", "a.png could not be read: not an image."),
    "too small": (lambda: picture(size=(4, 4)), "a.png could not be read: 4x4 px is smaller than one patch (16 px)."),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_photo_that_cannot_be_read_is_one_sentence_and_the_next_is_measured(client, kind):
    content, sentence = BAD[kind]
    assert refused(drop(client, content())) == sentence
    assert drop(client).status_code == 200


def test_an_empty_body_and_a_model_that_is_not_there(client):
    empty = client.post("photos", params={"name": "a.png", "model": 0}, content=b"")
    assert refused(empty) == "a.png could not be read: empty file."
    for model in ("2", "-1", "x", "", "²", "1" * 5000):
        assert one_line(drop(client, model=model), 400) == "There is no such model."
    assert one_line(client.get("elsewhere"), 404) == "Not Found"
    assert one_line(client.get("photos"), 405) == "Method Not Allowed"


def test_a_photo_over_the_limit_is_refused_before_it_is_whole(two, client, monkeypatch):
    monkeypatch.setattr(live_app, "LARGEST", 1000)
    sent = []

    def pieces():
        for _ in range(100):
            sent.append(bytes(500))
            yield sent[-1]

    assert one_line(drop(client, pieces()), 413).startswith("a.png has more than ")
    assert answers_of(two).waiting == 0


def test_photos_that_together_hold_too_much_are_refused(two, client, monkeypatch):
    monkeypatch.setattr(live_app, "MOST_WAITING", 1000)
    assert "too many photos wait" in one_line(drop(client, bytes(2000)), 503)
    assert answers_of(two).waiting == 0
    assert refused(drop(client, b"small"))


def test_a_fault_of_vitreg_is_told_in_the_terminal(client, monkeypatch, capsys):
    def broken(*_):
        raise ZeroDivisionError("/secret/place")

    monkeypatch.setattr(measuring, "document_of", broken)
    said = one_line(drop(client), 500)
    assert said == "vitreg failed at a.png; the terminal that it runs in says how."
    assert "ZeroDivisionError: /secret/place" in capsys.readouterr().err


def test_a_model_that_puts_out_no_numbers_is_one_sentence():
    broken = small()
    torch.nn.init.constant_(broken.blocks[0].norm1.weight, float("nan"))
    with session([broken]) as bad:
        assert "weights hold NaN" in refused(drop(asking(bad)))


class Tab:
    """One request of a tab, which can be closed."""

    def __init__(self, session, pieces, more=False):
        self.session, self.closed, self.sent = session, asyncio.Event(), []
        self.messages = [{"type": "http.request", "body": each, "more_body": True} for each in pieces]
        self.messages[-1]["more_body"] = more

    async def receive(self):
        if self.messages:
            return self.messages.pop(0)
        await self.closed.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)

    def ask(self):
        host, _, token = self.session.address.removeprefix("http://").partition("/")
        scope = {
            "type": "http", "method": "POST", "path": f"/{token}photos", "query_string": b"name=a.png&model=0",
            "headers": [(b"host", host.encode())],
        }  # fmt: skip
        return asyncio.ensure_future(self.session.app(scope, self.receive, self.send))


def test_fifty_photos_of_two_browsers_are_measured_one_at_a_time_in_their_order(two, monkeypatch):
    inside, most, lock = [0], [0], threading.Lock()

    def counted(*given):
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        try:
            return document_of(*given)
        finally:
            with lock:
                inside[0] -= 1

    monkeypatch.setattr(measuring, "document_of", counted)
    content = [picture(seed) for seed in range(5)]

    async def play():
        tabs = [Tab(two, [content[number % 5]]) for number in range(50)]
        await asyncio.wait_for(asyncio.gather(*(tab.ask() for tab in tabs)), 60)
        return [json.loads(tab.sent[1]["body"]) for tab in tabs]

    documents = asyncio.run(play())
    assert most == [1]
    numbers = [int(each["name"][1:]) for each in documents]
    assert numbers == list(range(numbers[0], numbers[0] + 50))
    for number, each in enumerate(documents):
        assert each["parts"][each["name"]] == documents[number % 5]["parts"][documents[number % 5]["name"]]
    assert answers_of(two).waiting == 0


def test_what_a_closed_tab_asked_for_is_not_measured(two, monkeypatch):
    holds, begun, seen = threading.Event(), threading.Event(), []

    def held(picture, *more):
        begun.set()
        assert holds.wait(30)
        seen.append(picture.size)
        return see(picture, *more)

    monkeypatch.setattr(measuring, "see", held)

    async def play():
        stays, waits, uploads = (Tab(two, [picture(size=(wide, 64))]) for wide in (70, 80, 90))
        uploads = Tab(two, [b"half a photo"], more=True)
        first = stays.ask()
        await asyncio.to_thread(begun.wait, 30)
        others = [waits.ask(), uploads.ask()]
        await asyncio.sleep(0.05)
        for tab in (waits, uploads):
            tab.closed.set()
        await asyncio.wait_for(asyncio.gather(*others), 30)
        holds.set()
        await asyncio.wait_for(first, 30)
        return stays.sent[0]["status"]

    assert asyncio.run(play()) == 200
    assert drop(asking(two), picture(size=(100, 64))).status_code == 200
    assert seen == [(70, 64), (100, 64)]
    assert answers_of(two).waiting == 0


def test_what_runs_for_a_closed_tab_ends_after_its_step(two, monkeypatch):
    holds, begun, documents = threading.Event(), threading.Event(), []

    def held(*given):
        begun.set()
        assert holds.wait(30)
        return see(*given)

    monkeypatch.setattr(measuring, "see", held)
    monkeypatch.setattr(measuring, "document_of", lambda *given: documents.append(given) or document_of(*given))

    async def play():
        tab = Tab(two, [picture()])
        job = tab.ask()
        await asyncio.to_thread(begun.wait, 30)
        tab.closed.set()
        await asyncio.wait_for(job, 30)
        holds.set()

    asyncio.run(play())
    assert drop(asking(two)).status_code == 200
    assert len(documents) == 1


def test_attention_of_the_oldest_photo_goes_first():
    with session([small()]) as found:
        answers_of(found).measuring._kept._most = 1
        client = asking(found)
        first, second = (drop(client, picture(seed)).json()["name"] for seed in (0, 1))
        assert "no longer kept" in one_line(client.get(f"data/{first}-b0"), 404)
        assert client.get(f"data/{second}-b0").status_code == 200
        assert answers_of(found).measuring._kept._size > 0


def test_a_repair_is_shown_at_the_block_of_its_model():
    options = ExploreOptions(size=112)
    [plain], _ = lookers(["planted:high-norm"], None, options, {"precision": "fp32"})
    image = Image.open(io.BytesIO(picture(size=(240, 240))))
    image.paste((120, 170, 210), (140, 0, 240, 100))
    clean = lookers(["planted:clean"], None, options, {"precision": "fp32"})[0][0]
    subjects = [plain, replace(clean, base=0)]
    asked = [measuring.Asked("a", image, model) for model in (0, 1)]
    measure = measuring.Measuring(subjects, [(), ()], live_discretion())
    heads = [next(iter(json.loads(measure.ask(each).result(60))["parts"].values())) for each in asked]
    measure.close()
    assert [head["found"] for head in heads] == [True, False]
    for number, seen in enumerate(see(image, subjects, EVERYTHING)):
        document = document_of(subjects[number].backbone, seen)
        assert json.loads(json.dumps(dict(first_parts(document, "x"))["x"])) == heads[number]


def live_discretion():
    from vitreg.verbs.explore.live.discretion import Discretion

    return Discretion([])


def test_a_server_that_ends_answers_at_once():
    with session([small()]) as found:
        found.close()
        assert one_line(drop(asking(found)), 503) == "The server is ending."


def test_no_photo_touches_the_disk(two, client, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert drop(client, picture(size=(1200, 1200)) + bytes(3 << 20)).status_code == 200
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["vit_small_patch16_rope_224", "beit_base_patch16_224"])
def test_what_is_kept_reads_the_same_in_memory_of_its_own(name):
    [looker], _ = lookers([small(name)], None, ExploreOptions(), {"precision": "fp32"})
    [seen] = see(Image.open(io.BytesIO(picture())), [looker], EVERYTHING)
    kept = attended(looker.backbone, seen, [0, 1])

    def read():
        return [kept.read("d"), kept.block("d", 0), kept.block("d", 1)]

    before, trace = read(), seen.scan.trace
    kept.settle()
    assert read() == before
    for block in (0, 1):
        assert kept._trace.qkv(block).q.data_ptr() != trace.qkv(block).q.data_ptr()
        one, other = kept._trace.qkv(block), kept._trace.projected_qkv(block)
        assert one.v.data_ptr() == other.v.data_ptr()  # what shared memory does so again
    assert kept.size <= sum(t.nbytes for b in (0, 1) for q in [trace.qkv(b)] for t in (q.q, q.k, q.v, q.q, q.k)) + 4096


def test_a_reply_is_sent_at_once():
    """Where TCP is not named, asyncio leaves Nagle's algorithm on, and the end of a reply waits 40 ms for the browser."""
    with session([small()]) as found:
        assert found._socket.proto == socket.IPPROTO_TCP
