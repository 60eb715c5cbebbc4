"use strict";
// Sends files to the bastion in parts, each with its SHA-256, and goes on after a lost connection. What the bastion has
// is not sent again. Without this script the form sends the files in one piece.
(() => {
  const section = document.getElementById("upload");
  if (!section || !window.crypto || !crypto.subtle) {
    return;
  }
  const form = section.querySelector("form");
  const input = form.querySelector("input[type=file]");
  const list = section.querySelector(".uploads");
  const atOnce = 3; // imports; the bastion takes four of an account
  const uploads = new Set();

  const say = (text) => {
    document.getElementById("live").textContent = text;
  };
  const pause = (ms) => new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      removeEventListener("online", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    addEventListener("online", done);
  });
  const size = (n) => {
    let unit = -1;
    while (n >= 1024 && unit < 5) {
      n /= 1024;
      unit++;
    }
    return unit < 0 ? n + " B" : n.toFixed(1) + " " + "KMGTPE"[unit] + "iB";
  };

  // How long the bastion may do nothing, in ms, before a request counts as lost: a browser does not notice each link
  // that is cut, and the kernel sends for a quarter of an hour. Answers wait until the bastion wants the next part, for
  // 20 seconds at most.
  const silence = 30000;
  const thinking = 60000;

  // ask sends a request of the admin API. An answer that is an error is thrown with its status; status 0 is no answer.
  const ask = (method, path, body, header, signal) => new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch does not tell how much of a body is sent
    let timer = 0;
    const abort = () => request.abort();
    const settle = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    };
    const fail = (text, status) => {
      settle();
      reject(Object.assign(new Error(text), { status }));
    };
    const lost = () => fail("the bastion does not answer", 0);
    const within = (ms) => {
      clearTimeout(timer);
      timer = setTimeout(abort, ms);
    };
    request.open(method, "/v1/imports/parts" + path);
    for (const [name, value] of Object.entries(header || {})) {
      request.setRequestHeader(name, value);
    }
    request.upload.onprogress = () => within(silence);
    request.upload.onload = () => within(thinking);
    request.onprogress = () => within(silence);
    request.onerror = lost;
    request.onabort = lost;
    request.onload = () => {
      let answer = {};
      try {
        answer = request.responseText ? JSON.parse(request.responseText) : {};
      } catch (error) {
        return fail("the answer was cut off", 0);
      }
      if (request.status < 200 || request.status > 299) {
        return fail(answer.error || request.statusText, request.status);
      }
      settle();
      resolve(answer);
    };
    if (signal?.aborted) {
      return lost();
    }
    signal?.addEventListener("abort", abort);
    within(body ? silence : thinking);
    request.send(body === undefined ? null : body);
  });

  // Parts of a split bundle are one import: x.tar.001, x.tar.002. Lists of checksums are not sent.
  const groups = (files) => {
    const all = new Map();
    for (const file of files) {
      if (!/\.sha256$/.test(file.name)) {
        const name = file.name.replace(/\.[0-9]{3,4}$/, "");
        all.set(name, [...(all.get(name) || []), file]);
      }
    }
    return all;
  };
  const describe = (file) => ({ name: file.name, size: file.size,
    modified: new Date(file.lastModified).toISOString() });
  const same = (session, files, options) => !session.finished && !session.dry_run &&
    !!session.hold === !!options.hold && !!session.partial === !!options.partial &&
    (session.name || "") === (options.name || "") && session.files.length === files.length &&
    session.files.every((known, i) => known.name === files[i].name && (known.size || 0) === files[i].size &&
      new Date(known.modified || 0).getTime() === files[i].lastModified);

  class Upload {
    constructor(name, files, options) {
      Object.assign(this, { name, files, options, state: null, ended: false, told: -1, stop: new AbortController() });
      this.total = files.reduce((sum, file) => sum + file.size, 0);
      this.row = document.createElement("li");
      const title = document.createElement("strong");
      title.textContent = name + (files.length > 1 ? " (" + files.length + " parts)" : "");
      this.bar = document.createElement("progress");
      this.bar.max = Math.max(this.total, 1);
      this.bar.value = 0;
      this.bar.setAttribute("aria-label", "Import of " + name);
      this.text = document.createElement("p");
      this.text.textContent = "waits";
      this.cancel = document.createElement("button");
      this.cancel.type = "button";
      this.cancel.className = "small";
      this.cancel.textContent = "Cancel";
      this.cancel.setAttribute("aria-label", "Cancel the import of " + name);
      this.cancel.addEventListener("click", () => this.abort());
      this.row.append(title, this.bar, this.text, this.cancel);
      list.append(this.row);
    }

    show(text) {
      if (this.text.textContent !== text) {
        this.text.textContent = text;
      }
    }

    progress() {
      const s = this.state;
      const done = Math.min(s.done, this.total);
      this.bar.value = s.phase === "publishing" ? this.bar.max : done;
      const percent = Math.floor(100 * done / Math.max(this.total, 1));
      this.show(s.phase === "waiting" ? "waits until another import has ended"
        : s.phase === "publishing" ? "everything is here, the names are being prepared"
          : percent + " %, " + size(done) + " of " + size(this.total));
      if (s.phase !== "waiting" && Math.floor(percent / 25) > this.told) { // not each part is announced
        this.told = Math.floor(percent / 25);
        say(this.name + ": " + percent + " %");
      }
    }

    // begin finds the import that these files belong to, or begins one.
    async begin() {
      const known = await ask("GET", "", undefined, undefined, this.stop.signal);
      const mine = known.find((session) => same(session, this.files, this.options) &&
        ![...uploads].some((u) => u !== this && u.state && u.state.id === session.id));
      if (mine) {
        return mine;
      }
      return ask("POST", "", JSON.stringify({ ...this.options, wait: true, inputs: this.files.map(describe) }),
        { "Content-Type": "application/json" }, this.stop.signal);
    }

    async part() {
      const s = this.state;
      const file = this.files[s.file];
      const bytes = await file.slice(s.offset, s.offset + s.most).arrayBuffer().catch(() => {
        throw Object.assign(new Error(file.name + " cannot be read any more: choose it again"), { status: 400 });
      });
      const sum = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
      const last = s.offset + bytes.byteLength >= file.size;
      const query = "?file=" + s.file + "&offset=" + s.offset + (last ? "&last=true" : "");
      return ask("PATCH", "/" + s.id + query, bytes, { "Content-Type": "application/octet-stream",
        "Content-Digest": "sha-256=:" + btoa(String.fromCharCode(...sum)) + ":" }, this.stop.signal);
    }

    // step takes one step; its errors are those of ask.
    async step() {
      if (!this.state) {
        this.state = await this.begin();
      } else if (this.state.file < 0) {
        this.state = await ask("GET", "/" + this.state.id, undefined, undefined, this.stop.signal);
      } else {
        this.state = await this.part();
      }
    }

    async run() {
      let failed = 0;
      while (!this.ended) {
        try {
          await this.step();
          failed = 0;
          if (this.state.finished) {
            return this.finish();
          }
          this.progress();
        } catch (error) {
          if (this.ended) {
            return;
          }
          const gone = error.status === 404;
          if (error.status === 401 || error.status === 403) {
            return this.fail("your session has ended, or your account may not import: log in, and choose the same " +
              "files again to go on");
          }
          if (error.status >= 400 && error.status < 500 && error.status !== 409 && !gone) {
            return this.fail(error.message);
          }
          if (gone) { // the import has ended meanwhile: the same files go on where it has stored them
            this.state = null;
          } else if (this.state) {
            this.state.file = -1;
          }
          failed++;
          if (error.status !== 409 || failed > 3) {
            this.show(error.message + "; it goes on by itself");
            if (failed === 2) {
              say(this.name + ": " + error.message + ", it goes on by itself");
            }
            await pause(Math.min(1000 * 2 ** Math.min(failed, 5), 30000));
          }
        }
      }
    }

    finish() {
      const s = this.state;
      ask("DELETE", "/" + s.id).catch(() => {});
      if (s.error) {
        return this.fail(s.error);
      }
      this.end(s.result.message, "good");
      this.bar.value = this.bar.max;
      if (s.result.name) {
        const link = document.createElement("a");
        link.className = "button small";
        const staged = s.result.state === "staged";
        link.href = (staged ? "/imports/diff" : "/imports/import") + "?import=" + encodeURIComponent(s.result.name);
        link.textContent = staged ? "Look at the changes" : "Show";
        this.row.append(link);
      }
    }

    fail(text) {
      this.end(text, "bad");
      this.bar.remove();
    }

    end(text, kind) {
      this.ended = true;
      this.cancel.remove();
      this.show(text);
      this.text.className = kind;
      say(this.name + ": " + text);
      next();
    }

    abort() {
      const id = this.state && this.state.id;
      this.ended = true;
      this.stop.abort();
      if (id) {
        ask("DELETE", "/" + id).catch(() => {});
      }
      this.fail("cancelled: what was stored is kept, choose the same files again to go on");
      input.focus();
    }
  }

  const waiting = [];
  let running = 0;
  const next = () => {
    running = [...uploads].filter((u) => u.started && !u.ended).length;
    while (running < atOnce && waiting.length) {
      const upload = waiting.shift();
      if (!upload.ended) {
        upload.started = true;
        running++;
        upload.run();
      }
    }
  };

  const add = (files) => {
    const data = new FormData(form);
    const options = {};
    for (const name of ["hold", "partial"]) {
      if (data.get(name)) {
        options[name] = true;
      }
    }
    for (const name of ["name", "repository"]) {
      if (data.get(name)) {
        options[name] = data.get(name).trim();
      }
    }
    const all = groups(files);
    if (!all.size) {
      say("Choose a bundle or another archive");
      return;
    }
    for (const [name, group] of all) {
      const upload = new Upload(name, group, options);
      uploads.add(upload);
      waiting.push(upload);
    }
    form.reset();
    next();
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    add(input.files);
  });
  section.querySelector(".drop").hidden = false;
  const over = (on) => (event) => {
    if (event.dataTransfer && [...event.dataTransfer.types].includes("Files")) {
      event.preventDefault();
      section.classList.toggle("over", on);
    }
  };
  section.addEventListener("dragenter", over(true));
  section.addEventListener("dragover", over(true));
  section.addEventListener("dragleave", over(false));
  section.addEventListener("drop", (event) => {
    over(false)(event);
    if (event.dataTransfer && event.dataTransfer.files.length) {
      event.preventDefault();
      add(event.dataTransfer.files);
    }
  });
  addEventListener("beforeunload", (event) => {
    if ([...uploads].some((u) => !u.ended)) {
      event.preventDefault();
    }
  });

  // Imports that were begun before, perhaps in a window that was closed, wait for their files.
  ask("GET", "").then((sessions) => {
    for (const session of sessions) {
      if (session.finished || [...uploads].some((u) => u.state && u.state.id === session.id)) {
        continue;
      }
      const row = document.createElement("li");
      const text = document.createElement("p");
      const names = session.files.slice(0, 5).map((file) => file.name).join(", ");
      text.textContent = names + ": an import that was begun at " + new Date(session.started).toLocaleString() +
        " waits for its files. Choose the same files again to go on.";
      row.append(text);
      list.append(row);
    }
  }).catch(() => {});
})();
