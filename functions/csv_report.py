"""Statistics of a CSV table: its rows, and sum, mean and extremes of every numeric column.

They are grouped by a column if `by` names one.

curl http://127.0.0.1:8000/v1/functions/csv-report/invoke \
    -d '{"csv": "city,sold\\nOslo,3\\nRome,4\\nOslo,5", "by": "city"}'
"""
# /// script
# [tool.sandlot]
# visibility = "public"
# memory = "128MiB"
# ///

import csv
import io
from statistics import fmean


def handler(event, context):
    rows = list(csv.DictReader(io.StringIO(event["csv"])))
    by = event.get("by")
    if by is None:
        return report(rows)
    groups = {}
    for row in rows:
        groups.setdefault(row[by], []).append(row)
    print(f"{len(rows)} rows in {len(groups)} groups")  # printed text goes to the job's log
    return {name: report(group) for name, group in sorted(groups.items())}


def report(rows):
    columns = rows[0].keys() if rows else ()
    return {
        "rows": len(rows),
        "columns": {name: figures for name in columns if (figures := summed_up([row[name] for row in rows]))},
    }


def summed_up(texts):
    """Return sum, mean, minimum and maximum, or None if this is not a column of numbers."""
    try:
        values = [float(text) for text in texts]
    except (TypeError, ValueError):
        return None
    return {"sum": sum(values), "mean": fmean(values), "min": min(values), "max": max(values)}
