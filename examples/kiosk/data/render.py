"""Draw `people-icons-64-more.npz` from its npm packages: ``python data/render.py node_modules``.

    npm install @iconify-json/openmoji@1.2.29 @iconify-json/emojione@1.2.3
    pip install cairosvg==2.8.2 pillow

A drawing counts if it shows one activity of people and exists in all five skin tones.
"""

from __future__ import annotations

import argparse
import io
import json
import re
from pathlib import Path
from typing import Any

import cairosvg
import numpy as np
from numpy.typing import NDArray
from PIL import Image

OUT = Path(__file__).resolve().parent / "people-icons-64-more.npz"
STYLES = {"openmoji": "1.2.29", "emojione": "1.2.3"}
SIZE = 64
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
NAME = re.compile(rf"(.+?)-({'|'.join(sorted(TONES, key=len, reverse=True))})-skin-tone((?!.*skin-tone).*)")
GENDERED = re.compile(r"(man|woman|person)-(?!and-)(.+)")
ROLES = {"construction-worker", "detective", "guard", "police-officer"}
OWN_NAMES = {
    "man": ("man", "man"),
    "woman": ("man", "woman"),
    "person": ("man", "person"),
    "boy": ("child", "man"),
    "girl": ("child", "woman"),
    "child": ("child", "person"),
    "old-man": ("old", "man"),
    "old-woman": ("old", "woman"),
    "older-person": ("old", "person"),
    "deaf-man": ("deaf-man", "man"),
    "deaf-woman": ("deaf-man", "woman"),
    "deaf-person": ("deaf-man", "person"),
    "prince": ("with-crown", "man"),
    "princess": ("with-crown", "woman"),
    "santa-claus": ("claus", "man"),
    "mrs-claus": ("claus", "woman"),
    "mx-claus": ("claus", "person"),
    "merman": ("mermaid", "man"),
    "mermaid": ("mermaid", "woman"),
    "merperson": ("mermaid", "person"),
    "men-wrestling": ("men-wrestling", "man"),
    "women-wrestling": ("men-wrestling", "woman"),
    "people-wrestling": ("men-wrestling", "person"),
    "men-holding-hands": ("holding-hands", "man"),
    "women-holding-hands": ("holding-hands", "woman"),
    "woman-and-man-holding-hands": ("holding-hands", "person"),
    "men-with-bunny-ears": ("with-bunny-ears", "man"),
    "women-with-bunny-ears": ("with-bunny-ears", "woman"),
    "people-with-bunny-ears": ("with-bunny-ears", "person"),
    "bride-with-veil": ("with-veil", "woman"),
    "blond-haired-person": ("blond-hair", "person"),
    "man-with-chinese-cap": ("with-skullcap", "man"),
    "breast-feeding": ("feeding-baby", "nursing"),
    "ballet-dancer": ("ballet", "person"),
    "snowboarder": ("snowboarding", "person"),
    "horse-racing": ("horse-racing", "person"),
    "selfie": ("selfie", "person"),
}


def drawings(icons: dict[str, Any]) -> dict[tuple[str, str], dict[int, str]]:
    """Return the icons of people by activity and gender, each in every tone from 1 to 5.

    An icon without a gender (as ``artist``) is a person's if the set also has it with one (``man-artist``), or if it
    stands in `ROLES` or `OWN_NAMES`; hands, ears and couples are left out.
    """
    found: dict[str, dict[int, str]] = {}
    for name in icons:
        if parts := NAME.fullmatch(name):
            found.setdefault(parts[1] + parts[3], {})[TONES.index(parts[2]) + 1] = name
    complete = {base: tones for base, tones in found.items() if len(tones) == len(TONES)}
    gendered = {base: parts.groups() for base in complete if (parts := GENDERED.fullmatch(base))}
    keys = {base: (activity, gender) for base, (gender, activity) in gendered.items()}
    activities = {activity for activity, _ in keys.values()} | {
        "construction-worker",
        "detective",
        "guard",
        "police-officer",
    }
    keys |= {base: (base, "person") for base in complete if base in activities}
    keys |= {base: OWN_NAMES[base] for base in complete if base in OWN_NAMES}
    return {keys[base]: complete[base] for base in sorted(keys)}


def render(icon: dict[str, Any], *, package: dict[str, Any]) -> NDArray[np.uint8]:
    """Return one icon as straight RGBA [64, 64, 4]."""
    left, top, width, height = (
        icon.get(key, package.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )
    png = cairosvg.svg2png(svg.encode(), output_width=SIZE, output_height=SIZE)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def main() -> None:
    """Render every drawing and write them with their names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", type=Path, help="the folder that npm installed into: node_modules")
    packages = parser.parse_args().packages
    rows = []
    for style, version in STYLES.items():
        folder = packages / "@iconify-json" / style
        if (found := json.loads((folder / "package.json").read_text())["version"]) != version:
            raise SystemExit(f"{folder} is version {found}: install {version}")
        package = json.loads((folder / "icons.json").read_text())
        for (activity, gender), by_tone in drawings(package["icons"]).items():
            for tone in range(1, len(TONES) + 1):
                name = by_tone[tone]
                rows.append((render(package["icons"][name], package=package), activity, gender, tone, style, name))
    images, activities, genders, tones, styles, names = zip(*rows, strict=True)
    np.savez_compressed(
        OUT,
        images=np.stack(images),
        activity=np.array(activities),
        gender=np.array(genders),
        skin_tone=np.array(tones, np.uint8),
        style=np.array(styles),
        name=np.array(names),
    )
    print(f"{len(rows)} pictures in {OUT}")


if __name__ == "__main__":
    main()
