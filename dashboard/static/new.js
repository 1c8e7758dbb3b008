// The page New: the recipe's text is the truth; the form shows parts of it, and the server changes them in place.
const form = document.getElementById("new");
const at = (id) => document.getElementById(id);
const yaml = at("yaml");
const earlier = [];
let file = "", turn = Promise.resolve(), waiting = 0, timer = 0;

// Changes are sent one after the other, each with the text that the one before has made.
function ask(path, fields) {
  waiting += 1;
  turn = turn.then(() => change(path, fields))
    .catch(() => { at("look").textContent = "The dashboard does not answer: is it still running?"; })
    .finally(() => { waiting -= 1; });
  return turn;
}

async function change(path, fields) {
  const sent = yaml.value;
  const answer = await fetch(path, { method: "POST", body: new URLSearchParams({ yaml: sent, ...fields }) });
  const given = await answer.json();
  if (yaml.value !== sent) return change(path, fields); // a person typed meanwhile
  if (given.refused) {
    problems(given.refused);
    fill(JSON.parse(form.dataset.fields));
    return null;
  }
  if (given.text !== yaml.value) {
    earlier.push(yaml.value);
    at("undo").disabled = false;
    yaml.value = given.text;
  }
  form.dataset.fields = JSON.stringify(given.fields);
  if (waiting === 1) fill(given.fields); // else the form is ahead of this answer
  problems(given.problems);
  return given;
}

function fill(fields) {
  const broken = Object.keys(fields).length === 0;
  for (const one of at("form").querySelectorAll("input, select, button")) if (one.id !== "file") one.disabled = broken;
  if (broken) return;
  for (const one of form.querySelectorAll("[data-field]")) {
    const value = fields[one.dataset.field];
    one.closest(".field").hidden = value === undefined;
    if (one !== document.activeElement || !one.matches(":focus")) one.value = value ?? "";
  }
  if (fields["task.kind"]) at("kind").value = fields["task.kind"];
  at("labels").hidden = !fields.labels;
  if (fields.labels && !at("rows").contains(document.activeElement) && JSON.stringify(labels()) !== JSON.stringify(fields.labels)) {
    at("rows").replaceChildren(...fields.labels.map(row));
  }
  const known = [...at("model").options].some((one) => one.value === fields.model);
  at("model").value = known ? fields.model : "";
  at("another").hidden = known;
  at("line").value = known ? "" : fields.model;
  at("more").textContent = fields.models > 1 ? `The first of ${fields.models} models; the others are in the recipe.` : "";
}

function row({ name, description }) {
  const line = document.createElement("div");
  const [first, second, away] = [document.createElement("input"), document.createElement("input"), document.createElement("button")];
  Object.assign(first, { value: name, placeholder: "label", ariaLabel: "label", onchange: sendLabels });
  Object.assign(second, { value: description, placeholder: "its meaning in a clause", ariaLabel: `meaning of ${name || "the label"}`, onchange: sendLabels });
  Object.assign(away, { type: "button", className: "quiet", textContent: "remove", ariaLabel: `remove ${name || "this label"}` });
  away.onclick = () => { line.remove(); sendLabels(); };
  line.append(first, second, away);
  return line;
}

const labels = () => [...at("rows").children].map((line) => ({ name: line.children[0].value.trim(), description: line.children[1].value.trim() }));
const sendLabels = () => ask("/new/check", { field: "labels", value: JSON.stringify(labels().filter((one) => one.name)) });

function problems(found) {
  const head = document.createElement("p");
  head.className = found.length ? "unusual" : "good";
  head.textContent = found.length ? `${found.length} still to do:` : "The recipe is valid.";
  const list = document.createElement("ul");
  list.className = "findings";
  for (const one of found) {
    const item = document.createElement("li");
    if (one.line) {
      const jump = Object.assign(document.createElement("button"), { type: "button", className: "quiet", textContent: `line ${one.line}` });
      jump.dataset.line = one.line;
      item.append(jump, " ");
    }
    const fix = Object.assign(document.createElement("span"), { className: "hint", textContent: ` ${one.fix}` });
    item.append(one.field ? `${one.field}: ${one.what}` : one.what, fix);
    list.append(item);
  }
  at("problems").replaceChildren(head, list);
  number();
}

function number() {
  const wrong = new Set([...at("problems").querySelectorAll("[data-line]")].map((one) => Number(one.dataset.line)));
  const count = yaml.value.split("\n").length;
  const parts = Array.from({ length: count }, (_, place) => {
    const line = document.createElement(wrong.has(place + 1) ? "b" : "span");
    line.textContent = `${wrong.has(place + 1) ? "● " : ""}${place + 1}\n`;
    return line;
  });
  at("lines").replaceChildren(...parts);
  at("lines").scrollTop = yaml.scrollTop;
}

async function compose(more = {}) {
  const given = await ask("/new/compose", { kind: at("kind").value, file, hold: at("hold").checked ? "1" : "", ...more });
  if (!given?.look) return;
  at("look").textContent = given.look.summary;
  at("columns").hidden = given.look.columns.length < 2;
  at("holding").hidden = at("hold").checked && !given.look.held;
  for (const [id, chosen, none] of [["text_column", given.look.text, false], ["label_column", given.look.label, true]]) {
    const names = [...(none ? [""] : []), ...given.look.columns];
    at(id).replaceChildren(...names.map((name) => new Option(name || "none", name, false, name === chosen)));
  }
}

function send(body, name) {
  const call = new XMLHttpRequest();
  call.open("POST", `/new/file?name=${encodeURIComponent(name)}`);
  call.upload.onprogress = (event) => { at("sent").value = event.loaded / (event.total || 1); };
  call.onload = () => {
    at("sent").hidden = true;
    const given = JSON.parse(call.responseText);
    if (given.refused) return problems(given.refused);
    file = given.file;
    compose();
  };
  call.onerror = () => { at("sent").hidden = true; at("look").textContent = "The file was not sent: is the dashboard still running?"; };
  Object.assign(at("sent"), { hidden: false, value: 0 });
  at("look").textContent = `Reading ${name} …`;
  call.send(body);
}

if (form) {
  fill(JSON.parse(form.dataset.fields));
  number();
  yaml.addEventListener("scroll", () => { at("lines").scrollTop = yaml.scrollTop; });
  yaml.addEventListener("input", () => {
    number();
    clearTimeout(timer);
    timer = setTimeout(() => ask("/new/check", {}), 500);
  });
  for (const one of form.querySelectorAll("[data-field]")) {
    one.addEventListener("change", () => ask("/new/check", { field: one.dataset.field, value: JSON.stringify(one.value) }));
  }
  at("model").addEventListener("change", () => {
    at("another").hidden = at("model").value !== "";
    if (at("model").value) ask("/new/check", { field: "model", value: JSON.stringify(at("model").value) });
    else at("line").focus();
  });
  at("line").addEventListener("change", () => ask("/new/check", { field: "model", value: JSON.stringify(at("line").value) }));
  at("kind").addEventListener("change", () => compose());
  for (const id of ["text_column", "label_column", "hold"]) {
    at(id).addEventListener("change", () => compose({ text_column: at("text_column").value, label_column: at("label_column").value }));
  }
  at("add").addEventListener("click", () => { at("rows").append(row({ name: "", description: "" })); at("rows").lastChild.firstChild.focus(); });
  at("undo").addEventListener("click", () => {
    yaml.value = earlier.pop() ?? yaml.value;
    at("undo").disabled = earlier.length === 0;
    ask("/new/check", {});
  });
  at("problems").addEventListener("click", (event) => {
    const line = Number(event.target.dataset?.line);
    if (!line) return;
    const lines = yaml.value.split("\n");
    const begin = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0);
    yaml.focus();
    yaml.setSelectionRange(begin, begin + lines[line - 1].length);
    yaml.scrollTop = Math.max(0, yaml.scrollHeight * (line - 6) / lines.length);
  });
  const given = () => { if (at("file").files[0]) send(at("file").files[0], at("file").files[0].name); };
  at("file").addEventListener("change", given);
  given(); // chosen before this script was ready, or kept by the browser
  at("use").addEventListener("click", () => {
    const texts = at("pasted").value.split("\n").map((one) => one.trim()).filter(Boolean);
    if (texts.length) send(texts.map((text) => JSON.stringify({ text })).join("\n") + "\n", "pasted.jsonl");
  });
  for (const name of ["dragover", "dragleave", "drop"]) {
    at("drop").addEventListener(name, (event) => {
      event.preventDefault();
      at("drop").classList.toggle("over", name === "dragover");
      const given = name === "drop" && event.dataTransfer.files[0];
      if (given) send(given, given.name);
    });
  }
  // A change that is on its way is part of the recipe that a button saves.
  form.addEventListener("submit", (event) => {
    if (!waiting) return;
    event.preventDefault();
    const button = event.submitter;
    turn.then(() => setTimeout(() => form.requestSubmit(button)));
  });
  // Enter in the form's fields changes the recipe; only the buttons save it.
  at("form").addEventListener("keydown", (event) => { if (event.key === "Enter" && event.target.matches("input")) { event.preventDefault(); event.target.blur(); } });
}
