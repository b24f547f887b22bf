"""``fairdeploy compact``: any network by its name, from the terminal to a folder that loads without its code."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fairdeploy
from fairdeploy.bundle import CompactionRecord
from fairdeploy.cli import main
from fairdeploy.cli.compact import FILES

CODE = """
import torch
from torch import nn
from torch.nn.utils import prune

print("imported")

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, 2)

    def forward(self, image):
        return self.head(torch.relu(self.second(torch.relu(self.first(image)))).mean((2, 3)))

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.size, self.out = nn.Embedding(9, 4), nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, tokens, size, scale=None):
        x = self.words(tokens).sum(1) + self.size(size)
        return self.out(x if scale is None else x * scale)

def half():
    net = Net()
    prune.ln_structured(net.first, "weight", 0.5, n=2, dim=0)
    return net

def exported():
    net = Net()
    with torch.no_grad():
        net.second.weight[:, 4:] = 0
    return torch.export.export(net, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: torch.export.Dim("n")},))

def chatty():
    class Chatty(Net):
        def forward(self, image):
            print("forward")
            return super().forward(image)
    return Chatty()

def branching():
    class Branching(Net):
        def forward(self, image):
            return super().forward(image) if image.sum() > 0 else image
    return Branching()

def broken(): raise RuntimeError("no weights here")
def text(): return "text"

ready = half()
"""
BRANCH = CODE[: CODE.index("image.sum()")].count("\n") + 1


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's module in it, which is forgotten afterwards."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "given_net.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delitem(sys.modules, "given_net", raising=False)
    return tmp_path


def compact(*arguments: str) -> int:
    return main(["compact", "-C", "code", *arguments])


def widths(capsys: pytest.CaptureFixture[str]) -> dict[str, list[int]]:
    layers = json.loads(capsys.readouterr().out)["compaction"]["layers"]
    return {one["group"]: [one["before"], one["after"]] for one in layers}


def test_it_prints_the_layers_the_totals_and_the_proof(here, capsys):
    assert compact("given_net:half", "--input", "3,8,8") == 0
    printed, progress = capsys.readouterr()
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if line.strip()}
    assert rows["first.weight"][1:4] == ["█████░░░░░", "8", "4"]
    assert rows["second.weight"][1:] == ["██████████", "6", "6", "in", "use"]
    assert rows["Parameters"][-2] == "51.5"
    assert "imported" not in printed
    assert "imported" in progress
    text = " ".join(printed.split())
    assert "in float64 the outputs differ by" in text
    assert "on random rows" in text
    assert "at batch sizes 1 and" in text


def test_progress_can_be_switched_off(here, capsys):
    assert compact("given_net:Net", "--input", "3,8,8", "-q") == 0
    printed, progress = capsys.readouterr()
    assert progress == "imported\n"
    assert "Nothing was removed" in printed


@pytest.mark.parametrize("name", ["half", "exported", "ready"])
def test_a_module_a_function_and_an_exported_program_are_networks(name, here, capsys):
    assert compact(f"given_net:{name}", "--input", "image=3,8,8", "--json") == 0
    assert widths(capsys)["first.weight"] == [8, 4]


def test_the_folder_holds_graph_record_and_picture_and_loads_without_the_code(here, capsys):
    assert compact("given_net:half", "--input", "3,8,8", "-o", "made/out") == 0
    assert "written: made/out" in capsys.readouterr().out
    out = here / "made" / "out"
    assert {file.name for file in out.iterdir()} == set(FILES)
    assert [file.name for file in out.parent.iterdir()] == ["out"]
    record = CompactionRecord.load(out / "compaction.json")
    assert (record.layers[0].before, record.layers[0].after) == (8, 4)
    (here / "code" / "given_net.py").unlink()
    graph = fairdeploy.load_graph(out)
    network = sys.modules["given_net"].half().eval()
    images = torch.rand(3, 3, 8, 8)
    assert torch.allclose(graph(images), network(images), atol=1e-6)
    assert compact("made/out", "--input", "3,8,8", "--json") == 0
    assert widths(capsys)["first.weight"] == [4, 4]


def test_the_picture_says_what_it_shows(here):
    assert compact("given_net:half", "--input", "3,8,8", "-o", "out") == 0
    picture = ElementTree.parse(here / "out" / "widths.svg").getroot()
    named = {child.attrib["id"]: child.text for child in picture if "id" in child.attrib}
    title, description = (named[name] for name in picture.attrib["aria-labelledby"].split())
    assert picture.attrib["role"] == "img"
    assert title == "Channels per layer before and after compaction"
    assert "first.weight: from 8 to 4." in description
    bars = [float(one.attrib["width"]) for one in picture if one.attrib.get("class") in ("before", "after")]
    assert bars == [290, 145, 217.5, 217.5]
    page = (here / "out" / "widths.html").read_text()
    assert description in page
    for cell in ('<th scope="row" role="rowheader">first.weight</th>', ">8</td>", ">4</td>", "<script"):
        assert (cell in page) == (cell != "<script")


def test_the_same_network_gives_the_same_bytes(here):
    for name in ("one", "two"):
        assert compact("given_net:half", "--input", "3,8,8", "-o", name) == 0
    for file in FILES:
        assert (here / "one" / file).read_bytes() == (here / "two" / file).read_bytes()


def refusing(replace):
    def rename(file, target):
        if file.name == "new":
            raise OSError(28, "no room")
        return replace(file, target)

    return rename


def test_a_folder_of_ours_is_replaced_whole_and_no_other_is_touched(here, capsys, monkeypatch):
    assert compact("given_net:half", "--input", "3,8,8", "-o", "out") == 0
    first = (here / "out" / "graph.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("fairdeploy.report.widths.widths_svg", lambda found: 1 / 0)
        assert compact("given_net:Net", "--input", "3,8,8", "-o", "out") == 3
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refusing(Path.replace))
        assert compact("given_net:Net", "--input", "3,8,8", "-o", "out") == 2
        assert "cannot be written: no room" in capsys.readouterr().err
    assert (here / "out" / "graph.json").read_bytes() == first
    assert sorted(file.name for file in here.iterdir()) == ["code", "out"]
    assert compact("given_net:Net", "--input", "3,8,8", "-o", "out") == 0
    assert (here / "out" / "graph.json").read_bytes() != first
    (here / "out" / "thesis.tex").write_text("mine")
    assert compact("given_net:half", "--input", "3,8,8", "-o", "out") == 2
    assert "holds 'thesis.tex', which is not overwritten" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["masks.npz", "masks.json", "bits.json"])
def test_masks_come_from_a_file(file, here, capsys):
    keep = [1, 0, 1, 1, 0, 0, 1, 1]
    np.savez(here / "masks.npz", **{"first.weight": np.array(keep, bool)})
    (here / "masks.json").write_text(json.dumps({"first.weight": keep}))
    (here / "bits.json").write_text(json.dumps({"first.weight": "".join(map(str, keep))}))
    assert compact("given_net:Net", "--input", "3,8,8", "--masks", file, "--json") == 0
    assert widths(capsys)["first.weight"] == [8, 5]


def test_weights_come_from_a_file(here, capsys):
    network = nn.ModuleDict({"first": nn.Conv2d(3, 8, 3), "second": nn.Conv2d(8, 6, 3), "head": nn.Linear(6, 2)})
    with torch.no_grad():
        network["second"].weight[:, 2:] = 0
    save_file(network.state_dict(), here / "weights.safetensors")
    assert compact("given_net:Net", "--input", "3,8,8", "--weights", "weights.safetensors", "--json") == 0
    assert widths(capsys)["first.weight"] == [8, 2]


def test_real_rows_are_the_ones_compared(here, capsys):
    random = np.random.default_rng(0)
    np.savez("rows.npz", size=random.random((4, 2)), tokens=random.integers(0, 9, (4, 7)))
    assert compact("given_net:Two", "--rows", "rows.npz") == 0
    assert "on 4 real rows" in " ".join(capsys.readouterr().out.split())
    np.savez("one.npz", x=random.random((2, 3, 8, 8)))
    assert compact("given_net:Net", "--rows", "one.npz", "--json") == 0
    assert json.loads(capsys.readouterr().out)["real_rows"] == 2


def test_json_is_one_document_whatever_the_network_prints(here, capsys):
    assert compact("given_net:chatty", "--input", "3,8,8", "--json", "-o", "out") == 0
    printed, progress = capsys.readouterr()
    found = json.loads(printed)
    assert "forward" in progress
    assert found["command"] == "compact"
    assert found["compaction"]["parameters_before"] == 676
    assert (found["real_rows"], found["folder"], found["compaction"]["unknown_ops"]) == (None, "out", [])


def npy(array):
    written = io.BytesIO()
    np.save(written, array)
    return written.getvalue()


def npz(**arrays):
    return lambda file: np.savez(file, **arrays)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda file: file.write_bytes(b"no zip"), "is no npz file of plain arrays"),
        (lambda file: file.write_bytes(npy(np.zeros(3))), "is no npz file of plain arrays"),
        (npz(image=np.array([{}])), "is no npz file of plain arrays"),
        (npz(), "holds no array"),
        (npz(image=np.zeros((0, 3, 8, 8))), "'image' holds no rows of numbers"),
        (npz(image=np.array(["a"])), "'image' holds no rows of numbers"),
        (npz(image=np.zeros((2, 3)), other=np.zeros((2, 3))), "forward has no argument 'other'"),
    ],
)  # fmt: skip
def test_a_file_of_rows_that_cannot_be_read(write, says, here, capsys):
    write(here / "rows.npz")
    assert compact("given_net:Net", "--rows", "rows.npz") == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("[1, 0]", 2, "holds no masks by group"),
        ("{", 2, "cannot be read as JSON"),
        ('{"first.weight": "0121"}', 2, "the mask of 'first.weight' is no list of zeros and ones"),
        ('{"first.weight": [[1, 0], [1]]}', 2, "the mask of 'first.weight' is no list of zeros and ones"),
        ('{"first.weight": "no"}', 2, "the mask of 'first.weight' is no list of zeros and ones"),
        ('{"first.weight": "01"}', 3, "'first.weight' needs a numpy array of 8 booleans"),
        ('{"frist.weight": "01"}', 3, "there is no channel group 'frist.weight'; known: first.weight"),
    ],
)
def test_masks_that_do_not_fit(text, code, says, here, capsys):
    (here / "masks.json").write_text(text)
    assert compact("given_net:Net", "--input", "3,8,8", "--masks", "masks.json") == code
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["given_net:Net"], 2, "say what one row of input looks like, --input 3,224,224"),
        (["given_net:Net", "--input", "3,x"], 2, "--input 3,x: give the sizes of one row"),
        (["given_net:Net", "--input", "3,0"], 2, "--input 3,0: give the sizes of one row"),
        (["given_net:Net", "--input", "picture=3,8,8"], 2, "forward has no argument 'picture'"),
        (["given_net:Net", "--input", "3,8,8", "--input", "1"], 2, "forward takes 1 inputs, 2 are given"),
        (["given_net:Two", "--input", "size=2"], 2, "forward needs 'tokens' as well"),
        (["given_net:Two", "--input", "size=2", "--input", "size=2"], 2, "name every input once"),
        (["given_net:Two", "--input", "tokens=3", "--input", "scale=4"], 2, "forward needs 'size' as well"),
        (["given_net:Two", "--input", "size=2", "--rows", "rows.npz"], 2, "or give real rows"),
        (["given_net:Nett", "--input", "3,8,8"], 2, "has no 'Nett'; did you mean 'Net'?"),
        (["given_net", "--input", "3,8,8"], 2, "'given_net' is no network"),
        (["nowhere:build", "--input", "3,8,8"], 2, "no module 'nowhere'"),
        (["given_net:broken", "--input", "3,8,8"], 2, "RuntimeError: no weights here"),
        (["given_net:text", "--input", "3,8,8"], 2, "given_net:text gave str"),
        (["given_net:Net", "--input", "3,8,8", "--weights", "none.safetensors"], 2, "none.safetensors: do not fit"),
        (["given_net:Net", "--input", "3,8,8", "-o", "code"], 2, "holds 'given_net.py', which is not overwritten"),
        (["given_net:Net", "--input", "3,8,8", "-o", "code/given_net.py"], 2, "is no folder"),
        (["given_net:Net", "--input", "4,8,8"], 3, "torch.export cannot follow"),
        (["given_net:branching", "--input", "3,8,8"], 3, f"given_net.py:{BRANCH}: return"),
    ],
)
def test_what_cannot_be_compacted_is_said_in_one_sentence(arguments, code, says, here, capsys):
    assert compact(*arguments) == code
    printed, said = capsys.readouterr()
    assert printed == ""
    error = said[said.index("error: ") :]
    assert says in error
    message, *own_traceback = error.splitlines()
    assert all(line.startswith("  ") for line in own_traceback)
    assert "fairdeploy/" not in "".join(own_traceback)
    assert says in message
    assert "unexpected" not in error
    assert [file.name for file in here.iterdir()] == ["code"]


def test_a_damaged_folder_is_an_integrity_error(here, capsys):
    assert compact("given_net:half", "--input", "3,8,8", "-o", "out") == 0
    (here / "out" / "weights.safetensors").write_bytes(b"")
    assert compact("out", "--input", "3,8,8") == 5
    assert compact("out", "--input", "3,8,8", "-o", "out") == 2
    assert "holds the network itself" in capsys.readouterr().err


def test_help_loads_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from fairdeploy.cli import main\n"
        "assert main(['compact', '--help']) == 0\n"
        "assert main(['compact', 'a:b', '--input', '3']) == 2\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--masks" in done.stdout
    assert "needs the extra 'torch'" in done.stderr
