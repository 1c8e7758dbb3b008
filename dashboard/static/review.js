// Review by keyboard: a key presses the button that names it. Keys that are typed into a field stay there.
const form = document.getElementById("decide");
const began = performance.now();

function relabel(label) {
  const named = document.createElement("input");
  Object.assign(named, { type: "hidden", name: "label", value: label });
  const action = document.createElement("input");
  Object.assign(action, { type: "hidden", name: "action", value: "relabel" });
  form.append(named, action);
  form.requestSubmit();
}

if (form) {
  let sent = false;
  form.addEventListener("submit", (event) => {
    if (sent) return event.preventDefault(); // pressed twice: the first counts
    sent = true;
    form.elements.seconds.value = ((performance.now() - began) / 1000).toFixed(1);
  });
  for (const button of form.querySelectorAll("button.label")) {
    button.addEventListener("click", () => relabel(button.dataset.label));
  }
  // A page restored from the browser's memory is requested again, because its row was decided.
  window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
}

const find = document.getElementById("find-label");
find?.addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  const wanted = find.value.trim().toLowerCase();
  const fits = [...form.querySelectorAll("button.label:not(:disabled)")].filter((b) => b.dataset.label.toLowerCase().startsWith(wanted));
  const exact = fits.find((b) => b.dataset.label.toLowerCase() === wanted);
  if (wanted && (exact || fits.length === 1)) relabel((exact ?? fits[0]).dataset.label);
});
find?.addEventListener("input", () => {
  const wanted = find.value.trim().toLowerCase();
  for (const b of form.querySelectorAll("button.label")) b.hidden = !b.dataset.label.toLowerCase().startsWith(wanted);
});

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, textarea, select");
  if (event.key === "Escape" && typing) return event.target.blur();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.matches("#editing textarea")) {
    event.preventDefault();
    return form.querySelector("button[value=edit]").click();
  }
  if (event.key === "Enter" && event.target.name === "note") return event.preventDefault(); // a note goes with a decision
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "e") return open("editing", "textarea", event);
  if (event.key === "j") return open("judges", null, event);
  if (event.key === "n") return focus(form?.elements.note, event);
  if (event.key === "l") return focus(find, event);
  const button = [...document.querySelectorAll("[data-key]")].find((b) => b.dataset.key === event.key && !b.disabled);
  if (button) {
    event.preventDefault();
    button.click();
  }
});

function open(id, inside, event) {
  const details = document.getElementById(id);
  if (!details) return;
  event.preventDefault();
  details.open = !details.open;
  if (details.open && inside) details.querySelector(inside)?.focus();
}

function focus(field, event) {
  if (!field) return;
  event.preventDefault();
  field.focus();
}
