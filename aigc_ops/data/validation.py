"""Verdicts over a dataset's manifest, by Great Expectations: its only import."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from aigc_ops.artifacts import DatasetRef, ValidationReport
from aigc_ops.data.config import DataConfig
from aigc_ops.errors import ValidationFailed

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.data_context.types.base import DataContextConfig
    from great_expectations.expectations.expectation import Expectation

NUM_ROWS_NAMED = 10
MAX_ROWS_KEPT = 10_000


class ValidationConfig(BaseModel):
    """What a dataset must be before anything is trained on it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min_train_rows: int = Field(default=1, ge=1, description="Fewest rows to train on.")
    min_heldout_rows: int = Field(default=1, ge=1, description="Fewest rows held out.")
    max_duplicate_fraction: float = Field(
        default=0.0, ge=0, le=1, description="Share of rows that may repeat an earlier one."
    )
    min_image_side: int = Field(default=4, ge=1, description="Least width and height, in pixels.")
    max_image_side: int = Field(default=4096, ge=1, description="Most width and height, in pixels.")
    min_characters: int = Field(default=1, ge=1, description="Least length of a text.")
    max_characters: int = Field(default=1_000_000, ge=1, description="Most length of a text.")
    require_licence: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Whether each row must state a licence; auto: when the data has licences.",
    )


def validate(
    ref: DatasetRef,
    data_config: DataConfig,
    validation_config: ValidationConfig,
    *,
    folder: Path,
) -> ValidationReport:
    """The report of all expectations, kept in `folder` as report.json and Data Docs.

    A failed report is returned, not raised: see `require`.
    """
    # Imported here: the command line's --help needs this module's settings and no more.
    from aigc_ops.data.manifest import read_manifest

    manifest = read_manifest(ref, data_config)
    expectations = _expectations(ref, data_config, validation_config, manifest)
    html = folder / "data-docs"
    html.mkdir(parents=True, exist_ok=True)
    results = _run(manifest, expectations, html, run_name=f"data-{ref.version}")
    failures = tuple(_failure(result) for result in results if not result["success"])
    report = ValidationReport(
        success=not failures,
        dataset_digest=ref.content_digest,
        num_expectations=len(results),
        num_rows=len(manifest),
        failures=failures,
        json_uri=str((folder / "report.json").absolute()),
        html_uri=str((html / "index.html").absolute()),
    )
    record = {**report.model_dump(mode="json"), "expectations": results}
    Path(report.json_uri).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return report


def require(report: ValidationReport) -> None:
    """Raise ValidationFailed with every failure unless the report is a success."""
    if not report.success:
        failures = "\n".join(f"  - {failure}" for failure in report.failures)
        raise ValidationFailed(
            f"the dataset is not fit to train on:\n{failures}\n"
            f"mend the data (or data.* and validation.* in the config) and run again; "
            f"the report is {report.html_uri}"
        )


# The suite: each expectation's description is the sentence that the report shows.


def _expectations(
    ref: DatasetRef, data: DataConfig, config: ValidationConfig, manifest: "pd.DataFrame"
) -> "list[Expectation]":
    suite = _row_expectations(config, is_text=ref.modality == "text")
    if ref.modality == "image":
        suite += _image_expectations(ref, data, config)
    else:
        suite += _text_expectations(config, has_prompts=_any(manifest["num_prompt_characters"]))
    licensed = config.require_licence == "auto" and _any(manifest["licence"])
    if licensed or config.require_licence == "always":
        suite.append(_not_null("licence", "every row states its licence"))
    return suite


def _any(column: "pd.Series[Any]") -> bool:
    return bool(column.notna().any())


def _row_expectations(config: ValidationConfig, *, is_text: bool) -> "list[Expectation]":
    import great_expectations.expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    least = {"train": config.min_train_rows, "heldout": config.min_heldout_rows}
    counts = [
        gxe.ExpectTableRowCountToBeBetween(
            min_value=num,
            row_condition=Column("split") == split,
            description=f"the {split} split has at least {num} row"
            + "s" * (num > 1)
            + (" (data.heldout_fraction takes more from data without splits)" * (split != "train"))
            + (" (data.documents paragraph or line makes more of a text file)" * is_text),
        )
        for split, num in least.items()
    ]
    return [
        *counts,
        gxe.ExpectColumnValuesToBeNull(column="error", description="every row can be decoded"),
        gxe.ExpectColumnValuesToBeNull(
            column="duplicate_of",
            mostly=1 - config.max_duplicate_fraction,
            description="no row repeats an earlier one of its split "
            f"(validation.max_duplicate_fraction allows {config.max_duplicate_fraction:.2%})",
        ),
        gxe.ExpectColumnValuesToBeNull(
            column="also_trained_on", description="no held-out row is in the training split too"
        ),
    ]


def _image_expectations(
    ref: DatasetRef, data: DataConfig, config: ValidationConfig
) -> "list[Expectation]":
    import great_expectations.expectations as gxe

    from aigc_ops.data.images import COLOUR_MODES, GREY_MODES

    low, high = config.min_image_side, config.max_image_side
    modes = list(GREY_MODES + COLOUR_MODES)
    suite: list[Expectation] = [
        gxe.ExpectColumnValuesToBeInSet(
            column="mode", value_set=modes, description=f"every image is 8-bit: {', '.join(modes)}"
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="num_frames", value_set=[1], description="no image is animated"
        ),
        *(
            gxe.ExpectColumnValuesToBeBetween(
                column=side,
                min_value=low,
                max_value=high,
                description=f"every {side} is from {low} to {high} pixels",
            )
            for side in ("width", "height")
        ),
    ]
    shape = ref.image_shape
    if shape is not None and data.image_size is None:
        size = f"{shape.width}x{shape.height}"
        suite.append(
            gxe.ExpectColumnValuesToBeInSet(
                column="size",
                value_set=[size],
                description=f"every image is {size} as the first (data.image_size resizes them)",
            )
        )
    if shape is not None and shape.class_names:
        suite += _label_expectations(shape.num_classes)
    return suite


def _label_expectations(num_classes: int) -> "list[Expectation]":
    import great_expectations.expectations as gxe

    last = num_classes - 1
    return [
        _not_null("label", "every image has a label"),
        gxe.ExpectColumnValuesToBeBetween(
            column="label",
            min_value=0,
            max_value=last,
            description=f"every label is from 0 to {last}",
        ),
        gxe.ExpectColumnDistinctValuesToContainSet(
            column="train_label",
            value_set=list(range(num_classes)),
            description="every class has rows to train on",
        ),
    ]


def _text_expectations(config: ValidationConfig, *, has_prompts: bool) -> "list[Expectation]":
    import great_expectations.expectations as gxe

    low, high = config.min_characters, config.max_characters
    suite: list[Expectation] = [
        gxe.ExpectColumnValuesToBeBetween(
            column="num_characters",
            min_value=low,
            max_value=high,
            description=f"every text is from {low:,} to {high:,} characters",
        )
    ]
    if has_prompts:
        suite += [
            _not_null("num_prompt_characters", "every text has a prompt"),
            gxe.ExpectColumnValuesToBeBetween(
                column="num_prompt_characters",
                min_value=1,
                max_value=high,
                description=f"every prompt is from 1 to {high:,} characters",
            ),
        ]
    return suite


def _not_null(column: str, description: str) -> "Expectation":
    import great_expectations.expectations as gxe

    return gxe.ExpectColumnValuesToNotBeNull(column=column, description=description)


# Running it


def _run(
    manifest: "pd.DataFrame", expectations: "list[Expectation]", html: Path, *, run_name: str
) -> list[dict[str, Any]]:
    """Results as JSON in the order of the suite, and Data Docs written to `html`."""
    import great_expectations as gx
    from great_expectations.core.run_identifier import RunIdentifier

    shutil.rmtree(html, ignore_errors=True)
    context = gx.get_context(mode="ephemeral", project_config=_context_config(html))
    asset = context.data_sources.add_pandas("manifest").add_dataframe_asset("rows")
    suite = context.suites.add(gx.ExpectationSuite("dataset", expectations=list(expectations)))
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(
            name="dataset", data=asset.add_batch_definition_whole_dataframe("all"), suite=suite
        )
    )
    outcome = definition.run(
        batch_parameters={"dataframe": manifest},
        run_id=RunIdentifier(run_name=run_name),
        result_format={
            "result_format": "COMPLETE",
            "unexpected_index_column_names": ["row"],
            "partial_unexpected_count": NUM_ROWS_NAMED,
        },
    )
    context.build_data_docs()
    for picture in html.rglob("static/images/*.gif"):
        picture.unlink()  # 3 MB of a tutorial that no page shows
    order = {expectation.description: place for place, expectation in enumerate(expectations)}
    results = [_result(r.to_json_dict()) for r in outcome.results]
    return sorted(results, key=lambda result: order[result["expectation"]])


def _context_config(html: Path) -> "DataContextConfig":
    """A context that keeps nothing but Data Docs, reports nothing and prints nothing."""
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    site = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(html.absolute()),
        },
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }
    return DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        data_docs_sites={"aigc-ops": site},
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False),
    )


def _result(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What the report keeps of one expectation's outcome."""
    config, result = raw["expectation_config"], raw["result"]
    column = config["kwargs"].get("column")
    return {
        "expectation": config["description"],
        "type": config["type"],
        "success": raw["success"],
        "num_rows_failing": result.get("unexpected_count"),
        "rows": [
            {"row": entry["row"], column: entry.get(column)}
            for entry in (result.get("unexpected_index_list") or [])[:MAX_ROWS_KEPT]
        ],
        "observed": result.get("observed_value"),
        "missing": result.get("partial_missing_list"),
        "exception": raw["exception_info"].get("exception_message"),
    }


def _failure(result: Mapping[str, Any]) -> str:
    """One line: the expectation that did not hold, and the rows or values at fault."""
    if result["exception"]:
        return f"{result['expectation']}: could not be checked ({result['exception']})"
    if result["missing"]:
        missing = ", ".join(map(str, result["missing"][:NUM_ROWS_NAMED]))
        return f"{result['expectation']}: none for {missing}"
    if not result["rows"]:
        return f"{result['expectation']}: found {result['observed']}"
    first = result["rows"][:NUM_ROWS_NAMED]
    named = ", ".join(_named(entry) for entry in first)
    num = result["num_rows_failing"]
    more = f" and {num - len(first)} more" if num > len(first) else ""
    return f"{result['expectation']}: fails for {num} row{'s' * (num > 1)}: {named}{more}"


def _named(entry: Mapping[str, Any]) -> str:
    facts = [f"{key} {value}" for key, value in entry.items() if key != "row" and value is not None]
    return f"{entry['row']} ({', '.join(facts)})" if facts else str(entry["row"])
