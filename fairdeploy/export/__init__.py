"""Export: a PyTorch network to a portable ONNX file, compared with PyTorch on real inputs."""

from fairdeploy.export.onnx_file import OPSET, check_file, check_single_file
from fairdeploy.export.torch_export import TOLERANCE, ExportReport, export_onnx

__all__ = ["OPSET", "TOLERANCE", "ExportReport", "check_file", "check_single_file", "export_onnx"]
