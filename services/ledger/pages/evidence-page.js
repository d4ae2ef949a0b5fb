/* Shows an evidence bundle that lies in this very page, and first of all whether it verifies (verifier.js).

Nothing of the bundle is shown unless all of it has been verified; what is shown is then read from it. The page asks
nobody, keeps nothing, and says "not checked" until this has run to its end. */
"use strict";

(() => {
  // SHA-256 over what stands around the bundle (see `surroundings`), put in when the page is made.
  const EXPECTED = "@surroundings@";

  // Each text in German and in English.
  const WORDS = {
    other: ["English", "Deutsch"],
    languages: ["Sprache", "Language"],
    skip: ["Zum Inhalt springen", "Skip to content"],
    brand: ["Nachweis einer Einwilligung", "Evidence of a consent"],
    title: {
      valid: ["Gültig", "Valid"],
      invalid: ["Ungültig", "Invalid"],
      unable: ["Nicht geprüft", "Not checked"],
    },
    lead: {
      valid: [
        "Alles in dieser Datei stimmt zusammen und steht so im Protokoll, das der Schlüssel unten unterschrieben hat. Geprüft hat das gerade Ihr Browser selbst, ohne Internet.",
        "Everything in this file holds together and stands so in the log that the key below has signed. Your browser has just checked that by itself, offline.",
      ],
      confirmed: [
        "Alles in dieser Datei stimmt zusammen und steht so im Protokoll, dessen Schlüssel Sie verglichen haben. Geprüft hat das gerade Ihr Browser selbst, ohne Internet.",
        "Everything in this file holds together and stands so in the log whose key you have compared. Your browser has just checked that by itself, offline.",
      ],
      invalid: [
        "Diese Datei ist kein Nachweis: Schritt {step} schlug fehl. Ihr Inhalt wird deshalb nicht gezeigt.",
        "This file is no evidence: step {step} failed. Its content is therefore not shown.",
      ],
      unable: [
        "Dieser Browser kann hier nicht prüfen (Web Crypto fehlt). Öffnen Sie die Datei in einem aktuellen Browser von der Festplatte, oder prüfen Sie sie mit: consent-ledger verify DATEI --vkey SCHLÜSSEL",
        "This browser cannot check here (Web Crypto is missing). Open the file from disk in a current browser, or check it with: consent-ledger verify FILE --vkey KEY",
      ],
    },
    page: ["die Seite um den Nachweis herum wurde verändert", "the page around the evidence was altered"],
    took: ["Prüfdauer: {ms} ms", "Checked in {ms} ms"],
    key: {
      title: ["Wessen Schlüssel?", "Whose key?"],
      text: [
        "Gültig heißt: unterschrieben mit diesem Schlüssel. Ob es der des Betreibers ist, wissen Sie erst, wenn Sie ihn mit einer Quelle vergleichen, der Sie vertrauen: seiner Website, einem Zeugen, einem früheren Nachweis.",
        "Valid means: signed with this key. Whether it is the operator's you only know once you compare it with a source you trust: their website, a witness, an earlier evidence.",
      ],
      label: ["Schlüssel aus einer Quelle, der Sie vertrauen", "Key from a source you trust"],
      button: ["Vergleichen", "Compare"],
      right: ["Der Schlüssel ist derselbe.", "The key is the same."],
      wrong: [
        "Das ist ein anderer Schlüssel. Unter dem angegebenen gilt dieser Nachweis nicht.",
        "This is another key. Under the one you gave this evidence does not hold.",
      ],
      empty: ["Fügen Sie den Schlüssel als eine Zeile ein.", "Paste the key as one line."],
    },
    state: {
      title: ["Was gezeigt ist", "What is shown"],
      holds: [
        "Nach den Aussagen in dieser Datei gilt die Einwilligung.",
        "By the statements in this file, consent holds.",
      ],
      ended: [
        "Nach den Aussagen in dieser Datei gilt die Einwilligung nicht (mehr).",
        "By the statements in this file, consent does not hold (any more).",
      ],
      none: ["In dieser Datei ist keine Einwilligung gezeigt.", "This file shows no consent."],
      grade: ["Güte des Nachweises", "Grade of the evidence"],
      rests: [
        "Dass sie von der Person kam, der die Adresse gehört, ist allein das Wort von „{source}“: Anfrage und Bestätigungs-E-Mail sind hier nicht beide belegt.",
        "That the holder of the address gave it is the word of “{source}” alone: request and confirmation mail are not both shown here.",
      ],
      latest: [
        "Auch bewiesen: Bis zu diesem Stand enthält das Protokoll kein späteres Wort dazu.",
        "Also proven: up to this state, the log has no later word on it.",
      ],
      notLatest: [
        "Dass das Protokoll bis zu diesem Stand kein späteres Wort dazu enthält, ist nicht bewiesen.",
        "That the log has no later word on it up to this state is not proven.",
      ],
    },
    facts: {
      purpose: ["Zweck", "Purpose"],
      channel: ["Kanal", "Channel"],
      controller: ["Verantwortlich", "Responsible"],
      subject: ["Pseudonym", "Pseudonym"],
      address: ["Adresse, wie eingegeben", "Address as typed"],
      normalised: ["Adresse, vereinheitlicht", "Address, normalised"],
      given: ["Eingewilligt", "Consent given"],
      withdrawn: ["Widerrufen", "Withdrawn"],
      basis: ["Rechtsgrundlage", "Legal basis"],
      requested: ["Angefragt", "Requested"],
      uses: ["Nutzungen", "Uses"],
      as_of: ["Stand (Zeit nach einem Schlüssel aus dieser Datei)", "As of (time by a key out of this file)"],
      size: ["Einträge im Protokoll bis dahin", "Entries of the log up to then"],
      log: ["Protokoll", "Log"],
      stamped: ["Spätestens da", "There at the latest"],
      stampedBy: [
        "{at}, nach dem Wort eines Zeitstempeldienstes, dessen Unterschrift diese Seite nicht prüft",
        "{at}, by the word of a time-stamp authority whose signature this page does not judge",
      ],
    },
    notice: {
      title: ["Was gezeigt wurde", "What was shown"],
      text: [
        "Der genaue Wortlaut, wie er auf der Seite stand ({language}). Kästchen „[ ]“ war leer.",
        "The exact words as they stood on the page ({language}). A box “[ ]” was empty.",
      ],
      whole: ["Der ganze Wortlaut", "The whole text"],
      button: ["Beschriftung der Schaltfläche", "Words on the button"],
      box: ["Worte am Kästchen", "Words beside the box"],
    },
    sealed: ["nicht geöffnet: gelöscht, oder der Schlüssel wurde nicht herausgegeben", "not opened: erased, or the key was not disclosed"],
    time: ["Zeit (Uhr des Betreibers)", "Time (operator's clock)"],
    agent: ["Browser (Angabe des Browsers)", "Browser (by its own word)"],
    person: {
      title: ["Adresse", "Address"],
      missing: ["Die Anfrage, in der die Adresse steht, ist hier nicht enthalten.", "The request that holds the address is not here."],
    },
    form: {
      title: ["Zustand des Formulars und Zwecke", "State of the form, and purposes"],
      lead: [
        "Vor der Antwort hat der Betreiber unterschrieben, was das Formular zeigt (Stelle {index}).",
        "Before anybody answered, the operator signed what the form shows (place {index}).",
      ],
      box: ["Kästchen", "Box"],
      purpose: ["Zweck und Weg", "Purpose and channel"],
      before: ["Vor der Antwort angekreuzt", "Ticked before the answer"],
      after: ["Angekreuzt zurückgesandt", "Came back ticked"],
      verified: [
        "Die Unterschrift ist geprüft und stimmt mit dem gezeigten Text überein.",
        "The signature is checked and agrees with the text that was shown.",
      ],
      unverified: [
        "Die Unterschrift ist hier nicht geprüft; die Angaben zählen nicht für den Beweisgrad.",
        "The signature is not checked here; it does not count for the grade.",
      ],
      missing: ["Eine unterschriebene Angabe über das Formular gibt es nicht.", "There is no signed word about the form."],
      separate: [
        "Jeder Zweck ist eine eigene Aussage mit einem eigenen Kästchen; hier geht es nur um den oben genannten.",
        "Each purpose is a statement of its own with a box of its own; this is only about the one named above.",
      ],
    },
    request: {
      title: ["Anfrage", "Request"],
      missing: ["Eine Anfrage ist hier nicht enthalten.", "There is no request here."],
      expires: ["Link gültig bis", "Link valid until"],
      form: ["Stand des Formulars (Hashwert)", "Version of the form (hash)"],
    },
    token: {
      title: ["Verbindung von E-Mail und Anfrage", "What ties mail and request together"],
      text: [
        "Der Link der E-Mail enthält eine zufällige Zeichenfolge. Gespeichert ist nur ihr Hashwert; er steht in der Anfrage, bevor die E-Mail ging.",
        "The link in the mail has a random token in it. Only its hash is stored; it stands in the request, before the mail left.",
      ],
      hash: ["Hashwert der Zeichenfolge", "Hash of the token"],
      bound: ["Gebunden an", "Bound to"],
      to: ["Anfrage {index}, Text {notice}…, Zweck {purpose}", "request {index}, text {notice}…, purpose {purpose}"],
      until: ["Einmal zu gebrauchen, bis", "Works once, until"],
    },
    confirm: {
      title: ["Bestätigung", "Confirmation"],
      missing: ["Eine Bestätigung ist hier nicht enthalten.", "There is no confirmation here."],
      text: [
        "Die Bestätigung ist ein eigener Knopfdruck auf der Seite hinter dem Link (HTTP POST).",
        "The confirmation is a press of a button of its own on the page behind the link (HTTP POST).",
      ],
      gets: [
        "Aufrufe des Links (HTTP GET), wie sie auch Virenprüfer machen, zeigen nur die Seite und ändern nichts: Sie sind keine Handlung. Der Aufruf, von dessen Seite der Knopfdruck kam, ist bei ihm aufgeführt, nach Angabe des Betreibers; andere hinterlassen nichts, was aufgeführt werden könnte.",
        "Opening the link (HTTP GET), as virus scanners do, too, only shows the page and changes nothing: it is no act. The opening whose page brought the button's press is listed with it, by the operator's word; others leave nothing that could be listed.",
      ],
      act: ["Handlung", "Act"],
      fetched: ["Davor, keine Handlung: Seite abgerufen (GET)", "Before it, no act: page fetched (GET)"],
      before: ["{at}; {ms} ms vor dem Knopf", "{at}; {ms} ms before the button"],
      notFetched: ["nicht bekannt: Der Knopfdruck brachte es nicht mit", "not known: the press did not bring it along"],
    },
    withdrawals: {
      title: ["Widerrufe und Ablehnungen", "Withdrawals and refusals"],
      none: ["Weder ein Widerruf noch eine Ablehnung ist aufgezeichnet.", "Neither a withdrawal nor a refusal is recorded."],
      effect: ["Wirkte im System (Angabe des Betreibers)", "Took effect in (operator's word)"],
      sending: ["unterwegs waren: {messages}", "on their way were: {messages}"],
      unsaid: [
        "kein System hatte es vermerkt, als diese Datei entstand, oder es war nicht zu erreichen",
        "no system had noted it when this file was made, or it could not be asked",
      ],
      systems: [
        "Marketing, das die Ausgaben versendet, vermerkt jeden Widerruf, sobald es danach nichts mehr zulässt. Der Newsletter-Dienst hält Wartendes mit der Aussage an, die er selbst macht (Quelle newsletter), also zu deren Zeit. Die Liste derer, denen nicht geschrieben werden darf, hält für den einzelnen Widerruf keine Zeit fest.",
        "Marketing, which sends the issues, notes each withdrawal when it refuses from then on. The newsletter stops what waits with the statement that it makes itself (source newsletter), so at that time. The list of whom nobody may write to keeps no time for a single withdrawal.",
      ],
    },
    besides: ["Was sonst noch dabei aufgezeichnet wurde", "What else was recorded along with it"],
    closed: {
      title: ["Was nicht geöffnet ist", "What is not opened"],
      none: ["Alle versiegelten Teile sind geöffnet.", "All sealed parts are opened."],
      text: ["Diese Teile gab es; ihr Inhalt wurde gelöscht, oder ihr Schlüssel nicht herausgegeben:", "These parts existed; their content was erased, or their key not disclosed:"],
    },
    codes: {
      form: ["Formular", "form"],
      "double-opt-in": ["Knopf auf der Seite hinter dem Link (Double-Opt-in)", "button on the page behind the link (double opt-in)"],
      "one-click": ["Abmelde-Schaltfläche des E-Mail-Programms", "unsubscribe button of the mail program"],
      link: ["Abmeldelink", "unsubscribe link"],
      erasure: ["Löschung", "erasure"],
    },
    mail: {
      title: ["Die Bestätigungs-E-Mail", "The confirmation mail"],
      from: ["Von", "From"],
      to: ["An", "To"],
      subject: ["Betreff", "Subject"],
      date: ["Datum", "Date"],
      id: ["Message-ID", "Message-ID"],
      missing: ["Eine Bestätigungs-E-Mail ist hier nicht enthalten.", "There is no confirmation mail here."],
      handed: ["Übergabe an den Mailserver", "Handed to the mail server"],
      outcome: ["Ergebnis", "Outcome"],
      answer: ["Antwort des Mailservers", "Answer of the mail server"],
      outcomes: {
        accepted: ["vom Mailserver angenommen", "accepted by the mail server"],
        refused: ["vom Mailserver abgelehnt", "refused by the mail server"],
        unknown: ["unbekannt", "unknown"],
      },
      dkim: ["DKIM-Signatur", "DKIM signature"],
      signed: ["{domain}, Selektor {selector}", "{domain}, selector {selector}"],
      unsigned: ["nicht gegen einen Schlüssel geprüft", "not checked against a key"],
      masked: [
        "„[…]“ steht für den Schlüssel in einem Link; er wird nicht gezeigt: Wer ihn hat, kann die Knöpfe der Person drücken.",
        "“[…]” stands for the key in a link, which is not shown: whoever has it can press the person's buttons.",
      ],
    },
    uses: {
      title: ["Jede Nutzung", "Each use"],
      none: ["Es ist keine Nutzung aufgezeichnet.", "No use is recorded."],
      message: ["Message-ID", "Message-ID"],
      covered: ["gedeckt", "covered"],
      yes: ["ja", "yes"],
      no: ["nein", "no"],
    },
    all: {
      title: ["Stellung im Protokoll", "Place in the log"],
      root: ["Wurzel des Protokolls", "Root of the log"],
      pin: ["Fingerabdruck des Schlüssels der Adresse (Pin)", "Fingerprint of the address's key (pin)"],
      witnesses: ["Weitere Unterschriften unter dem Stand", "Further signatures on this state"],
      witness: ["{name} um {at} (hier nicht beurteilt)", "{name} at {at} (not judged here)"],
      alone: [
        "keine: Für die Zeit dieses Standes steht hier nur das Wort des Betreibers",
        "none: for the time of this state there is only the operator's word here",
      ],
      stamps: ["Zeitstempel nach RFC 3161", "Time-stamps by RFC 3161"],
      stamp: [
        "um {at} waren die ersten {size} Einträge da, nach dem Wort einer Stelle, deren Unterschrift hier nicht beurteilt wird",
        "by {at} the first {size} entries were there, by the word of an authority whose signature is not judged here",
      ],
      unstamped: ["keiner in dieser Datei", "none in this file"],
      index: ["Stelle", "Place"],
      recorded: ["Aufgezeichnet", "Recorded"],
      what: ["Aussage", "Statement"],
      by: ["Durch", "By"],
      how: ["Weg", "Way"],
    },
    process: {
      title: ["Womit", "By what"],
      text: [
        "Stand des Verarbeitungsverzeichnisses, unter dem die Aussagen entstanden (SHA-256).",
        "State of the processing register under which the statements were made (SHA-256).",
      ],
      software: [
        "Software, die die Aussagen getroffen hat, nach eigenem Wort. Nicht genannt ist, worauf sie lief: Betriebssystem, Python, Pakete, Einstellungen.",
        "Software that made the statements, by its own word. Not named is what it ran on: operating system, Python, packages, settings.",
      ],
      places: ["Stellen {where}", "places {where}"],
      unnamed: ["nicht aufgezeichnet", "not recorded"],
    },
    steps: {
      title: ["Prüfschritte", "Steps of the check"],
      text: ["Nach docs/formats.md, Abschnitt 18.", "By docs/formats.md, section 18."],
    },
    limits: {
      title: ["Was dieser Nachweis nicht zeigt", "What this evidence does not show"],
      items: [
        ["ob nach diesem Stand noch etwas gesagt wurde,", "whether something was said after this state,"],
        [
          "wer hinter der Adresse steht: er handelt von einer Adresse, nicht von einer Person,",
          "who is behind the address: it speaks of an address, not of a person,",
        ],
        [
          "dass die Uhr des Betreibers richtig ging: die Zeiten sind seine Angabe,",
          "that the operator's clock was right: the times are their word,",
        ],
        ["ob unter einer anderen Adresse derselben Person etwas anderes gesagt wurde.", "whether something else was said under another address of the same person."],
      ],
      label: [
        "In der Datei (proofs/latest.json) steht ein Schlüssel, mit dem sich alle Einträge dieser Adresse im Protokoll finden, aber nicht lesen lassen; der Schlüssel der Adresse selbst ist es nicht.",
        "In the file (proofs/latest.json) is a key with which all entries of this address can be found in the log, but not read; it is not the address's own key.",
      ],
    },
    save: {
      title: ["Maschinenlesbar", "Machine-readable"],
      text: [
        "Die Datei enthält alles als ZIP: Aussagen, Beweise, Texte, E-Mails.",
        "This file holds everything as a ZIP: statements, proofs, texts, mails.",
      ],
      button: ["ZIP speichern", "Save the ZIP"],
    },
    private: [
      "Diese Datei enthält personenbezogene Daten und in der archivierten E-Mail, deren Bytes unter der DKIM-Signatur stehen, Links, die noch wirken: Wer sie hat, kann im Namen der Person widerrufen, und bestätigen, solange die Anfrage offen ist. Geben Sie sie nur weiter, wo es nötig ist.",
      "This file holds personal data and, in the archived mail whose bytes are under the DKIM signature, links that still work: whoever has them can withdraw in the person's name, and confirm as long as the request is open. Pass it on only where that is needed.",
    ],
    by: {
      person: ["die Person", "the person"],
      staff: ["Mitarbeitende", "staff"],
      representative: ["Vertretung", "a representative"],
      controller: ["den Verantwortlichen", "the controller"],
    },
    types: {
      NoticePublished: ["Hinweis veröffentlicht", "Notice published"],
      ConsentRequested: ["Einwilligung angefragt", "Consent requested"],
      ConsentGiven: ["Einwilligung erteilt", "Consent given"],
      ConsentRefused: ["Nicht eingewilligt", "Consent not given"],
      ConsentWithdrawn: ["Einwilligung widerrufen", "Consent withdrawn"],
      ConsentRevoked: ["Einwilligung aufgehoben", "Consent revoked"],
      ConsentExpired: ["Abgelaufen", "Expired"],
      ConsentInvalidated: ["Für ungültig erklärt", "Declared invalid"],
      ConsentRenewed: ["Einwilligung erneuert", "Consent renewed"],
      ConsentUsed: ["Einwilligung genutzt", "Consent used"],
      MessageSent: ["Nachricht gesendet", "Message sent"],
      DataCollected: ["Daten erhoben", "Data collected"],
      ObjectionRaised: ["Widerspruch", "Objection"],
      RestrictionSet: ["Eingeschränkt", "Restricted"],
      RestrictionLifted: ["Einschränkung aufgehoben", "Restriction lifted"],
      ErasureOrdered: ["Löschung angeordnet", "Erasure ordered"],
      DataErased: ["Daten gelöscht", "Data erased"],
      ErasureCompleted: ["Löschung abgeschlossen", "Erasure completed"],
      RetentionExecuted: ["Nach Frist gelöscht", "Deleted when its period ended"],
      RecordAccessed: ["Nachweis geöffnet", "Evidence opened"],
      DataDisclosed: ["Daten weitergegeben", "Data disclosed"],
    },
    overtaken: [
      "ohne Wirkung: es gab schon einen späteren Widerruf",
      "without effect: there was a later withdrawal already",
    ],
  };

  /* The texts in one language: of each pair its own. */
  function inLanguage(texts, at) {
    if (Array.isArray(texts)) return typeof texts[0] === "string" ? texts[at] : texts.map((one) => inLanguage(one, at));
    return Object.fromEntries(Object.entries(texts).map(([name, one]) => [name, inLanguage(one, at)]));
  }

  const TEXTS = { de: inLanguage(WORDS, 0), en: inLanguage(WORDS, 1) };

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
      summary(texts, report), keySection(texts, report), person(texts, report), notices(texts, report),
      formSection(texts, report), requestSection(texts, report), ...mails(texts, report), token(texts, report),
      confirmation(texts, report), everything(texts, report), uses(texts, report), withdrawals(texts, report),
      section("process", texts.process.title, make("p", {}, texts.process.text),
        make("ul", {}, [...report.registers.keys()].map((version) => make("li", {}, make("code", {}, version)))),
        make("p", {}, texts.process.software),
        make("ul", {}, ConsentLedger.statedBy(report.recorded).map(([name, where]) =>
          make("li", {}, name ? make("code", {}, name) : texts.process.unnamed, ` (${fill(texts.process.places, { where })})`)))),
      ...besides(texts, report), closed(texts, report), limits(texts, report), save(texts, report),
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
    const stamp = newest && report.stamps.find((one) => one.size > newest.one.index);
    const article = snapshot["rights.toml"]?.legal_bases?.[newest?.one.statement.data.legal_basis]?.article;
    return section("shown", texts.state.title,
      make("p", { class: "lead" }, texts.state[report.state]),
      newest?.rests ? make("p", { class: "notice" }, fill(texts.state.rests, { source: newest.one.statement.source })) : null,
      make("p", {}, report.latestProven ? texts.state.latest : texts.state.notLatest),
      facts([
        [texts.facts.purpose, purpose ? words(purpose.title) : report.purpose],
        [texts.facts.channel, report.channel],
        [texts.facts.controller, party ? [party.name, ...party.address].join(", ") : controller],
        [texts.facts.address, typed.address],
        [texts.facts.normalised, typed.normalised],
        [texts.facts.requested, newest?.request ? moment(newest.request.event.recordedAt) : ""],
        [texts.facts.given, newest ? moment(newest.one.event.recordedAt) : ""],
        [texts.facts.stamped, stamp ? fill(texts.facts.stampedBy, { at: moment(stamp.at).textContent }) : ""],
        [texts.state.grade, newest?.grade],
        [texts.facts.basis, article ? [words(article), ...(purpose?.norms ?? []).map(words)].join("; ") : ""],
        [texts.facts.uses, String(ofType(report, "ConsentUsed").length)],
        [texts.facts.withdrawn, withdrawn.length ? moment(withdrawn.at(-1).event.recordedAt) : ""],
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

  const requestsOf = (report) => ofType(report, "ConsentRequested");
  const isOpened = (report, one) => report.opened.has(`${one.statement.id} evidence`);
  const said = (texts, report, one, name) => (isOpened(report, one) ? json(report, one.statement, "evidence")[name] : texts.sealed);
  const exactly = (time) => make("time", { datetime: time }, time.replace("T", " ").replace("Z", " UTC"));
  const coded = (texts, name) => texts.codes[name] ?? name;

  function person(texts, report) {
    const requests = requestsOf(report);
    return section("person", texts.person.title, requests.length ? null : make("p", {}, texts.person.missing),
      requests.map((one) => facts([
        [texts.all.index, String(one.index)],
        [texts.facts.address, said(texts, report, one, "address")],
        [texts.facts.normalised, said(texts, report, one, "normalised")],
      ])));
  }

  function formSection(texts, report) {
    const requests = requestsOf(report);
    const asked = (one, box) => requests.some((other) => other.statement.data.act === one.statement.data.act
      && other.statement.data.purpose === box.purpose && other.statement.data.channel === box.channel);
    return section("form", texts.form.title, requests.map((one) => {
      const claims = report.served.get(one.statement.id);
      if (claims === undefined) return make("p", {}, one.statement.data.served ? texts.form.unverified : texts.form.missing);
      const rows = claims.purposes.map((box) => {
        const mine = box.purpose === report.purpose && box.channel === report.channel;
        const after = mine ? (asked(one, box) ? texts.uses.yes : texts.uses.no) : "–";
        return [box.label, `${box.purpose}/${box.channel}`, box.default ? texts.uses.yes : texts.uses.no, after];
      });
      return make("div", {}, make("p", {}, fill(texts.form.lead, { index: one.index })),
        table(texts.form.title, [texts.form.box, texts.form.purpose, texts.form.before, texts.form.after], rows),
        facts([[texts.notice.button, claims.button]]), make("p", {}, texts.form.verified));
    }), requests.length ? null : make("p", {}, texts.form.missing), make("p", {}, texts.form.separate));
  }

  function requestSection(texts, report) {
    const requests = requestsOf(report);
    return section("request", texts.request.title, requests.length ? null : make("p", {}, texts.request.missing),
      requests.map((one) => facts([
        [texts.all.index, String(one.index)],
        [texts.time, exactly(one.statement.time)],
        [texts.all.recorded, moment(one.event.recordedAt)],
        [texts.all.how, coded(texts, one.statement.data.method)],
        [texts.request.expires, exactly(one.statement.data.expires_at)],
        [texts.agent, said(texts, report, one, "user_agent")],
        [texts.request.form, said(texts, report, one, "form_version")],
      ])));
  }

  function mails(texts, report) {
    if (report.mails.length === 0) return [section("mail", texts.mail.title, make("p", {}, texts.mail.missing))];
    return report.mails.map(({ sent, mail }) => section(`mail-${sent.index}`, texts.mail.title,
      facts([
        [texts.all.index, String(sent.index)],
        [texts.mail.id, sent.statement.data.message_id],
        [texts.mail.handed, exactly(sent.statement.time)],
        [texts.mail.outcome, texts.mail.outcomes[sent.statement.data.outcome]],
        [texts.mail.answer, isOpened(report, sent) ? smtp(json(report, sent.statement, "evidence")) : texts.sealed],
        ...(mail === null ? [] : [
          [texts.mail.from, mail.only("from")], [texts.mail.to, mail.only("to")],
          [texts.mail.subject, encodedWords(mail.only("subject"))], [texts.mail.date, mail.only("date")],
          [texts.mail.dkim, mail.signed ? fill(texts.mail.signed, mail.signed) : texts.mail.unsigned],
        ]),
      ]),
      ...(mail === null ? [make("p", {}, texts.sealed)]
        : [make("div", { class: "letter" }, masked(mail.text)), make("p", { class: "hint" }, texts.mail.masked)])));
  }

  const smtp = (evidence) => `${evidence.smtp_code ?? ""} ${evidence.smtp_answer ?? ""}`.trim();

  function token(texts, report) {
    return section("token", texts.token.title, make("p", {}, texts.token.text), requestsOf(report).map(({ index, statement: { data } }) => facts([
      [texts.token.hash, make("code", {}, data.token_hash)],
      [texts.token.bound, fill(texts.token.to, { index, notice: data.notice.hash.slice(0, 16), purpose: `${report.purpose}/${report.channel}` })],
      [texts.token.until, exactly(data.expires_at)],
    ])));
  }

  function confirmation(texts, report) {
    return section("confirm", texts.confirm.title,
      make("p", {}, report.given.length ? texts.confirm.text : texts.confirm.missing), make("p", {}, texts.confirm.gets),
      report.given.map(({ one, grade }) => facts([
        [texts.all.index, String(one.index)],
        [texts.time, exactly(one.statement.time)],
        [texts.all.recorded, moment(one.event.recordedAt)],
        [texts.confirm.act, coded(texts, one.statement.data.method)],
        [texts.confirm.fetched, isOpened(report, one) ? fetched(texts, one, said(texts, report, one, "page_fetched_at")) : texts.sealed],
        [texts.agent, said(texts, report, one, "user_agent")],
        [texts.state.grade, `${grade}${one.overtaken ? ` (${texts.overtaken})` : ""}`],
      ])));
  }

  function fetched(texts, one, at) {
    if (typeof at !== "string" || Number.isNaN(Date.parse(at))) return texts.confirm.notFetched;
    return fill(texts.confirm.before, { at: at.replace("T", " ").replace("Z", " UTC"), ms: Date.parse(one.statement.time) - Date.parse(at) });
  }

  function withdrawals(texts, report) {
    const restrictive = new Set(["ConsentRefused", "ConsentWithdrawn", "ConsentRevoked", "ConsentExpired", "ConsentInvalidated", "ObjectionRaised", "RestrictionSet"]);
    const found = report.recorded.filter((one) => restrictive.has(one.statement.type));
    if (found.length === 0) return section("withdrawals", texts.withdrawals.title, make("p", {}, texts.withdrawals.none));
    const rows = found.map((one) => {
      const noted = report.effective.filter(({ index }) => index === String(one.index));
      const effect = noted.map(({ system, appliedAt, inTransmission }) => `${system}: ${appliedAt.replace("T", " ").replace("Z", " UTC")}`
        + (inTransmission.length ? `; ${fill(texts.withdrawals.sending, { messages: inTransmission.join(", ") })}` : ""));
      const by = [texts.by[one.statement.data.by], coded(texts, one.statement.data.method ?? "")].filter(Boolean).join(", ");
      return [String(one.index), texts.types[one.statement.type] ?? one.statement.type, exactly(one.statement.time),
        moment(one.event.recordedAt), `${by} (${one.statement.source})`, effect.join("; ") || texts.withdrawals.unsaid];
    });
    const { all } = texts;
    return section("withdrawals", texts.withdrawals.title,
      table(texts.withdrawals.title, [all.index, all.what, texts.time, all.recorded, all.how, texts.withdrawals.effect], rows),
      make("p", {}, texts.withdrawals.systems));
  }

  /* What other collectors seal has names of their own: shown as it stands. */
  function besides(texts, report) {
    const shown = new Set(["address", "normalised", "language", "token_hash", "user_agent", "form_version", "page_fetched_at", "smtp_code", "smtp_answer"]);
    const found = report.recorded.filter((one) => isOpened(report, one)).map((one) => [one, Object.entries(json(report, one.statement, "evidence"))
      .filter(([name]) => !shown.has(name)).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)])])
      .filter(([, pairs]) => pairs.length);
    return found.length === 0 ? [] : [section("besides", texts.besides,
      found.map(([one, pairs]) => [make("h3", {}, `${texts.types[one.statement.type] ?? one.statement.type} · ${one.index}`), facts(pairs)]).flat())];
  }

  function closed(texts, report) {
    const parts = report.recorded.flatMap((one) => [
      ...Object.keys(one.statement.data.sealed ?? {}), ...(one.statement.data.attachments ?? []).map(({ compartment }) => compartment),
    ].filter((name) => !report.opened.has(`${one.statement.id} ${name}`))
      .map((name) => `${one.index}, ${texts.types[one.statement.type] ?? one.statement.type}: ${name}`));
    return section("closed", texts.closed.title, make("p", {}, parts.length ? texts.closed.text : texts.closed.none),
      parts.length ? make("ul", {}, parts.map((part) => make("li", {}, part))) : null);
  }

  /* Without what would let a reader press the person's buttons: the key in a link. */
  const masked = (text) => text.replace(/([/=])[A-Za-z0-9_-]{22,}/g, "$1[…]");

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

  const hexOf = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

  function everything(texts, report) {
    const rows = report.recorded.map((one) => [
      String(one.index), moment(one.event.recordedAt),
      `${texts.types[one.statement.type] ?? one.statement.type}${one.overtaken ? ` (${texts.overtaken})` : ""}`,
      texts.by[one.statement.data.by] ?? "", one.statement.data.method ?? one.statement.data.kind ?? "",
    ]);
    const { all } = texts;
    const others = report.others.map(({ name, at }) => fill(all.witness, { name, at: at === null ? "?" : moment(at).textContent }));
    const stamps = report.stamps.map(({ size, at }) => fill(all.stamp, { size, at: moment(at).textContent }));
    return section("all", all.title, table(all.title, [all.index, all.recorded, all.what, all.by, all.how], rows), facts([
      [all.root, make("code", {}, hexOf(report.checkpoint.root))],
      [all.pin, make("code", {}, report.recorded[0].pin)],
      [all.witnesses, others.join("; ") || all.alone],
      [all.stamps, stamps.join("; ") || all.unstamped],
    ]));
  }

  function limits(texts, report) {
    const items = [...texts.limits.items, ...(report.latestProven ? [texts.limits.label] : [])];
    return section("limits", texts.limits.title, make("ul", {}, items.map((item) => make("li", {}, item))),
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
