"""Who may talk to the live explorer, what its replies allow, and that they name no place of this machine."""

import json
import os
import socket

import pytest
from safetensors.torch import save_file
from tests.end_to_end.conftest import one_sentence
from tests.unit.verbs.explore.live_session import asking, drop, one_line, picture, session, small

from vitreg.errors import UserError
from vitreg.verbs.explore.live import serve
from vitreg.verbs.explore.live.discretion import Discretion

pytest.importorskip("timm")


@pytest.fixture(scope="module")
def live():
    with session([small()]) as found:
        yield found


FOREIGN = {
    "another name for this machine": {"host": "evil.example:{port}"},
    "its name with another port": {"host": "127.0.0.1:1"},
    "no port": {"host": "localhost"},
    "another origin": {"origin": "http://evil.example"},
    "the origin of another server here": {"origin": "http://127.0.0.1:1"},
    "the same place under another name": {"origin": "http://localhost:{port}"},
    "another scheme": {"origin": "https://127.0.0.1:{port}"},
    "a page from disk": {"origin": "null"},
    "a picture in another page": {"sec-fetch-site": "cross-site"},
    "another server here": {"sec-fetch-site": "same-site"},
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_pages_of_others_are_refused(live, kind, method):
    port = live.address.split(":")[2].split("/")[0]
    headers = {name: value.format(port=port) for name, value in FOREIGN[kind].items()}
    reply = asking(live).request(method, "photos" if method == "POST" else "", headers=headers)
    sentence = one_line(reply, 403)
    assert sentence.startswith(("This server answers to ", "Pages of other sites "))
    assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize("token", ["", "x", "{short}", "{long}", "{upper}", "%00", "é"])
@pytest.mark.parametrize("path", ["", "photos", "data/d0-b0"])
def test_without_the_token_nothing_is_told(live, token, path):
    own = live.address.split("/")[3]
    token = token.format(short=own[:-1], long=own + "x", upper=own.swapcase())
    reply = asking(live).get(live.address.replace(own, token) + path)
    assert one_line(reply, 403).startswith("This address lacks the token")


def test_two_hosts_are_none(live):
    host = ("host", live.address.split("/")[2])
    assert one_line(asking(live).request("GET", "", headers=[host, ("host", "evil.example")]), 403)


@pytest.mark.parametrize("headers", [{}, {"origin": "http://127.0.0.1:{port}", "sec-fetch-site": "same-origin"}])
def test_its_own_page_is_answered(live, headers):
    port = live.address.split(":")[2].split("/")[0]
    reply = asking(live).get("", headers={name: value.format(port=port) for name, value in headers.items()})
    assert reply.status_code == 200
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-security-policy"] == "frame-ancestors 'none'"
    assert not [name for name in reply.headers if name.startswith("access-control") or name in ("server", "etag")]


def test_a_ticket_leads_to_the_page_once(live):
    """A browser is started with it, which other users of the machine see."""
    at = live.ticket()
    token = live.address.split("/")[3]
    assert token not in at
    assert one_line(asking(live).post(at, params={"model": 0}), 403)
    assert one_line(asking(live).get(at, headers={"origin": "http://evil.example"}), 403)
    led = asking(live).get(at, follow_redirects=False)
    assert (led.status_code, led.headers["location"]) == (303, f"/{token}/")
    assert led.headers["cache-control"] == "no-store"
    assert one_line(asking(live).get(at), 403).startswith("This address lacks the token")
    assert asking(live).get(live.ticket()).text == asking(live).get("").text


def test_each_session_has_a_token_and_a_port_of_its_own(live):
    with session([small()]) as other:
        assert other.address.split("/")[3] != live.address.split("/")[3]
        assert len(other.address.split("/")[3]) >= 32
        assert one_line(asking(other).get(other.address.replace(*tokens(other, live))), 403)


def tokens(one, other):
    return one.address.split("/")[3], other.address.split("/")[3]


def test_no_reply_names_a_place_of_this_machine(tmp_path):
    folder = tmp_path / "who am i" / "tiny"
    folder.mkdir(parents=True)
    model = small()
    save_file(model.state_dict(), folder / "model.safetensors")
    words = {"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 2}
    described = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "model_args": words}
    (folder / "config.json").write_text(json.dumps({**described, "pretrained_cfg": {"input_size": [3, 64, 64]}}))
    (tmp_path / "broken.png").write_bytes(b"x")
    (tmp_path / "mine.png").write_bytes(picture())
    with session([f"timm:local-dir:{folder}"], [tmp_path / "broken.png", tmp_path / "mine.png"]) as found:
        client = asking(found)
        replies = [client.get(""), drop(client), drop(client, b"x"), drop(client, given=0), client.get("data/d0-b0")]
    texts = [reply.text for reply in replies]
    assert [text for text in texts for place in (tmp_path.name, "who am i", os.getcwd()) if place in text] == []
    assert "timm:local-dir:tiny" in texts[0]
    assert "timm:local-dir:tiny" in texts[1]
    assert "broken.png could not be read" in texts[0]


def test_paths_are_shortened_where_they_are_text(tmp_path):
    (tmp_path / "repair").mkdir()
    discreet = Discretion([f"run:{tmp_path}", f"{tmp_path}/repair", "hf:facebook/dinov2-base", "planted:clean"])
    assert discreet(f"ViT, repaired: clip-norm ({tmp_path}/repair)") == "ViT, repaired: clip-norm (repair)"
    assert discreet("hf:facebook/dinov2-base") == "hf:facebook/dinov2-base"
    assert discreet(f"{os.path.expanduser('~')}/elsewhere/x") == "elsewhere/x"
    content = {"a": [f"{tmp_path}"], "b": {"data": f"{tmp_path}"}, "c": f"data:{tmp_path}", "d": 1}
    assert discreet.throughout(content) == {**content, "a": [tmp_path.name]}


def test_a_port_that_is_taken_is_one_sentence_and_mistakes_free_theirs(live):
    port = int(live.address.split(":")[2].split("/")[0])
    with pytest.raises(UserError, match=r"port \d+ cannot be used"):
        serve.opened([small()], [], options=serve.ExploreOptions(), loading={}, port=port)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match="blocks 7: "):
        serve.opened([small()], [], options=serve.ExploreOptions(blocks=7), loading={}, port=port)
    serve.opened([small()], [], options=serve.ExploreOptions(), loading={}, port=port).close()


def test_without_the_extra_the_error_names_it(vitreg, monkeypatch):
    monkeypatch.setattr(
        "vitreg.cli.verbs.composite.explore.find_spec", lambda name: None if name == "uvicorn" else name
    )
    said = one_sentence(vitreg("explore", "--serve"))
    assert said == 'vitreg: --serve needs starlette and uvicorn: pip install "vitreg[app]".'


def test_the_browser_is_opened_on_desktops_only(monkeypatch):
    opened = []
    monkeypatch.setattr(serve.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    serve.open_browser("http://127.0.0.1:1/x/", opened.append)
    assert opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    serve.open_browser("http://127.0.0.1:1/x/", opened.append).join(10)
    assert opened == ["http://127.0.0.1:1/x/"]
