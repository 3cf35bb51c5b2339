"""pretrain: tiles → checkpoint, by self-distillation without labels (DINO)."""

from typing import TYPE_CHECKING

from tilezoo.lazy import exports

if TYPE_CHECKING:
    from tilezoo.pretrain.packing import PackResult as PackResult
    from tilezoo.pretrain.packing import pack as pack
    from tilezoo.pretrain.run import PretrainResult as PretrainResult
    from tilezoo.pretrain.run import pretrain as pretrain

__getattr__ = exports(
    __name__, PackResult="packing", PretrainResult="run", pack="packing", pretrain="run"
)
