"""The contract between pixels and a backbone, and the space its vectors live in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, get_args

from msgspec import UNSET, UnsetType

from tilezoo.bands import BandRequest, Values, parse_bands
from tilezoo.errors import ContractError, SpaceError, TileError
from tilezoo.io import canonical_json, from_builtins, sha256_text, to_builtins
from tilezoo.option_texts import parse_value_range

Unit = Literal["uint8", "dn", "reflectance", "stated"]
Resize = Literal["shorter_side_then_center_crop", "squash", "none"]
Interpolation = Literal["bicubic", "bilinear", "nearest"]
Pooling = Literal["cls", "mean", "cls+mean", "last4"]
# How vectors are computed and stored: recorded, but no part of their space.
Precision = Literal["fp32", "bf16", "fp16"]
Dtype = Literal["float32", "float16"]

POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
# What a pixel's dtype may be for each unit; "stated" is the user's own --value-range.
_KINDS = {"uint8": ("uint8",), "dn": ("int", "uint16", "uint32"), "reflectance": ("float",)}


@dataclass(frozen=True, kw_only=True)
class UnscaledContract:
    """A contract less its mean and std, which spaces state beside it.

    Attributes:
        bands: In the order the network takes them.
        unit: `uint8` (0-255 imagery), `dn` (integer digital numbers), `reflectance` (floats),
            or `stated` (the user gave --value-range and so vouches for it).
        value_range: Values that become 0 and 1.
        quantize_uint8: Round to 8 bits, as networks trained on 8-bit images saw it.
        size_px: Side of the square the network is fed, pixels.
        resize: How a tile gets that size.
        resize_px: Side it is resized to before a centre crop, pixels.
        interpolation: Of the resizing, always with antialias.
        gsd_m: Smallest and largest ground sampling distance it was made for, metres; None
            where it was made for no particular one.
        values: `stored` where products' own scales and offsets are not applied; absent where they
            are, and from what is hashed.
    """

    bands: tuple[str, ...]
    unit: Unit
    value_range: tuple[float, float]
    quantize_uint8: bool
    size_px: int
    resize: Resize
    resize_px: int
    interpolation: Interpolation
    gsd_m: tuple[float, float] | None
    values: Literal["stored"] | UnsetType = UNSET


@dataclass(frozen=True, kw_only=True)
class Contract(UnscaledContract):
    """What a backbone needs of its pixels.

    Values are mapped as: clip to `value_range` → 0..1 (→ rounded to 8 bits if
    `quantize_uint8`) → resized → (x - mean) / std.

    Attributes:
        mean: Per band, on the 0..1 scale.
        std: Per band, on the 0..1 scale.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse a contract that no pixel could meet."""
        low, high = self.value_range
        if not low < high:
            raise ContractError(f"value_range {low},{high} is empty; write LOW,HIGH")
        if not len(self.bands) == len(self.mean) == len(self.std):
            sizes = f"{len(self.bands)}, {len(self.mean)} and {len(self.std)}"
            raise ContractError(f"bands, mean and std have {sizes} values; they must agree")
        if not min(self.std, default=0) > 0:
            raise ContractError(f"std {self.std} must be above 0 in each band")
        if self.unit not in get_args(Unit) or self.resize not in get_args(Resize):
            raise ContractError(f"unknown unit {self.unit!r} or resize {self.resize!r}")
        if self.values not in {UNSET, "stored"}:
            raise ContractError(f"unknown values {self.values!r}; stored, or nothing")
        if (
            self.interpolation not in get_args(Interpolation)
            or not 0 < self.size_px <= self.resize_px
        ):
            msg = (
                f"unusable {self.interpolation!r} resizing to {self.size_px} of {self.resize_px} px"
            )
            raise ContractError(msg)

    def adapted(
        self,
        *,
        bands: str | tuple[str, ...] | None,
        value_range: str | tuple[float, float] | None,
        values: Values | None = None,
    ) -> tuple[Self, BandRequest]:
        """Apply the user's `--bands`, `--value-range` (as texts or already read) and `--values`.

        Returns:
            The contract in force (another space if it differs) and what to ask files for.
        """
        given, stated = parse_bands(bands), parse_value_range(value_range)
        request = BandRequest(
            wanted=self.bands,
            given=given,
            values_stated=stated is not None,
            values=values or self.values or "harmonized",
            value_range=_to_pair(stated or self.value_range),
        )
        kept: Literal["stored"] | UnsetType = "stored" if request.values == "stored" else UNSET
        changed = replace(self, bands=request.effective, values=kept)
        if stated is not None and stated != self.value_range:
            changed = replace(changed, value_range=_to_pair(stated), unit="stated")
        return changed, request

    def check_dtype(self, dtype: str, *, stated: bool) -> None:
        """Refuse pixels whose dtype cannot be in the contract's unit.

        Args:
            dtype: Of the pixels, by NumPy's name.
            stated: The user gave --value-range, so any dtype that can hold it is taken.

        Raises:
            TileError: With the option that states the unit.
        """
        low, high = self.value_range
        if stated and dtype == "uint8" and high > 255:
            raise TileError(
                "contract",
                f"pixels are uint8 and cannot reach --value-range {low:g},{high:g}; "
                "8-bit and 16-bit imagery need separate runs (8-bit: --value-range 0,255)",
            )
        if stated or self.unit == "stated" or dtype.startswith(_KINDS[self.unit]):
            return
        raise TileError(
            "contract",
            f"pixels are {dtype}, the model takes {self.unit} in {low:g}..{high:g}; "
            "say what maps to black and white with --value-range LOW,HIGH (0,2000 for Sentinel-2)",
        )


@dataclass(frozen=True, kw_only=True)
class SpaceState:
    """A space as it stands in manifests and in the files of a table."""

    fingerprint: str
    weights_sha256: str
    architecture: str
    contract: UnscaledContract
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pooling: Pooling


@dataclass(frozen=True, kw_only=True)
class Space:
    """What must be equal for two vectors to be comparable."""

    weights_sha256: str
    architecture: str
    contract: Contract
    pooling: Pooling

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of SHA-256 over the canonical JSON of `state` less itself."""
        return self.state.fingerprint

    @property
    def state(self) -> SpaceState:
        """The space as files hold it."""
        contract = contract_from(to_builtins(self.contract))  # numbers as JSON gives them back
        own = {field.name: getattr(contract, field.name) for field in fields(UnscaledContract)}
        stated = SpaceState(
            fingerprint="",
            weights_sha256=self.weights_sha256,
            architecture=self.architecture,
            contract=UnscaledContract(**own),
            mean=contract.mean,
            std=contract.std,
            pooling=self.pooling,
        )
        hashed = {key: value for key, value in to_builtins(stated).items() if key != "fingerprint"}
        return replace(stated, fingerprint=sha256_text(canonical_json(hashed))[:16])

    def to_json(self) -> dict[str, object]:
        """Write `state` as JSON has it."""
        return dict(to_builtins(self.state))

    @classmethod
    def from_json(cls, stored: object) -> "Space":
        """Read `to_json`'s form back.

        Raises:
            SpaceError: Fields are missing or wrong, or the fingerprint does not belong to them.
        """
        try:
            state = from_builtins(stored, SpaceState)
        except ValueError as error:
            raise SpaceError(f"not a space: {error}; make the table again") from error
        return cls.from_state(state)

    @classmethod
    def from_state(cls, stored: SpaceState) -> "Space":
        """Read `state` back.

        Raises:
            SpaceError: Fields make no sense, or the fingerprint does not belong to them.
        """
        try:
            contract = Contract(**vars(stored.contract), mean=stored.mean, std=stored.std)
        except ContractError as error:
            raise SpaceError(f"not a space: {error}; make the table again") from error
        space = cls(
            weights_sha256=stored.weights_sha256,
            architecture=stored.architecture,
            contract=contract,
            pooling=stored.pooling,
        )
        if space.fingerprint != stored.fingerprint:
            raise SpaceError("the space's fingerprint and fields disagree; make the table again")
        return space


def contract_from(fields: Mapping[str, Any]) -> Contract:
    """Build a contract from JSON, where tuples are lists.

    Raises:
        KeyError: A field is missing (there is no default for a contract).
        TypeError: A field is of the wrong type.
    """
    if isinstance(fields["bands"], str) or not isinstance(fields["quantize_uint8"], bool):
        raise TypeError("bands must be a list, quantize_uint8 true or false")
    return Contract(
        bands=tuple(fields["bands"]),
        unit=fields["unit"],
        value_range=_to_pair(fields["value_range"]),
        quantize_uint8=fields["quantize_uint8"],
        size_px=int(fields["size_px"]),
        resize=fields["resize"],
        resize_px=int(fields["resize_px"]),
        interpolation=fields["interpolation"],
        gsd_m=None if fields["gsd_m"] is None else _to_pair(fields["gsd_m"]),
        values=fields.get("values", UNSET),
        mean=tuple(map(float, fields["mean"])),
        std=tuple(map(float, fields["std"])),
    )


def _to_pair(values: Sequence[float]) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)
