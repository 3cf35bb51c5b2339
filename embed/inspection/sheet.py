"""Tiles as the model sees them, on one picture."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from tilezoo.embed.inspection.plans import Asked, list_tiles
from tilezoo.embed.inspection.survey import Survey
from tilezoo.errors import SourceError, TileError
from tilezoo.image import read_tile
from tilezoo.io import whole_file
from tilezoo.pictures import find_colours
from tilezoo.space import Contract
from tilezoo.tiles import Tile
from tilezoo.zoo.network import fit

_MOST = 9
_SIDE_PX, _GAP_PX, _TEXT_PX = 224, 16, 15
_INK, _PALE, _PAPER = (32, 32, 32), (110, 110, 110), (255, 255, 255)


def draw_sheet(path: Path, asked: Asked, survey: Survey) -> Path:
    """Write up to nine tiles, each as the network is fed it, with captions.

    Raises:
        TilezooError: No tile can be read.
    """
    contract, request = asked.adapt()
    drawn, errors = [], []
    for ref in list_tiles(asked, survey):
        try:
            tile = read_tile(ref, contract, request)
        except TileError as error:
            errors.append(f"{ref.id}: {error}")
            continue
        drawn.append((_show(tile, contract), tile))
        if len(drawn) == _MOST:
            break
    if not drawn:
        raise SourceError(f"no tile to draw: {errors[0] if errors else 'no image can be read'}")
    sheet = _lay_out([one for one, _ in drawn], [tile for _, tile in drawn], asked, contract)
    with whole_file(path) as temporary:
        sheet.save(temporary, format="PNG")
    return path


def _show(tile: Tile, contract: Contract) -> Pillow.Image:
    """Draw what the network is fed, before mean and std: its colours, or its first bands."""
    fed = fit(torch.from_numpy(tile.pixels)[None], contract)[0, find_colours(contract.bands)]
    unit = fed if fed.dtype == torch.uint8 else (fed * 255).clamp(0, 255).round().byte()
    picture = Pillow.fromarray(unit.permute(1, 2, 0).contiguous().numpy())
    side = _SIDE_PX * max(1, round(picture.width / _SIDE_PX)) if picture.width < 512 else _SIDE_PX
    return picture.resize((side, side), Pillow.Resampling.BICUBIC)


def _lay_out(
    pictures: Sequence[Pillow.Image], tiles: Sequence[Tile], asked: Asked, contract: Contract
) -> Pillow.Image:
    """Put pictures into rows of three below a heading, each with its name below it."""
    across = min(3, len(pictures))
    side = _SIDE_PX
    width = max(across * (side + _GAP_PX) + _GAP_PX, 2 * (side + _GAP_PX) + _GAP_PX)
    heading = _write_heading(contract, asked, len(pictures), width)
    cell = side + _GAP_PX + 2 * _TEXT_PX
    top = _GAP_PX + len(heading) * (_TEXT_PX + 6) + _GAP_PX // 2
    rows = -(-len(pictures) // across)
    sheet = Pillow.new("RGB", (width, top + rows * cell + _GAP_PX // 2), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(heading):
        ink, font = (_INK, _font(_TEXT_PX + 1)) if number == 0 else (_PALE, _font(_TEXT_PX - 1))
        pen.text((_GAP_PX, _GAP_PX + number * (_TEXT_PX + 6)), line, fill=ink, font=font)
    for number, (picture, tile) in enumerate(zip(pictures, tiles, strict=True)):
        x = _GAP_PX + number % across * (side + _GAP_PX)
        y = top + number // across * cell
        sheet.paste(picture.resize((side, side)), (x, y))
        _write_caption(pen, tile, (x, y + side + 4), side)
    return sheet


def _write_heading(contract: Contract, asked: Asked, count: int, width: int) -> list[str]:
    shown = [contract.bands[place] for place in find_colours(contract.bands)]
    low, high = contract.value_range
    tiles = "1 tile" if count == 1 else f"{count} tiles"
    lines = [f"{tiles} as {Path(asked.name).name} sees them"]
    colours = ", ".join(shown) if len(set(shown)) > 1 else f"{shown[0]} in grey"
    lines.append(f"{colours} · black {low:g}, white {high:g} · {contract.size_px} px")
    return [_shorten(line, width - 2 * _GAP_PX, _font(_TEXT_PX)) for line in lines]


def _write_caption(pen: ImageDraw.ImageDraw, tile: Tile, at: tuple[int, int], width: int) -> None:
    font = _font(_TEXT_PX - 3)
    _, _, across, down = tile.pixel_bbox
    facts = [f"{across}x{down} px"]
    if tile.footprint:
        facts.append(f"{tile.footprint.gsd_m:.3g} m")
    if tile.nodata_fraction:
        facts.append(f"{tile.nodata_fraction:.0%} no data")
    x, y = at
    pen.text((x, y), _shorten(tile.id, width, font), fill=_INK, font=font)
    pen.text((x, y + _TEXT_PX), " · ".join(facts), fill=_PALE, font=font)


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def _shorten(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Leave out the middle of a text that is too long: names differ at their ends."""
    shown, left = text, len(text)
    while font.getlength(shown) > width and left > 8:
        left -= 1
        shown = f"{text[: left // 3]}…{text[-(left - left // 3) :]}"
    return shown
