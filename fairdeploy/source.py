"""`DataSource`: what stands under ``data:`` in ``fairdeploy.yaml``, a callable or one of four formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from fairdeploy.model import InputName
from fairdeploy.records import Record

ImportString = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
Share = Annotated[float, Field(gt=0, lt=1)]
ColumnName = Annotated[str, Field(min_length=1)]
Resize = Literal["crop", "stretch"]


class CallableSource(Record):
    """A callable that returns the five splits by name, its arguments, and the files it reads.

    `note` is shown in every report: what the data are, and what they are not.
    """

    import_: ImportString = Field(alias="import")
    arguments: dict[str, int | float | str | bool] = Field(default_factory=dict)
    files: tuple[Path, ...] = ()
    note: str = ""


class Columns(Record):
    """Which column is what; those of attributes, contexts and clusters are called as under ``groups``.

    Without `id` a row is named by its number. `split` holds train, prune, calibrate, tune or evaluate.
    """

    label: ColumnName = "label"
    id: ColumnName = "id"
    split: ColumnName = "split"


class ImageColumns(Columns):
    """Also `path`, below the folder of images; without `id` a row is named by it."""

    path: ColumnName = "path"


class Shares(Record):
    """The share of the rows that each split gets where no column says which row is in which."""

    train: Share = 0.45
    prune: Share = 0.1
    calibrate: Share = 0.05
    tune: Share = 0.1
    evaluate: Share = 0.3

    @model_validator(mode="after")
    def _everything_is_shared_out(self) -> Shares:
        total = sum(vars(self).values())
        if abs(total - 1) > 1e-6:
            said = ", ".join(f"{name} {share:g}" for name, share in vars(self).items())
            raise ValueError(f"shares add up to {total:g}, not 1 ({said})")
        return self


class FormatSource(Record):
    """What all formats have: the columns, how rows without a split are shared out, and the note of the reports."""

    columns: Columns = Columns()
    shares: Shares = Shares()
    note: str = ""


class ImageFolderSource(FormatSource):
    """Images below `root`, one for each row of `table` (CSV or Parquet).

    Images must have the size of the model's input, unless `resize` says how they get it: ``crop`` keeps the middle,
    ``stretch`` does not keep the proportions.
    """

    format: Literal["imagefolder"]
    root: Path
    table: Path
    columns: ImageColumns = ImageColumns()
    resize: Resize | None = None


class NpzSource(FormatSource):
    """Arrays of one npz file: an array [n, ...] for each of the model's inputs, called like it, and columns [n]."""

    format: Literal["npz"]
    file: Path


class TableSource(FormatSource):
    """Numbers in the columns of one CSV or Parquet file: `inputs` lists the columns of each of the model's inputs."""

    format: Literal["table"]
    file: Path
    inputs: dict[InputName, Annotated[tuple[ColumnName, ...], Field(min_length=1)]] = Field(min_length=1)

    @model_validator(mode="after")
    def _no_input_tells_the_label(self) -> TableSource:
        for name, columns in self.inputs.items():
            told = next((one for one in columns if one in (self.columns.label, self.columns.split)), None)
            if told is not None:
                raise ValueError(f"inputs.{name} lists '{told}', which is not known when a model is used: leave it out")
        return self


class HubSource(FormatSource):
    """A Hugging Face dataset on disk (``Dataset.save_to_disk``); the model's inputs are columns called like them."""

    format: Literal["hf"]
    path: Path
    resize: Resize | None = None


def _kind(value: Any) -> str | None:
    if not isinstance(value, dict):
        return {CallableSource: "callable"}.get(type(value)) or getattr(value, "format", None)
    if "format" in value and "import" in value:
        return None
    return "callable" if "import" in value else value.get("format")


DataSource = Annotated[
    Annotated[CallableSource, Tag("callable")]
    | Annotated[ImageFolderSource, Tag("imagefolder")]
    | Annotated[NpzSource, Tag("npz")]
    | Annotated[TableSource, Tag("table")]
    | Annotated[HubSource, Tag("hf")],
    Discriminator(
        _kind,
        custom_error_type="data_source",
        custom_error_message="give either 'import: package.module:function' or 'format:' with imagefolder, npz, table "
        "or hf",
    ),
]
"""One of the ways to say where rows come from; the keys of two cannot be mixed."""
