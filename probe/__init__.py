"""probe: tables and labels → scores → results.json."""

from typing import TYPE_CHECKING

from tilezoo.lazy import exports

if TYPE_CHECKING:
    from tilezoo.probe.report.pages import write_report as write_report
    from tilezoo.probe.run import ProbeResult as ProbeResult
    from tilezoo.probe.run import probe as probe

__getattr__ = exports(__name__, ProbeResult="run", probe="run", write_report="report.pages")
