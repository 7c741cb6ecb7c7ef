"""XML from strangers: UTF-8, no entities of its own, nothing fetched."""

from pathlib import Path

from lxml import etree

from biomlm.core.errors import DataError, UnsafeFileError
from biomlm.finetune.data.readers.iob import read_text


def read_xml(path: Path) -> etree._Element:
    """The root of an XML file.

    Raises:
        UnsafeFileError: It declares entities, which could expand without bound or name other files.
        DataError: It is not well-formed.
    """
    text = read_text(path)
    if "<!ENTITY" in text:
        raise UnsafeFileError("this XML declares entities", file=path, remedy="Corpora need none; get the file again.")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, encoding="utf-8")
    try:
        return etree.fromstring(text.encode(), parser)
    except etree.XMLSyntaxError as error:
        problem = "this is not well-formed XML"
        raise DataError(problem, file=path, record=f"line {error.lineno}", remedy="Get the file again.") from None
