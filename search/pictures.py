"""Pictures of queries and of what was found for them."""

from PIL import Image

from tilezoo.search.answers import Answers, Hit
from tilezoo.thumbnails import Thumbnailer


def of_hit(pictures: Thumbnailer, hit: Hit) -> Image.Image | None:
    """A hit's picture; None when its pixels cannot be read any more."""
    return pictures.of_row(hit.source_uri, hit.pixel_bbox)


def of_query(pictures: Thumbnailer, answers: Answers) -> Image.Image | None:
    """The query's picture, be it a row or an image file."""
    if answers.query is not None:
        return of_hit(pictures, answers.query)
    return pictures.of_file(answers.image) if answers.image else None
