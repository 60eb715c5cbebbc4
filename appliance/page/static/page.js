"use strict";
// What JavaScript adds to pages that work without it: buttons that copy, and values that stay new.
(() => {
  const say = (text) => {
    document.getElementById("live").textContent = text;
  };

  // Buttons that copy a line.
  const addCopiers = (root) => {
    for (const code of root.querySelectorAll(".copy")) {
      if (!navigator.clipboard || code.dataset.copier) {
        continue;
      }
      code.dataset.copier = "1";
      const button = document.createElement("button");
      button.type = "button";
      button.className = "copier";
      button.textContent = "Copy";
      button.setAttribute("aria-label", "Copy " + code.textContent.slice(0, 60));
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(code.textContent);
        say("Copied");
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 2000);
      });
      code.after(button);
    }
  };
  addCopiers(document);

  // Live values: the bastion says that something has changed, and the page is fetched again. What has the focus, an
  // open <details> and fields that were filled in stay as they are.
  const main = document.getElementById("main");
  const topics = main.dataset.live;
  if (!topics || !window.EventSource) {
    return;
  }
  const pathTo = (node) => node.id ? "#" + CSS.escape(node.id) : node.getAttribute("href")
    ? node.tagName + '[href="' + CSS.escape(node.getAttribute("href")) + '"]' : "";

  // A page that is being left is not loaded again: that would stop the way to the next one.
  let leaving = false;
  addEventListener("beforeunload", () => {
    leaving = true;
    setTimeout(() => { leaving = false; }, 5000); // the user may have stayed
  });

  const toLogin = () => { // the session has ended; the login leads back here
    if (!leaving) {
      location.assign("/login?expired=1&next=" + encodeURIComponent(location.pathname + location.search));
    }
  };

  let fetching = false;
  let again = false;
  const refresh = async () => {
    if (fetching) {
      again = true;
      return;
    }
    fetching = true;
    const began = performance.now();
    try {
      const response = await fetch(location.href, { credentials: "same-origin", redirect: "manual",
        headers: { "X-Unattended": "1" } }); // nobody may be there: it does not count as use of the session
      if (response.type === "opaqueredirect" || response.status === 401) {
        toLogin();
        return;
      }
      if (!response.ok) {
        return;
      }
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const fresh = page.getElementById("main");
      replace(fresh);
    } catch (error) {
      say("The bastion does not answer; the values are from " + new Date().toLocaleTimeString());
    } finally {
      // While much changes, a browser costs the bastion at most a twentieth of one client's time.
      setTimeout(() => {
        fetching = false;
        if (again) {
          again = false;
          refresh();
        }
      }, Math.max(1000, 19 * (performance.now() - began)));
    }
  };

  // replace puts the new parts of the page in the place of those that differ.
  const replace = (fresh) => {
    const focus = main.contains(document.activeElement) ? pathTo(document.activeElement) : "";
    const now = [...main.children];
    const next = [...fresh.children];
    for (const copier of main.querySelectorAll(".copier")) {
      copier.remove();
    }
    for (const code of main.querySelectorAll("[data-copier]")) {
      delete code.dataset.copier;
    }
    next.forEach((part, i) => {
      const old = now[i];
      if (!old) {
        main.append(part);
      } else if (old.matches("form, [data-keep]") || old.isEqualNode(part)) {
        return;
      } else {
        const rows = new Set([...old.querySelectorAll("tbody tr")].map((row) => row.textContent));
        for (const row of part.querySelectorAll("tbody tr")) {
          if (!rows.has(row.textContent)) {
            row.classList.add("fresh");
          }
        }
        old.replaceWith(part);
      }
    });
    for (const old of now.slice(next.length)) {
      old.remove();
    }
    addCopiers(main);
    const again = focus && main.querySelector(focus);
    if (again) {
      again.focus();
    }
  };

  const source = new EventSource("/live?for=" + encodeURIComponent(topics));
  source.addEventListener("change", refresh);
  source.addEventListener("ended", () => {
    source.close(); // else the browser would connect again
    toLogin();
  });
  addEventListener("pagehide", () => source.close());
})();
