import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from frcnn_jax.data import video
from frcnn_jax.data.transforms import BadImage

needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="ffmpeg is not installed"
)


def film(path, count=12, hw=(48, 64), rate=Fraction(10)):
    """Frames that grow lighter, by twenty each."""
    made = video.Writer(path, hw, rate)
    for number in range(count):
        made.write(np.full((*hw, 3), 20 * (number % 12), np.uint8))
    made.close()
    return path


def levels(frames):
    """The mean of each frame in steps of twenty."""
    return [round(frame.mean() / 20) for frame in frames]


def test_videos_are_known_by_their_ending():
    assert video.is_video(Path("a/b.MP4")) and not video.is_video(Path("mp4/a.png"))


def test_without_ffmpeg_a_video_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadImage, match=r"a\.mp4 is a video: install ffmpeg"):
        video.probe(tmp_path / "a.mp4")


@needs_ffmpeg
@pytest.mark.parametrize("name", ["a.mp4", "b.mkv", "-y odd%03d.avi"])
def test_frames_come_back(tmp_path, name):
    found = video.probe(film(tmp_path / name))
    assert (found.rate, found.count) == (10, 12)
    frames = list(video.frames(found))
    assert {f.shape for f in frames} == {(48, 64, 3)} and frames[0].dtype == np.uint8
    assert levels(frames) == list(range(12))
    assert levels(video.frames(found, every=5)) == [0, 5, 10]


@needs_ffmpeg
def test_odd_sides_are_padded(tmp_path):
    found = video.probe(film(tmp_path / "a.mp4", 3, (33, 51)))
    assert next(video.frames(found)).shape == (34, 52, 3)


@needs_ffmpeg
def test_a_turned_video_stands_upright(tmp_path):
    flat, turned = film(tmp_path / "a.mp4", 2), tmp_path / "turned.mp4"
    words = ["ffmpeg", "-loglevel", "error", "-i", flat, "-c", "copy"]
    subprocess.run([*words, "-metadata:s:v", "rotate=90", turned], check=True)
    shapes = [f.shape for f in video.frames(video.probe(turned))]
    if shapes[0][:2] == (48, 64):
        pytest.skip("this ffmpeg does not write the turn")
    assert shapes == [(64, 48, 3)] * 2


@needs_ffmpeg
def test_frames_that_nobody_wants_are_not_waited_for(tmp_path):
    frames = video.frames(video.probe(film(tmp_path / "a.mp4", 60)))
    next(frames)
    frames.close()


@needs_ffmpeg
def test_what_is_no_video(tmp_path, capsys):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(BadImage, match=r"text\.mp4: "):
        video.probe(tmp_path / "text.mp4")
    with pytest.raises(BadImage, match=r"none\.mp4: .*No such file"):
        video.probe(tmp_path / "none.mp4")
    whole = film(tmp_path / "cut.mkv", 40).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    found = video.probe(tmp_path / "cut.mkv")
    some = len(list(video.frames(found)))
    assert 0 < some < 40


@needs_ffmpeg
def test_a_video_that_cannot_be_written(tmp_path):
    made = video.Writer(tmp_path / "none" / "a.mp4", (48, 64), Fraction(10))
    with pytest.raises(OSError, match=r"a\.mp4 cannot be written: .*No such file"):
        made.close()
