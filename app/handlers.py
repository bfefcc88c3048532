"""What every button of the studio does, in one class: see the modules of its bases."""

from app.api_handlers import ApiHandlers
from app.inspector_handlers import CHARTS, InspectorHandlers, WhatIfView
from app.memory_handlers import MemoryView
from app.run_handlers import RunHandlers
from app.studio import alone, news, said

__all__ = ["CHARTS", "MemoryView", "Studio", "WhatIfView", "alone", "news", "said"]


class Studio(ApiHandlers, RunHandlers, InspectorHandlers):
    """The shared model and the sessions of all visitors, with everything that can be done."""

    def leave(self, key: str) -> None:
        """The visitor has gone: stop what runs, let their memory go and delete what they uploaded."""
        self.store.free(key)
        self.uploads.free(key)
