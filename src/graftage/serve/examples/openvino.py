"""Names what is in pictures: python example.py A.jpg B.jpg  (needs numpy, pillow and openvino, not graftage)."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import openvino
from PIL import Image, ImageCms, ImageOps

graph = openvino.Core().read_model(Path(__file__).with_name("model.xml"))
model = openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})  # else some processors round
card = json.loads(graph.get_rt_info(["graftage"]).astype(str))
names, (sets, answers, unlike) = card["classes"], (card["decisions"][rule] for rule in ("sets", "answers", "unlike"))
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
    answer = model([pixels])
    p = answer["probabilities"].astype(float)
    order = (-p).argsort(kind="stable")  # the surest class first; it is always in the prediction set
    chosen = [k for k in order if sets and (k == order[0] or 1 - p[k] <= sets["threshold"])]
    remarks = ["unsure"] if answers and p[order[0]] < answers["threshold"] else []
    if unlike and answer["unlike"]:  # "unlike_p" is the p-value behind it
        remarks.append("unlike anything seen in training")
    print(path, names[order[0]], round(p[order[0]], 6), [names[k] for k in chosen], *remarks, sep="\t")
