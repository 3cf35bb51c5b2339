"""What a job costs at most, by a small table that the user can put right."""

from dataclasses import dataclass

from tilezoo.launch.instances import OWN_TABLE, Instance, prices


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Price and time of a job; an estimate, and never an offer.

    Attributes:
        usd_per_hour: Of all its instances; None where the table has no price.
        max_hours: After which SageMaker stops it.
        usd_at_most: For all these hours; None as above.
        hours: That a job like it took, where the table says so; None else.
        basis: Where the figures are from.
    """

    usd_per_hour: float | None
    max_hours: float
    usd_at_most: float | None
    hours: float | None
    basis: str

    def text(self) -> str:
        """Say it in a line."""
        if self.usd_per_hour is None or self.usd_at_most is None:
            return f"price not known: see {self.basis}"
        took = f", {self.hours:g} h as recorded for such a job" if self.hours else ""
        return (
            f"about ${self.usd_per_hour:,.2f} an hour, at most ${self.usd_at_most:,.2f} for "
            f"{self.max_hours:g} h{took} ({self.basis})"
        )


def estimate(verb: str, instance: Instance, *, count: int, max_hours: float) -> Estimate:
    """Estimate what a job costs on demand; a spot job costs less."""
    known = prices()
    price = instance.usd_per_hour
    return Estimate(
        usd_per_hour=None if price is None else round(price * count, 4),
        max_hours=max_hours,
        usd_at_most=None if price is None else round(price * count * max_hours, 2),
        hours=instance.pretrain_hours if verb == "pretrain" else None,
        basis=f"estimate on demand in {known.region}, recorded {known.recorded}; "
        f"put in your own prices by {OWN_TABLE}",
    )
