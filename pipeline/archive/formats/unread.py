"""Formats that hold weights and are not read: what each is, and the way out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Standing = Literal["weights", "export", "data"]


@dataclass(frozen=True)
class Unread:
    """A format that is not read, in words. `standing`: "weights" are a checkpoint; an "export" is made from one, to be
    deployed; "data" may be anything, and is a checkpoint only where its name has a step."""

    what: str
    hint: str
    standing: Standing = "weights"

    @property
    def reason(self) -> str:
        """The sentence for a finding."""
        return f"{self.what} not read yet" if self.standing == "weights" else f"{self.what} not read"


_SAVE_ARRAYS = "save the arrays with safetensors.numpy.save_file"
_FROM_WHICH = "give the checkpoint that it was made from"

TENSORFLOW = Unread("TensorFlow checkpoints are", f"read it with tf.train.load_checkpoint and {_SAVE_ARRAYS}")
SAVED_MODEL = Unread("TensorFlow SavedModels are", f"load it in TensorFlow, take its variables and {_SAVE_ARRAYS}")
KERAS = Unread("Keras weights are", f"load the model in Keras, take model.get_weights() and {_SAVE_ARRAYS}")
HDF5 = Unread(
    "HDF5 files without Keras' marks are", f"if it holds weights: read them with h5py and {_SAVE_ARRAYS}", "data"
)
ORBAX = Unread("Orbax checkpoints are", f"restore it with orbax.checkpoint and {_SAVE_ARRAYS}")
MSGPACK = Unread("Flax checkpoints (msgpack) are", f"restore it with flax.serialization and {_SAVE_ARRAYS}")
DISTRIBUTED = Unread(
    "torch distributed checkpoints (.distcp) are",
    "convert it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER OUT.pt",
)
ZERO_3 = Unread("DeepSpeed ZeRO-3 shards are", "merge them first with DeepSpeed's zero_to_fp32.py")
NEMO = Unread("NeMo archives are", "unpack it with tar: its model_weights.ckpt is read")
TORCH_TAR = Unread("torch's tar format (before torch 0.1.10) is", "load it in torch and save it again")
TORCH_PACKAGE = Unread("torch.package archives are", "load it in torch and save its state_dict()")
NUMPY_ARCHIVE = Unread("numpy archives (.npz) of parameters are", f"load them with numpy and {_SAVE_ARRAYS}")
NUMPY_DATA = Unread(
    "numpy archives (.npz) are", f"if it holds weights: load them with numpy and {_SAVE_ARRAYS}", "data"
)
NUMPY_ARRAY = Unread(
    "single numpy arrays (.npy) are", f"if it holds weights: load them with numpy and {_SAVE_ARRAYS}", "data"
)
JOBLIB = Unread(
    "joblib pickles are", "if it holds weights: load it with joblib and save its tensors with torch.save", "data"
)
PICKLE = Unread(
    "pickles that torch.save did not write are",
    "if it holds weights: load it where it was written and save its tensors with torch.save",
    "data",
)
TORCH_PICKLE = Unread(
    "torch tensors pickled without torch.save are", "load it where it was written and save it with torch.save", "data"
)
PACKED = Unread("compressed files are", "unpack it", "data")
PACKED_CHECKPOINTS = Unread("checkpoints packed into an archive are", "unpack it", "data")
TEXT = Unread("text files that are called as weights are", "put the weights in its place", "export")
GGUF = Unread("GGUF is", _FROM_WHICH, "export")
GGML = Unread("GGML is", _FROM_WHICH, "export")
ONNX = Unread("ONNX graphs are", _FROM_WHICH, "export")
TFLITE = Unread("TensorFlow Lite models are", _FROM_WHICH, "export")
GRAPH = Unread("TensorFlow graphs (.pb) are", _FROM_WHICH, "data")
TORCHSERVE = Unread("TorchServe archives are", _FROM_WHICH, "export")
TORCH_EXPORT = Unread("torch.export programs (.pt2) are", "load it with torch.export and save its state_dict", "export")
EXECUTORCH = Unread("ExecuTorch programs are", _FROM_WHICH, "export")
CORE_ML = Unread("Core ML models are", _FROM_WHICH, "export")
TENSORRT = Unread("TensorRT engines are", _FROM_WHICH, "export")
RUST_BERT = Unread("rust-bert weights (.ot) are", _FROM_WHICH, "export")
TORCH_7 = Unread("Torch7 files (.t7) are", f"load it with torchfile and {_SAVE_ARRAYS}")
CAFFE = Unread("Caffe models are", f"read its blobs with Caffe and {_SAVE_ARRAYS}")
PADDLE = Unread("PaddlePaddle weights are", f"load them with paddle.load and {_SAVE_ARRAYS}")
DARKNET = Unread("Darknet weights are", "convert them to torch and save a state_dict")

BY_SUFFIX: dict[str, Unread] = {
    ".npz": NUMPY_ARCHIVE,
    ".npy": NUMPY_ARRAY,
    ".gguf": GGUF,
    ".ggml": GGML,
    ".h5": KERAS,
    ".hdf5": KERAS,
    ".keras": KERAS,
    ".msgpack": MSGPACK,
    ".distcp": DISTRIBUTED,
    ".nemo": NEMO,
    ".ot": RUST_BERT,
    ".onnx": ONNX,
    ".pb": GRAPH,
    ".tflite": TFLITE,
    ".mar": TORCHSERVE,
    ".pkl": PICKLE,
    ".pickle": PICKLE,
    ".joblib": JOBLIB,
    ".pt2": TORCH_EXPORT,
    ".pte": EXECUTORCH,
    ".mlmodel": CORE_ML,
    ".engine": TENSORRT,
    ".t7": TORCH_7,
    ".caffemodel": CAFFE,
    ".pdparams": PADDLE,
    ".weights": DARKNET,
}
"""What a file is taken for when its suffix says so and its first bytes say nothing else."""
