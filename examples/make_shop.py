"""Draws the raw data of a small shop: ratings.csv, items.csv with titles, a folder of images.

Every item is of a kind of thing, which its title names, and of a style, which its image shows;
every customer likes a few kinds and styles. So titles and images both tell something about who
buys what, and neither tells all. Some titles and images are missing, and one image is broken.

    python examples/make_shop.py --out shop
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

KINDS = {
    "tea": ["green tea", "tea pot", "jasmine tea", "tea strainer", "black tea", "matcha bowl"],
    "garden": ["garden hose", "tulip bulbs", "garden gloves", "watering can", "rake", "rose pot"],
    "desk": ["desk lamp", "notebook", "fountain pen", "paper tray", "pencil case", "desk clock"],
    "kitchen": ["bread knife", "frying pan", "cutting board", "mixing bowl", "whisk", "apron"],
    "travel": ["travel bag", "neck pillow", "suitcase", "rain coat", "travel cup", "map case"],
    "toys": ["wooden train", "puzzle", "teddy bear", "kite", "building blocks", "toy car"],
}
ADJECTIVES = ["small", "large", "light", "classic", "sturdy", "hand-made", "new", "simple"]
STYLES = {  # colour, outline
    "sea": ((40, 110, 190), "circle"),
    "sun": ((240, 180, 40), "circle"),
    "forest": ((50, 140, 70), "triangle"),
    "clay": ((190, 90, 60), "triangle"),
    "night": ((50, 45, 90), "square"),
    "berry": ((190, 50, 120), "square"),
}
DAY = 86_400


def main() -> None:
    """Parses the flags and writes the shop."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write, new or empty")
    parser.add_argument("--users", type=int, default=300, help="customers (default 300)")
    parser.add_argument("--items", type=int, default=150, help="things on sale (default 150)")
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed, another shop (default 0)"
    )
    chosen = parser.parse_args()
    if chosen.out.exists() and (not chosen.out.is_dir() or any(chosen.out.iterdir())):
        parser.error(f"{chosen.out} is not an empty folder: name another --out")
    make_shop(chosen.out, chosen.users, chosen.items, chosen.seed)
    print(f"shop: {chosen.out} with {chosen.users} customers and {chosen.items} items")


def make_shop(out: Path, n_users: int = 300, n_items: int = 150, seed: int = 0) -> None:
    """Writes the raw data; equal arguments give equal tables and images."""
    rng = np.random.default_rng(seed)
    (out / "images").mkdir(parents=True)
    kinds, styles = rng.integers(len(KINDS), size=n_items), rng.integers(len(STYLES), size=n_items)
    ids = [f"P{number:04d}" for number in rng.permutation(n_items)]
    write_items(out / "items.csv", ids, kinds, rng)
    write_images(out / "images", ids, styles, rng)
    write_ratings(out / "ratings.csv", ids, kinds, styles, n_users, rng)


def write_items(path: Path, ids: list[str], kinds: np.ndarray, rng: np.random.Generator) -> None:
    """Titles like `sturdy tea pot`; one in ten is empty."""
    rows = []
    for raw, kind in zip(ids, kinds, strict=True):
        names = list(KINDS.values())[kind]
        title = f"{rng.choice(ADJECTIVES)} {rng.choice(names)}"
        price = f"{rng.gamma(4.0, 6.0):.2f}"
        rows.append([raw, "" if rng.random() < 0.1 else title, price])
    write_csv(path, ["item_id", "title", "price"], rows)


def write_images(
    folder: Path, ids: list[str], styles: np.ndarray, rng: np.random.Generator
) -> None:
    """A shape in the style's colour; one in fifteen is missing, and the first is cut off."""
    for raw, style in zip(ids, styles, strict=True):
        if raw != ids[0] and rng.random() < 1 / 15:
            continue
        colour, outline = list(STYLES.values())[style]
        draw_item(colour, outline, rng).save(folder / f"{raw}.png")
    broken = folder / f"{ids[0]}.png"
    broken.write_bytes(broken.read_bytes()[:60])


def draw_item(
    colour: tuple[int, int, int], outline: str, rng: np.random.Generator, size: int = 64
) -> Image.Image:
    """A shape of about this colour, somewhere on a light ground."""
    image = Image.new("RGB", (size, size), tuple(rng.integers(225, 256, size=3).tolist()))
    ink = tuple(np.clip(np.add(colour, rng.integers(-20, 21, size=3)), 0, 255).tolist())
    radius = int(rng.integers(size // 4, size // 3))
    x, y = rng.integers(radius, size - radius, size=2).tolist()
    draw = ImageDraw.Draw(image)
    if outline == "circle":
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=ink)
    elif outline == "square":
        draw.rectangle([x - radius, y - radius, x + radius, y + radius], fill=ink)
    else:
        corners = [(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)]
        draw.polygon(corners, fill=ink)
    return image


def write_ratings(
    path: Path,
    ids: list[str],
    kinds: np.ndarray,
    styles: np.ndarray,
    n_users: int,
    rng: np.random.Generator,
) -> None:
    """Purchases in order of time; low ratings are of things that did not fit the customer."""
    popularity = rng.gamma(1.0, size=len(ids))
    rows = []
    for user in range(n_users):
        likes_kind = rng.dirichlet(np.full(len(KINDS), 0.3))[kinds]
        likes_style = rng.dirichlet(np.full(len(STYLES), 0.3))[styles]
        fit = (likes_kind + 0.02) * (likes_style + 0.02)
        chances = fit * (popularity + 0.2)
        n_bought = min(len(ids) // 2, int(6 + rng.geometric(0.12)))
        bought = rng.choice(len(ids), size=n_bought, replace=False, p=chances / chances.sum())
        start, middle = 1_700_000_000 + int(rng.integers(300 * DAY)), np.median(fit)
        for item in bought:
            start += int(rng.exponential(4 * DAY)) + 1
            stars = int(np.clip(rng.normal(4.2 if fit[item] >= middle else 2.8, 0.8), 1, 5).round())
            rows.append([f"u{user:03d}", ids[item], stars, start])
    rows.sort(key=lambda row: row[3])
    write_csv(path, ["user_id", "item_id", "rating", "timestamp"], rows)


def write_csv(path: Path, header: list[str], rows: list[list]) -> None:
    """A table with a header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


if __name__ == "__main__":
    main()
