"""Weights to a repository and back, by the hub's own package and a hub beside us."""

import numpy as np
import pytest
import yaml

from frcnn_jax import config, labels
from frcnn_jax.convert import hub
from frcnn_jax.porting import publish, recognition, source
from tests.convert import hub_server
from tests.porting.test_script import convert

NAME = "hf:me/crabs"


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("FRCNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "secret")
    for name in ("FRCNN_OFFLINE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    hub.find.cache_clear()
    with hub_server.running() as made:
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        made.token = "secret"
        yield made
    hub.find.cache_clear()


@pytest.fixture(scope="module")
def trained():
    """Weights of a narrow detector."""
    model = config.FasterRCNN(num_classes=2)
    model.backbone.width, model.fpn.channels, model.rpn.channels = 4, 8, 8
    model.roi.fc = (8, 8)
    rng = np.random.default_rng(0)
    weights = {
        k: rng.uniform(0.01, 0.02, leaf.shape).astype(np.float32)
        for k, leaf in recognition.shapes(model).items()
    }
    run = config.Run(model=model)
    run.data.root = "/somewhere/beach"
    named = labels.of_names(("crab", "cat"))
    return source.Source("runs/beach step 90", run, named, weights, "")


def test_there_and_back(server, trained, tmp_path):
    (tmp_path / "eval.json").write_text('{"AP": 0.5, "AP50": 0.75, "step": 90}')
    url = publish.push(
        trained, NAME, folder=str(tmp_path), private=True, data_license="CC0"
    )
    assert url.startswith(f"{server.url}/me/crabs/commit/")
    (files,) = server.repositories["me/crabs"]
    assert set(files) == {hub.FILE, "README.md"} and server.private["me/crabs"]
    back = source.read(NAME)
    assert (
        back.labels.class_names == ("crab", "cat") and back.run.model.num_classes == 2
    )
    assert back.variables.keys() == trained.variables.keys()
    for path, array in trained.variables.items():
        np.testing.assert_array_equal(back.variables[path], array)
    assert len(back.sha256) == 64 and back.sha256[:16] in str(hub.find(NAME).file)


def test_the_card(server, trained, tmp_path):
    (tmp_path / "eval.json").write_text('{"AP": 0.5, "AP50": 0.75, "step": 90}')
    page = publish.page(trained, "me/crabs", str(tmp_path), "CC0")
    _, tags, text = page.split("---\n", 2)
    assert yaml.safe_load(tags)["pipeline_tag"] == "object-detection"
    for line in (
        "# Faster R-CNN, ResNet 50 with FPN",
        "- classes (2): crab, cat",
        "- trained on: beach, split ",
        "- licence of the data: CC0",
        "- scores: AP 0.500, AP50 0.750 at step 90 on split ",
        'Predictor("hf:me/crabs")',
        "found.xyxy, found.scores, found.names",
        "frcnn predict --weights=hf:me/crabs",
    ):
        assert line in text
    bare = publish.page(trained._replace(labels=None), "me/crabs", None, None)
    assert "the weights do not name them" in bare and "not scored" in bare


def test_the_commands_of_the_documents(server, trained, tmp_path):
    first, last = tmp_path / "first.safetensors", tmp_path / "last.npz"
    source.write(trained, first)
    said = convert(first, NAME, "--data_license=CC-BY-4.0", "--private")
    assert f"{NAME}: {len(trained.variables)} arrays and a model card" in said
    assert server.private["me/crabs"]
    assert b"CC-BY-4.0" in server.repositories["me/crabs"][0]["README.md"]
    said = convert(NAME, last, "--to=mmdet")
    assert "with the configuration that it carries" in said and last.is_file()
    assert "--to is for files" in convert(first, NAME, "--to=mmdet", code=1)


def test_a_second_push_is_a_second_commit(server, trained):
    publish.push(trained, NAME)
    publish.push(trained, NAME)
    assert len(server.repositories["me/crabs"]) == 2


def test_a_refusal_is_one_line(server, trained, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(ValueError, match=r"hf:me/crabs: the hub took nothing \(") as e:
        publish.push(trained, NAME)
    assert "set HF_TOKEN" in str(e.value) and "\n" not in str(e.value)
    assert not server.repositories


@pytest.mark.parametrize("name", [f"{NAME}@v1", f"{NAME}/x.safetensors"])
def test_weights_go_to_the_usual_place(name):
    with pytest.raises(ValueError, match="name the repository alone, hf:me/crabs"):
        publish.check(name)


def test_without_the_package_before_any_work(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="pip install huggingface_hub"):
        publish.check(NAME)
