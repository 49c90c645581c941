"""Weights from a repository, by a hub on this machine."""

import pytest

from frcnn_jax.convert import download, hub, locate
from frcnn_jax.convert.download import DownloadError
from frcnn_jax.convert.hub import Place
from tests.convert import hub_server

NAME = "hf:me/crabs"
FIRST, SECOND = b"first weights" * 100, b"second weights" * 100


@pytest.fixture
def server():
    with hub_server.running() as made:
        made.repositories["me/crabs"] = [{hub.FILE: FIRST, "old/w.npz": SECOND}]
        yield made


@pytest.fixture(autouse=True)
def surroundings(server, tmp_path, monkeypatch):
    monkeypatch.setenv("FRCNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    unset = ("FRCNN_OFFLINE", "FRCNN_MIRROR", "HF_HUB_OFFLINE", "HF_TOKEN")
    for name in (*unset, "HF_TOKEN_PATH", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0, 0.0))
    hub.find.cache_clear()
    yield
    hub.find.cache_clear()


def refused(name: str = NAME) -> str:
    with pytest.raises(DownloadError) as caught:
        locate.file(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (NAME, Place("me/crabs", "model.safetensors", "main")),
        (f"{NAME}@v1.0", Place("me/crabs", "model.safetensors", "v1.0")),
        (f"{NAME}@refs/pr/1", Place("me/crabs", "model.safetensors", "refs/pr/1")),
        (f"{NAME}/a/b.npz@x", Place("me/crabs", "a/b.npz", "x")),
        (f"{NAME}/b.npz", Place("me/crabs", "b.npz", "main")),
    ],
)
def test_what_a_name_says(name, place):
    assert hub.is_name(name) and hub.parse(name) == place


@pytest.mark.parametrize(
    "name", ["hf:", "hf:crabs", "hf:me/", "hf:me/../x", "hf:me/crabs@", "hf:me/a b"]
)
def test_other_names_are_refused(name):
    assert hub.is_name(name)
    with pytest.raises(ValueError, match="a name of the hub is hf:OWNER/NAME"):
        locate.file(name)


def test_a_file_is_asked_for_and_fetched_once(server):
    first = locate.file(NAME)
    assert first == locate.file(NAME) and first.read_bytes() == FIRST
    assert first.suffix == ".safetensors" and first.parent.name == "crabs"
    commit = f"{1:040x}"
    assert [path for _, path, _ in server.seen] == [
        f"/me/crabs/resolve/main/{hub.FILE}",
        f"/me/crabs/resolve/{commit}/{hub.FILE}",  # of the commit that main is now
        f"/storage/{server.kept(FIRST)}",
    ]
    assert locate.file(f"{NAME}/old/w.npz").read_bytes() == SECOND


def test_a_newer_file_is_another_one_and_the_old_one_has_its_commit(server):
    first = locate.file(NAME)
    server.repositories["me/crabs"].append({hub.FILE: SECOND})
    assert locate.file(NAME) == first  # one process, one answer
    hub.find.cache_clear()
    assert locate.file(NAME).read_bytes() == SECOND
    assert locate.file(f"{NAME}@{1:040x}") == first


def test_the_token_goes_to_the_hub_alone(server, monkeypatch, tmp_path):
    server.token = "secret"
    assert "HTTP 401: no me/crabs at main, or it is private" in refused()
    assert "set HF_TOKEN" in refused()
    monkeypatch.setenv("HF_TOKEN", "wrong")
    assert "your token has no right to it" in refused()
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("secret\n")  # as a login leaves it
    server.seen.clear()
    assert locate.file(NAME).read_bytes() == FIRST
    told = {path.split("/")[1]: token for _, path, token in server.seen}
    assert told == {"me": "Bearer secret", "storage": None}


def test_a_repository_that_was_renamed(server):
    server.moved["me/old"] = "me/crabs"
    assert locate.file("hf:me/old").read_bytes() == FIRST
    server.moved |= {"me/a": "me/b", "me/b": "me/a"}
    assert "redirects in a circle" in refused("hf:me/a")


def test_what_is_not_there():
    message = refused(f"{NAME}/other.npz")
    assert "HTTP 404: there is no other.npz in me/crabs at main" in message
    assert "no me/none at main" in refused("hf:me/none")


def test_without_a_hash_nothing_is_fetched(server):
    server.tells = False
    assert "tells no sha256 of model.safetensors" in refused()


def test_damage_is_found(server):
    server.storage = dict.fromkeys([server.kept(FIRST)], SECOND)
    server.kept = lambda content: next(iter(server.storage))
    assert "its sha256 begins with" in refused()


def test_the_last_answer_counts_without_the_hub(server, monkeypatch, capsys):
    first = locate.file(NAME)
    for status in (503, 0):
        server.status = status
        if not status:
            monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        hub.find.cache_clear()
        assert locate.file(NAME) == first
        assert "taking what it was the last time" in capsys.readouterr().err
    assert "Connection refused, and the cache has no such" in refused("hf:me/never")


@pytest.mark.parametrize("variable", ["FRCNN_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline(server, monkeypatch, variable):
    first = locate.file(NAME)
    hub.find.cache_clear()
    monkeypatch.setenv(variable, "1")
    server.seen.clear()
    assert locate.file(NAME) == first
    assert "OFFLINE is set, and the cache" in refused("hf:me/never")
    assert not server.seen
    first.unlink()
    assert f"put it at {first}" in refused()


def test_a_file_of_that_name_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf:me").mkdir()
    (tmp_path / "hf:me" / "crabs").write_bytes(b"")
    assert str(locate.file(NAME)) == NAME and not locate.is_name(NAME)
