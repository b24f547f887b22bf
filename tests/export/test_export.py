"""Export of PyTorch networks: equal to eager, the promises of the file, what is refused."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest

from fairdeploy.errors import ConfigError, DataError, ExportError, MissingExtra
from fairdeploy.export import check_file, check_single_file, export_onnx
from fairdeploy.model import ModelSpec, Preprocess, TensorSpec
from fairdeploy.testing import write_network

torch = pytest.importorskip("torch")

SPEC = ModelSpec(
    task="binary-classification",
    inputs={"image": TensorSpec(shape=("batch", 3, 16, 16))},
    preprocess=Preprocess(mean=(115,) * 3, std=(64,) * 3),
)
RAW = {"image": np.random.default_rng(0).integers(0, 256, (9, 3, 16, 16), dtype=np.uint8)}
EXAMPLE = {"image": np.zeros((2, 3, 16, 16), np.float32)}


class Residual(torch.nn.Module):
    """Convolution, batch norm, a residual sum, global mean, linear."""

    def __init__(self, classes=2):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, 2, 1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.branch = torch.nn.Conv2d(8, 8, 3, 1, 1)
        self.head = torch.nn.Linear(8, classes)

    def forward(self, image):
        x = torch.relu(self.norm(self.stem(image)))
        return self.head((x + self.branch(x)).mean((2, 3)))


def make(classes=2):
    torch.manual_seed(0)
    network = Residual(classes)
    network.norm.running_mean.uniform_(-0.5, 0.5)
    network.norm.running_var.uniform_(0.5, 2)
    return network


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    file = tmp_path_factory.mktemp("export") / "portable.onnx"
    network = make().train()
    network.norm.eval()
    report = export_onnx(network, EXAMPLE, file, spec=SPEC, check_inputs=RAW)
    return network, file, report


def test_the_difference_to_pytorch_is_recorded_and_small(exported):
    network, file, report = exported
    from onnx.reference import ReferenceEvaluator

    x = ((RAW["image"].astype(np.float32) - 115) / 64).astype(np.float32)
    with torch.no_grad():
        eager = network.eval()(torch.from_numpy(x)).numpy()
    (reference,) = ReferenceEvaluator(onnx.load(file)).run(None, {"image": x})
    np.testing.assert_allclose(reference, eager, atol=1e-5)
    assert 0 <= report.max_difference < 1e-5
    assert report.rows == 9
    assert report.size_bytes == file.stat().st_size
    assert report.file_digest == hashlib.sha256(file.read_bytes()).hexdigest()


def test_every_part_gets_its_mode_back(tmp_path):
    network = make().train()
    network.norm.eval()
    export_onnx(network, EXAMPLE, tmp_path / "m.onnx", spec=SPEC, check_inputs=RAW)
    assert network.training
    assert network.stem.training
    assert not network.norm.training


def test_the_file_keeps_its_promises(exported):
    _, file, _ = exported
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]
    assert model.ir_version <= 10
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == ["output"]
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert not any(node.metadata_props for node in model.graph.node)
    assert b".py" not in file.read_bytes()
    assert os.path.expanduser("~").encode() not in file.read_bytes()


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_export as t
t.export_onnx(t.make(), t.EXAMPLE, Path(sys.argv[2]), spec=t.SPEC, check_inputs=t.RAW)
"""


def test_two_processes_write_the_same_bytes(exported, tmp_path):
    """The fixture's export is the first process."""
    _, file, _ = exported
    env = {**os.environ, "PYTHONHASHSEED": "99", "HOME": str(tmp_path)}
    other = tmp_path / "deeper" / "portable.onnx"
    command = [sys.executable, "-c", SCRIPT, os.path.dirname(__file__), str(other)]
    subprocess.run(command, env=env, cwd=tmp_path, check=True, capture_output=True)
    assert other.read_bytes() == file.read_bytes()


def test_a_network_whose_export_differs_is_refused(tmp_path):
    class Liar(Residual):
        def forward(self, image):
            wrong = 1e-3 if torch.compiler.is_exporting() else 0.0
            return super().forward(image) + wrong

    with pytest.raises(ExportError, match=r"differ from PyTorch's by 0\.001"):
        export_onnx(Liar(), EXAMPLE, tmp_path / "m.onnx", spec=SPEC, check_inputs=RAW)
    assert not list(tmp_path.iterdir())


def test_a_network_that_gives_nan_is_refused(tmp_path):
    network = make()
    torch.nn.init.constant_(network.head.bias, float("nan"))
    with pytest.raises(ExportError, match="differ"):
        export_onnx(network, EXAMPLE, tmp_path / "m.onnx", spec=SPEC, check_inputs=RAW)


def test_a_network_that_fixes_its_batch_is_refused(tmp_path):
    class Fixed(Residual):
        def forward(self, image):
            return super().forward(image.reshape(2, 3, 16, 16))

    with pytest.raises(ExportError, match="cannot run the network on 9 rows"):
        export_onnx(Fixed(), EXAMPLE, tmp_path / "m.onnx", spec=SPEC, check_inputs=RAW)


def test_a_network_that_cannot_be_traced_is_refused(tmp_path):
    class Branching(Residual):
        def forward(self, image):
            return super().forward(image if float(image.sum()) > 0 else -image)

    with pytest.raises(ExportError, match="cannot export the network"):
        export_onnx(Branching(), EXAMPLE, tmp_path / "m.onnx", spec=SPEC, check_inputs=RAW)


def test_a_network_of_the_wrong_width_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"expected 'output' of shape \('batch', 2\)"):
        export_onnx(make(classes=3), EXAMPLE, tmp_path / "m.onnx", spec=SPEC, check_inputs=RAW)


def test_one_example_row_is_refused(tmp_path):
    with pytest.raises(ExportError, match="at least two example rows"):
        export_onnx(make(), {"image": EXAMPLE["image"][:1]}, tmp_path / "m.onnx", spec=SPEC, check_inputs=RAW)


def test_bad_check_rows_are_a_data_error(tmp_path):
    with pytest.raises(DataError, match="checking the export: .*shape"):
        export_onnx(make(), EXAMPLE, tmp_path / "m.onnx", spec=SPEC, check_inputs={"image": RAW["image"][:, :1]})


def test_without_torch_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxslim", None)
    with pytest.raises(MissingExtra, match=r"fairdeploy\[torch\]"):
        export_onnx(make(), EXAMPLE, tmp_path / "m.onnx", spec=SPEC, check_inputs=RAW)


def _rewrite(tmp_path, change):
    file = tmp_path / "m.onnx"
    spec = write_network(file)
    model = onnx.load(file)
    change(model)
    onnx.save(model, file)
    return file, spec


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: setattr(m.opset_import[0], "version", 17), "operator sets"),
        (lambda m: setattr(m, "ir_version", 11), "IR version 11"),
        (lambda m: setattr(m.graph.input[0], "name", "x"), "inputs"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1), "inputs"),
        (lambda m: setattr(m.graph.output[0], "name", "y"), "outputs"),
        (lambda m: m.graph.node[0].metadata_props.add(key="t", value='File "/home/me/net.py", line 3'), "local path"),
        (lambda m: setattr(m.graph, "doc_string", os.path.expanduser("~") + "/secret"), "local path"),
        (lambda m: setattr(m.graph.node[0], "doc_string", "site-packages/torch/nn.py:12"), "nn.py"),
    ],
)
def test_a_file_that_breaks_a_promise_is_named(tmp_path, change, said):
    file, spec = _rewrite(tmp_path, change)
    with pytest.raises(ExportError, match=said):
        check_file(file, spec)


def test_a_good_file_passes(tmp_path):
    file, spec = _rewrite(tmp_path, lambda model: None)
    check_file(file, spec)


def test_weights_beside_the_file_are_refused(exported, tmp_path):
    _, file, _ = exported
    check_single_file(file)
    apart = tmp_path / "apart.onnx"
    onnx.save(onnx.load(file), apart, save_as_external_data=True, location="apart.bin", size_threshold=0)
    with pytest.raises(ConfigError, match=r"apart.onnx: keeps the weights '.+' in 'apart.bin'"):
        check_single_file(apart)
    (tmp_path / "broken.onnx").write_bytes(b"no protobuf")
    check_single_file(tmp_path / "broken.onnx")
