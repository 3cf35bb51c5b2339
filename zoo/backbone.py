"""A frozen backbone: tiles in, vectors out, on one device in one precision."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tilezoo.bands import BandRequest, Values
from tilezoo.device import choose_device, keep_freed_layers, start_streams
from tilezoo.errors import ContractError, ModelError
from tilezoo.space import Pooling, Precision, Space
from tilezoo.tiles import Tile
from tilezoo.zoo.modeldir import WEIGHTS, ModelDir, import_timm
from tilezoo.zoo.network import (
    Features,
    TimmNetwork,
    can_pack,
    check_pooling,
    features,
    fit,
    normalise,
    pack,
)

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
# Pixels per forward pass on a CPU, 6 tiles of 224 px: activations stay near its caches, and
# each buffer below what malloc gives back at once (benchmarks/README.md, "Tiles per pass").
_CPU_PASS_PIXELS = 6 * 224 * 224
_BATCHES_BEGUN = 2  # so that no stream waits for the end of another's batch
_LARGE_BYTES = 2 << 20  # of a tile's pixels, from where it is fitted as soon as it is read
# What timm and torch raise for arguments, weights or images that a network does not take.
_REFUSALS = (RuntimeError, TypeError, ValueError, KeyError, AttributeError, AssertionError)


@dataclass(frozen=True, slots=True)
class _Pass:
    """Some tiles of a batch, by their places in it, on their way through the network."""

    places: list[int]
    vectors: Future[NDArray[np.float32]]


class Backbone:
    """A network of the zoo, ready to run.

    Attributes:
        model: The model directory it came from.
        space: Of its vectors, with the user's `--bands`, `--value-range` and pooling in force.
        request: What to ask files for.
        device: Where it runs.
        precision: Of its weights and activations; vectors are float32 always.
        dimension: Length of a vector.
    """

    def __init__(
        self,
        model: ModelDir,
        network: nn.Module,
        *,
        space: Space,
        request: BandRequest,
        device: torch.device,
    ) -> None:
        check_pooling(network, space.pooling)
        self.model, self.space, self.request = model, space, request
        self.device = device
        self.precision: Precision = "fp32"
        self._fp32 = _tune(network.to(self.device))
        self._network = self._fp32
        self.dimension = self._measure_dimension()

    @property
    def parameter_count(self) -> int:
        """Number of weights."""
        return sum(weight.numel() for weight in self._fp32.parameters())

    def use(self, precision: Precision) -> None:
        """Change the precision that tiles are embedded in."""
        if precision != self.precision:
            exact = precision == "fp32"
            self._network = self._fp32 if exact else _copy_in(self._fp32, DTYPES[precision])
            self.precision = precision

    def features(self, images: Tensor) -> Features:
        """Run the network on prepared images, shape (B, C, size, size), without gradients."""
        with torch.inference_mode():
            fed = images.to(self.device, DTYPES[self.precision]).contiguous(
                memory_format=torch.channels_last
            )
            return features(self._network, fed, self.space.pooling)

    def encode(self, tiles: Sequence[Tile]) -> NDArray[np.float32]:
        """Embed tiles of any sizes, shape (N, D), float32, in their order."""
        return next(self.encode_all([tiles]))[1]

    def encode_all(
        self, batches: Iterable[Sequence[Tile]]
    ) -> Iterator[tuple[Sequence[Tile], NDArray[np.float32]]]:
        """Embed batch after batch as `encode` does, beginning the next before one is done."""
        begun: deque[tuple[Sequence[Tile], list[_Pass]]] = deque()
        try:
            for batch in batches:
                begun.append((batch, self._begin(batch)))
                if len(begun) == _BATCHES_BEGUN:
                    yield self._end(*begun[0])
                    begun.popleft()
            while begun:
                yield self._end(*begun[0])
                begun.popleft()
        finally:
            for _, passes in begun:
                for each in passes:
                    each.vectors.cancel()

    def shrink(self, tile: Tile) -> Tile:
        """Fit a large tile to the contract's size now, so that a queue of them stays small."""
        if tile.fitted or tile.pixels.nbytes <= _LARGE_BYTES:
            return tile
        pixels = fit(torch.from_numpy(tile.pixels)[None], self.space.contract)[0].numpy()
        return replace(tile, pixels=pixels, fitted=True)

    def _begin(self, tiles: Sequence[Tile]) -> list[_Pass]:
        """Queue the passes of a batch; each is of tiles that stack."""
        pixels = self.space.contract.size_px**2
        step = max(1, _CPU_PASS_PIXELS // pixels) if self.device.type == "cpu" else len(tiles)
        parts = [
            group[i : i + step] for group in _group_alike(tiles) for i in range(0, len(group), step)
        ]
        return [
            _Pass(part, self._streams.submit(self._run, [tiles[place] for place in part]))
            for part in parts
        ]

    def _end(
        self, tiles: Sequence[Tile], passes: Sequence[_Pass]
    ) -> tuple[Sequence[Tile], NDArray[np.float32]]:
        vectors = np.empty((len(tiles), self.dimension), np.float32)
        for each in passes:
            vectors[each.places] = each.vectors.result()
        return tiles, vectors

    def _run(self, tiles: Sequence[Tile]) -> NDArray[np.float32]:
        """Run one pass, in a stream's thread."""
        contract = self.space.contract
        pixels = torch.from_numpy(np.stack([tile.pixels for tile in tiles]))
        with torch.inference_mode():
            on_device = pixels.to(self.device, non_blocking=True)
            values = on_device if tiles[0].fitted else fit(on_device, contract)
            return self.features(normalise(values, contract)).pooled.float().cpu().numpy()

    @cached_property
    def _streams(self) -> ThreadPoolExecutor:
        return start_streams(self.device)

    def _measure_dimension(self) -> int:
        contract = self.space.contract
        blank = torch.zeros(1, len(contract.bands), contract.size_px, contract.size_px)
        try:
            return int(self.features(blank).pooled.shape[1])
        except _REFUSALS as error:
            taken = f"{len(contract.bands)} bands of {contract.size_px} px"
            raise ModelError(f"{self.model.path}: the network does not take {taken}") from error


def build(
    model: ModelDir,
    *,
    device: str = "auto",
    pooling: Pooling | None = None,
    bands: str | tuple[str, ...] | None = None,
    value_range: str | tuple[float, float] | None = None,
    values: Values | None = None,
) -> Backbone:
    """Build the network of a model directory with its weights, every key accounted for.

    Raises:
        ModelError: The weights do not fit the network.
        ContractError: `bands` cannot serve the model.
        OptionError: The device is not there.
    """
    contract, request = model.contract.adapted(bands=bands, value_range=value_range, values=values)
    network = _load_strictly(model)
    resize_input(network, contract.size_px)
    space = model.space(contract, pooling)
    return Backbone(model, network, space=space, request=request, device=choose_device(device))


def _load_strictly(model: ModelDir) -> nn.Module:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    timm = import_timm()
    if not timm.is_model(model.architecture):
        raise ModelError(f"{model.path}: timm {timm.__version__} has no {model.architecture!r}")
    try:
        network: nn.Module = timm.create_model(
            model.architecture, num_classes=model.num_classes, **model.model_args
        )
        state = {name: t.float() for name, t in load_file(model.path / WEIGHTS).items()}
        network.load_state_dict(state, strict=True)
    except (*_REFUSALS, SafetensorError) as error:
        why = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{model.path}: weights and {model.architecture} do not fit: {why}"
        ) from error
    return network.eval().requires_grad_(requires_grad=False)


def resize_input(network: TimmNetwork, size_px: int) -> None:
    """Resample a vision transformer's positional embedding where the contract's size asks for it.

    Raises:
        ContractError: The network cannot take that size.
    """
    embed = getattr(network, "patch_embed", None)
    if embed is None or getattr(embed, "img_size", None) in {None, (size_px, size_px)}:
        return
    if not hasattr(network, "set_input_size"):
        raise ContractError(f"the network's input size is fixed; it cannot take {size_px} px")
    try:
        network.set_input_size(img_size=(size_px, size_px))
    except _REFUSALS as error:
        raise ContractError(f"the network cannot take {size_px} px") from error


def _tune(network: nn.Module) -> nn.Module:
    """Lay the network out for its device; the numbers are in benchmarks/README.md."""
    if next(network.parameters()).device.type == "cpu":
        keep_freed_layers()
    return network.to(memory_format=torch.channels_last)


def _copy_in(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Copy a network in another precision."""
    copied = deepcopy(network).to(dtype)
    if next(copied.parameters()).device.type == "cpu":
        for module in copied.modules():
            # In bf16 torch's fused attention takes 2.7 times as long as three plain products; in
            # fp32 both take the same, and timm's own choice keeps vectors equal to timm's.
            if isinstance(getattr(module, "fused_attn", None), bool):
                setattr(module, "fused_attn", False)  # noqa: B010  (nn.Module's types forbid the plain form)
        if dtype == torch.bfloat16 and can_pack():
            pack(copied)
    return copied


def _group_alike(tiles: Sequence[Tile]) -> list[list[int]]:
    """Group tiles' places by shape and dtype, so that each group stacks."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, tile in enumerate(tiles):
        groups.setdefault((tile.pixels.shape, tile.pixels.dtype.str, tile.fitted), []).append(place)
    return list(groups.values())
