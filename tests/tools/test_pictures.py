"""How the walkthrough's page is read, and a server that is started and told apart."""

import sys

import pytest
from PIL import Image

from tools import pictures

PAGE = """
```python
# mine.py
x = 1
```

```bash
# a remark
python a.py --x='b c'  # and another
make demo
```

```text
python not_a_command.py
```
"""


def test_commands_and_files_of_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert pictures.commands(page) == ["python a.py --x='b c'", "make demo"]
    assert pictures.files(page) == {"mine.py": "# mine.py\nx = 1\n"}
    assert [language for language, _ in pictures.blocks(page)] == [
        *("python", "bash", "text")
    ]


def test_a_server_has_started_when_its_address_is_told(tmp_path):
    serve = "print('ready'); print('http://here', flush=True); input()"
    words = [sys.executable, "-c", serve]
    server, told = pictures.start(words, tmp_path)
    server.kill()
    server.communicate()
    assert told == "ready\nhttp://here\n"
    with pytest.raises(RuntimeError, match="ended before it served:\nno"):
        pictures.start([sys.executable, "-c", "print('no')"], tmp_path)


def test_pictures_are_laid_out_in_rows(tmp_path):
    paths = [tmp_path / f"{k}.png" for k in range(3)]
    for k, path in enumerate(paths):
        Image.new("RGB", (40, 10 + k), "black").save(path)
    assert pictures.beside(paths, 2).size == (80, 24)
