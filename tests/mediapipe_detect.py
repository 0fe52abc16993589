"""What MediaPipe Tasks detects in images, as JSON: mediapipe_detect.py MODEL.tflite IMAGE ...

Needs mediapipe alone, in an environment of its own: it brings an OpenCV that overwrites the other.
"""

import json
import sys

import mediapipe
from mediapipe.tasks.python import vision
from mediapipe.tasks.python.core.base_options import BaseOptions

options = vision.ObjectDetectorOptions(BaseOptions(sys.argv[1]), score_threshold=0.5, max_results=20)
results = []
with vision.ObjectDetector.create_from_options(options) as detector:
    for path in sys.argv[2:]:
        found = detector.detect(mediapipe.Image.create_from_file(path)).detections
        boxes = [
            (x.bounding_box.origin_x, x.bounding_box.origin_y, x.bounding_box.width, x.bounding_box.height)
            for x in found
        ]
        results.append(
            [
                (x.categories[0].category_name, x.categories[0].score, (left, top, left + width, top + height))
                for x, (left, top, width, height) in zip(found, boxes)
            ]
        )
print(json.dumps(results))
