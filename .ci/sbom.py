"""The software bill of materials: packages, bundled models and data, as CycloneDX 1.6 JSON."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import Distribution
from pathlib import Path
from urllib.parse import urlsplit

from audit import OURS, Bundled, Result
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HOMES = ("homepage", "home", "source", "source code", "repository", "github")
"""Labels of a project's address, the first of them that is there."""


def write_sbom(
    file: Path,
    there: Sequence[Distribution],
    hashed: Mapping[str, str],
    licences: Mapping[str, str],
    models: Sequence[Bundled],
    data: Sequence[Bundled],
    hosts: Collection[str],
) -> Result:
    """Writes the SBOM and holds it against the schema. Package hashes are those of the published files.

    Args:
        file: to be written
        there: installed packages
        hashed: package to SHA-256 of its published file
        licences: package to licence
        models: bundled models, checked
        data: bundled data
        hosts: of the package index: addresses on these are left out

    Returns:
        A check that passes where the file is valid.
    """
    bom = Bom()
    own = _component(ComponentType.APPLICATION, OURS, importlib.metadata.version(OURS), "Apache-2.0")
    bom.metadata.component = own
    packages: dict[str, Component] = {}
    for one in there:
        name = canonicalize_name(one.metadata["Name"])
        made = _component(ComponentType.LIBRARY, name, one.version, licences[name], hashed.get(name, ""))
        made.purl = PackageURL("pypi", name=name, version=one.version)
        address = _homepage(one, hosts)
        if address:
            made.external_references.add(ExternalReference(type=ExternalReferenceType.WEBSITE, url=XsUri(address)))
        packages[name] = made
        bom.components.add(made)
    kinds = ((ComponentType.MACHINE_LEARNING_MODEL, models), (ComponentType.DATA, data))
    for kind, bundled in kinds:
        bom.components.update(_component(kind, one.name, "", one.licence, one.sha256) for one in bundled)
    for one in there:
        needs = [packages[name] for name in _needs(one) if name in packages]
        bom.register_dependency(packages[canonicalize_name(one.metadata["Name"])], needs)
    bom.register_dependency(own, list(bom.components))
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
    file.write_text(text, encoding="utf-8")
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    detail = f"{len(packages)} packages, {len(models)} models, {len(data)} data files; valid CycloneDX 1.6"
    return Result("SBOM", [f"not valid: {error}"] if error else [], "see the message", detail)


def _component(kind: ComponentType, name: str, version: str, licence: str, sha256: str = "") -> Component:
    return Component(
        type=kind, name=name, version=version or None, bom_ref=f"{kind.value}:{name}",
        licenses=[LicenseFactory().make_from_string(licence)] if licence else (),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else (),
    )  # fmt: skip


def _homepage(one: Distribution, hosts: Collection[str]) -> str:
    """The project's own address, unless it lies on a host of the package index or is no web address."""
    links = [text.partition(",") for text in one.metadata.get_all("Project-URL") or ()]
    addresses = {label.strip().casefold(): address.strip() for label, _, address in links}
    address = one.metadata.get("Home-page") or next((addresses[label] for label in HOMES if label in addresses), "")
    parts = urlsplit(address)
    return address if parts.scheme in ("http", "https") and parts.hostname not in hosts else ""


def _needs(one: Distribution) -> set[str]:
    wanted = [Requirement(text) for text in one.requires or ()]
    return {canonicalize_name(r.name) for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})}
