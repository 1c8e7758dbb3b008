"""A row's history in W3C PROV-JSON, for provenance tools. Terms are PROV's: entity, activity, agent.

Rows, seeds, replies, versions and students are entities; calls, the decision, people's edits, publishing and training
are activities; models, people and Graft itself are agents. The input is `explain`'s output, so hidden words stay
hidden.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from graft.schemas.binding import writing_roles

NAMESPACE = "urn:graft:"
XSD = "http://www.w3.org/2001/XMLSchema#"
GRAFT = "software/graft"
Records = dict[str, dict[str, Any]]


class Document:
    """Builder of a PROV document. Ids are placed in our namespace and escaped, so that any name is valid."""

    def __init__(self) -> None:
        self.entity: Records = {}
        self.activity: Records = {}
        self.agent: Records = {}
        self.relations: dict[str, Records] = {}

    def add(self, kind: str, name: str, **attributes: Any) -> str:
        """Add an entity, activity or agent unless it exists; return its qualified name."""
        records: Records = getattr(self, kind)
        qualified = _qualified(name)
        values = {_key(k): v for k, v in attributes.items() if v not in (None, "", [], {})}
        if "prov:type" in values:
            values["prov:type"] = {"$": values["prov:type"], "type": "xsd:QName"}
        records.setdefault(qualified, values)
        return qualified

    def relate(self, relation: str, **parts: str) -> None:
        """Add a relation between existing records, such as used(activity, entity)."""
        records = self.relations.setdefault(relation, {})
        records[f"_:{relation}{len(records) + 1}"] = {f"prov:{name}": value for name, value in parts.items()}

    def as_dict(self) -> dict[str, Any]:
        """Return the document as PROV-JSON."""
        parts = {"entity": self.entity, "activity": self.activity, "agent": self.agent, **self.relations}
        prefix = {"graft": NAMESPACE, "prov": "http://www.w3.org/ns/prov#", "xsd": XSD}
        return {"prefix": prefix, **{name: records for name, records in parts.items() if records}}


def prov(history: dict[str, Any]) -> dict[str, Any]:
    """Return the PROV-JSON document of a row's history, which is the output of `explain`."""
    document = Document()
    row = document.add(
        "entity", f"row/{history['id']}", type="graft:Row", label=history["label"], text=history["text"],
        response=history.get("response"), source=history["source"],
    )  # fmt: skip
    graft = document.add("agent", GRAFT, type="prov:SoftwareAgent", version=history["run"].get("code_version"),
                         started_by=history["run"].get("by") or None)  # fmt: skip
    shown = [
        document.add("entity", f"row/{seed['id']}", type="graft:Seed", label=seed["label"], text=seed["text"])
        for seed in history["exemplars"]
    ]
    _calls(document, history, row, shown)
    _decision(document, history, row, graft)
    _origin(document, history, row, shown)
    _passages(document, history, row)
    _edits(document, history, row)
    _later(document, history, row, graft)
    return document.as_dict()


def _calls(document: Document, history: dict[str, Any], row: str, shown: list[str]) -> None:
    writers = writing_roles()
    for number, call in enumerate(history["calls"]):
        activity = document.add(
            "activity", f"call/{history['id']}/{number}/{call['key']}", type="graft:Call", endTime=call["at"],
            purpose=call["purpose"], role=call["role"], model=call["model"], revision=call["revision"],
            request=call["request"], promptVersion=call.get("prompt_version"), failure=call["failure"],
            promptTokens=call["prompt_tokens"], completionTokens=call["completion_tokens"], cached=call["cached"],
            priceUsd=call["price_usd"], **call.get("parameters", {}),
        )  # fmt: skip
        model = document.add(
            "agent", f"model/{call['model']}", type="prov:SoftwareAgent", provider=call["provider"],
            revision=call["revision"], served=call["served_model"],
        )  # fmt: skip
        document.relate("wasAssociatedWith", activity=activity, agent=model)
        writes = call["role"] in writers
        for seed in shown if writes else ():
            document.relate("used", activity=activity, entity=seed)
        if not writes:
            document.relate("used", activity=activity, entity=row)
        if call["failure"] is None:
            reply = document.add("entity", f"reply/{history['id']}/{number}", type="graft:Reply", value=call["reply"])
            document.relate("wasGeneratedBy", entity=reply, activity=activity)
            if writes:
                document.relate("wasDerivedFrom", generatedEntity=row, usedEntity=reply)
                document.relate("wasAttributedTo", entity=row, agent=model)


def _decision(document: Document, history: dict[str, Any], row: str, graft: str) -> None:
    decision = history["decision"]
    if not decision:
        return
    activity = document.add(
        "activity", f"decision/{history['id']}", type="graft:Decision", status=decision["status"],
        code=decision["code"], reason=decision["reason"], mean=decision["mean"],
    )  # fmt: skip
    document.relate("used", activity=activity, entity=row)
    document.relate("wasAssociatedWith", activity=activity, agent=graft)
    for number, review in enumerate(history["reviews"]):
        name = document.add(
            "entity", f"review/{history['id']}/{number}", type="graft:Review", role=review["role"],
            mean=review["mean"], probability=review["probability"], comment=review["comment"],
            answer=review["answer"], failure=review["failure"],
        )  # fmt: skip
        model = document.add("agent", f"model/{review['model']}", type="prov:SoftwareAgent")
        document.relate("wasAttributedTo", entity=name, agent=model)
        document.relate("used", activity=activity, entity=name)
    for gate in history["gates"]:
        name = document.add(
            "entity", f"gate/{history['id']}/{gate['gate']}", type="graft:GateResult", rule=gate["rule"],
            passed=gate["passed"], score=gate["score"], detail=gate["detail"], neighbour=gate["neighbour"],
        )  # fmt: skip
        document.relate("used", activity=activity, entity=name)


def _origin(document: Document, history: dict[str, Any], row: str, shown: list[str]) -> None:
    """Add the exemplars of the row, or the file that it was read from."""
    run = history["run"]
    made = document.add("activity", f"run/{run['id']}", type="graft:Run", startTime=run.get("started_at"))
    document.relate("wasGeneratedBy", entity=row, activity=made)
    for seed in shown:
        document.relate("wasDerivedFrom", generatedEntity=row, usedEntity=seed, activity=made)
    origin = history.get("origin") or {}
    if origin.get("file"):
        file = document.add("entity", f"file/{origin['file']}", type="graft:File")
        document.relate("used", activity=made, entity=file)
        if origin["source"] != "synthetic":
            document.relate("wasDerivedFrom", generatedEntity=row, usedEntity=file, activity=made)


def _passages(document: Document, history: dict[str, Any], row: str) -> None:
    for one in history.get("passages", ()):
        file = document.add("entity", f"document/{one['hash']}", type="graft:Document", document=one["document"])
        passage = document.add(
            "entity", f"passage/{one['hash']}/{one['start']}/{one['end']}", type="graft:Passage", start=one["start"],
            end=one["end"], value=one["text"],
        )  # fmt: skip
        document.relate("wasDerivedFrom", generatedEntity=passage, usedEntity=file)
        document.relate("wasDerivedFrom", generatedEntity=row, usedEntity=passage)


def _edits(document: Document, history: dict[str, Any], row: str) -> None:
    for edit in history.get("edits", ()):
        person = document.add("agent", f"person/{edit['by']}", type="prov:Person")
        activity = document.add(
            "activity", f"edit/{edit['id']}", type="graft:Edit", endTime=edit["at"], action=edit["action"],
            note=edit["note"],
        )  # fmt: skip
        document.relate("wasAssociatedWith", activity=activity, agent=person)
        document.relate("used", activity=activity, entity=row)
        if any(edit[name] is not None for name in ("text", "response", "label")):
            after = document.add(
                "entity", f"row/{edit['row_id']}/{edit['id']}", type="graft:Row", label=edit["label"],
                text=edit["text"], response=edit["response"],
            )  # fmt: skip
            document.relate("wasGeneratedBy", entity=after, activity=activity)
            document.relate("wasDerivedFrom", generatedEntity=after, usedEntity=row, activity=activity)
            document.relate("wasAttributedTo", entity=after, agent=person)


def _later(document: Document, history: dict[str, Any], row: str, graft: str) -> None:
    """Add versions that contain the row or left it out, and students trained on it."""
    for held in history["versions"]:
        name = _version(document, held["dataset"], held["version"])
        document.relate("wasDerivedFrom", generatedEntity=name, usedEntity=row)
    for drop in history.get("drops", ()):
        made = document.add(
            "activity", f"drop/{drop['dataset']}/{drop['version']}/{drop['gate']}", type="graft:Drop",
            gate=drop["gate"], rule=drop["rule"], detail=drop["detail"],
        )  # fmt: skip
        document.relate("used", activity=made, entity=row)
        document.relate("wasAssociatedWith", activity=made, agent=graft)
        name = _version(document, drop["dataset"], drop["version"])
        document.relate("wasGeneratedBy", entity=name, activity=made)
    for learned in history["students"]:
        training = document.add(
            "activity", f"training/{learned['id']}", type="graft:Training", endTime=learned["created_at"]
        )
        student = document.add("entity", f"student/{learned['id']}", type="graft:Student", path=learned["path"])
        document.relate("used", activity=training, entity=_version(document, learned["dataset"], learned["version"]))
        document.relate("wasGeneratedBy", entity=student, activity=training)
        document.relate("wasAssociatedWith", activity=training, agent=graft)


def _version(document: Document, dataset: str, version: int) -> str:
    return document.add("entity", f"version/{dataset}/{version}", type="prov:Collection")


def _qualified(name: str) -> str:
    """A name in our namespace: `/` separates its parts, and invalid characters are escaped."""
    return "graft:" + "/".join(quote(piece, safe="-_.") for piece in name.split("/"))


def _key(name: str) -> str:
    """An attribute's qualified name: PROV's own attributes keep its prefix, all others get ours."""
    return f"prov:{name}" if name in ("type", "label", "value", "startTime", "endTime") else f"graft:{name}"
