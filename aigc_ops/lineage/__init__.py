"""Lineage of a sample, Bento, version, run or dataset: a series of checks of stored records."""

from pydantic import Field

from aigc_ops.core.artifacts import Record
from aigc_ops.lineage.checks import LINKS, Link
from aigc_ops.lineage.facts import Facts
from aigc_ops.lineage.lookup import find


class Trace(Record):
    """The lineage of a reference: one check per link, in a fixed order."""

    ref: str
    links: tuple[Link, ...]
    others: tuple[str, ...] = Field(description="Other versions that the reference leads to.")

    @property
    def broken(self) -> tuple[str, ...]:
        """Return the message of each broken link, after the link's name."""
        return tuple(
            f"{link.name}: {link.message}" for link in self.links if link.state == "broken"
        )


def trace(ref: str) -> Trace:
    """Return the lineage of a reference; raises an AigcOpsError when it cannot be resolved."""
    target = find(ref)
    # MLflow is read once, here, for all checks: they see one state of it.
    facts = Facts.of(target)
    links = [link for check in LINKS if (link := check(facts))]
    return Trace(ref=ref, links=tuple(links), others=tuple(other.uri for other in target.others))
