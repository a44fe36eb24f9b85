"""The whole line behind a sample, a Bento, a version, a run or a dataset, each link checked."""

from pydantic import Field

from aigc_ops.core.artifacts import Noun
from aigc_ops.lineage.checks import LINKS, Link
from aigc_ops.lineage.facts import Facts
from aigc_ops.lineage.lookup import find


class Trace(Noun):
    """A reference with its links in order."""

    ref: str
    links: tuple[Link, ...]
    others: tuple[str, ...] = Field(description="Other versions that the reference leads to.")

    @property
    def broken(self) -> tuple[str, ...]:
        """What is wrong with each link that does not hold."""
        return tuple(f"{each.name}: {each.told}" for each in self.links if each.state == "broken")


def trace(ref: str) -> Trace:
    """The line behind a reference; raises an AigcOpsError when it leads nowhere."""
    found = find(ref)
    facts = Facts.of(found)
    links = [link for make in LINKS if (link := make(facts))]
    return Trace(ref=ref, links=tuple(links), others=tuple(each.uri for each in found.others))
