"""Weights: folders, a hub on this machine that answers as the real one does, and files that are
refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file

from clmbr_fixture import write_clmbr
from concordant.config.components import EhrEncoder
from concordant.core.errors import ConfigError, WeightsError
from concordant.encoders.base import ENCODERS
from concordant.encoders.weights import check_shapes, open_weights, read_tensors

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_folder_is_taken_as_it_is(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.bin").write_bytes(b"xyz")
    opened = open_weights(tmp_path, files=("a.json", "b.bin"))
    assert opened.path("b.bin") == tmp_path / "b.bin"
    assert (opened.source, opened.revision) == (str(tmp_path), None)
    assert open_weights(str(tmp_path), files=("a.json", "b.bin")).digest == opened.digest
    with pytest.raises(AttributeError):
        opened.source = "elsewhere"


def test_the_digest_is_of_the_named_files_alone(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.bin").write_bytes(b"xyz")
    (tmp_path / "README.md").write_text("one")
    both = open_weights(tmp_path, files=("a.json", "b.bin")).digest
    expected = hashlib.sha256(b"a.json\x002\x00{}b.bin\x003\x00xyz").hexdigest()
    (tmp_path / "README.md").write_text("another")
    assert open_weights(tmp_path, files=("a.json", "b.bin")).digest == both == expected
    (tmp_path / "b.bin").write_bytes(b"xyZ")
    assert open_weights(tmp_path, files=("a.json", "b.bin")).digest != both


@pytest.mark.parametrize(
    ("folder", "found"),
    [("there", "other.txt"), ("empty", "nothing"), ("absent", "no such folder")],
)
def test_a_missing_file_is_named_with_what_is_there(tmp_path, folder, found):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "other.txt").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        WeightsError, match=rf"need the file\(s\) a\.json, b\.bin there \(found: {found}\)"
    ):
        open_weights(tmp_path / folder, files=("a.json", "b.bin"))


@pytest.mark.parametrize(
    "reference", ["hf:", "hf:name", "hf:owner/name@", "hf:owner/name/more", "hf:own er/name"]
)
def test_a_reference_that_is_none_is_refused(reference):
    with pytest.raises(WeightsError, match=r"expected hf:OWNER/NAME@REVISION"):
        open_weights(reference, files=("a",))


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.pth", "a.bin"])
def test_tensors_come_from_every_plain_form(tmp_path, name):
    tensors = {"x": torch.arange(4.0), "y": torch.ones(2, 2, dtype=torch.float16)}
    path = tmp_path / name
    if name.endswith("safetensors"):
        save_file(tensors, path)
    else:
        torch.save(
            OrderedDict(tensors) if name == "a.pt" else {"state_dict": tensors, "epoch": 3}, path
        )
    read = read_tensors(path)
    assert sorted(read) == ["x", "y"]
    assert read["y"].dtype is torch.float16
    assert torch.equal(read["x"], tensors["x"])


class Danger:
    ran = False

    def __reduce__(self):
        return (setattr, (Danger, "ran", True))


def test_a_pickle_is_refused_and_not_run(tmp_path):
    torch.save({"x": torch.ones(2), "extra": Danger()}, tmp_path / "a.pt")
    with pytest.raises(
        WeightsError,
        match=r"a\.pt: holds Python objects, which could run code.*convert it to safetensors",
    ):
        read_tensors(tmp_path / "a.pt")
    (tmp_path / "b.bin").write_bytes(pickle.dumps({"x": Danger()}))
    with pytest.raises(WeightsError, match=r"b\.bin"):
        read_tensors(tmp_path / "b.bin")
    assert not Danger.ran


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "found list"),
        ({"x": 3}, "expected named tensors"),
        (torch.ones(2), "found Tensor"),
    ],
)
def test_what_is_no_mapping_of_tensors_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=message):
        read_tensors(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_a_damaged_file_is_named(tmp_path, name):
    path = tmp_path / name
    if name.endswith("safetensors"):
        save_file({"x": torch.ones(1000)}, path)
    else:
        torch.save({"x": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(WeightsError, match=f"{name}: "):
        read_tensors(path)


def test_every_kind_of_misfit_is_counted_in_one_message(tmp_path):
    found = {"a": torch.ones(2), "b": torch.ones(3), "z": torch.ones(1)}
    check_shapes(tmp_path, {"a": (2,), "b": (3,), "z": (1,)}, found)
    with pytest.raises(WeightsError) as caught:
        check_shapes(tmp_path, {"a": (2,), "b": (4,), "c": (1,), "d": (1,)}, found)
    assert (
        "2 missing (first: c); 1 unexpected (first: z); 1 of another shape (first: b is [3], not "
        "[4])" in str(caught.value)
    )


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does: files of `owner/open`; `owner/gated` shows itself but gives no file.

    Nothing else is there.
    """

    folder: Path
    asked: list[str]

    def _reply(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        type(self).asked.append(f"{self.command} {self.path}")
        parts = self.path.strip("/").split("/")
        repository = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        revision = (
            parts[5]
            if parts[0] == "api" and len(parts) > 5
            else parts[3]
            if len(parts) > 3
            else "main"
        )
        if repository not in ("owner/open", "owner/gated"):
            return self._reply(401, b"{}", X_Error_Code="RepoNotFound")
        if revision not in ("main", "v1", COMMIT):
            return self._reply(404, b"{}", X_Error_Code="RevisionNotFound")
        if parts[0] == "api":
            siblings = [{"rfilename": path.name} for path in self.folder.iterdir()]
            content = {
                "id": repository,
                "modelId": repository,
                "sha": COMMIT,
                "siblings": siblings,
                "tags": [],
                "downloads": 0,
                "private": False,
            }
            return self._reply(200, json.dumps(content).encode(), Content_Type="application/json")
        if repository == "owner/gated":
            return self._reply(403, b"{}", X_Error_Code="GatedRepo")
        return self._reply(
            200, (self.folder / parts[4]).read_bytes(), ETag=f'"{parts[4]}"', X_Repo_Commit=COMMIT
        )

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    Hub.folder, Hub.asked = write_clmbr(tmp_path_factory.mktemp("hub") / "open"), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


ASK = """
import json, sys, time
from concordant.core.errors import WeightsError
from concordant.encoders.weights import open_weights
answers = {}
for reference, files in json.loads(sys.argv[1]):
    start = time.monotonic()
    try:
        opened = open_weights(reference, files=files)
        answer = [str(opened.folder), opened.digest, opened.revision, opened.source]
    except WeightsError as error:
        answer = str(error)
    answers[reference + " " + ",".join(files)] = [answer, time.monotonic() - start]
print(json.dumps(answers))
"""


def ask(endpoint, home, *questions):
    """Ask in a process of its own.

    The address of the hub is read when huggingface_hub is imported.
    """
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
    }
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        environment.pop(name, None)
    command = [sys.executable, "-c", ASK, json.dumps(questions)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


FILES = ["config.json", "model.safetensors"]


@pytest.fixture(scope="module")
def answers(hub, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    online = ask(
        hub,
        home,
        ("hf:owner/open@v1", FILES),
        ("hf:owner/open", FILES),
        ("hf:owner/gated@main", FILES),
        ("hf:owner/absent@main", FILES),
        ("hf:owner/open@nowhere", FILES),
        ("hf:owner/open@main", ["config.json", "absent.bin"]),
    )
    before = len(Hub.asked)
    again = ask(hub, home, ("hf:owner/open@v1", FILES))
    assert [
        asked for asked in Hub.asked[before:] if "owner" in asked
    ] == []  # the cache is looked at first
    offline = ask(
        "http://127.0.0.1:9",
        home,
        ("hf:owner/open@v1", FILES),
        (f"hf:owner/open@{COMMIT}", FILES),
        ("hf:owner/open@v2", FILES),
    )
    return online, again, offline


def test_a_revision_is_fetched_once_and_its_commit_is_known(answers):
    online, again, _ = answers
    folder, digest, revision, source = online["hf:owner/open@v1 config.json,model.safetensors"][0]
    assert (revision, source) == (COMMIT, "hf:owner/open@v1")
    assert digest == open_weights(Hub.folder, files=FILES).digest
    assert open_weights(folder, files=FILES).digest == digest
    assert online["hf:owner/open config.json,model.safetensors"][0][1:3] == [digest, COMMIT]
    assert again["hf:owner/open@v1 config.json,model.safetensors"][0][0] == folder


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        (
            "hf:owner/gated@main config.json,model.safetensors",
            "the repository is gated: ask for access at http",
        ),
        (
            "hf:owner/absent@main config.json,model.safetensors",
            "there is no such repository, or it is private",
        ),
        (
            "hf:owner/open@nowhere config.json,model.safetensors",
            "the repository has no revision 'nowhere'",
        ),
        (
            "hf:owner/open@main config.json,absent.bin",
            "the repository has no file absent.bin at 'main'",
        ),
    ],
)
def test_what_the_hub_refuses_is_said_in_a_sentence_with_what_to_do(answers, question, sentence):
    answer = answers[0][question][0]
    assert answer.startswith(f"weights '{question.partition(' ')[0]}': {sentence}")
    assert "\n" not in answer


def test_without_a_network_the_cache_serves_and_what_is_not_there_fails_at_once(answers):
    offline = answers[2]
    for revision in ("v1", COMMIT):
        assert offline[f"hf:owner/open@{revision} config.json,model.safetensors"][0][2] == COMMIT
    answer, seconds = offline["hf:owner/open@v2 config.json,model.safetensors"]
    assert "not in the cache, and the hub cannot be reached" in answer
    assert "give a folder" in answer
    assert seconds < 10


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"pip install 'concordant\[hub\]'"):
        open_weights("hf:owner/open@main", files=("a",))


def test_an_option_is_a_path_or_a_reference_that_stays_as_it_is():
    assert ENCODERS.resolve("clmbr", {"weights": "weights/clmbr"})["weights"] == Path(
        "weights/clmbr"
    )
    assert (
        ENCODERS.resolve("clmbr", {"weights": "hf:owner/open@v1"})["weights"] == "hf:owner/open@v1"
    )
    assert ENCODERS.label("clmbr", {"weights": "weights/clmbr"}) == "clmbr(weights=clmbr)"
    with pytest.raises(ConfigError, match="option weights"):
        ENCODERS.resolve("clmbr", {"weights": 3})


def test_in_a_study_a_folder_resolves_against_its_file_and_a_reference_stays(tmp_path):
    encoder = TypeAdapter(EhrEncoder)
    (tmp_path / "weights").mkdir()
    chosen = encoder.validate_python(
        {"name": "clmbr", "weights": "weights"}, context={"folder": tmp_path}
    )
    assert chosen.options["weights"] == tmp_path / "weights"
    hub = encoder.validate_python(
        {"name": "clmbr", "weights": "hf:owner/open@v1"}, context={"folder": tmp_path}
    )
    assert hub.options["weights"] == "hf:owner/open@v1"
    with pytest.raises(ValidationError, match="weights: no such file or folder"):
        encoder.validate_python(
            {"name": "clmbr", "weights": "absent"}, context={"folder": tmp_path}
        )
