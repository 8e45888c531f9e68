"""Names what is in pictures: python example.py A.jpg B.jpg  (needs numpy, pillow and torch, not graftage)."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps

extra = {"graftage.json": ""}
model = torch.export.load(Path(__file__).with_name("model.pt2"), extra_files=extra).module()
card = json.loads(extra["graftage.json"])
for path in sys.argv[1:]:
    image: Image.Image = Image.open(path)
    if image.format == "JPEG":  # decoded at the smallest scale that is large enough, as in training
        scale = next((s for s in (8, 4, 2) if min(image.size) // s >= card["short_side"]), 1)
        image.draft(image.mode, (max(1, image.width // scale), max(1, image.height // scale)))
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "icc_profile" in image.info:  # colours as a screen has them
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        if "srgb" not in (profile.profile.profile_description or "").lower():
            ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), inPlace=True)
    pixels = np.array(image.convert("RGB"))  # height x width x 3
    probabilities = model(torch.from_numpy(pixels))
    print(path, card["classes"][int(probabilities.argmax())], round(float(probabilities.max()), 6), sep="\t")
