"""Other libraries' networks, built and run as their users do.

Nothing of this package is imported, see :mod:`speed.workers`. What a network gets to read was written by
:mod:`speed.inputs`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

CLASSES = 80
VOC_CLASSES = 21


def multiply_adds(call: Callable[[], Any]) -> int:
    """Multiply-adds of the convolutions and matrix products that ``call`` runs."""
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        call()
    return int(flops.get_total_flops()) // 2


def eager(turns: Any, call: Callable[[], Any], device: str, precision: str, output: Any = None) -> None:
    """Runs a PyTorch network as it is, with autocast for ``'bf16'``.

    ``call`` does one iteration; ``output`` turns what it returns into arrays to compare.
    """

    @torch.no_grad()
    def step() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=precision == 'bf16'):
            found = call()
        if device == 'cuda':
            torch.cuda.synchronize()
        return found

    turns.loop(step, madds=multiply_adds(call), output=output and output(step()))


# Backbones: one normalised image to the last map.


def convs_and_norms(network: nn.Module) -> Iterator[nn.Module]:
    """The layers with weights, in the order in which every MobileNetV2 has them."""
    return (x for x in network.modules() if isinstance(x, (nn.Conv2d, nn.BatchNorm2d)))


def take_weights(network: nn.Module, folder: Path) -> None:
    """Gives a MobileNetV2 the weights that all have; one that ends before the last layer takes those before it."""
    for layer, (state, eps) in zip(convs_and_norms(network), torch.load(folder / 'backbone_layers.pt')):
        layer.load_state_dict(state)
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = eps


def torchvision_features() -> nn.Module:
    """torchvision's, without its classifier."""
    import torchvision

    return torchvision.models.mobilenet_v2(weights=None).features


def timm_features() -> nn.Module:
    """timm's, without its classifier."""
    import timm

    network: nn.Module = timm.create_model('mobilenetv2_100', pretrained=False)
    network.forward = network.forward_features  # type: ignore[assignment]
    return network


def mm_features(library: str, last: int) -> nn.Module:
    """MMDetection's, with all of its layers, or MMSegmentation's, which ends at the layer before the last."""
    network: nn.Module = import_module(f'{library}.models.backbones').MobileNetV2(out_indices=(last,))
    return network


BACKBONES: dict[str, Callable[[], nn.Module]] = {
    'torchvision': torchvision_features,
    'timm': timm_features,
    'mmdet': partial(mm_features, 'mmdet', 7),
    'mmseg': partial(mm_features, 'mmseg', 6),
}


def backbone(turns: Any, name: str, folder: Path, device: str, precision: str, **_: Any) -> None:
    """One of :data:`BACKBONES`."""
    network = BACKBONES[name]()
    network.eval()
    take_weights(network, folder)
    network.to(device)
    x = torch.from_numpy(np.load(folder / 'normalised.npy')[:1]).to(device)
    eager(turns, lambda: network(x), device, precision)


# Whole networks: an image to boxes, or to a label map.


def mmdet_detector() -> Any:
    """MMDetection's own SSDLite-MobileNetV2."""
    from mmdet.apis import init_detector
    from mmengine.hub import get_config

    model = init_detector(get_config('mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'), device='cpu')
    # MMDetection 3.2 and 3.3 ask the head for the loss_cls that it does not have.
    model.bbox_head.loss_cls = nn.Identity()
    return model


def torchvision_detector() -> nn.Module:
    """torchvision's SSDLite, which it has on MobileNetV3 only."""
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    network: nn.Module = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES + 1)
    return network.eval()


def mmseg_segmenter() -> Any:
    """MMSegmentation's DeepLabv3-MobileNetV2: output stride 8, with atrous branches of 512 channels.

    Its config for VOC does not exist; it is ADE20K's, with VOC's number of classes, and images keep their size.
    """
    from mmengine.hub import get_config
    from mmengine.model import revert_sync_batchnorm
    from mmseg.apis import init_model

    cfg = get_config('mmseg::mobilenet_v2/mobilenet-v2-d8_deeplabv3_4xb4-160k_ade20k-512x512.py')
    cfg.model.decode_head.num_classes = cfg.model.auxiliary_head.num_classes = VOC_CLASSES
    cfg.test_pipeline = [step for step in cfg.test_pipeline if step['type'] != 'Resize']
    return revert_sync_batchnorm(init_model(cfg, device='cpu'))


def torchvision_segmenter() -> nn.Module:
    """torchvision's LR-ASPP, which it has on MobileNetV3 only."""
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    network: nn.Module = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=VOC_CLASSES)
    return network.eval()


def as_tensor(image: np.ndarray, device: str) -> Tensor:
    """An image (H, W, 3), BGR, uint8, as torchvision takes it: (3, H, W), RGB, 0 to 1."""
    return torch.from_numpy(image[..., ::-1].copy()).to(device).permute(2, 0, 1).float() / 255


def detect_mmdet(turns: Any, folder: Path, device: str, precision: str, **_: Any) -> None:
    """MMDetection's detector, through ``inference_detector``."""
    from mmdet.apis import inference_detector

    model = mmdet_detector()
    model.load_state_dict(torch.load(folder / 'mmdet_detector.pt'))
    model.to(device)
    image = np.load(folder / 'detect.npy')
    eager(turns, lambda: inference_detector(model, image), device, precision)


def detect_torchvision(turns: Any, folder: Path, device: str, precision: str, **_: Any) -> None:
    """torchvision's detector."""
    network = torchvision_detector()
    network.load_state_dict(torch.load(folder / 'torchvision_detector.pt'))
    network.to(device)
    image = np.load(folder / 'detect.npy')
    eager(turns, lambda: network([as_tensor(image, device)]), device, precision)


def segment_mmseg(turns: Any, folder: Path, device: str, precision: str, **_: Any) -> None:
    """MMSegmentation's segmenter, through ``inference_model``."""
    from mmseg.apis import inference_model

    model = mmseg_segmenter()
    model.load_state_dict(torch.load(folder / 'mmseg_segmenter.pt'))
    model.to(device)
    image = np.load(folder / 'segment.npy')
    eager(turns, lambda: inference_model(model, image), device, precision)


def segment_torchvision(turns: Any, folder: Path, device: str, precision: str, **_: Any) -> None:
    """torchvision's segmenter, with the normalisation that its weights would want."""
    network = torchvision_segmenter()
    network.load_state_dict(torch.load(folder / 'torchvision_segmenter.pt'))
    network.to(device)
    image = np.load(folder / 'segment.npy')
    mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], device=device).view(3, 1, 1)

    def call() -> np.ndarray:
        logits = network(((as_tensor(image, device) - mean) / std)[None])['out']
        labels: np.ndarray = logits.argmax(1)[0].to(torch.uint8).cpu().numpy()
        return labels

    eager(turns, call, device, precision)


MATRIX_SIDE = 1536


def matrix_product(turns: Any, device: str, **_: Any) -> None:
    """Multiplies float32 matrices: a rate that hardly any network reaches."""
    a, b = torch.rand(2, MATRIX_SIDE, MATRIX_SIDE, device=device)

    def step() -> None:
        torch.mm(a, b)
        if device == 'cuda':
            torch.cuda.synchronize()

    turns.loop(step, madds=MATRIX_SIDE**3)
