"""Names what is in pictures: python example.py A.jpg B.jpg  (needs numpy, pillow and torch, not graftage)."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

extra = {"graftage.json": ""}
model = torch.export.load(Path(__file__).with_name("model.pt2"), extra_files=extra).module()
card = json.loads(extra["graftage.json"])
for path in sys.argv[1:]:
    image = Image.open(path)
    if image.format == "JPEG":  # decoded at the smallest scale that is large enough, as in training
        scale = next((s for s in (8, 4, 2) if min(image.size) // s >= card["short_side"]), 1)
        image.draft(image.mode, (max(1, image.width // scale), max(1, image.height // scale)))
    pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))  # height x width x 3, upright
    probabilities = model(torch.from_numpy(pixels))
    print(path, card["classes"][int(probabilities.argmax())], round(float(probabilities.max()), 6), sep="\t")
