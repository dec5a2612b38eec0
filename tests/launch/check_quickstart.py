"""Checks a quickstart's report against what the README promises.

python tests/launch/check_quickstart.py runs/quickstart/report.json
"""

import json
import sys

SURE = ("GN", "UN", "SPN", "IN")  # A detector must not miss these.


def problems(report: dict) -> list[str]:
    rows = report["rows"]

    def mean(column):
        return sum(row[column] for row in rows) / len(rows)

    found = []
    if len(rows) != 18:
        found.append(f"{len(rows)} rows instead of 18")
    gain = mean("purified_accuracy") - mean("undefended_accuracy")
    if gain < 0.10:
        found.append(f"purifying gains {gain:.3f} on average, less than 0.10")
    if mean("detection_accuracy") < 0.90:
        found.append(f"mean detection {mean('detection_accuracy'):.3f} is below 0.90")
    for row in rows:
        name = f"{row['noise']}-{row['severity']}"
        loss = row["undefended_accuracy"] - row["purified_accuracy"]
        if loss > 0.02:
            found.append(f"{name}: purifying loses {loss:.3f}, more than 0.02")
        if row["noise"] in SURE and row["detection_accuracy"] < 0.98:
            found.append(f"{name}: detection {row['detection_accuracy']:.3f} < 0.98")
    loss = abs(report["clean_accuracy"] - report["purified_clean_accuracy"])
    if loss > 0.015:
        found.append(f"purified clean accuracy is {loss:.3f} off, more than 0.015")
    return found


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        found = problems(json.load(file))
    print("\n".join(found) or "the quickstart keeps its promises")
    sys.exit(bool(found))
