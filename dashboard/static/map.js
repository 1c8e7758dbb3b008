// A click on a point shows its row beside the map; with a key held, or without this script, it goes to the row's page.
const brief = document.getElementById("brief");
let wanted = 0;

for (const map of document.querySelectorAll(".map svg")) {
  map.addEventListener("mousedown", (event) => event.preventDefault()); // the drawing is hidden from readers: no focus in it
  map.addEventListener("click", (event) => {
    const point = event.target.closest("a");
    if (!point || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    show(map, point);
  });
}

async function show(map, point) {
  const mine = ++wanted;
  for (const other of document.querySelectorAll(".map .chosen")) other.classList.remove("chosen");
  point.classList.add("chosen");
  point.parentNode.append(point);
  try {
    const answer = await fetch(`${point.getAttribute("href")}/brief?ref=${encodeURIComponent(map.dataset.of)}`);
    const read = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (mine !== wanted) return;
    const content = answer.ok ? read.body.childNodes : (read.querySelector(".notice") ?? read.body).childNodes;
    brief.replaceChildren(...content);
    if (innerWidth <= 900) brief.scrollIntoView({ behavior: "smooth", block: "nearest" });
  } catch {
    brief.textContent = "The server does not answer; try again.";
  }
}
