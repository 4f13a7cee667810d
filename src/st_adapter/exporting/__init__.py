"""Classifiers as files for other programs: ONNX, OpenVINO and torch.export."""
