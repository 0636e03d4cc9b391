"""FP32 to full-integer INT8: PTQ, GPTQ, cross-layer equalisation, QAT, and checked export.

A quantised network is two things: a trained float network, and a range for each of its activations. PTQ measures the
ranges, QAT trains both, and `export_int8` turns either into a .tflite file.
"""

from abpn_lib.int8.export import export_float, export_for_latency, export_int8
from abpn_lib.int8.make import FORMS, make_models
from abpn_lib.int8.ptq import Ranges, calibrate, equalize, fold_anchor, gptq
from abpn_lib.int8.qat import fake_quantize, train_qat

__all__ = [
    "FORMS", "Ranges", "calibrate", "equalize", "export_float", "export_for_latency", "export_int8",
    "fake_quantize", "fold_anchor", "gptq", "make_models", "train_qat",
]
