"""Most memory that a network takes in a runtime: what a process of its own grows by."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from yoloprune.measure.runtimes import RuntimeOptions, module_of
from yoloprune.measure.sessions.table import session_class

_PASSES = 3
_SECONDS = 120.0


def peak_mb(file: Path, options: RuntimeOptions) -> float | None:
    """Megabytes that a fresh process grows by, at most, while it opens a file and runs it.

    What Python and the runtime's library take themselves is not in it.

    Args:
        file: as the runtime's session exports it, or of its model.
        options: how it runs.

    Returns:
        None where the system does not tell, or the process fails.
    """
    if not Path("/proc/self/status").exists():
        return None
    asked = json.dumps({"file": str(file), "options": asdict(options)})
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"from {__name__} import main; main()"],
            input=asked, capture_output=True, text=True, timeout=_SECONDS, check=True,
        )  # fmt: skip
        return float(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError):
        return None


def main() -> None:
    """Of that process: read what is asked on standard input, and write the number."""
    asked = json.load(sys.stdin)
    options = RuntimeOptions(**{**asked["options"], "imgsz": tuple(asked["options"]["imgsz"])})
    import_module(module_of(options.runtime))
    kind = session_class(options.runtime)
    before = _status("VmRSS")
    session = kind.of_file(Path(asked["file"]), options)
    for _ in range(_PASSES):
        session.run()
    sys.stdout.write(f"\n{(_status('VmHWM') - before) / 1024:.3f}\n")


def _status(name: str) -> int:
    """KiB, as the kernel tells of this process."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.M)
    assert found is not None
    return int(found[1])
