"""What a trained model is worth: scores by class, confusions, the worst images, and the file to use."""

import json
import shlex
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from files import FilePredictor
from mmengine.structures import InstanceData
from plot_curves import plot_curves
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sheet import contact_sheet

from mnv2_backbone.data.images import LoadImage
from mnv2_backbone.data.samples import Sample
from mnv2_backbone.deployment.backends import FORMATS, missing
from mnv2_backbone.deployment.export import ExportOptions, export
from mnv2_backbone.deployment.predictor import Predictor
from mnv2_backbone.errors import UserError, whole_file
from mnv2_backbone.training.options import load_config

from .data import Data
from .lists import label_map
from .scores import NOTHING, Scores, score_boxes, score_masks

#: How many of the worst images are drawn.
WORST = 12


def report(data: Data, task: str, work_dir: Path, checkpoint: str, kind: str, console: Console) -> Scores:
    """Scores the best checkpoint and the file exported from it on the test (else validation) images.

    Writes scores.json, curves.png, confusion.png and worst.jpg to the work folder, and the file; prints the scores.
    """
    cfg = load_config(str(work_dir / 'config.py'))
    trained = Predictor.from_checkpoint(cfg, checkpoint)
    scores = _score(data, task, work_dir, trained)
    _print_table(
        console, scores, f'{Path(checkpoint).name} on the {len(data.of(data.final))} images for {_purpose(data)}'
    )
    by_class = {name: dict(zip(scores.columns, values)) for name, _, values in scores.rows}
    with whole_file(work_dir / 'scores.json') as draft:
        draft.write_text(json.dumps(dict(scores.overall, images=data.final, classes=by_class), indent=1))
    plot_curves(Path(checkpoint).parent, work_dir / 'curves.png')
    _plot_confusion(scores, work_dir / 'confusion.png')
    _draw_worst(data, task, trained, scores, work_dir / 'worst.jpg')
    console.print(f'{work_dir}: curves.png, confusion.png, worst.jpg (the worst images: truth left, found right)')
    out = _exported(data, task, work_dir, checkpoint, kind, scores, console) if kind != 'none' else Path(checkpoint)
    threshold = f' --score-thr {scores.threshold}' if task == 'detect' else ''
    console.print(f'\nuse it:        mnv2 infer PHOTOS --weights {shlex.quote(str(out))}{threshold}')
    config, weights = (shlex.quote(str(path)) for path in (work_dir / 'config.py', checkpoint))
    console.print(f'other formats: mnv2 export {config} {weights} --help')
    if (skipped := work_dir / 'training/skipped_images.txt').is_file():
        count = len(set(skipped.read_text().splitlines()))
        console.print(f'{count} images were skipped in training, the reasons are in {skipped}', markup=False)
    return scores


def _purpose(data: Data) -> str:
    return 'testing' if data.final == 'test' else 'validation, by which this checkpoint was chosen'


def _score(data: Data, task: str, work_dir: Path, predictor: Predictor) -> Scores:
    load = LoadImage(imdecode_backend='cv2').transform
    samples = data.of(data.final)

    def found(sample: Sample) -> Any:
        loaded = load(dict(img_path=str(sample.image)))
        assert loaded is not None, 'it raises for a damaged image'
        return predictor([loaded['img']])[0]

    if task == 'detect':
        return score_boxes(work_dir / f'{data.final}.json', [found(sample) for sample in samples], data.classes)
    # One image at a time: label maps of large photos would fill the memory.
    return score_masks((label_map(data, sample) for sample in samples), map(found, samples), data.classes)


def _print_table(console: Console, scores: Scores, title: str) -> None:
    count = 'objects' if 'AP50' in scores.columns else 'pixels'
    table = Table('class', count, *scores.columns, title=title, title_justify='left')
    for name, number, values in scores.rows:
        table.add_row(escape(name), str(number), *(f'{value:.3f}' for value in values))
    overall = ', '.join(f'{name} {value:.3f}' for name, value in scores.overall.items())
    console.print(table, overall, sep='\n')


def _plot_confusion(scores: Scores, path: Path) -> None:
    """Draws the shares of each class that were taken for each; classes beyond the 20 most frequent are left out."""
    from matplotlib.figure import Figure

    counts = scores.confusion.sum(1)
    order = sorted(range(len(counts)), key=lambda i: (scores.names[i] == NOTHING, -counts[i]))
    shown = sorted([i for i in order if scores.names[i] != NOTHING][:20]) + order[-1:] * (scores.names[-1] == NOTHING)
    table = scores.confusion[np.ix_(shown, shown)]
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    side = 2.5 + 0.45 * len(shown)
    figure = Figure(figsize=(side, side), layout='constrained')
    axes = figure.subplots()
    unit = 'objects' if 'AP50' in scores.columns else '% of the pixels'
    axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    names = [scores.names[i] for i in shown]
    axes.set(xticks=range(len(shown)), yticks=range(len(shown)), xlabel='found as', ylabel='is', title=unit)
    axes.set_xticklabels(names, rotation=90)
    axes.set_yticklabels(names)
    for (i, j), share in np.ndenumerate(shares):
        if table[i, j]:
            text = f'{table[i, j]}' if 'AP50' in scores.columns else f'{100 * share:.0f}'
            axes.text(j, i, text, ha='center', va='center', color='white' if share > 0.5 else 'black', fontsize=8)
    figure.savefig(path, dpi=120)


def _draw_worst(data: Data, task: str, predictor: Predictor, scores: Scores, path: Path) -> None:
    samples = data.of(data.final)
    drawer = FilePredictor(predictor, path.parent, scores.threshold)
    drawn = []
    for i in np.argsort(scores.errors, kind='stable')[::-1][:WORST].tolist():
        image = cv2.imread(str(samples[i].image))
        if image is None:
            continue
        if task == 'segment':
            truth: Any = label_map(data, samples[i])
        else:
            things = [thing for thing in samples[i].things if thing.label in data.classes]
            boxes = torch.tensor([thing.box for thing in things]).reshape(-1, 4)
            truth = InstanceData(
                bboxes=boxes, labels=torch.tensor([data.classes.index(thing.label) for thing in things])
            )
        drawn.append(drawer.draw(image, drawer.predict(image), truth))
    cv2.imwrite(str(path), contact_sheet(drawn, columns=2, width=1800))


def _exported(
    data: Data, task: str, work_dir: Path, checkpoint: str, kind: str, before: Scores, console: Console
) -> Path:
    """Writes the file and scores it; returns its path, or the checkpoint's if the libraries for it are missing."""
    if lacking := missing(FORMATS[kind].files['fp32']):
        console.print(f'no {kind} file: {", ".join(lacking)} missing (pip install "mnv2_backbone\\[export]")')
        return Path(checkpoint)
    out = work_dir / f'model{FORMATS[kind].suffix}'
    cfg = load_config(str(work_dir / 'config.py'))
    export(cfg, checkpoint, ExportOptions(kind, nms=task == 'detect'), out)
    after = _score(data, task, work_dir, Predictor.from_file(out))
    metric = next(iter(before.overall))
    value, wanted = after.overall[metric], before.overall[metric]
    console.print(f'{out}: {out.stat().st_size / 2**20:.1f} MiB, {metric} {value:.4f} ({wanted:.4f} in PyTorch)')
    if abs(value - wanted) > 0.005:
        raise UserError(f'{out}: its {metric} is {value:.4f}, that of the trained model {wanted:.4f}')
    return out
