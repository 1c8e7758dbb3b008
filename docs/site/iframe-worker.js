// Browsers refuse workers to pages opened from a folder; this lets the search of the docs work there. Over HTTP it does nothing.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.reply = (data) => {
        const message = new MessageEvent("message", { data });
        this.dispatchEvent(message);
        if (this.onmessage) this.onmessage(message);
      };
      this.ready = new Promise((done) => { frame.loaded = () => done(frame.contentWindow); });
      document.body.appendChild(frame);
      const page = frame.contentDocument;
      page.open();
      page.write(
        "<script>postMessage = (data) => frameElement.reply(data);" +
        "importScripts = (...urls) => Promise.all(urls.map((url) => new Promise((done) => {" +
        "const tag = document.createElement('script'); tag.src = url; tag.onload = done; document.body.appendChild(tag); })));" +
        "</" + "script><script src=\"" + new URL(url, location.href) + "\" onload=\"frameElement.loaded()\"></" + "script>");
      page.close();
    }
    postMessage(data) {
      this.ready.then((inside) => inside.dispatchEvent(new inside.MessageEvent("message", { data })));
    }
    terminate() {}
  };
}
