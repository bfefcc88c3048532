"""What a visitor chose in the source view, and how it follows when another token, layer or run is chosen."""

from dataclasses import dataclass, replace

GROUPINGS = {"token": "tokens", "chunk": "chunks", "sentence": "sentences", "document": "documents"}
LAYER, TOKEN, RUN = "layer", "token", "run"
SCOPES = (LAYER, TOKEN, RUN)  # the chosen layer of the chosen token, all its layers, all tokens and layers
Selection = tuple[int, int | None, int | None]  # run number, step, layer


@dataclass(frozen=True)
class SourceChoice:
    """Where the source view is at.

    grouping, scope: of GROUPINGS and SCOPES: what is tinted as one, and whose weights are shown.
    document, place: the character of a document that was gone to; None for the heaviest place of all, or in it.
    page: where the page begins, if it was turned by hand. hit: rank of the group that was gone to by its rank.
    chunk: the chunk that was gone to, whose readers are listed.
    stay: keep the page when another token is chosen, instead of going to its heaviest place.
    selection: what all this was chosen for.
    """

    grouping: str = "chunk"
    scope: str = LAYER
    document: int | None = None
    place: int | None = None
    page: int | None = None
    hit: int | None = None
    chunk: int | None = None
    stay: bool = False
    selection: Selection | None = None

    def following(self, selection: Selection) -> "SourceChoice":
        """The choice once `selection` is what the inspector shows: at its heaviest place, unless the page stays.

        At a chunk that was gone to it stays too, within a run: its readers are being looked through.
        """
        if selection == self.selection:
            return self
        same_run = self.selection is not None and selection[0] == self.selection[0]
        if self.stay or (same_run and self.chunk is not None):
            return replace(self, hit=None, selection=selection, chunk=self.chunk if same_run else None)
        return replace(self.at_place(None, None), selection=selection)

    def showing(self, *, grouping: str | None = None, scope: str | None = None) -> "SourceChoice":
        """With another grouping or scope, on the same page."""
        return replace(self, grouping=grouping or self.grouping, scope=scope or self.scope, hit=None)

    def at_place(self, document: int | None, place: int | None, chunk: int | None = None) -> "SourceChoice":
        """At a character of a document, that of a chunk where one is given; None as in the class."""
        return replace(self, document=document, place=place, page=None, hit=None, chunk=chunk)

    def at_page(self, document: int, page: int) -> "SourceChoice":
        """At the page that begins about there."""
        return replace(self, document=document, place=None, page=page, hit=None)

    def at_hit(self, rank: int) -> "SourceChoice":
        """At the group of this rank, 0 the heaviest."""
        return replace(self, page=None, hit=rank, chunk=None)
