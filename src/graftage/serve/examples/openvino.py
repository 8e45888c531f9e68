"""Names what is in pictures: python example.py A.jpg B.jpg  (needs numpy, pillow and openvino, not graftage)."""

import json
import sys
from pathlib import Path

import numpy as np
import openvino
from PIL import Image, ImageOps

graph = openvino.Core().read_model(Path(__file__).with_name("model.xml"))
model = openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})  # else some processors round
card = json.loads(graph.get_rt_info(["graftage"]).astype(str))
for path in sys.argv[1:]:
    image = Image.open(path)
    if image.format == "JPEG":  # decoded at the smallest scale that is large enough, as in training
        scale = next((s for s in (8, 4, 2) if min(image.size) // s >= card["short_side"]), 1)
        image.draft(image.mode, (max(1, image.width // scale), max(1, image.height // scale)))
    pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))  # height x width x 3, upright
    probabilities = model([pixels])[0]
    print(path, card["classes"][probabilities.argmax()], round(float(probabilities.max()), 6), sep="\t")
