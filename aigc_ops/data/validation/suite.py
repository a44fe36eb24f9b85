"""Validation of a dataset's manifest by Great Expectations, which only this module imports."""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_ops.core.artifacts import DatasetRef, ValidationReport
from aigc_ops.core.errors import ValidationFailed
from aigc_ops.data.config import DataConfig
from aigc_ops.data.validation.config import ValidationConfig
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.ingestion import Check, DataHooks

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.data_context.types.base import DataContextConfig
    from great_expectations.expectations.expectation import Expectation

NUM_ROWS_NAMED = 10
MAX_ROWS_KEPT = 10_000


def validate(
    ref: DatasetRef,
    data_config: DataConfig,
    validation_config: ValidationConfig,
    *,
    folder: Path,
) -> ValidationReport:
    """Check all expectations and return the report, also written to `folder`.

    The folder holds report.json and the Data Docs. A failed report is returned, not raised:
    see `require`.
    """
    # Imported here, because pandas is slow to import and `require` does without it.
    from aigc_ops.data.validation.manifest import read_manifest

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
        num_rows=int(manifest["split"].notna().sum()),
        failures=failures,
        json_uri=str((folder / "report.json").absolute()),
        html_uri=str((html / "index.html").absolute()),
    )
    record = {**report.model_dump(mode="json"), "expectations": results}
    Path(report.json_uri).write_text(
        json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return report


def require(report: ValidationReport) -> None:
    """Raise ValidationFailed with all failures unless the report is a success."""
    if not report.success:
        failures = "\n".join(f"  - {failure}" for failure in report.failures)
        raise ValidationFailed(
            f"validation of the dataset failed:\n{failures}\n"
            f"correct the data (or data.* and validation.* in the config) and run again; "
            f"the report is {report.html_uri}"
        )


# The suite. The report shows the descriptions, and results are put in order by them.


def _expectations(
    ref: DatasetRef, data: DataConfig, config: ValidationConfig, manifest: "pd.DataFrame"
) -> "list[Expectation]":
    modality = find_modality(ref.modality)
    # A check of a column without any value would pass without having checked a row.
    measured = {str(name) for name in manifest if manifest[name].notna().any()}
    checks = _row_checks(config)
    checks += modality.data.checks(ref, data, config.section(modality.name), measured)
    if ref.class_names:
        checks += _label_checks(modality.data.sample_noun, len(ref.class_names))
    # auto: one row with a licence suggests that the others lack theirs by mistake.
    licensed = config.require_licence == "auto" and "licence" in measured
    if licensed or config.require_licence == "always":
        checks.append(
            Check(
                "not_null",
                "licence",
                "every row states its licence",
                flags=["--validation.require-licence never"],
            )
        )
    return [*_count_expectations(config, modality.data), *map(_expectation, checks)]


def _count_expectations(config: ValidationConfig, hooks: DataHooks) -> "list[Expectation]":
    import great_expectations.expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    least = {"train": config.min_train_rows, "heldout": config.min_heldout_rows}
    return [
        gxe.ExpectTableRowCountToBeBetween(
            min_value=num,
            row_condition=Column("split") == split,
            description=f"the {split} split has at least {num} row"
            + "s" * (num > 1)
            + (" (data.heldout_fraction takes more from data without splits)" * (split != "train"))
            + hooks.more_rows_hint,
        )
        for split, num in least.items()
    ]


def _row_checks(config: ValidationConfig) -> list[Check]:
    allowed = config.max_duplicate_fraction
    return [
        Check("null", "error", "every row can be decoded"),
        Check(
            "null",
            "duplicate_of",
            f"at most {allowed:.2%} of the rows repeat another one and are left out",
            mostly=1 - allowed,
            flags=["--validation.max-duplicate-fraction {share}"],
        ),
    ]


def _label_checks(sample: str, num_classes: int) -> list[Check]:
    """Return the checks of labels 0..K-1; `sample` is the modality's noun with its article."""
    noun, last = sample.split(" ", 1)[1], num_classes - 1
    classes, ignore = list(range(num_classes)), ["--data.label-column ''"]
    return [
        Check("not_null", "label", f"every {noun} has a label", flags=ignore),
        Check(
            "between", "label", f"every label is from 0 to {last}", low=0, high=last, flags=ignore
        ),
        Check("contains", "train_label", "every class has rows to train on", values=classes),
    ]


def _expectation(check: Check) -> "Expectation":
    import great_expectations.expectations as gxe

    # Great Expectations ignores nulls in every rule but the two about null, so a damaged row does
    # not fail the checks of its measurements too.
    values = list(check.values)
    rules: dict[str, tuple[Any, dict[str, Any]]] = {
        "null": (gxe.ExpectColumnValuesToBeNull, {}),
        "not_null": (gxe.ExpectColumnValuesToNotBeNull, {}),
        "in_set": (gxe.ExpectColumnValuesToBeInSet, {"value_set": values}),
        "between": (
            gxe.ExpectColumnValuesToBeBetween,
            {"min_value": check.low, "max_value": check.high},
        ),
        "contains": (gxe.ExpectColumnDistinctValuesToContainSet, {"value_set": values}),
    }
    kind, arguments = rules[check.kind]
    if check.mostly < 1:
        arguments["mostly"] = check.mostly
    expectation: Expectation = kind(
        column=check.column,
        description=check.description,
        meta={"flags": list(check.flags)},
        **arguments,
    )
    return expectation


# Running the suite


def _run(
    manifest: "pd.DataFrame", expectations: "list[Expectation]", html: Path, *, run_name: str
) -> list[dict[str, Any]]:
    """Return the results as JSON in the order of the suite; write Data Docs to `html`."""
    import great_expectations as gx
    from great_expectations.core.run_identifier import RunIdentifier

    # 1. Start from an empty folder: Data Docs leave the pages of an earlier run.
    shutil.rmtree(html, ignore_errors=True)
    context = gx.get_context(mode="ephemeral", project_config=_context_config(html))
    asset = context.data_sources.add_pandas("manifest").add_dataframe_asset("rows")
    suite = context.suites.add(gx.ExpectationSuite("dataset", expectations=list(expectations)))
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(
            name="dataset", data=asset.add_batch_definition_whole_dataframe("all"), suite=suite
        )
    )
    # 2. COMPLETE lists every failing row, named by the manifest's column `row`.
    outcome = definition.run(
        batch_parameters={"dataframe": manifest},
        run_id=RunIdentifier(run_name=run_name),
        result_format={
            "result_format": "COMPLETE",
            "unexpected_index_column_names": ["row"],
            "partial_unexpected_count": NUM_ROWS_NAMED,
        },
    )
    # 3. Write the pages, without 3 MB of pictures of a tutorial that no page shows.
    context.build_data_docs()
    for picture in html.rglob("static/images/*.gif"):
        picture.unlink()
    # 4. Great Expectations may return the results in another order than the suite's.
    order = {expectation.description: index for index, expectation in enumerate(expectations)}
    results = [_result(r.to_json_dict()) for r in outcome.results]
    return sorted(results, key=lambda result: order[result["expectation"]])


def _context_config(html: Path) -> "DataContextConfig":
    """Return the config of a context that writes Data Docs only: no telemetry, no bars."""
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
    """Return the part of an expectation's result that the report stores."""
    config, result = raw["expectation_config"], raw["result"]
    column = config["kwargs"].get("column")
    return {
        "expectation": config["description"],
        "type": config["type"],
        "success": raw["success"],
        "num_rows_failing": result.get("unexpected_count"),
        "rows": [
            {"row": entry["row"], column: entry.get(column)}
            # Bounded, since every row of a large dataset may fail.
            for entry in (result.get("unexpected_index_list") or [])[:MAX_ROWS_KEPT]
        ],
        "observed": result.get("observed_value"),
        "missing": result.get("partial_missing_list"),
        "flags": _flags(config, result),
        "exception": raw["exception_info"].get("exception_message"),
    }


def _flags(config: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    """Return the flags that let the failing rows of an expectation through."""
    column, rules = config["kwargs"].get("column"), config["kwargs"]
    values = [entry.get(column) for entry in result.get("unexpected_index_list") or []]
    numbers = [value for value in values if isinstance(value, int)]
    low, high = rules.get("min_value"), rules.get("max_value")
    is_low = low is not None and any(value < low for value in numbers)
    is_high = high is not None and any(value > high for value in numbers)
    # Rounded up, so that the flag lets the rows through.
    num, num_rows = result.get("unexpected_count") or 0, result.get("element_count") or 1
    facts = {
        "low": min(numbers, default=0),
        "high": max(numbers, default=0),
        "share": math.ceil(100 * num / num_rows) / 100,
    }
    return [
        flag.format(**facts)
        for flag in (config.get("meta") or {}).get("flags", [])
        if ("{low}" not in flag or is_low) and ("{high}" not in flag or is_high)
    ]


def _failure(result: Mapping[str, Any]) -> str:
    """Return a failure as one line: the expectation, and the failing rows or values."""
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
    flags = f"; to allow it: {' '.join(result['flags'])}" if result["flags"] else ""
    return f"{result['expectation']}: fails for {num} row{'s' * (num > 1)}: {named}{more}{flags}"


def _named(entry: Mapping[str, Any]) -> str:
    facts = [f"{key} {value}" for key, value in entry.items() if key != "row" and value is not None]
    return f"{entry['row']} ({', '.join(facts)})" if facts else str(entry["row"])
