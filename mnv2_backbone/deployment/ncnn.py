"""ncnn's files, which pnnx makes from an ONNX graph of a fixed size."""

import subprocess
import tempfile
from pathlib import Path

from torch import Tensor, nn

from ..errors import UserError
from .graph import to_onnx, traced


class _ChannelsFirst(nn.Module):
    """A raw network on images (1, 3, h, w), the order of ncnn."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network(image.permute(0, 2, 3, 1)).values())


def convert(network: nn.Module, image: Tensor) -> tuple[str, bytes]:
    """A raw network, for images like (1, h, w, 3), as the contents of a .param and a .bin file, in float32."""
    from pnnx import EXEC_PATH

    sample = image.permute(0, 3, 1, 2).contiguous()
    graph = to_onnx(traced(_ChannelsFirst(network), sample, []))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, 'net.onnx').write_bytes(graph.SerializeToString())
        shape = ','.join(map(str, sample.shape))
        command = [EXEC_PATH, 'net.onnx', f'inputshape=[{shape}]', 'fp16=0']
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        param, weights = Path(folder, 'net.ncnn.param'), Path(folder, 'net.ncnn.bin')
        if done.returncode or not param.is_file():
            raise UserError(f'pnnx failed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}')
        return param.read_text(), weights.read_bytes()
