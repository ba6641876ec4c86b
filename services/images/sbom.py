"""Writes a bill of materials (CycloneDX 1.6) of the Python that runs it: `sbom.py FILE`."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path


def component(package: metadata.Distribution) -> dict[str, object]:
    """One package as CycloneDX lists it."""
    name = package.metadata["Name"].lower().replace("_", "-")
    found: dict[str, object] = {
        "type": "library",
        "name": name,
        "version": package.version,
        "purl": f"pkg:pypi/{name}@{package.version}",
    }
    expression = package.metadata.get("License-Expression")
    if expression:
        found["licenses"] = [{"expression": expression}]
    return found


def main(target: Path) -> None:
    """Write the file; sorted, so that the same packages give the same bytes."""
    found = {str(c["purl"]): c for c in map(component, metadata.distributions())}
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "components": [found[purl] for purl in sorted(found)],
    }
    target.write_text(json.dumps(bill, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
