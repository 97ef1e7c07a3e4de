"""`stillhouse report`: a dataset as one HTML page that needs no network and runs no script."""

from stillhouse.gen.views.report.page import report

__all__ = ["report"]
