// A part that is still changing is fetched again, with those that follow from it; scroll positions and selections are kept.
const live = document.querySelector("[data-renew]");
if (live) {
  const timer = setInterval(async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      if (!answer.ok) return;
      if (answer.redirected) return location.replace(answer.url);
      const whole = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = whole.getElementById("live");
      if (!fresh) return;
      if (live.dataset.until && fresh.dataset.is === live.dataset.until) return location.reload(); // another page by now
      for (const part of document.querySelectorAll("[data-follows]")) part.replaceChildren(...whole.getElementById(part.id)?.childNodes ?? []);
      live.replaceChildren(...fresh.childNodes);
      makeSortable(live);
      if (!fresh.hasAttribute("data-renew")) clearInterval(timer);
    } catch {
      // the server is away for a moment: ask again at the next turn
    }
  }, 1000 * Number(live.dataset.renew));
}

// A filter acts when something is chosen; words wait for Enter. A form that changes something waits for its button.
for (const chooser of document.querySelectorAll("form.filter:not([method=post]) select")) {
  chooser.addEventListener("change", () => chooser.form.requestSubmit());
}

// A table that lies whole on the page is sorted by a click on a column's head: numbers by their value, words by name.
function makeSortable(within) {
  for (const table of within.querySelectorAll("table.sortable")) {
    if (table.tBodies[0].rows.length < 3) continue;
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sortBy(table, head, place));
    });
  }
}

function sortBy(table, head, place) {
  const down = head.getAttribute("aria-sort") === "descending" || !head.classList.contains("n") && !head.hasAttribute("aria-sort");
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "ascending" : "descending");
  const rank = (row) => row.cells[place].dataset.rank ?? row.cells[place].textContent.trim();
  const order = (a, b) => {
    const [left, right] = [rank(a), rank(b)];
    const numbers = Number(left) - Number(right);
    return Number.isNaN(numbers) ? left.localeCompare(right, undefined, { numeric: true }) : numbers;
  };
  const rows = [...table.tBodies[0].rows].sort(order);
  table.tBodies[0].append(...(down ? rows : rows.reverse()));
}
makeSortable(document);
