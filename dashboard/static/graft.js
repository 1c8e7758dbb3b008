// A part of the page that goes on asks for itself again; what the reader has scrolled or chosen stays where it is.
const live = document.querySelector("[data-renew]");
if (live) {
  const timer = setInterval(async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      if (!answer.ok) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
      if (!fresh) return;
      live.replaceChildren(...fresh.childNodes);
      if (!fresh.hasAttribute("data-renew")) clearInterval(timer);
    } catch {
      // the server is away for a moment: ask again at the next turn
    }
  }, 1000 * Number(live.dataset.renew));
}
for (const chooser of document.querySelectorAll("form.filter select")) {
  chooser.addEventListener("change", () => chooser.form.requestSubmit());
}
