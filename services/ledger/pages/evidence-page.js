/* Shows an evidence bundle that lies in this very page, and first of all whether it verifies (verifier.js).

Nothing of the bundle is shown unless all of it has been verified; what is shown is then read from it. The page asks
nobody, keeps nothing, and says "not checked" until this has run to its end. */
"use strict";

(() => {
  // SHA-256 over what stands around the bundle (see `surroundings`), put in when the page is made.
  const EXPECTED = "@surroundings@";

  const TEXTS = {
    de: {
      other: "English",
      languages: "Sprache",
      skip: "Zum Inhalt springen",
      brand: "Nachweis einer Einwilligung",
      title: { valid: "Gültig", invalid: "Ungültig", unable: "Nicht geprüft" },
      lead: {
        valid: "Alles in dieser Datei stimmt zusammen und steht so im Protokoll, das der Schlüssel unten unterschrieben hat. Geprüft hat das gerade Ihr Browser selbst, ohne Internet.",
        confirmed: "Alles in dieser Datei stimmt zusammen und steht so im Protokoll, dessen Schlüssel Sie verglichen haben. Geprüft hat das gerade Ihr Browser selbst, ohne Internet.",
        invalid: "Diese Datei ist kein Nachweis: Schritt {step} schlug fehl. Ihr Inhalt wird deshalb nicht gezeigt.",
        unable: "Dieser Browser kann hier nicht prüfen (Web Crypto fehlt). Öffnen Sie die Datei in einem aktuellen Browser von der Festplatte, oder prüfen Sie sie mit: consent-ledger verify DATEI --vkey SCHLÜSSEL",
      },
      page: "die Seite um den Nachweis herum wurde verändert",
      took: "Prüfdauer: {ms} ms",
      key: {
        title: "Wessen Schlüssel?",
        text: "Gültig heißt: unterschrieben mit diesem Schlüssel. Ob es der des Betreibers ist, wissen Sie erst, wenn Sie ihn mit einer Quelle vergleichen, der Sie vertrauen: seiner Website, einem Zeugen, einem früheren Nachweis.",
        label: "Schlüssel aus einer Quelle, der Sie vertrauen",
        button: "Vergleichen",
        right: "Der Schlüssel ist derselbe.",
        wrong: "Das ist ein anderer Schlüssel. Unter dem angegebenen gilt dieser Nachweis nicht.",
        empty: "Fügen Sie den Schlüssel als eine Zeile ein.",
      },
      state: {
        title: "Was gezeigt ist",
        holds: "Nach den Aussagen in dieser Datei gilt die Einwilligung.",
        ended: "Nach den Aussagen in dieser Datei gilt die Einwilligung nicht (mehr).",
        none: "In dieser Datei ist keine Einwilligung gezeigt.",
        grade: "Güte des Nachweises",
      },
      facts: {
        purpose: "Zweck", channel: "Kanal", controller: "Verantwortlich", subject: "Pseudonym", address: "Adresse, wie eingegeben",
        normalised: "Adresse, vereinheitlicht", given: "Eingewilligt", withdrawn: "Widerrufen", effect: "Wirksam in {system} (Angabe des Betreibers)", basis: "Rechtsgrundlage",
        requested: "Angefragt", uses: "Nutzungen", as_of: "Stand", size: "Einträge im Protokoll bis dahin", log: "Protokoll",
      },
      notice: { title: "Was gezeigt wurde", text: "Der genaue Wortlaut, wie er auf der Seite stand ({language}). Kästchen „[ ]“ war leer.", whole: "Der ganze Wortlaut", button: "Beschriftung der Schaltfläche", box: "Worte am Kästchen" },
      request: { title: "Was dabei aufgezeichnet wurde", text: "Angaben, die verschlüsselt aufbewahrt und für diesen Nachweis geöffnet wurden." },
      mail: { title: "Die Bestätigungs-E-Mail", from: "Von", to: "An", subject: "Betreff", date: "Datum", id: "Message-ID", dkim: "DKIM-Signatur", signed: "{domain}, Selektor {selector}", unsigned: "nicht gegen einen Schlüssel geprüft" },
      uses: { title: "Jede Nutzung", none: "Es ist keine Nutzung aufgezeichnet.", message: "Message-ID", covered: "gedeckt", yes: "ja", no: "nein" },
      all: { title: "Alle Aussagen", index: "Stelle", recorded: "Aufgezeichnet", what: "Aussage", by: "Durch", how: "Weg" },
      process: { title: "Womit", text: "Stand des Verarbeitungsverzeichnisses, unter dem die Aussagen entstanden (SHA-256).", version: "Verzeichnis" },
      steps: { title: "Prüfschritte", text: "Nach docs/formats.md, Abschnitt 18." },
      limits: {
        title: "Was dieser Nachweis nicht zeigt",
        items: [
          "ob nach diesem Stand noch etwas gesagt wurde,",
          "wer hinter der Adresse steht: er handelt von einer Adresse, nicht von einer Person,",
          "dass die Uhr des Betreibers richtig ging: die Zeiten sind seine Angabe,",
          "ob unter einer anderen Adresse derselben Person etwas anderes gesagt wurde. Bloßes Öffnen eines Links ist keine Handlung und wird nicht als Aussage aufgezeichnet.",
        ],
      },
      save: { title: "Maschinenlesbar", text: "Die Datei enthält alles als ZIP: Aussagen, Beweise, Texte, E-Mails.", button: "ZIP speichern" },
      private: "Diese Datei enthält personenbezogene Daten und Links, die noch wirken. Geben Sie sie nur weiter, wo es nötig ist.",
      by: { person: "die Person", staff: "Mitarbeitende", representative: "Vertretung", controller: "den Verantwortlichen" },
      types: {
        NoticePublished: "Hinweis veröffentlicht", ConsentRequested: "Einwilligung angefragt", ConsentGiven: "Einwilligung erteilt",
        ConsentRefused: "Nicht eingewilligt", ConsentWithdrawn: "Einwilligung widerrufen", ConsentRevoked: "Einwilligung aufgehoben",
        ConsentExpired: "Abgelaufen", ConsentInvalidated: "Für ungültig erklärt", ConsentRenewed: "Einwilligung erneuert", ConsentUsed: "Einwilligung genutzt",
        MessageSent: "Nachricht gesendet", DataCollected: "Daten erhoben", ObjectionRaised: "Widerspruch", RestrictionSet: "Eingeschränkt",
        RestrictionLifted: "Einschränkung aufgehoben", ErasureOrdered: "Löschung angeordnet", DataErased: "Daten gelöscht",
        ErasureCompleted: "Löschung abgeschlossen", RetentionExecuted: "Nach Frist gelöscht", RecordAccessed: "Nachweis geöffnet", DataDisclosed: "Daten weitergegeben",
      },
      overtaken: "ohne Wirkung: es gab schon einen späteren Widerruf",
    },
    en: {
      other: "Deutsch",
      languages: "Language",
      skip: "Skip to content",
      brand: "Evidence of a consent",
      title: { valid: "Valid", invalid: "Invalid", unable: "Not checked" },
      lead: {
        valid: "Everything in this file holds together and stands so in the log that the key below has signed. Your browser has just checked that by itself, offline.",
        confirmed: "Everything in this file holds together and stands so in the log whose key you have compared. Your browser has just checked that by itself, offline.",
        invalid: "This file is no evidence: step {step} failed. Its content is therefore not shown.",
        unable: "This browser cannot check here (Web Crypto is missing). Open the file from disk in a current browser, or check it with: consent-ledger verify FILE --vkey KEY",
      },
      page: "the page around the evidence was altered",
      took: "Checked in {ms} ms",
      key: {
        title: "Whose key?",
        text: "Valid means: signed with this key. Whether it is the operator's you only know once you compare it with a source you trust: their website, a witness, an earlier evidence.",
        label: "Key from a source you trust",
        button: "Compare",
        right: "The key is the same.",
        wrong: "This is another key. Under the one you gave this evidence does not hold.",
        empty: "Paste the key as one line.",
      },
      state: {
        title: "What is shown",
        holds: "By the statements in this file, consent holds.",
        ended: "By the statements in this file, consent does not hold (any more).",
        none: "This file shows no consent.",
        grade: "Grade of the evidence",
      },
      facts: {
        purpose: "Purpose", channel: "Channel", controller: "Responsible", subject: "Pseudonym", address: "Address as typed",
        normalised: "Address, normalised", given: "Consent given", withdrawn: "Withdrawn", effect: "In effect in {system} (operator's word)", basis: "Legal basis",
        requested: "Requested", uses: "Uses", as_of: "As of", size: "Entries of the log up to then", log: "Log",
      },
      notice: { title: "What was shown", text: "The exact words as they stood on the page ({language}). A box “[ ]” was empty.", whole: "The whole text", button: "Words on the button", box: "Words beside the box" },
      request: { title: "What was recorded along with it", text: "Details that are kept encrypted and were opened for this evidence." },
      mail: { title: "The confirmation mail", from: "From", to: "To", subject: "Subject", date: "Date", id: "Message-ID", dkim: "DKIM signature", signed: "{domain}, selector {selector}", unsigned: "not checked against a key" },
      uses: { title: "Each use", none: "No use is recorded.", message: "Message-ID", covered: "covered", yes: "yes", no: "no" },
      all: { title: "All statements", index: "Place", recorded: "Recorded", what: "Statement", by: "By", how: "Way" },
      process: { title: "By what", text: "State of the processing register under which the statements were made (SHA-256).", version: "Register" },
      steps: { title: "Steps of the check", text: "By docs/formats.md, section 18." },
      limits: {
        title: "What this evidence does not show",
        items: [
          "whether something was said after this state,",
          "who is behind the address: it speaks of an address, not of a person,",
          "that the operator's clock was right: the times are their word,",
          "whether something else was said under another address of the same person. Merely opening a link is no act and is not recorded as a statement.",
        ],
      },
      save: { title: "Machine-readable", text: "This file holds everything as a ZIP: statements, proofs, texts, mails.", button: "Save the ZIP" },
      private: "This file holds personal data, and links that still work. Pass it on only where that is needed.",
      by: { person: "the person", staff: "staff", representative: "a representative", controller: "the controller" },
      types: {
        NoticePublished: "Notice published", ConsentRequested: "Consent requested", ConsentGiven: "Consent given",
        ConsentRefused: "Consent not given", ConsentWithdrawn: "Consent withdrawn", ConsentRevoked: "Consent revoked",
        ConsentExpired: "Expired", ConsentInvalidated: "Declared invalid", ConsentRenewed: "Consent renewed", ConsentUsed: "Consent used",
        MessageSent: "Message sent", DataCollected: "Data collected", ObjectionRaised: "Objection", RestrictionSet: "Restricted",
        RestrictionLifted: "Restriction lifted", ErasureOrdered: "Erasure ordered", DataErased: "Data erased",
        ErasureCompleted: "Erasure completed", RetentionExecuted: "Deleted when its period ended", RecordAccessed: "Evidence opened", DataDisclosed: "Data disclosed",
      },
      overtaken: "without effect: there was a later withdrawal already",
    },
  };

  let language = document.documentElement.lang === "en" ? "en" : "de";
  const main = document.querySelector("main");
  const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);

  /* An element; children are elements or texts, and a text is never markup. */
  function make(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return made;
  }

  function facts(pairs) {
    const rows = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "");
    return make("dl", {}, rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  }

  function section(identifier, title, ...children) {
    return make("section", { "aria-labelledby": identifier }, make("h2", { id: identifier }, title), ...children);
  }

  function table(caption, heads, rows) {
    return make("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
      make("table", {},
        make("thead", {}, make("tr", {}, heads.map((head) => make("th", { scope: "col" }, head)))),
        make("tbody", {}, rows.map((row) => make("tr", {}, row.map((cell) => make("td", {}, cell)))))));
  }

  function moment(milliseconds) {
    const at = new Date(Number(milliseconds));
    const shown = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium", timeZone: "UTC" }).format(at);
    return make("time", { datetime: at.toISOString() }, `${shown} UTC`);
  }

  /* What stands around the bundle, as the browser has read it. What an extension adds does not matter. */
  function surroundings() {
    const policy = document.querySelector("meta[http-equiv]").outerHTML.replace(/script-src '[^']*'/, "script-src");
    const own = ["meta[charset]", "meta[name=viewport]", "meta[name=color-scheme]", "title", "style#look", "main"];
    const bundle = document.getElementById("bundle").cloneNode(false).outerHTML;
    return [
      document.doctype.name, document.compatMode, document.characterSet, document.documentElement.lang, policy, bundle,
      ...own.map((selector) => document.querySelector(selector).outerHTML),
    ].join("\u0000");
  }

  const state = { report: null, data: null, ms: 0, pasted: "", compared: "" };

  async function check(vkey) {
    const began = performance.now();
    state.report = await ConsentLedger.verify("evidence", state.data, vkey);
    state.ms = Math.round(performance.now() - began);
  }

  async function start() {
    if (!ConsentLedger.able()) {
      show("unable");
      return;
    }
    const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(surroundings()));
    const found = Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
    try {
      state.data = ConsentLedger.fromBase64(document.getElementById("bundle").textContent);
      await check(null);
    } catch (error) {
      state.report = { valid: false, findings: [], refusal: error };
    }
    if (found !== EXPECTED) {
      state.report.valid = false;
      state.report.refusal ??= { step: "0", en: TEXTS.en.page, de: TEXTS.de.page };
    }
    show(state.report.valid ? "valid" : "invalid");
  }

  function show(verdict) {
    const texts = TEXTS[language];
    const { report } = state;
    document.documentElement.lang = language;
    document.title = `${texts.title[verdict]} · ${texts.brand}`;
    document.querySelector(".skip")?.remove();
    document.querySelector("header")?.remove();
    main.before(skip(texts), head(texts, verdict));
    const lead = state.compared === "right" && verdict === "valid" ? "confirmed" : verdict;
    main.replaceChildren(
      mark(verdict === "valid" ? "done" : "halt"),
      make("h1", {}, texts.title[verdict]),
      make("p", { class: "lead", role: "status" }, fill(texts.lead[lead], { step: report?.refusal?.step ?? "" })),
      ...(verdict === "invalid" ? [make("p", { class: "notice", role: "alert" }, report.refusal[language] ?? String(report.refusal))] : []),
      ...(verdict === "valid" ? content(texts, report) : []),
      ...(report?.findings.length ? [steps(texts, report)] : []),
    );
    main.dataset.verdict = verdict;
    main.dataset.step = report?.refusal?.step ?? "";
    main.dataset.key = state.compared;
  }

  const skip = (texts) => make("a", { class: "skip", href: "#content" }, texts.skip);

  function head(texts, verdict) {
    const other = language === "de" ? "en" : "de";
    const link = make("a", { href: "#content", lang: other, hreflang: other }, texts.other);
    link.addEventListener("click", (event) => {
      event.preventDefault();
      language = other;
      show(verdict);
      document.querySelector("header a").focus();
    });
    return make("header", { class: "site" }, make("p", { class: "brand" }, texts.brand),
      make("nav", { "aria-label": texts.languages }, make("ul", { class: "languages" }, make("li", {}, link))));
  }

  function mark(kind) {
    const svg = (name, attributes, ...children) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      made.append(...children);
      return made;
    };
    const path = kind === "done" ? "M15 24.5l6.5 6.5L33.5 18" : "M24 14.5v12M24 32.4v.2";
    return svg("svg", { class: `mark ${kind}`, viewBox: "0 0 48 48", width: "48", height: "48", "aria-hidden": "true", focusable: "false" },
      svg("circle", { cx: "24", cy: "24", r: "22" }), svg("path", { d: path }));
  }

  function content(texts, report) {
    return [
      summary(texts, report), keySection(texts, report), notices(texts, report), requestSection(texts, report),
      ...mails(texts, report), uses(texts, report), everything(texts, report), limits(texts),
      section("process", texts.process.title, make("p", {}, texts.process.text),
        make("ul", {}, [...report.registers.keys()].map((version) => make("li", {}, make("code", {}, version))))),
      save(texts, report),
    ];
  }

  function json(report, statement, compartment) {
    const raw = report.opened.get(`${statement.id} ${compartment}`);
    return raw === undefined ? {} : JSON.parse(new TextDecoder().decode(raw));
  }

  const ofType = (report, type) => report.recorded.filter((one) => one.statement.type === type);
  const words = (texts) => texts?.[language] ?? texts?.en ?? texts?.de ?? "";

  function summary(texts, report) {
    const snapshot = report.registers.get(report.recorded.at(-1).statement.data.register_version).files;
    const { activity, controller } = report.recorded.at(-1).statement.data;
    const party = snapshot["parties.toml"].parties[controller];
    const purpose = snapshot[`activities/${activity}.toml`]?.purposes.find((one) => one.id === report.purpose && one.channel === report.channel);
    const shown = report.given.filter((one) => !one.one.overtaken);
    const newest = shown.at(-1);
    const typed = newest?.request ? json(report, newest.request.statement, "evidence") : {};
    const withdrawn = report.recorded.filter((one) => one.statement.type === "ConsentWithdrawn");
    const article = snapshot["rights.toml"]?.legal_bases?.[newest?.one.statement.data.legal_basis]?.article;
    return section("shown", texts.state.title,
      make("p", { class: "lead" }, texts.state[report.state]),
      facts([
        [texts.facts.purpose, purpose ? words(purpose.title) : report.purpose],
        [texts.facts.channel, report.channel],
        [texts.facts.controller, party ? [party.name, ...party.address].join(", ") : controller],
        [texts.facts.address, typed.address],
        [texts.facts.normalised, typed.normalised],
        [texts.facts.requested, newest?.request ? moment(newest.request.event.recordedAt) : ""],
        [texts.facts.given, newest ? moment(newest.one.event.recordedAt) : ""],
        [texts.state.grade, newest?.grade],
        [texts.facts.basis, article ? [words(article), ...(purpose?.norms ?? []).map(words)].join("; ") : ""],
        [texts.facts.uses, String(ofType(report, "ConsentUsed").length)],
        [texts.facts.withdrawn, withdrawn.length ? moment(withdrawn.at(-1).event.recordedAt) : ""],
        ...report.effective.map((one) => [fill(texts.facts.effect, { system: one.system }), one.appliedAt]),
        [texts.facts.as_of, moment(report.checkpoint.at * 1000n)],
        [texts.facts.size, String(report.size)],
        [texts.facts.log, report.origin],
        [texts.facts.subject, make("code", {}, report.subject)],
      ]));
  }

  function keySection(texts, report) {
    const input = make("textarea", { id: "key", rows: "3", spellcheck: "false", autocomplete: "off" });
    input.value = state.pasted;
    const button = make("button", { type: "button" }, texts.key.button);
    button.addEventListener("click", async () => {
      state.pasted = input.value.trim();
      if (state.pasted === "") {
        state.compared = "empty";
      } else {
        await check(state.pasted);
        state.compared = state.report.valid ? "right" : "wrong";
      }
      show(state.report.valid ? "valid" : "invalid");
      (document.getElementById("compared") ?? main).focus();
    });
    const said = state.compared ? make("p", { id: "compared", class: "notice", role: "status", tabindex: "-1" }, texts.key[state.compared]) : null;
    return section("whose", texts.key.title, make("p", {}, texts.key.text), make("pre", {}, make("code", {}, report.signedBy)),
      make("p", {}, make("label", { for: "key" }, texts.key.label), input), said, make("p", {}, button));
  }

  function notices(texts, report) {
    const found = [...new Map(report.recorded.map((one) => [one.statement.data.notice?.hash, report.noticeOf(one)])).entries()];
    const languageOf = (hash) => report.recorded.find((one) => one.statement.data.notice?.hash === hash).statement.data.notice.language;
    return section("notice", texts.notice.title, found.filter(([, notice]) => notice).map(([hash, notice]) => make("div", {},
      make("p", {}, fill(texts.notice.text, { language: languageOf(hash) })),
      facts([
        [texts.notice.box, notice.choices.filter((one) => one.purpose === report.purpose && one.channel === report.channel).map((one) => one.label).join(" / ")],
        [texts.notice.button, notice.button],
        ["SHA-256", make("code", {}, hash)],
      ]),
      make("div", { class: "letter", lang: languageOf(hash) }, upToTheButton(notice)),
      make("details", {}, make("summary", {}, texts.notice.whole), make("div", { class: "letter", lang: languageOf(hash) }, notice.source)))));
  }

  /* The part that asks: everything up to the button. */
  const upToTheButton = ({ blocks }) => blocks.slice(0, blocks.findIndex((block) => block.startsWith("[>]")) + 1).join("\n\n");

  function requestSection(texts, report) {
    const parts = [];
    for (const one of report.recorded) {
      for (const compartment of Object.keys(one.statement.data.sealed ?? {}).filter((name) => name !== "brief")) {
        const pairs = Object.entries(json(report, one.statement, compartment)).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]);
        if (pairs.length) parts.push(make("h3", {}, `${texts.types[one.statement.type] ?? one.statement.type} · ${one.index}`), facts(pairs));
      }
    }
    return section("request", texts.request.title, make("p", {}, texts.request.text), parts);
  }

  function mails(texts, report) {
    return report.given.filter((one) => one.mail).map(({ one, mail }) => section(`mail-${one.index}`, texts.mail.title,
      facts([
        [texts.mail.from, mail.only("from")], [texts.mail.to, mail.only("to")], [texts.mail.subject, encodedWords(mail.only("subject"))],
        [texts.mail.date, mail.only("date")], [texts.mail.id, mail.only("message-id")],
        [texts.mail.dkim, mail.signed ? fill(texts.mail.signed, mail.signed) : texts.mail.unsigned],
      ]),
      make("div", { class: "letter" }, mail.text)));
  }

  /* RFC 2047, as far as UTF-8 goes. */
  function encodedWords(value) {
    return (value ?? "").replace(/\?=\s+=\?/g, "?==?").replace(/=\?utf-8\?([bq])\?([^?]*)\?=/gi, (_, kind, encoded) => {
      const binary = kind.toLowerCase() === "b" ? atob(encoded)
        : encoded.replace(/_/g, " ").replace(/=([0-9A-Fa-f]{2})/g, (__, digits) => String.fromCharCode(parseInt(digits, 16)));
      return new TextDecoder().decode(Uint8Array.from(binary, (character) => character.charCodeAt(0)));
    });
  }

  function uses(texts, report) {
    const rows = ofType(report, "ConsentUsed").map((one) => [
      String(one.index), moment(one.event.recordedAt), make("code", {}, one.statement.data.message_id),
      report.uncovered.includes(one.index) ? texts.uses.no : texts.uses.yes,
    ]);
    return section("uses", texts.uses.title, rows.length === 0 ? make("p", {}, texts.uses.none)
      : table(texts.uses.title, [texts.all.index, texts.all.recorded, texts.uses.message, texts.uses.covered], rows));
  }

  function everything(texts, report) {
    const rows = report.recorded.map((one) => [
      String(one.index), moment(one.event.recordedAt),
      `${texts.types[one.statement.type] ?? one.statement.type}${one.overtaken ? ` (${texts.overtaken})` : ""}`,
      texts.by[one.statement.data.by] ?? "", one.statement.data.method ?? one.statement.data.kind ?? "",
    ]);
    const { all } = texts;
    return section("all", all.title, table(all.title, [all.index, all.recorded, all.what, all.by, all.how], rows));
  }

  function limits(texts) {
    return section("limits", texts.limits.title, make("ul", {}, texts.limits.items.map((item) => make("li", {}, item))),
      make("p", { class: "notice" }, texts.private));
  }

  function save(texts, report) {
    const address = URL.createObjectURL(new Blob([state.data], { type: "application/zip" }));
    return section("save", texts.save.title, make("p", {}, texts.save.text),
      make("p", {}, make("a", { class: "button", href: address, download: `evidence-${report.subject.slice(-12)}.zip` }, texts.save.button)));
  }

  function steps(texts, report) {
    return section("steps", texts.steps.title, make("p", {}, texts.steps.text),
      make("ul", { class: "plain" }, report.findings.map((one) => make("li", {}, `${one.step} · ${one[language]}`))),
      make("p", { class: "hint" }, fill(texts.took, { ms: state.ms })));
  }

  start().catch((error) => {
    state.report = { valid: false, findings: [], refusal: { step: "unexpected", en: String(error), de: String(error) } };
    show("invalid");
  });
})();
