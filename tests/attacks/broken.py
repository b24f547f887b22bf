"""Broken projects, by a seed: each kind takes a whole one and spoils it somewhere, and says what must be named."""

from __future__ import annotations

import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Random = np.random.Generator
Kind = Callable[[Path, Random], str]
CONFIG, CODE, TARGET = "fairdeploy.yaml", "tiny_code.py", "targets/brief.yaml"
AT = r"fairdeploy\.yaml:\d+:\d+: "  # file, line, column
IN_TARGET = r"brief\.yaml:\d+:\d+: "
LETTERS = list("abcdefghijklmnopqrstuvwxyz_")
WHOLE = """\
version: 1
name: tiny
task: binary-classification
model:
  import: tiny_code:build
  weights: dense.safetensors
  inputs:
    image:
      shape: [batch, 3, 6, 6]
  preprocess:
    mean: [0.1, 0.2, 0.3]
    std: [1, 1, 1]
  decision:
    threshold: 0.5
data:
  import: tiny_code:splits
groups:
  attributes:
    tone: [light, dark]
  contexts: [site]
prune:
  method: magnitude
  keep:
    macs: 0.6
  round_to: 1
  recover:
    epochs: 1
gates:
  accuracy:
    min: 0.1
  true_positive_rate:
    max_drop: 0.9
    against: dense
targets:
  - brief
"""
KEY = re.compile(r"^( *)(\w+):(.*)$")


def spoil(folder: Path, name: str, old: str, new: str) -> None:
    """Replace a text that stands in a file once."""
    text = (folder / name).read_text()
    assert text.count(old) == 1, (name, old)
    (folder / name).write_text(text.replace(old, new))


def some(random: Random, *choices: Any) -> Any:
    """Return one of the choices."""
    return choices[int(random.integers(len(choices)))]


def keys(folder: Path) -> tuple[list[str], list[int]]:
    """Return the lines of the configuration, and which of them have a key that is declared."""
    lines = (folder / CONFIG).read_text().splitlines()
    ours = ("image", "tone", "accuracy", "true_positive_rate")  # names of the user's, and metrics
    found = [at for at, line in enumerate(lines) if (key := KEY.match(line)) and key[2] not in ours]
    return lines, found


def write(folder: Path, lines: list[str]) -> None:
    (folder / CONFIG).write_text("\n".join(lines) + "\n")


def unknown_key(folder: Path, random: Random) -> str:
    lines, found = keys(folder)
    at = found[int(random.integers(len(found)))]
    word = "x" + "".join(random.choice(LETTERS, 7))
    lines.insert(at, f"{KEY.match(lines[at])[1]}{word}: {some(random, '1', 'text', '[1, 2]', '{a: b}')}")  # type: ignore[index]
    write(folder, lines)
    return AT + rf".*{word}"


def misspelt_key(folder: Path, random: Random) -> str:
    lines, found = keys(folder)
    at = found[int(random.integers(len(found)))]
    indent, word, rest = KEY.match(lines[at]).groups()  # type: ignore[union-attr]
    cut = int(random.integers(len(word)))
    wrong = some(random, word[:cut] + word[cut + 1 :] + "x", word[:cut] + word[cut] + word[cut:], word.upper())
    lines[at] = f"{indent}{wrong}:{rest}"
    write(folder, lines)
    return AT + rf".*({wrong}|{word})"


def duplicate_key(folder: Path, random: Random) -> str:
    lines, found = keys(folder)
    plain = [at for at in found if KEY.match(lines[at])[3]]  # type: ignore[index]
    at = plain[int(random.integers(len(plain)))]
    lines.insert(at, lines[at])
    write(folder, lines)
    return AT + ".*duplicate key"


def missing_key(folder: Path, random: Random) -> str:
    lines = (folder / CONFIG).read_text().splitlines()
    word = some(random, "version", "name", "task", "model", "data", "groups", "gates", "targets", "weights", "shape")
    at = next(at for at, line in enumerate(lines) if line.strip().startswith(f"{word}:"))
    depth = len(lines[at]) - len(lines[at].lstrip())
    end = at + 1
    while end < len(lines) and len(lines[end]) - len(lines[end].lstrip()) > depth:
        end += 1
    del lines[at:end]
    write(folder, lines)
    return AT


def wrong_type(folder: Path, random: Random) -> str:
    lines, found = keys(folder)
    plain = [at for at in found if KEY.match(lines[at])[3]]  # type: ignore[index]
    at = plain[int(random.integers(len(plain)))]
    indent, word, _ = KEY.match(lines[at]).groups()  # type: ignore[union-attr]
    value = some(random, "{a: {b: 1}}", "[[[]]]", "[{x: y}, 3]", "2026-02-30", ".nan", "{7: 8}", "-.inf")
    lines[at] = f"{indent}{word}: {value}"
    write(folder, lines)
    return AT


def unusual_yaml(folder: Path, random: Random) -> str:
    text = (folder / CONFIG).read_text()
    name = "name: tiny"
    (folder / CONFIG).write_text(
        some(
            random,
            text.replace(name, "name: &x tiny\ntask: *x"),
            text.replace(name, "name: !!python/object/apply:os.system ['true']"),
            text.replace(name, "name: !secret tiny"),
            "%YAML 1.1\n---\n" + text,
            text + "---\n" + text,
            text.replace("  import: tiny_code:splits", "  <<: {import: a:b}"),
            text.replace(name, "name: [tiny"),
            text.replace(name, "name: 'tiny"),
            text.replace(name, "\tname: tiny"),
            text.replace(name, "name: tiny\n 3: 4"),
            text.replace(name, "7: tiny"),
            text.replace(name, "? [a, b]\n: tiny"),
            text.replace(name, "name: tiny\x00"),
            text.replace(name, "name: tiny\x1b[2J"),
            "- " + text.replace("\n", "\n  "),
            "",
            "just text",
            "# only a comment\n",
        )
    )
    return r"fairdeploy\.yaml(:\d+)?(:\d+)?: "


def too_large(folder: Path, random: Random) -> str:
    size = int(random.integers(1_000_001, 3_000_000))
    filler = some(random, "# " + "x" * size, "name: " + "x" * size, "\n" * size, "a: [" + "1," * (size // 2) + "]")
    (folder / CONFIG).write_text(some(random, WHOLE + filler, filler + "\n" + WHOLE))
    return r"fairdeploy\.yaml: \d+ bytes; a configuration has at most 1000000"


def deep(folder: Path, random: Random) -> str:
    depth = int(random.choice([51, 60, 500, 20_000]))
    opened, closed = some(random, ("[", "]"), ("{a: ", "}"))
    spoil(folder, CONFIG, "name: tiny", f"name: {opened * depth}1{closed * depth}")
    return AT + ".*nesting deeper than 50"


def bad_bound(folder: Path, random: Random) -> str:
    value = some(
        random,
        ".nan",
        ".inf",
        "-.inf",
        "-0.1",
        "0",
        "1",
        "1.5",
        "'0.9'",
        "text",
        "true",
        "[0.1]",
        "{}",
        "null",
        "1e400",
        "9" * 400,
        "0x1F",
        "2026-01-01",
    )
    spoil(folder, CONFIG, *some(random, ("min: 0.1", f"min: {value}"), ("max_drop: 0.9", f"max_drop: {value}")))
    return AT


def bad_option(folder: Path, random: Random) -> str:
    option = some(
        random,
        "confidence: 0",
        "confidence: 1",
        "confidence: .nan",
        "confidence: high",
        "level: devise",
        "against: dense",
        "required: 'no'",
        "required: 0",
        "class: cat",
        "intersections: 1",
        "within: 3",
        "max_drop: 0.1",
        "minimum: 0.1",
    )
    spoil(folder, CONFIG, "    min: 0.1", f"    min: 0.1\n    {option}")
    return AT


def no_gates(folder: Path, random: Random) -> str:
    text = (folder / CONFIG).read_text()
    start, end = text.index("gates:"), text.index("targets:")
    gates = some(
        random,
        "gates: {}",
        "gates: []",
        "gates:",
        "gates: none",
        "gates: {accuracy: {}}",
        "gates: {accuracy: []}",
        "gates: {accuracy: }",
        "gates: [accuracy]",
        "gates: {accuracy: 0.9}",
        "gates: {accuracy: [0.9]}",
    )
    (folder / CONFIG).write_text(text[:start] + gates + "\n" + text[end:])
    return AT


def unknown_metric(folder: Path, random: Random) -> str:
    wrong = some(random, "acuracy", "tpr", "fairness", "latency_p42_ms", "Accuracy", "accuracy ", "''", "max_drop")
    spoil(folder, CONFIG, "  accuracy:", f"  {wrong if wrong[-1] != ' ' else repr(wrong)}:")
    return AT


def unknown_group(folder: Path, random: Random) -> str:
    waiver = (
        "waivers:\n  - {target: brief, rule: accuracy.min, bound: 0.1, group: {%s}, "
        "reason: r, approver: a, expires: 2099-01-01}"
    )
    old, new = some(
        random,
        ("    min: 0.1", "    min: 0.1\n    within: weather"),
        ("    min: 0.1", "    min: 0.1\n    within: tone"),
        ("targets:", waiver % "skin: dark" + "\ntargets:"),
        ("targets:", waiver % "tone: drak" + "\ntargets:"),
        ("    epochs: 1", "    epochs: 1\n  constraints: {accuracy_difference: 0.1, attributes: [skin]}"),
        ("tone: [light, dark]", "tone: [light]"),
        ("tone: [light, dark]", "tone: [light, light]"),
        ("tone: [light, dark]", "tone: [light, unknown]"),
        ("tone: [light, dark]", "tone: {}"),
        ("    tone: [light, dark]", "    {}"),
    )
    spoil(folder, CONFIG, old, new)
    return r"fairdeploy\.yaml:\d+(:\d+)?: "


def version_as_number(folder: Path, random: Random) -> str:
    if random.random() < 0.3:
        spoil(folder, CONFIG, "version: 1", some(random, "version: 2", "version: '1'", "version: 1.5", "version: one"))
        return AT + ".*version"
    key = some(random, "version: 10.10", "version: 1", "jetpack: 6.2", "version: true")
    (folder / TARGET).write_text(f"extends: this-host\nid: brief\nruntime:\n  backend: ort\n  {key}\n")
    return IN_TARGET


def missing_files(folder: Path, random: Random) -> str:
    case = int(random.integers(7))
    if case == 0:
        (folder / CONFIG).unlink()
        return r"fairdeploy\.yaml: no such file"
    if case == 1:
        (folder / CONFIG).unlink()
        (folder / CONFIG).mkdir()
        return r"fairdeploy\.yaml: cannot be read"
    if case == 2:
        (folder / CONFIG).write_bytes(b"\xff\xfe\x00" + random.bytes(100))
        return r"fairdeploy\.yaml: cannot be read"
    if case == 3:
        spoil(folder, CONFIG, "splits", f"splits\n  files: [{some(random, 'gone.csv', 'targets', '../..', 'a/b/c')}]")
        return AT + r".*data\.files|data\.files names"
    if case == 4:
        (folder / CODE).unlink()
        return "no module 'tiny_code'"
    if case == 5:
        (folder / CONFIG).unlink()
        (folder / CONFIG).symlink_to(folder / CONFIG)
        return r"fairdeploy\.yaml: cannot be read"
    (folder / CODE).write_bytes(b"\xff\xfe" + random.bytes(50))
    return r"tiny_code\.py"


def missing_weights(folder: Path, random: Random) -> str:
    (folder / "dense.safetensors").unlink()
    if random.random() < 0.5:
        (folder / "dense.safetensors").mkdir()
    return r"dense\.safetensors"


def broken_weights(folder: Path, random: Random) -> str:
    file = folder / "dense.safetensors"
    whole = file.read_bytes()
    header = struct.pack("<Q", int(random.choice([2**63, 2**40, 10**6, 3]))) + whole[8:]
    file.write_bytes(
        some(random, b"", whole[:7], whole[: len(whole) // 2], header, random.bytes(500), b"PK\x03\x04" + whole)
    )
    return r"dense\.safetensors"


def weights_that_do_not_fit(folder: Path, random: Random) -> str:
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "dense.safetensors")
    name = str(random.choice([one for one in sorted(weights) if weights[one].ndim]))
    case = int(random.integers(4))
    if case == 0:
        del weights[name]
    elif case == 1:
        weights[f"module.{name}"] = weights.pop(name)
    elif case == 2:
        weights[name] = np.zeros((*weights[name].shape, 3), np.float32)
    else:
        weights["another.weight"] = np.zeros((7, 5), np.float32)
        name = "another.weight"
    save_file(weights, folder / "dense.safetensors")
    return rf"dense\.safetensors.*{re.escape(name)}"


def bad_labels(folder: Path, random: Random) -> str:
    labels = some(
        random,
        "np.arange(count) % 3",
        "np.arange(count) % 2 - 1",
        "(np.arange(count) % 2) * 0.5",
        "np.where(np.arange(count) == 5, np.nan, 1.0)",
        "np.array(['a', 'b'] * (count // 2))",
        "np.full(count, 2**62)",
        "[[0, 1]] * count",
        "None",
    )
    spoil(folder, CODE, "labels, {", f"{labels}, {{")
    return r"train: .*labels"


def bad_groups(folder: Path, random: Random) -> str:
    tone = some(
        random,
        "np.arange(count).astype(str)",
        "np.arange(count)",
        "tone[:-1]",
        "np.char.upper(tone)",
        "np.array([None] * count)",
        "'light'",
        "np.array([['light']] * count)",
    )
    spoil(folder, CODE, '{"tone": tone}', f'{{"tone": {tone}}}')
    return r"train: attribute 'tone'"


def group_of_thousands(folder: Path, random: Random) -> str:
    levels = ", ".join(f"g{at}" for at in range(int(random.choice([501, 1000]))))
    spoil(folder, CONFIG, "tone: [light, dark]", f"tone: [{levels}]")
    return AT + r".*levels"


def context_of_thousands(folder: Path, random: Random) -> str:
    spoil(folder, CODE, '{"site": site}', '{"site": np.arange(count).astype(str)}')
    (folder / CODE).write_text((folder / CODE).read_text().replace('"evaluate": 64', '"evaluate": 10_000'))
    return r"evaluate: context 'site'"


def missing_columns(folder: Path, random: Random) -> str:
    old, new = some(
        random,
        ('{"tone": tone}', "{}"),
        ('{"site": site}', "{}"),
        ('{"tone": tone}', '{"tones": tone}'),
        ('{"site": site}', '{"site": site[:3]}'),
        ('{"tone": tone}', "None"),
        ('{"tone": tone}', "[tone]"),
    )
    spoil(folder, CODE, old, new)
    return r"train: (attribute|context|Rows\.)"


def bad_ids(folder: Path, random: Random) -> str:
    ids = some(
        random,
        "np.arange(count)",
        "np.array(['a'] * count)",
        "np.array([''] * count)",
        "np.array([])",
        "'id'",
        "np.array([f'{name}{at}' for at in range(count - 1)])",
        "None",
    )
    spoil(folder, CODE, 'np.array([f"{name}{at}" for at in range(count)])', ids)
    return r"train: "


def bad_rows(folder: Path, random: Random) -> str:
    values = some(
        random,
        "image[start : start + size, :2]",
        "image[start : start + size, :, :5]",
        "image[0]",
        "np.where(np.arange(6) == 2, np.nan, image[start : start + size])",
        "image[start : start + size] + np.inf",
        "np.array([object()] * size)",
        "np.array(['x'] * size)",
        "[np.zeros((3, 6, 6)), np.zeros((3, 5, 6))]",
        "image[start : start + size - 1][:60]",
        "image",
        "np.float32(3)",
        "None",
        "image[start : start + size].astype(complex)",
    )
    plain = "image[start : start + size].astype(np.float32)"
    cast = ".astype(np.float32)" if values.startswith(("image", "np.where")) and "complex" not in values else ""
    spoil(folder, CODE, plain, f"({values}){cast}")
    return r"row|input 'image'|rows"


def bad_batches(folder: Path, random: Random) -> str:
    new = some(
        random,
        'yield {"picture": 1}',
        "yield 7",
        "yield []",
        "return 5",
        'yield {"image": np.zeros(0)}; return',
        "return",
        "raise OSError('disk gone')",
        "yield None",
        "import sys; sys.exit(0)",
    )
    spoil(folder, CODE, 'yield {"image": image[start : start + size].astype(np.float32)}', new)
    return r"image|rows|batch|tiny_code\.py:\d+"


def overlap(folder: Path, random: Random) -> str:
    other = some(random, "train", "prune", "calibrate", "tune")
    spoil(
        folder,
        CODE,
        "enumerate(COUNTS)}",
        f'enumerate(COUNTS)}} | {{"evaluate": split("{other}", '
        f"{['train', 'prune', 'calibrate', 'tune'].index(other) if random.random() < 0.5 else 77})}}",
    )
    return rf"evaluate overlaps by id with {other}: \d+ of \d+ rows, first '{other}\d+'"


def callable_that_raises(folder: Path, random: Random) -> str:
    line = some(
        random,
        "raise ValueError('no such camera')",
        "1 / 0",
        "{}['camera']",
        "import no_such_package",
        "assert False",
        "raise KeyboardInterrupt if False else RuntimeError",
        "import sys; sys.exit(3)",
        "def f(): f()\n    f()",
        "raise Exception",
        "np.zeros(3).reshape(2)",
        "open('gone.csv')",
        "raise StopIteration",
        "int('x')",
        "raise SystemExit('bye')",
        "raise ExceptionGroup('two', [ValueError(1)])",
    )
    spoil(folder, CODE, "def splits():\n", f"def splits():\n    {line}\n")
    return r"tiny_code\.py:\d+: calling tiny_code:splits failed(.|\n)*tiny_code\.py\", line \d+, in "


def callable_that_is_wrong(folder: Path, random: Random) -> str:
    old, new = some(
        random,
        ("def splits():", "def splits(path):"),
        ("def splits():", "def split_all():"),
        ("def splits():", "splits = 7\ndef other():"),
        ("    return {name: split(name, seed)", "    return 7\n    return {name: split(name, seed)"),
        ("    return {name: split(name, seed)", "    return {}\n    return {name: split(name, seed)"),
        (
            "    return {name: split(name, seed)",
            "    return dict.fromkeys(COUNTS)\n    return {name: split(name, seed)",
        ),
        ('"tune": 64, ', ""),
        ('"tune": 64, ', '"tune": 64, "test": 64, '),
        ("return Split(rows, batches)", "return Split(rows, None)"),
        ("return Split(rows, batches)", "return Split(None, batches)"),
        ("return Split(rows, batches)", "return rows"),
        ("def splits():", "def splits(:"),
    )
    spoil(folder, CODE, old, new)
    return r"tiny_code"


def model_that_is_wrong(folder: Path, random: Random) -> str:
    old, new = some(
        random,
        ("def build():", "def built():"),
        ("def build():", "def build(width):"),
        ("    torch.manual_seed(0)\n", "    return 7\n"),
        ("    torch.manual_seed(0)\n", "    raise RuntimeError('no weights')\n"),
        ("    torch.manual_seed(0)\n", "    nn.Linear(3)\n"),
    )
    spoil(folder, CODE, old, new)
    return r"tiny_code"


def model_that_cannot_run(folder: Path, random: Random) -> str:
    spoil(folder, CONFIG, "shape: [batch, 3, 6, 6]", "shape: [batch, 3, 4, 9]")
    text = (folder / CODE).read_text()
    (folder / CODE).write_text(text.replace("(count, 3, 6, 6)", "(count, 3, 4, 9)"))
    return r"tiny_code"


def unknown_target(folder: Path, random: Random) -> str:
    target = some(
        random,
        "breif",
        "jetsno",
        "''",
        "../brief",
        "brief.yaml",
        "{use: gone}",
        "{use: brief, idd: x}",
        "{use: brief, id: 'A B'}",
        "{use: brief, id: references}",
        "7",
        "{}",
        "null",
        "[brief]",
        "brief\n  - brief",
        "{use: brief, gates: {speed: {max: 1}}}",
        "{use: brief, gates: {accuracy: 1}}",
    )
    spoil(folder, CONFIG, "  - brief", f"  - {target}")
    return AT


def broken_target(folder: Path, random: Random) -> str:
    text = some(
        random,
        "extends: brief\nid: brief\n",
        "extends: gone\nid: brief\n",
        "extends: this-host\nid: brief\nspeed: 1\n",
        "extends: this-host\nid: brief\nmeasure: {runs: 3}\n",
        "id: brief\n",
        "extends: [this-host]\nid: brief\n",
        "extends: this-host\nid: brief\ngates: {accuracy: {min: 7}}\n",
        "- brief\n",
        "extends: this-host\nid: [\n",
        "extends: this-host\nid: brief\nmeasure: {percentiles: [50, 101]}\n",
        "extends: 3\nid: brief\n",
    )
    (folder / TARGET).write_text(text)
    return r"brief\.yaml(:\d+:\d+)?: "


def precision_that_a_backend_lacks(folder: Path, random: Random) -> str:
    base, precision = some(random, "this-host", "x86-openvino"), some(random, "fp16", "bf16", "int4", "FP32")
    (folder / TARGET).write_text(f"extends: {base}\nid: brief\nbuild:\n  precision: {precision}\n")
    return rf"(brief|fairdeploy)\.yaml:\d+:\d+: .*{precision}"


def unknown_backend(folder: Path, random: Random) -> str:
    old = some(
        random,
        "runtime: {backend: ortt}",
        "runtime: {backend: engine}",
        "quantization: {calibration: gone}",
        "runtime: {backend: ''}",
        "quantization: {calibration: ../../x}",
    )
    (folder / TARGET).write_text(f"extends: this-host\nid: brief\n{old}\n")
    return r"(brief|fairdeploy)\.yaml:\d+:\d+: "


def paths_out_of_the_world(folder: Path, random: Random) -> str:
    shutil.rmtree(folder / "targets")
    weights = some(random, "x" * 500, "a\\0b", "''", "/dev/null", "/", "../" * 60 + "etc/passwd")
    spoil(folder, CONFIG, "weights: dense.safetensors", f'weights: "{weights}"' if weights != "''" else "weights: ''")
    spoil(folder, CONFIG, "- brief", "- this-host")
    return r"weights|safetensors|fairdeploy\.yaml"


KINDS: tuple[Kind, ...] = (
    unknown_key,
    misspelt_key,
    duplicate_key,
    missing_key,
    wrong_type,
    unusual_yaml,
    too_large,
    deep,
    bad_bound,
    bad_option,
    no_gates,
    unknown_metric,
    unknown_group,
    version_as_number,
    missing_files,
    missing_weights,
    broken_weights,
    weights_that_do_not_fit,
    bad_labels,
    bad_groups,
    group_of_thousands,
    context_of_thousands,
    missing_columns,
    bad_ids,
    bad_rows,
    bad_batches,
    overlap,
    callable_that_raises,
    callable_that_is_wrong,
    model_that_is_wrong,
    unknown_target,
    broken_target,
    precision_that_a_backend_lacks,
    unknown_backend,
    paths_out_of_the_world,
)
