"""`frcnn VERB` from a folder that is not the project's."""

import subprocess
import sys

import pytest

from frcnn_jax import __main__, home


def frcnn(cwd, *words):
    command = [sys.executable, "-m", "frcnn_jax", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("script", __main__.SCRIPTS.values())
def test_every_verb_has_a_script(script):
    assert (home.folder() / script).is_file()


def test_verbs_do_what_their_scripts_do(tmp_path):
    done = frcnn(tmp_path, "make_shapes", "--out=set", "--train=3", "--val=2")
    assert done.returncode == 0, done.stderr
    words = ("check", "set", "--quick", "--config=configs/demo.py")
    done = frcnn(tmp_path, "data", *words)  # its file lies beside the scripts
    assert done.returncode == 0, done.stderr
    assert "demo.py" in done.stdout and "verdict: " in done.stdout


def test_a_configuration_of_the_users_own_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    word = "--config=configs/demo.py"
    found = f"--config={home.folder() / 'configs/demo.py'}"
    assert __main__._found(word, home.folder()) == found
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.py").touch()
    assert __main__._found(word, home.folder()) == word
    for other in ("--config=none.py", "--config.train.lr=1", "configs/demo.py"):
        assert __main__._found(other, home.folder()) == other


def test_what_is_no_verb_gets_the_usage(tmp_path):
    done = frcnn(tmp_path, "trian", "--config=x")
    assert done.returncode == 2 and done.stdout == ""
    assert "no verb 'trian --config=x'; did you mean 'train'?" in done.stderr
    assert "usage: frcnn VERB" in done.stderr
    done = frcnn(tmp_path)
    assert done.returncode == 0 and "configs" in done.stdout and not done.stderr


def test_commands_are_those_of_the_folder_at_hand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert home.command("tools/export.py") == "frcnn export"
    monkeypatch.chdir(home.folder())
    assert home.command("tools/export.py") == "python tools/export.py"
