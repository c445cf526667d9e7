"""Clips through the command line: videos or arrays of their maps, and one clear line for what cannot be predicted."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clips import av, cut_off, make_clip, noise, read, sound_of, still, write_tone
from PIL import Image
from test_test import narrow_flags, record, run

import msinet
from msinet import images, main
from msinet.phases import clips
from msinet.photographs import Options, Photograph
from msinet.predictor import Prediction
from msinet.utils import UserError
from msinet.videos import reading, writing


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def endless(server):
    """The address of a stream that never ends, and the list of functions to call once, after some megabytes."""
    callbacks = []

    def stream(handler, contents):
        handler.send_response(200)
        handler.end_headers()
        for sent in itertools.count():
            handler.wfile.write(contents)
            if callbacks and sent * len(contents) > 6_000_000:
                callbacks.pop()()

    return lambda contents: server.serve("/live", contents, stream), callbacks


def files_in(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def test_folder_of_photographs_and_clips(folder, results, run, photograph, capsys):
    scenes = [photograph(61, 83, seed=i) for i in range(6)]
    Image.fromarray(scenes[0]).save(folder / "photo.png")
    assert run(folder) == 0
    alone, capsys_before = (results / "images" / "photo.jpeg").read_bytes(), capsys.readouterr().out
    assert "clip" not in capsys_before and "clips" not in record(results)
    (folder / "sub").mkdir()
    make_clip(folder / "sub" / "a.mkv", scenes, layout="yuv444p")
    make_clip(folder / "a.mov", scenes[:1], layout="yuv444p", rotate=(-90,))
    pictures = [Image.fromarray(pixels) for pixels in still(3)]
    pictures[0].save(folder / "a.gif", save_all=True, append_images=pictures[1:], duration=40)
    assert run(folder, "--overlay") == 0
    expected = ["a.gif.mp4", "a.mov.mp4", "sub/a.mp4"]
    assert files_in(results / "videos") == expected
    assert files_in(results / "overlays") == [*expected[:2], "photo.jpeg", expected[2]]
    assert (results / "images" / "photo.jpeg").read_bytes() == alone and files_in(results / "images") == ["photo.jpeg"]
    printed = capsys.readouterr().out
    assert "1 map written to" in printed and f"3 clips written to {results / 'videos'}." in printed
    upright = read(results / "videos" / "a.mov.mp4")
    assert len(upright) == 1 and upright[0].pixels.shape == (83, 61, 3)
    found = record(results)
    assert [clip["frames"] for clip in found["clips"]] == [3, 1, 6] and found["clips"][2]["seconds"] == 6 / 25
    assert (found["written"], found["failures"], found["failed_clips"]) == (1, [], [])
    assert (found["every"], found["fps"], found["smooth"]) == (1, None, 0)


def test_maps_are_those_of_the_frames_as_photographs(tmp_path, results, run, narrow_weights, photograph):
    source = make_clip(tmp_path / "a.mp4", [photograph(61, 83, seed=i) for i in range(6)], layout="yuv444p")
    assert run(source) == run(source, "--format", "npy", "--batch-size", "2") == 0
    network = msinet.load(narrow_weights, input_size=(48, 64))
    with np.load(results / "videos" / "a.npz") as archive:
        times, maps = archive["times"], archive["maps"]
    assert maps.dtype == np.float16 and maps.shape == (6, 61, 83)
    assert times.tolist() == [i / 25 for i in range(6)]
    frames, written = read(source), read(results / "videos" / "a.mp4")
    rows = list(network.predict_video(source))
    assert [time for time, _ in rows] == times.tolist()
    for i, frame in enumerate(frames):
        Image.fromarray(frame.pixels).save(tmp_path / "frame.png")
        assert run(tmp_path / "frame.png", "--format", "npy") == 0
        expected = np.load(results / "images" / "frame.npy")
        np.testing.assert_array_equal(rows[i][1], expected)
        np.testing.assert_allclose(maps[i], expected, atol=1e-3)  # Batches round differently.
        assert written[i].time == frame.time and np.abs(written[i].pixels[..., 0] - expected * 255).mean() < 2
    assert run(source, "--format", "npy") == 0
    with np.load(results / "videos" / "a.npz") as archive:
        np.testing.assert_array_equal(archive["maps"], np.stack([row for _, row in rows]).astype(np.float16))


def test_overlay_is_the_blended_clip_with_its_sound(tmp_path, results, run, photograph, capsys):
    source = make_clip(tmp_path / "a.mp4", [photograph(seed=i) for i in range(10)], sound="aac")
    assert run(source, "--overlay") == 0
    frames, maps = read(source), read(results / "videos" / "a.mp4")
    for frame, saliency, overlay in zip(frames, maps, read(results / "overlays" / "a.mp4"), strict=True):
        expected = images.blend(frame.pixels, saliency.pixels[..., 0].astype(np.float32))
        assert np.abs(overlay.pixels.astype(int) - expected).mean() < 6
    np.testing.assert_array_equal(sound_of(results / "overlays" / "a.mp4"), sound_of(source))
    with av.open(str(results / "videos" / "a.mp4")) as video:
        assert not video.streams.audio
    assert run(make_clip(tmp_path / "b.avi", still(3), "mpeg4", sound="adpcm_ima_wav"), "--overlay") == 0
    assert "b.avi: its sound (adpcm_ima_wav) cannot be copied into an MP4 file.\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sampling", "recorded", "times"),
    [
        (("--every", "5"), (5, None), range(0, 30, 5)),
        (("--fps", "2"), (1, 2.0), (0, 13, 25)),
        ((), (1, None), range(30)),
    ],
)
def test_fewer_frames_are_predicted_and_recorded(tmp_path, results, run, monkeypatch, sampling, recorded, times):
    bars = []
    monkeypatch.setattr(clips, "ProgressBar", lambda rows, name, total, **options: bars.append((name, total)) or rows)
    assert run(make_clip(tmp_path / "a.mp4", still(30, gray=50)), *sampling) == 0
    frames = read(results / "videos" / "a.mp4")
    assert [frame.time * 25 for frame in frames] == list(times)
    assert frames[-1].time + frames[-1].duration == Fraction(30, 25)
    assert bars == [("a.mp4", len(times))]
    found = record(results)
    assert found["clips"][0]["frames"] == len(times) and (found["every"], found["fps"]) == recorded


def test_smoothing_is_off_unless_asked_for_and_recorded(tmp_path, results, run, photograph):
    source = make_clip(tmp_path / "a.mp4", [photograph(seed=i // 3) for i in range(6)])
    archives = []
    for flags in ((), ("--smooth", "0"), ("--smooth", "2")):
        assert run(source, "--format", "npy", *flags) == 0
        with np.load(results / "videos" / "a.npz") as archive:
            archives.append(archive["maps"])
    np.testing.assert_array_equal(archives[0], archives[1])
    assert np.abs(archives[2] - archives[0]).max() > 0.01 and record(results)["smooth"] == 2


def test_clips_that_cannot_be_predicted_are_one_line_each(folder, results, run, capsys):
    make_clip(folder / "good.mp4", still(3))
    cut_off(folder / "cut.mp4")
    (folder / "text.mp4").write_text("hello\n" * 100)
    (folder / "gone.mp4").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.mp4")
    os.mkfifo(folder / "pipe.gif")
    with av.open(str(folder / "song.mp4"), "w") as output:
        write_tone(output, output.add_stream("aac", rate=48000), 0.2)
    with av.open(str(folder / "empty.avi"), "w") as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width, stream.height = 64, 48
        output.start_encoding()
    assert run(folder, "--overlay") == 1
    assert files_in(results / "videos") == files_in(results / "overlays") == ["cut.mp4", "good.mp4"]
    assert 10 <= len(read(results / "videos" / "cut.mp4")) < 20
    printed = capsys.readouterr()
    lines = {line.split(":")[1].rpartition("/")[2]: line for line in printed.err.splitlines()}
    assert len(lines) == len(printed.err.splitlines()) == 7
    for name, words in {
        "cut.mp4": "frames before are written",
        "text.mp4": "not a video that can be read (Invalid data",
        "gone.mp4": "not a regular file",
        "pipe.mp4": "not a regular file",
        "pipe.gif": "not a regular file",
        "song.mp4": "it has no picture, only sound",
        "empty.avi": "none of its frames can be read",
    }.items():
        assert words in lines[name]
    assert "2 clips written" in printed.out and "6 clips failed" in printed.out
    assert len(record(results)["failed_clips"]) == 6
    assert run(folder / "text.mp4") == 1


@pytest.mark.parametrize(
    ("more", "name", "writer"), [((), "a.mp4", writing.Writer), (("--format", "npy"), "a.npz", writing.Archive)]
)
def test_full_disk_is_one_line_and_leaves_the_former_file(
    tmp_path, results, run, monkeypatch, capsys, more, name, writer
):
    source = make_clip(tmp_path / "a.mp4", still(10))
    assert run(source, *more) == 0
    former = (results / "videos" / name).read_bytes()
    add = writer.add

    def full(self, pixels, time):
        if time > Fraction(1, 10):
            raise OSError(28, "No space left on device", "a.mp4")
        add(self, pixels, time)

    monkeypatch.setattr(writer, "add", full)
    assert run(source, *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: [Errno 28] No space left on device: 'a.mp4'") and error.count("\n") == 1
    assert files_in(results / "videos") == [name] and (results / "videos" / name).read_bytes() == former


def test_missing_pyav_is_one_line_before_anything_is_computed(folder, tmp_path, run, monkeypatch, capsys, photograph):
    make_clip(folder / "a.mp4", still(1))
    Image.fromarray(photograph()).save(tmp_path / "photo.png")
    monkeypatch.setitem(sys.modules, "av", None)
    assert run(folder) == 2
    printed = capsys.readouterr()
    assert not printed.out and printed.err.count("\n") == 1 and "pip install -r requirements-video.txt" in printed.err
    assert run(tmp_path / "photo.png") == 0


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG"), (1, "")])
def test_high_dynamic_range_is_named(tmp_path, results, run, capsys, transfer, name):
    assert run(make_clip(tmp_path / "a.mp4", still(2), "libx265", "yuv420p10le", transfer=transfer)) == 0
    note = f"its high dynamic range ({name}) is not converted" if name else ""
    assert record(results)["clips"][0]["note"] == note
    assert (f"a.mp4: {note}.\n" in capsys.readouterr().out) == bool(name)


def test_every_and_fps_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        main.parse(["test", "--every", "5", "--fps", "5"])
    assert "not allowed with argument" in capsys.readouterr().err


def test_python_raises_after_the_last_frame_before_the_damage(tmp_path, narrow_weights):
    rows = msinet.load(narrow_weights, input_size=(48, 64)).predict_video(cut_off(tmp_path / "a.mp4"), every=2)
    times = []
    with pytest.raises(UserError, match=r"a\.mp4: damaged after 0\.\d\d s\.$"):
        times += [time for time, saliency in rows if saliency.max() <= 1]
        times.extend(time for time, _ in rows)


# --- Cameras and streams ----------------------------------------------------------------------------------------------


def interrupt(rows, *arguments, **options):
    """Instead of the progress bar: Ctrl-C at frame 10."""
    for i, row in enumerate(rows):
        if i == 10:
            signal.raise_signal(signal.SIGINT)
        yield row


def test_interrupted_clip_leaves_nothing(tmp_path, results, run, monkeypatch, capsys):
    monkeypatch.setattr(clips, "ProgressBar", interrupt)
    assert run(make_clip(tmp_path / "a.mp4", noise(100)), "--overlay") == 130
    assert capsys.readouterr().err == "interrupted\n" and files_in(results) == []


def test_stream_ends_with_ctrl_c_and_its_file_is_complete(tmp_path, results, run, endless, monkeypatch):
    serve, _ = endless
    address = serve(make_clip(tmp_path / "a.ts", noise(50)).read_bytes())
    monkeypatch.setattr(clips, "ProgressBar", interrupt)
    assert run(address) == 0
    frames = len(read(results / "videos" / "stream.mp4"))
    assert 10 < frames < 200 and record(results)["clips"][0]["frames"] == frames
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_killed_run_leaves_no_partial_video(tmp_path, results, narrow_flags, endless):
    serve, callbacks = endless
    address = serve(make_clip(tmp_path / "a.ts", noise(50)).read_bytes())
    command = [sys.executable, "main.py", "test", "-p", address, "--overlay", *narrow_flags]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL) as process:
        callbacks.append(process.kill)
    assert process.returncode == -signal.SIGKILL
    assert files_in(results / "videos") and not list(results.rglob("stream.mp4"))


def test_passwords_of_cameras_are_neither_printed_nor_recorded():
    assert clips.without_password("rtsp://me:secret@camera:554/a@b?x=1") == "rtsp://camera:554/a@b?x=1"
    assert clips.without_password("in/a@b.mp4") == "in/a@b.mp4"


# --- Memory -----------------------------------------------------------------------------------------------------------


class FakeNetwork:
    """Maps without TensorFlow; `at[i]` is called when frame i is predicted."""

    def __init__(self, at):
        self.at = at

    def predictions(self, photographs, batch_size):
        for i, pixels in enumerate(photographs):
            self.at.get(i, int)()
            yield Prediction(pixels, pixels[..., 0].astype(np.float32))


def test_decoding_network_and_encoding_run_in_separate_threads(tmp_path, monkeypatch):
    threads = {"decoding": set(), "network": set(), "encoding": set()}

    def watch(module, name, stage):
        function = getattr(module, name)

        def watched(*arguments):
            threads[stage].add(threading.get_ident())
            return function(*arguments)

        monkeypatch.setattr(module, name, watched)

    watch(reading, "_rgb", "decoding")
    watch(writing.Writer, "add", "encoding")
    network = FakeNetwork(dict.fromkeys(range(10), lambda: threads["network"].add(threading.get_ident())))
    files = Photograph(str(make_clip(tmp_path / "a.mp4", still(10))), "maps.mp4", "")
    clips.predict_clip(network, files, Options({"batch_size": 1, "results": str(tmp_path)}))
    assert [len(used) for used in threads.values()] == [1, 1, 1]
    assert len(set.union(*threads.values())) == 3


@pytest.mark.parametrize("format", ["jpeg", "npy"])
def test_memory_does_not_grow_with_the_length_of_a_clip(tmp_path, monkeypatch, format):
    rgb = reading._rgb
    monkeypatch.setattr(reading, "_rgb", lambda *arguments: rgb(*arguments).copy())  # FFmpeg's memory is not traced.
    source = make_clip(tmp_path / "a.mp4", noise(100) * 10, options={"preset": "ultrafast"})
    used = []
    measure = lambda: used.append(tracemalloc.get_traced_memory()[0])  # noqa: E731
    options = Options({"batch_size": 1, "results": str(tmp_path)}, format=format, overlay=True, smooth=0.5)
    files = Photograph(str(source), f"maps.{format}", "overlay.mp4")
    tracemalloc.start()
    try:
        clip = clips.predict_clip(FakeNetwork({250: measure, 990: measure}), files, options)
    finally:
        tracemalloc.stop()
    assert clip["frames"] == 1000
    assert max(used) < 6_000_000  # bytes; all frames are 9 MB
    assert used[1] - used[0] < 500_000  # the frames between are 7 MB
