"""Self-contained HTML pages: no other file, no script, no network."""

import base64
import io
from importlib.resources import files

from PIL import Image


def render(package: str, template: str, **values: object) -> str:
    """Fill a template that lies beside a package's modules; all text is escaped.

    Pages extend `page.html.j2` of this folder, which may load nothing from anywhere.

    Args:
        package: `tilezoo.search`, say.
        template: The file's name.
        values: What it shows; `markupsafe.Markup` is put in as it is.
    """
    import jinja2

    folders = [str(files(package)), str(files("tilezoo"))]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=jinja2.select_autoescape(["html.j2"], default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**values)


def png_bytes(picture: Image.Image) -> bytes:
    """Write a picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def png_uri(png: bytes) -> str:
    """Write a PNG's bytes as the `src` of an image."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
