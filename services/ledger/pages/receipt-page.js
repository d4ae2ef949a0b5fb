/* Fetches receipts and verifies them in this browser (verifier.js), on the pages that offer some.

The page has all the words, each in its place and hidden; this only says which are true. Without it the page tells how
to verify with the command. */
"use strict";

(() => {
  // Few and ever farther apart: a receipt that is not there yet looks like a wrong link, and many of those are counted.
  const PAUSES_MS = [500, 1000, 2000, 4000, 8000];

  const language = document.documentElement.lang === "de" ? "de" : "en";
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

  /* The bytes of a receipt, or null. It is there once the statement is in the log, which takes about a second. */
  async function fetchReceipt(address) {
    for (const ms of PAUSES_MS) {
      const answer = await fetch(address, {
        cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer", headers: { Accept: "application/json" },
      });
      if (answer.ok) return new Uint8Array(await answer.arrayBuffer());
      if (answer.status !== 404 && answer.status !== 503) return null;
      await pause(ms);
    }
    return null;
  }

  function begin(place) {
    const find = (selector) => place.querySelector(selector);

    function tell(...words) {
      place.hidden = false;
      place.dataset.proof = words[0];
      for (const one of place.querySelectorAll("[data-when]")) {
        one.hidden = !one.dataset.when.split(" ").some((when) => words.includes(when));
      }
    }

    async function check(data, vkey) {
      const began = performance.now();
      const report = await ConsentLedger.verify("receipt", data, vkey);
      find("[data-took]").textContent = String(Math.round(performance.now() - began));
      find("[data-why]").textContent = report.valid ? "" : report.refusal[language];
      find("[data-steps]").replaceChildren(...report.findings.map((one) => {
        const item = document.createElement("li");
        item.textContent = `${one.step} · ${one[language]}`;
        return item;
      }));
      if (report.signedBy) find("[data-signed-by]").textContent = report.signedBy;
      return report.valid;
    }

    async function start() {
      if (!ConsentLedger.able()) {
        tell("unable");
        return;
      }
      tell("busy");
      const data = await fetchReceipt(place.dataset.receipt);
      if (data === null) {
        tell("absent");
        return;
      }
      tell((await check(data, null)) ? "valid" : "invalid");
      find("button")?.addEventListener("click", async () => {
        const given = find("textarea").value.trim();
        if (given === "") return;
        const same = await check(data, given);
        tell(same ? "valid" : "invalid", same ? "right" : "wrong");
      });
    }

    start().catch(() => tell("absent"));
  }

  document.querySelectorAll("[data-receipt]").forEach(begin);
})();
