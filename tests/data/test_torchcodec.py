"""torchcodec against PyAV, in a process that finds PyAV's own FFmpeg where no other is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import pytest
from test_decode import AV1, FORMS, rotate_header

from conftest import numbered_frame, write_video
from st_adapter.data.video import reader
from st_adapter.errors import ArgumentError

pytest.importorskip("torchcodec")

COMPARE = """
import json, sys
from fractions import Fraction
from pathlib import Path
from st_adapter.data.video import decode
from st_adapter.data.video import packets
from st_adapter.data.video import torchcodec_decoder
from st_adapter.data.video.reader import Reader
from st_adapter.errors import VideoError

pyav, other, found = Reader(), Reader(decoder="torchcodec"), {}
for path in map(Path, sys.argv[1:]):
    try:
        info = packets.probe(path)
        wanted = sorted({*range(0, info.num_frames, 7), info.num_frames - 1})
        frames = [r.read_frames(path, wanted, None, info).astype(float) for r in (pyav, other)]
        small = [r.read_frames(path, wanted, 32, info).astype(float) for r in (pyav, other)]
    except VideoError:
        continue
    used = info.stamped and bool(torchcodec_decoder.read_by_time(
        path, wanted, info, None, Fraction(1), "cpu"
    ))
    found[str(path)] = {
        "used": used,
        "whole": abs(frames[0] - frames[1]).max((1, 2, 3)).tolist(),
        "small": abs(small[0] - small[1]).mean((1, 2, 3)).tolist(),
        "shapes": [list(frames[1].shape), list(small[0].shape), list(small[1].shape)],
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def compare(tmp_path_factory):
    """Compare both decoders on files; PyAV's libraries stand in for a system's FFmpeg."""
    folder = tmp_path_factory.mktemp("ffmpeg")
    for library in (Path(av.__file__).parent.parent / "av.libs").glob("lib*.so.*"):
        stem, _, version = library.name.partition(".so.")
        plain = f"{stem.rpartition('-')[0]}.so.{version.split('.')[0]}"
        (folder / plain).symlink_to(library)
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder)}

    def run(*paths):
        arguments = [sys.executable, "-c", COMPARE, *map(str, paths)]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_every_frame_is_the_same(compare, tmp_path):
    paths = {AV1: True}
    for form, (name, codec, options) in FORMS.items():
        frames = [numbered_frame(i, width=128) for i in range(60)]
        path = write_video(tmp_path / form / name, frames, codec=codec, options=options)
        stamped = path.suffix in (".mp4", ".mkv", ".webm")
        paths[path] = stamped and "refresh" not in form  # without key frames it gives up
    rotated = tmp_path / "rotated.mp4"
    rotate_header(tmp_path / "h264 with B-frames" / "a.mp4", rotated)
    paths[rotated] = True
    found = compare(*paths)
    assert {Path(path): values["used"] for path, values in found.items()} == paths
    for values in found.values():
        assert max(values["whole"]) == 0
        assert max(values["small"]) < 6  # two ways of shrinking hard edges
        assert values["shapes"][1] == values["shapes"][2]
    assert found[str(rotated)]["shapes"][0][1:3] == [128, 64]


AWKWARD = Path(os.environ.get("ST_ADAPTER_AWKWARD_VIDEOS", "/nonexistent"))


@pytest.mark.skipif(not AWKWARD.is_dir(), reason="ST_ADAPTER_AWKWARD_VIDEOS is not set")
def test_awkward_files_have_the_same_frames(compare):
    found = compare(*(p for p in AWKWARD.iterdir() if p.suffix not in (".json", ".md")))
    assert sum(values["used"] for values in found.values()) > 10
    for path, values in found.items():
        if "10bits" not in path:  # chroma of more than 8 bits is interpolated in two ways
            assert max(values["whole"]) == 0, path


def test_without_ffmpeg_there_is_one_line():
    said = ""  # on a machine that has FFmpeg of its own
    try:
        reader.Reader(decoder="torchcodec")
    except ArgumentError as error:
        said = str(error)
    assert said == "" or "torchcodec cannot be used: it requires FFmpeg's libraries" in said


def test_without_torchcodec_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ArgumentError, match="pip install 'st-adapter\\[torchcodec\\]'"):
        reader.Reader(decoder="torchcodec")
