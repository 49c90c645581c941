"""Runs a detector exported to ONNX: this file, numpy and onnxruntime are enough.

    from detect_onnx import Detector
    detect = Detector("folder")
    found = detect(image)  # uint8 RGB [h, w, 3], any size
    found["boxes"], found["scores"], found["names"]

The folder has one file for each canvas size, `about.json` and this file.
"""
