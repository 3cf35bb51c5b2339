"""The zoo: what models exist; how to get, feed and run one."""

from typing import TYPE_CHECKING

from tilezoo.lazy import exports

if TYPE_CHECKING:
    from tilezoo.zoo.backbone import Backbone as Backbone
    from tilezoo.zoo.catalog import CatalogEntry as CatalogEntry
    from tilezoo.zoo.catalog import entries as entries
    from tilezoo.zoo.downloader import download as download
    from tilezoo.zoo.downloader import find_model as find_model
    from tilezoo.zoo.downloader import load as load
    from tilezoo.zoo.exporter import export as export
    from tilezoo.zoo.hub.app import serve as serve
    from tilezoo.zoo.modeldir import write_model_dir as write_model_dir
    from tilezoo.zoo.publisher import publish as publish
    from tilezoo.zoo.publisher import verify as verify
    from tilezoo.zoo.registry import Registry as Registry

__getattr__ = exports(
    __name__,
    Backbone="backbone",
    Registry="registry",
    CatalogEntry="catalog",
    download="downloader",
    entries="catalog",
    export="exporter",
    find_model="downloader",
    load="downloader",
    publish="publisher",
    serve="hub.app",
    verify="publisher",
    write_model_dir="modeldir",
)
