"""Passwords and signatures in the names of files, which no message may contain.

A name such as `https://user:password@host/scene.tif?signature=...` is needed to open a file. In
errors, warnings and the files that geoseg writes it is `https://host/scene.tif`. `GeosegError` and
the loggers of `get_logger` see to that.
"""

from __future__ import annotations

import logging
import re

# The query of an address, up to the punctuation of the sentence that contains it.
_QUERY = re.compile(
    r"""((?:[a-z][a-z0-9+.-]*://|/vsi)[^\s<>"?]*)\?[^\s<>"]*?(?=[\])}'`,.:;]*(?:[\s<>"]|$))""",
    re.IGNORECASE,
)
_USER = re.compile(r"""([a-z][a-z0-9+.-]*://)[^\s<>"/?#]*@""", re.IGNORECASE)

_PATH = re.compile(r"""(https?://[^\s/<>"'()]+)/[^\s<>"'()]*""", re.IGNORECASE)


def hide_credentials(text: str) -> str:
    """Return a text with addresses that have neither a query nor a user with a password."""
    if "://" not in text and "/vsi" not in text:
        return text
    return _USER.sub(r"\1", _QUERY.sub(r"\1", text))


def name_servers(text: str) -> str:
    """Return a text in which only the server of each address is left, for addresses of services.

    Their paths may contain a key, too.
    """
    return _PATH.sub(r"\1/…", hide_credentials(text))


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module; its messages have no credentials."""
    logger = logging.getLogger(name)
    if not any(isinstance(found, _HideCredentials) for found in logger.filters):
        logger.addFilter(_HideCredentials())
    return logger


class _HideCredentials(logging.Filter):
    """Changes records before any handler sees them."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        hidden = hide_credentials(message)
        if hidden != message:
            record.msg, record.args = hidden, None
        return True
