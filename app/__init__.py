"""The studio: a Gradio page over longmem that shows what memory does to every generated token."""
