"""STAC items, item collections and static catalogs: which raster is the scene of each item."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urljoin, urlsplit
from urllib.request import Request, url2pathname, urlopen

import pystac

from geoseg.credentials import get_logger
from geoseg.errors import SceneReadError, one_line
from geoseg.geo.paths import has_raster_suffix, is_address, is_remote, no_such_file
from geoseg.version import __version__

logger = get_logger(__name__)

# A larger file is not a page of items, but a layer of polygons.
_MAX_BYTES = 100_000_000
_TIMEOUT_S = 60

# Roles of the asset that is the scene, the first choice first; and roles of small pictures.
_ROLES = ("data", "visual")
_PREVIEWS = {"thumbnail", "overview"}
_GEOTIFF = ("image/tiff", "image/vnd.stac.geotiff")

# What pystac raises if a document does not have the structure of STAC.
_INVALID = (pystac.STACError, AttributeError, KeyError, TypeError, ValueError)


@dataclass(frozen=True)
class FoundItem:
    """An item and where it was found.

    Attributes:
        item: The item.
        source: File or address of the document that contains it.
        is_alone: Whether the document is this item, not a collection of items.
    """

    item: pystac.Item
    source: str
    is_alone: bool

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.source if self.is_alone else f"{self.source}, item {self.item.id}"

    @property
    def date(self) -> datetime | None:
        """When it was acquired, or when the acquisition began."""
        date = self.item.datetime or self.item.common_metadata.start_datetime
        return date.replace(tzinfo=UTC) if date and date.tzinfo is None else date


def find_items(name: str, failed: dict[str, SceneReadError] | None = None) -> Iterator[FoundItem]:
    """Find the items of a STAC document and of those that it refers to, in their order.

    Args:
        name: File or address of an item, an item collection, a collection or a catalog.
        failed: Gets the errors of items and catalogs that it refers to and that cannot be read, by
            their names; None to raise them.

    Raises:
        SceneReadError: If it cannot be read, is not STAC or has no items.
    """
    visited: set[str] = set()
    left, is_empty = [name], True
    while left:
        source = left.pop(0)
        if source in visited:  # catalogs may refer to each other in circles
            continue
        visited.add(source)
        try:
            document = _read_json(source)
            found, others = _read_document(document, source, failed)
        except SceneReadError as error:
            if failed is None or source == name:
                raise
            failed[source] = error
            is_empty = False
            continue
        is_empty = is_empty and not found
        yield from found
        left = [*others, *left]
    if is_empty and not failed:
        raise SceneReadError(
            f"{name}: has no STAC items; give an item, a static catalog with items, or the address "
            "of a search for items"
        )


def find_raster(found: FoundItem, key: str | None = None) -> str:
    """Return the name by which the raster of an item is opened.

    Args:
        found: The item.
        key: Key of the asset; without it the only asset of the role data counts, else that of the
            role visual, else the only GeoTIFF.

    Raises:
        SceneReadError: If the item has no such asset.
    """
    return _resolve(_choose_asset(found, key).href, found)


def _choose_asset(found: FoundItem, key: str | None) -> pystac.Asset:
    assets = found.item.assets
    keys = f"its assets are {', '.join(assets)}" if assets else "it has no assets"
    about = f"{found.source}, item {found.item.id}"
    if key is not None:
        if key not in assets:
            raise SceneReadError(f"{about}: has no asset {key}; {keys}")
        return assets[key]
    for choices in _list_choices(list(assets.values())):
        if len(choices) == 1:
            return choices[0]
    raise SceneReadError(
        f"{about}: no asset is the only one of the role data or visual, or the only GeoTIFF; "
        f"{keys}{', choose one with --asset' if assets else ''}"
    )


def _list_choices(assets: Sequence[pystac.Asset]) -> Iterator[list[pystac.Asset]]:
    """Yield the assets that may be the scene by each rule."""
    pictures = [asset for asset in assets if _is_picture(asset)]
    for role in _ROLES:
        yield [asset for asset in pictures if role in (asset.roles or ())]
    plain = [asset for asset in pictures if not _PREVIEWS & set(asset.roles or ())]
    yield [asset for asset in plain if _is_geotiff(asset)]


def _is_picture(asset: pystac.Asset) -> bool:
    """Return whether an asset may be a raster: others of the role data are tables or layers."""
    if asset.media_type:
        return asset.media_type.lower().startswith("image/")
    return has_raster_suffix(urlsplit(asset.href).path)


def _is_geotiff(asset: pystac.Asset) -> bool:
    if asset.media_type:
        return asset.media_type.lower().startswith(_GEOTIFF)
    return urlsplit(asset.href).path.lower().endswith((".tif", ".tiff"))


def _resolve(href: str, found: FoundItem) -> str:
    """Return the name by which an asset is opened.

    A relative one is beside the document in which it is named, or beside the address that the item
    gives as its own, if the document is a copy or a list of items from elsewhere.
    """
    own = found.item.get_self_href()
    beside = _join(found.source, href)
    if own is None or not is_address(own):
        return beside
    is_there = found.is_alone if is_address(found.source) else Path(beside).exists()
    return beside if is_there else _join(own, href)


def _join(source: str, href: str) -> str:
    """Return the file or address that a document refers to."""
    if is_remote(href):
        return href
    if is_address(source):
        joined = urljoin(source, href)
        if not is_address(joined):  # a server must not make us read files of this machine
            raise SceneReadError(f"{source}: refers to {href}, which is not on a server")
        return joined
    if urlsplit(href).scheme == "file":
        href = url2pathname(urlsplit(href).path)
    return os.path.normpath(os.path.join(os.path.dirname(source), href))


def _read_document(
    document: dict[str, Any], source: str, failed: dict[str, SceneReadError] | None
) -> tuple[list[FoundItem], list[str]]:
    """Return the items in a document, and the documents that it refers to.

    Raises:
        SceneReadError: If it is not STAC, or one of its items is not and `failed` is None.
    """
    if _is_item_collection(document):
        items = _read_features(document["features"], source, failed)
        return items, _find_next(document, source)
    if "stac_version" not in document:
        raise SceneReadError(
            f"{source}: is not a raster, and as JSON it is not a STAC item, item collection or "
            "catalog; give a scene"
        )
    if document.get("type") == "Feature":
        return [FoundItem(_read_item(document, source), source, is_alone=True)], []
    try:
        catalog = pystac.Catalog.from_dict(document | {"type": "Catalog"}, preserve_dict=False)
        links = [link for link in catalog.links if link.rel in ("item", "child")]
        return [], [_join(source, str(link.target)) for link in links]
    except _INVALID as error:
        raise _invalid(source, error) from error


def _is_item_collection(document: dict[str, Any]) -> bool:
    features = document.get("features")
    if document.get("type") != "FeatureCollection" or not isinstance(features, list):
        return False
    return not features or any("stac_version" in one for one in features if isinstance(one, dict))


def _read_features(
    features: Sequence[Any], source: str, failed: dict[str, SceneReadError] | None
) -> list[FoundItem]:
    found = []
    for number, feature in enumerate(features, start=1):
        name = f"{source}, feature {number}"
        try:
            found.append(FoundItem(_read_item(feature, name), source, is_alone=False))
        except SceneReadError as error:
            if failed is None:
                raise
            failed[name] = error
    return found


def _read_item(document: Any, name: str) -> pystac.Item:
    try:
        return pystac.Item.from_dict(document, migrate=True)
    except _INVALID as error:
        raise _invalid(name, error) from error


def _invalid(name: str, error: Exception) -> SceneReadError:
    reason = one_line(error) or type(error).__name__
    return SceneReadError(f"{name}: is not valid STAC ({reason}); correct the file")


def _find_next(document: dict[str, Any], source: str) -> list[str]:
    """Return the address of the next page of a search, if there is one."""
    links = document.get("links")
    for link in links if isinstance(links, list) else ():
        if not isinstance(link, dict) or link.get("rel") != "next" or not link.get("href"):
            continue
        if str(link.get("method", "GET")).upper() == "GET":
            return [_join(source, str(link["href"]))]
        logger.warning(
            "%s: has more pages, which only a POST request returns; save all items in one file",
            source,
        )
    return []


def _read_json(source: str) -> dict[str, Any]:
    data = _download(source) if is_address(source) else _read_file(source)
    if len(data) > _MAX_BYTES:
        raise SceneReadError(
            f"{source}: has more than {_MAX_BYTES // 10**6} MB, too much for a STAC file; give a "
            "scene"
        )
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SceneReadError(
            f"{source}: is not a raster, and not JSON, as a STAC file would be; give a scene"
        ) from error
    return document if isinstance(document, dict) else {}


def _read_file(source: str) -> bytes:
    try:
        with open(source, "rb") as file:
            return file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise SceneReadError(no_such_file(source)) from error
    except OSError as error:
        raise SceneReadError(f"{source}: cannot be read ({error.strerror})") from error


def _download(address: str) -> bytes:
    try:
        with urlopen(_request(address), timeout=_TIMEOUT_S) as answer:
            data: bytes = answer.read(_MAX_BYTES + 1)
            return data
    except HTTPError as error:
        error.close()
        reason = f"HTTP response code: {error.code}"
        raise _unreadable(address, reason) from error
    except URLError as error:
        raise _unreadable(address, str(error.reason)) from error
    except (OSError, HTTPException, ValueError) as error:
        raise _unreadable(address, type(error).__name__) from error


def _unreadable(address: str, reason: str) -> SceneReadError:
    return SceneReadError(
        f"{address}: cannot be read ({reason}); check the address, and that you may read it"
    )


def _request(address: str) -> Request:
    """Return a request whose user and password, if the address has them, are in its header."""
    parts = urlsplit(address)
    user, _, host = parts.netloc.rpartition("@")
    url = quote(parts._replace(netloc=host, fragment="").geturl(), safe="%/:=&?~+!$,;'@()*[]")
    accepted = "application/geo+json, application/json"
    request = Request(url, headers={"Accept": accepted, "User-Agent": f"geoseg/{__version__}"})
    if user:
        coded = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {coded}")
    return request
