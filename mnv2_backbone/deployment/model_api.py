"""What OpenVINO's Model API reads in a detector's file with NMS inside, so that it runs the file without a program.

Source: ``ssd.py`` and ``parameters.py`` of openvino-model-api 0.4.7. Its segmenters need scores of the classes, where
files of this package have label maps.
"""

from typing import Any

from .recipe import Recipe


def add_model_info(model: Any, recipe: Recipe) -> None:
    """Adds ``model_info`` to an ``openvino.Model`` and, as a fourth output, ``bboxes``: boxes relative to the image."""
    from openvino import opset13 as op

    size = op.gather(op.shape_of(model.input()), [2, 1, 2, 1], 0)
    boxes = model.output('boxes').get_node().input_value(0)
    relative = op.divide(boxes, op.convert(size, 'f32'))
    relative.output(0).set_names({'bboxes'})
    model.add_outputs([relative.output(0)])
    info = dict(
        model_type='ssd',
        labels=' '.join(name.replace(' ', '_') for name in recipe.classes),  # blanks separate them
        confidence_threshold='0.4',  # as mnv2 infer has it
    )
    for name, value in info.items():
        model.set_rt_info(value, ['model_info', name])
