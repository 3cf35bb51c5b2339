"""pretrain: tiles → checkpoint, by self-distillation without labels (DINO)."""

from typing import TYPE_CHECKING

from tilezoo.lazy import exports

if TYPE_CHECKING:
    from tilezoo.pretrain.packs.packing import PackResult as PackResult
    from tilezoo.pretrain.packs.packing import pack as pack
    from tilezoo.pretrain.run import PretrainResult as PretrainResult
    from tilezoo.pretrain.run import pretrain as pretrain

__getattr__ = exports(
    __name__, PackResult="packs.packing", PretrainResult="run", pack="packs.packing", pretrain="run"
)
