"""What a push did, or would do, in words."""

from __future__ import annotations

from dataclasses import dataclass

from hf_soups.hub.contents import Contents, Kind, LeftOut, LocalFile, listing


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did, or with `dry_run` would send."""

    kind: Kind
    url: str  # of the repo or, where one was opened, of the pull request
    commit: str | None  # that holds the files; None for a dry run
    files: tuple[LocalFile, ...]  # the whole content, also what was there already; made files are gone by now
    unchanged: bool  # the same content was there: no commit was made
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    usage: str = ""  # Python that loads it
    card: str = ""  # README.md

    def words(self) -> list[str]:
        """What to tell the user, line by line; of a dry run the files, and the card at the end."""
        total = sum(file.size for file in self.files)
        notes = [f"note: {note}" for note in self.notes]
        if self.commit is None:
            told = f"Would push {len(self.files)} files, {total:,} bytes, to {self.url}; nothing was sent:"
            files = listing(self.files, self.left_out)
            return [told, *files, *notes, *self._unchecked(), "", "README.md:", *self.card.splitlines()]
        if self.unchanged:
            return [f"{self.url} holds the same {len(self.files)} files already: no commit was made.", *self._next()]
        return [
            f"Pushed {len(self.files)} files, {total:,} bytes, as one commit to {self.url}.", *notes, *self._next(),
        ]  # fmt: skip

    def _unchecked(self) -> list[str]:
        if self.kind not in ("soup", "cascade", "space"):
            return []
        return ["note: the card's code was not run: a push runs it against the folder first, and stops where it fails."]

    def _next(self) -> list[str]:
        if self.kind == "space":
            return ["Next: open that page; the Space is built within some minutes."]
        merged = "once it is merged, " if "/discussions/" in self.url else ""
        return [f"Next: {merged}{self.usage}"]


def pushed(
    found: Contents, url: str, commit: str | None, *, revision: str | None = None, unchanged: bool = False
) -> Pushed:
    """The outcome of a push of these contents."""
    named = f', revision="{revision}"' if revision else ""
    return Pushed(
        found.kind, url, commit, found.files, unchanged, found.left_out, found.notes,
        found.usage.replace("{revision}", named), found.card,
    )  # fmt: skip
