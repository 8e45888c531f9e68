"""Names what is in pictures: python example.py A.jpg B.jpg  (needs numpy, pillow and onnxruntime, not graftage)."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageCms, ImageOps

model = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"))
card = json.loads(model.get_modelmeta().custom_metadata_map["graftage"])
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
    pixels = np.asarray(image.convert("RGB"))  # height x width x 3
    probabilities = model.run(None, {"pixels": pixels})[0]
    print(path, card["classes"][probabilities.argmax()], round(float(probabilities.max()), 6), sep="\t")
