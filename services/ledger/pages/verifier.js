/* Verifies evidence bundles, receipts and acceptances of Consent Ledger in a browser, offline, by docs/formats.md.

It was written from that file and shares no code with the reader in Python. It asks nobody and keeps nothing: bytes go
in, and out comes what each step has shown, or a Refusal that names the step and says why, in English and German. */
"use strict";

const ConsentLedger = (() => {
  class Refusal extends Error {
    constructor(step, en, de) {
      super(`step ${step}: ${en}`);
      this.step = String(step);
      this.en = en;
      this.de = de;
    }
  }

  function demand(holds, step, en, de) {
    if (!holds) throw new Refusal(step, en, de);
  }

  // -- bytes ------------------------------------------------------------------------------------------------------

  const encoder = new TextEncoder();
  const utf8 = (text) => encoder.encode(text);

  function text(step, raw, what) {
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(raw);
    } catch {
      throw new Refusal(step, `${what} is not UTF-8`, `${what} ist kein UTF-8`);
    }
  }

  function join(...parts) {
    const joined = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
    let at = 0;
    for (const part of parts) {
      joined.set(part, at);
      at += part.length;
    }
    return joined;
  }

  function same(one, other) {
    return one.length === other.length && one.every((byte, at) => byte === other[at]);
  }

  const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));
  const hex = (raw) => Array.from(raw, (byte) => HEX[byte]).join("");
  const unhex = (digits) => Uint8Array.from({ length: digits.length / 2 }, (_, at) => parseInt(digits.substr(2 * at, 2), 16));

  function toBase64(raw) {
    let binary = "";
    for (let at = 0; at < raw.length; at += 32768) binary += String.fromCharCode(...raw.subarray(at, at + 32768));
    return btoa(binary);
  }

  function fromBase64(step, encoded, what) {
    let binary = null;
    try {
      binary = atob(encoded);
    } catch {
      throw new Refusal(step, `${what} is not base64`, `${what} ist kein Base64`);
    }
    const raw = new Uint8Array(binary.length);
    for (let at = 0; at < raw.length; at += 1) raw[at] = binary.charCodeAt(at);
    demand(toBase64(raw) === encoded, step, `${what} is not canonical base64`, `${what} ist kein kanonisches Base64`);
    return raw;
  }

  const toBase64url = (raw) => toBase64(raw).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

  function fromBase64url(step, encoded, what) {
    demand(typeof encoded === "string" && /^[A-Za-z0-9_-]*$/.test(encoded), step,
      `${what} is not base64url`, `${what} ist kein Base64url`);
    const padded = encoded.replace(/-/g, "+").replace(/_/g, "/") + "=".repeat((4 - (encoded.length % 4)) % 4);
    return fromBase64(step, padded, what);
  }

  function u64(number) {
    const raw = new Uint8Array(8);
    new DataView(raw.buffer).setBigUint64(0, number);
    return raw;
  }

  const readU64 = (raw, at) => new DataView(raw.buffer, raw.byteOffset).getBigUint64(at);

  // -- Web Crypto -------------------------------------------------------------------------------------------------

  const subtle = globalThis.crypto?.subtle;

  const sha256 = async (raw) => new Uint8Array(await subtle.digest("SHA-256", raw));

  async function hmac(key, message) {
    const imported = await subtle.importKey("raw", key, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
    return new Uint8Array(await subtle.sign("HMAC", imported, message));
  }

  /* Ed25519 (RFC 8032 §5.1.7) by Web Crypto; by the arithmetic below in a browser that does not have it yet. Nothing
     here is secret, so it need not run in constant time. */
  const ed25519 = { native: null };

  async function verifyEd25519(key, signature, message) {
    if (signature.length !== 64 || key.length !== 32 || !isEd25519Key(key)) return false;
    if (ed25519.native !== false) {
      let imported = null;
      try {
        imported = await subtle.importKey("raw", key, { name: "Ed25519" }, false, ["verify"]);
        ed25519.native = true;
      } catch (error) {
        if (ed25519.native || error.name !== "NotSupportedError") return false;
        ed25519.native = false;
      }
      if (imported !== null) return subtle.verify({ name: "Ed25519" }, imported, signature, message);
    }
    return verifyEd25519ByHand(key, signature, message);
  }

  const P = 2n ** 255n - 19n;
  const L = 2n ** 252n + 27742317777372353535851937790883648493n;
  const modulo = (number, base = P) => ((number % base) + base) % base;

  function power(number, exponent) {
    let result = 1n;
    for (let base = modulo(number), left = exponent; left > 0n; left >>= 1n, base = (base * base) % P) {
      if (left & 1n) result = (result * base) % P;
    }
    return result;
  }

  const D = modulo(-121665n * power(121666n, P - 2n));
  const ROOT_OF_MINUS_1 = power(2n, (P - 1n) / 4n);
  const littleEndian = (raw) => BigInt(`0x${hex(Uint8Array.from(raw).reverse())}`);

  /* The x of a point of which y is known (RFC 8032 §5.1.3), or null if there is none. */
  function xOf(y, sign) {
    if (y >= P) return null;
    const square = modulo((y * y - 1n) * power(D * y * y + 1n, P - 2n));
    if (square === 0n) return sign ? null : 0n;
    let x = power(square, (P + 3n) / 8n);
    if (modulo(x * x - square) !== 0n) x = (x * ROOT_OF_MINUS_1) % P;
    if (modulo(x * x - square) !== 0n) return null;
    return (x & 1n) === BigInt(sign) ? x : P - x;
  }

  /* Not the second spelling of a key; and not of small order: under such a key anybody's signature verifies. */
  const ORDER_8 = 0x7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7n;
  const SMALL_ORDER = [0n, 1n, P - 1n, ORDER_8, P - ORDER_8];

  function isEd25519Key(raw) {
    const y = littleEndian(raw) & ((1n << 255n) - 1n);
    return y < P && !SMALL_ORDER.includes(y);
  }

  const point = (x, y) => [x, y, 1n, (x * y) % P];

  function pointOf(raw) {
    const encoded = littleEndian(raw);
    const y = encoded & ((1n << 255n) - 1n);
    const x = xOf(y, Number(encoded >> 255n));
    return x === null ? null : point(x, y);
  }

  function add([x1, y1, z1, t1], [x2, y2, z2, t2]) {
    const a = modulo((y1 - x1) * (y2 - x2));
    const b = modulo((y1 + x1) * (y2 + x2));
    const c = modulo(2n * t1 * t2 * D);
    const d = modulo(2n * z1 * z2);
    const [e, f, g, h] = [b - a, d - c, d + c, b + a];
    return [modulo(e * f), modulo(g * h), modulo(f * g), modulo(e * h)];
  }

  function times(scalar, one) {
    let sum = [0n, 1n, 1n, 0n];
    for (let left = scalar, doubled = one; left > 0n; left >>= 1n, doubled = add(doubled, doubled)) {
      if (left & 1n) sum = add(sum, doubled);
    }
    return sum;
  }

  const BASE_Y = modulo(4n * power(5n, P - 2n));
  const BASE = point(xOf(BASE_Y, 0), BASE_Y);

  async function verifyEd25519ByHand(key, signature, message) {
    const [public_, r] = [pointOf(key), pointOf(signature.subarray(0, 32))];
    const s = littleEndian(signature.subarray(32));
    if (public_ === null || r === null || s >= L) return false;
    const digest = new Uint8Array(await subtle.digest("SHA-512", join(signature.subarray(0, 32), key, message)));
    const [x1, y1, z1] = times(s, BASE);
    const [x2, y2, z2] = add(r, times(modulo(littleEndian(digest), L), public_));
    return modulo(x1 * z2 - x2 * z1) === 0n && modulo(y1 * z2 - y2 * z1) === 0n;
  }

  // -- JSON from a stranger (§1, §3) ------------------------------------------------------------------------------

  /* A number that is no small integer: nothing we read is one, so it is no number, no text and no null to anybody. */
  class Numeral {
    constructor(written) {
      this.written = /^-?[0-9]+$/.test(written) ? written : `of a double ${Number(written)}`;
    }

    // No text of a file begins so: it would be no strict JSON.
    toJSON() {
      return `\ud800${this.written}`;
    }
  }

  /* One text, one meaning: no name twice in an object, no lone surrogate, nothing before or behind, not more than 64
     objects and arrays inside one another. Objects come without a prototype. */
  function parseJson(step, raw, what) {
    const source = text(step, raw, what);
    let at = 0;
    const wrong = () => new Refusal(step, `${what} is not strict JSON`, `${what} ist kein striktes JSON`);

    function token(pattern) {
      pattern.lastIndex = at;
      const found = pattern.exec(source);
      if (found === null) throw wrong();
      at = pattern.lastIndex;
      return found[0];
    }

    const space = () => token(/[ \t\n\r]*/y);

    function string() {
      const found = JSON.parse(token(/"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y));
      if (/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/.test(found)) throw wrong();
      return found;
    }

    function items(close, one) {
      at += 1;
      space();
      if (source[at] === close) {
        at += 1;
        return;
      }
      for (;;) {
        space();
        one();
        space();
        at += 1;
        if (source[at - 1] === close) return;
        if (source[at - 1] !== ",") throw wrong();
      }
    }

    function value(depth) {
      if (depth >= 64 && /[[{]/.test(source[at])) throw wrong();
      switch (source[at]) {
        case "{": {
          const found = Object.create(null);
          items("}", () => {
            const name = string();
            if (name in found) throw wrong();
            space();
            token(/:/y);
            space();
            found[name] = value(depth + 1);
          });
          return found;
        }
        case "[": {
          const found = [];
          items("]", () => found.push(value(depth + 1)));
          return found;
        }
        case '"':
          return string();
        case "t":
          token(/true/y);
          return true;
        case "f":
          token(/false/y);
          return false;
        case "n":
          token(/null/y);
          return null;
        default: {
          const number = token(/-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y);
          if (!Number.isFinite(Number(number))) throw wrong();
          return /^-?[0-9]{1,15}$/.test(number) ? Number(number) : new Numeral(number);
        }
      }
    }

    space();
    const found = value(0);
    space();
    if (at !== source.length) throw wrong();
    return found;
  }

  const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Numeral);

  function sorted(value) {
    if (Array.isArray(value)) return value.map(sorted);
    if (!isObject(value)) return value;
    return Object.fromEntries(Object.keys(value).sort().map((name) => [name, sorted(value[name])]));
  }

  const canonicalJson = (value) => utf8(`${JSON.stringify(sorted(value), null, 2)}\n`);
  const equalJson = (one, other) => JSON.stringify(sorted(one)) === JSON.stringify(sorted(other));

  function object(step, value, what) {
    demand(isObject(value), step, `${what} is no JSON object`, `${what} ist kein JSON-Objekt`);
    return value;
  }

  function exactly(step, value, what, names) {
    object(step, value, what);
    demand(Object.keys(value).sort().join() === [...names].sort().join(), step,
      `${what} has not exactly the members ${names.join(", ")}`, `${what} hat nicht genau die Felder ${names.join(", ")}`);
    return value;
  }

  function string(step, value, what, pattern = /^/) {
    demand(typeof value === "string" && pattern.test(value), step, `${what} has a wrong form`, `${what} hat eine falsche Form`);
    return value;
  }

  function list(step, value, what, limit) {
    demand(Array.isArray(value) && value.length <= limit, step,
      `${what} is no list of at most ${limit}`, `${what} ist keine Liste von höchstens ${limit}`);
    return value;
  }

  const HASH = /^[0-9a-f]{64}$/;
  const SOFTWARE = /^[A-Za-z0-9][A-Za-z0-9 .:/+_@-]{0,126}$/;
  const NAME = /^[a-z0-9][a-z0-9._-]{0,62}$/;
  const UUID7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
  const SUBJECT = /^(?:0\.system|(?:0|[1-9][0-9]{0,8})\.[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})$/;
  const TIME = /^[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]\.[0-9]{3}Z$/;
  const hash = (step, value, what) => unhex(string(step, value, what, HASH));

  function decimal(step, value, what) {
    string(step, value, what, /^(?:0|[1-9][0-9]{0,19})$/);
    demand(BigInt(value) < 1n << 64n, step, `${what} is no u64`, `${what} ist keine u64`);
    return BigInt(value);
  }

  function milliseconds(step, value, what) {
    string(step, value, what, TIME);
    const at = Date.parse(value);
    demand(!Number.isNaN(at) && new Date(at).toISOString() === value && !value.startsWith("0000"), step,
      `${what} is no time of the calendar`, `${what} ist keine Zeit des Kalenders`);
    return at;
  }

  // -- tree (§6) and leaves (§5) ----------------------------------------------------------------------------------

  const leafHash = (leaf) => sha256(join(Uint8Array.of(0), leaf));
  const nodeHash = (left, right) => sha256(join(Uint8Array.of(1), left, right));

  /* RFC 9162 §2.1.3.2. */
  async function inclusion(step, where, leaf, index, size, hashes, root) {
    const refuse = (en, de) => new Refusal(step, `${where.en}: ${en}`, `${where.de}: ${de}`);
    if (index >= size) throw refuse("its index is not below the size", "sein Index liegt nicht unter der Größe");
    let [position, last, computed] = [index, size - 1n, await leafHash(leaf)];
    for (const sibling of hashes) {
      if (last === 0n) throw refuse("the proof has hashes left over", "der Beweis hat zu viele Hashes");
      if (position & 1n || position === last) {
        computed = await nodeHash(sibling, computed);
        while (!(position & 1n) && position !== 0n) {
          position >>= 1n;
          last >>= 1n;
        }
      } else {
        computed = await nodeHash(computed, sibling);
      }
      position >>= 1n;
      last >>= 1n;
    }
    if (last !== 0n) throw refuse("the proof lacks hashes", "dem Beweis fehlen Hashes");
    if (!same(computed, root)) {
      throw refuse("it is not in the tree of the checkpoint", "er steht nicht im Baum des Prüfpunkts");
    }
  }

  /* RFC 9162 §2.1.4.2: whether the tree of `size` leaves begins with the one of `old` leaves. */
  async function beginsWith(old, oldRoot, size, root, hashes) {
    if (old < 1n || old > size) return false;
    if (old === size) return hashes.length === 0 && same(oldRoot, root);
    let [position, last] = [old - 1n, size - 1n];
    while (position & 1n) [position, last] = [position >> 1n, last >> 1n];
    const path = old & (old - 1n) ? hashes : [oldRoot, ...hashes];
    if (path.length === 0) return false;
    let [first, second] = [path[0], path[0]];
    for (const sibling of path.slice(1)) {
      if (last === 0n) return false;
      if (position & 1n || position === last) {
        [first, second] = [await nodeHash(sibling, first), await nodeHash(sibling, second)];
        while (!(position & 1n) && position !== 0n) [position, last] = [position >> 1n, last >> 1n];
      } else {
        second = await nodeHash(second, sibling);
      }
      [position, last] = [position >> 1n, last >> 1n];
    }
    return last === 0n && same(first, oldRoot) && same(second, root);
  }

  function parseEvent(step, where, leaf) {
    demand(leaf.length === 89 && leaf[0] === 1 && readU64(leaf, 33) > 0n, step,
      `${where.en}: its leaf is no EVENT`, `${where.de}: sein Blatt ist kein EVENT`);
    return {
      label: hex(leaf.subarray(1, 33)),
      version: readU64(leaf, 33),
      previousPlusOne: readU64(leaf, 41),
      commitment: leaf.subarray(49, 81),
      recordedAt: readU64(leaf, 81),
    };
  }

  // -- notes and checkpoints (§11) --------------------------------------------------------------------------------

  const WRONG_NAME = /[\p{White_Space}\u0000-\u001f+]/u;
  const isKeyName = (name) => name.length > 0 && [...name].length <= 255 && !WRONG_NAME.test(name);

  function parseNote(step, raw) {
    demand(raw.length <= 65536, step, "the note is too long", "die Notiz ist zu lang");
    const decoded = text(step, raw, "the note");
    const gap = decoded.lastIndexOf("\n\n");
    demand(!/[\u0000-\u0009\u000b-\u001f]/.test(decoded) && gap >= 0 && decoded.endsWith("\n"), step,
      "the note is malformed", "die Notiz ist fehlerhaft");
    const lines = decoded.slice(gap + 2, -1).split("\n");
    demand(lines.length <= 64, step, "the note has too many signatures", "die Notiz hat zu viele Signaturen");
    return { text: utf8(decoded.slice(0, gap + 1)), signatures: lines.map((line) => parseSignature(step, line)) };
  }

  function parseSignature(step, line) {
    const rest = line.startsWith("\u2014 ") ? line.slice(2) : "";
    const name = rest.slice(0, Math.max(0, rest.indexOf(" ")));
    demand(isKeyName(name), step, "a signature line is malformed", "eine Signaturzeile ist fehlerhaft");
    const raw = fromBase64(step, rest.slice(name.length + 1), "a signature");
    demand(raw.length > 4, step, "a signature is too short", "eine Signatur ist zu kurz");
    return { name, id: raw.subarray(0, 4), signature: raw.subarray(4) };
  }

  async function parseVkey(step, line, type) {
    const found = /^([^+]*)\+([^+]*)\+(.*)$/s.exec(line);
    demand(line.length <= 512 && found !== null && isKeyName(found[1]), step,
      "the verifier key has not the form name+id+key", "der Prüfschlüssel hat nicht die Form name+id+key");
    const raw = fromBase64(step, found[3], "the verifier key");
    demand(raw.length === 33 && raw[0] === type, step,
      "the verifier key is no Ed25519 key of its kind", "der Prüfschlüssel ist kein Ed25519-Schlüssel seiner Art");
    const id = (await sha256(join(utf8(`${found[1]}\n`), raw))).subarray(0, 4);
    demand(found[2] === hex(id), step, "the key id does not belong to name and key", "die Schlüsselkennung passt nicht");
    return { name: found[1], id, key: raw.subarray(1) };
  }

  async function signaturesBy(step, note, vkey, whose) {
    const lines = note.signatures.filter((one) => one.name === vkey.name && same(one.id, vkey.id));
    demand(lines.length > 0, step, `the checkpoint is not signed by ${whose.en}`,
      `der Prüfpunkt ist nicht von ${whose.de} unterschrieben`);
    return lines.map((one) => one.signature);
  }

  const DOES_NOT_VERIFY = [
    "a signature of the checkpoint does not verify", "eine Unterschrift des Prüfpunkts ist falsch",
  ];

  /* The checkpoint, and when its fresh line says that it was the newest. */
  async function verifyCheckpoint(step, raw, vkeyLine, freshLine) {
    const note = parseNote(step, raw);
    const vkey = await parseVkey(step, vkeyLine, 1);
    for (const signature of await signaturesBy(step, note, vkey, { en: "the log's key", de: "dem Schlüssel des Protokolls" })) {
      demand(await verifyEd25519(vkey.key, signature, note.text), step, ...DOES_NOT_VERIFY);
    }
    const lines = text(step, note.text, "the checkpoint").split("\n");
    demand(lines.length === 4 && lines[3] === "" && isKeyName(lines[0]), step,
      "the checkpoint has not exactly three lines", "der Prüfpunkt hat nicht genau drei Zeilen");
    const [origin, size, root] = [lines[0], decimal(step, lines[1], "the size"), fromBase64(step, lines[2], "the root")];
    demand(root.length === 32 && origin === vkey.name && size > 0n, step,
      "the checkpoint is malformed, or of another log", "der Prüfpunkt ist fehlerhaft oder von einem anderen Protokoll");
    const fresh = await parseVkey(step, freshLine, 4);
    demand(fresh.name === `${origin}/fresh`, step, "the fresh line is by a key of another name",
      "die Frische-Zeile ist von einem Schlüssel anderen Namens");
    let at = 0n;
    for (const signature of await signaturesBy(step, note, fresh, { en: "its fresh key", de: "seinem Frische-Schlüssel" })) {
      demand(signature.length > 8, step, ...DOES_NOT_VERIFY);
      const time = readU64(signature, 0);
      const signed = join(utf8(`cosignature/v1\ntime ${time}\n`), note.text);
      demand(time < 1n << 63n && (await verifyEd25519(fresh.key, signature.subarray(8), signed)), step, ...DOES_NOT_VERIFY);
      if (time > at) at = time;
    }
    return { origin, size, root, at };
  }

  // -- timestamps (§18 step 2, RFC 3161) ---------------------------------------------------------------------------

  /* Content of the DER element that stands here, and what follows it; null if it is another. */
  function element(raw, tag) {
    if (raw === null || raw.length < 2 || raw[0] !== tag) return null;
    let [length, start] = [raw[1], 2];
    if (length & 0x80) {
      start = 2 + (length & 0x7f);
      length = raw.subarray(2, start).reduce((number, byte) => number * 256 + byte, 0);
    }
    return raw.length < start + length ? null : { inside: raw.subarray(start, start + length), behind: raw.subarray(start + length) };
  }

  const within = (raw, tag) => element(raw, tag)?.inside ?? null;
  const after = (raw, tag) => element(raw, tag)?.behind ?? null;
  const isOf = (raw, digits) => raw !== null && hex(raw) === digits;

  /* When by an authority's answer this text was there, in milliseconds; null if it is no granted answer about it.
     Whose signature is under it is not judged: this page has nobody's certificates. */
  async function stampedAt(answer, said) {
    const response = element(answer, 0x30);
    if (answer.length > 65536 || response === null || response.behind.length > 0) return null;
    const status = within(within(response.inside, 0x30), 0x02);
    if (!isOf(status, "00") && !isOf(status, "01")) return null;
    const token = within(after(response.inside, 0x30), 0x30);
    const signed = within(within(after(token, 0x06), 0xa0), 0x30);
    const wrapped = within(after(after(signed, 0x02), 0x31), 0x30);
    if (!isOf(within(token, 0x06), "2a864886f70d010702") || !isOf(within(wrapped, 0x06), "2a864886f70d0109100104")) return null;
    const rest = after(after(within(within(within(after(wrapped, 0x06), 0xa0), 0x04), 0x30), 0x02), 0x06);
    const imprint = within(rest, 0x30);
    const digest = within(after(imprint, 0x30), 0x04);
    if (!isOf(within(within(imprint, 0x30), 0x06), "608648016503040201") || digest === null) return null;
    if (!same(digest, await sha256(said))) return null;
    const written = within(after(after(rest, 0x30), 0x02), 0x18);
    const time = written && /^([0-9]{4})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})(?:\.[0-9]{1,9})?Z$/.exec(binaryOf(written));
    if (!time) return null;
    const shown = `${time.slice(1, 4).join("-")}T${time.slice(4).join(":")}.000Z`;
    const at = Date.parse(shown);
    return !Number.isNaN(at) && new Date(at).toISOString() === shown && !shown.startsWith("0000") ? at : null;
  }

  // -- the archive (§18) ------------------------------------------------------------------------------------------

  const CRC = Array.from({ length: 256 }, (_, byte) => {
    let crc = byte;
    for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
    return crc >>> 0;
  });

  function crc32(raw) {
    let crc = 0xffffffff;
    for (let at = 0; at < raw.length; at += 1) crc = CRC[(crc ^ raw[at]) & 255] ^ (crc >>> 8);
    return (crc ^ 0xffffffff) >>> 0;
  }

  /* Fields of a header: [width in bytes, value] each, little-endian. */
  function header(...fields) {
    const raw = new Uint8Array(fields.reduce((length, [width]) => length + width, 0));
    let at = 0;
    for (const [width, value] of fields) {
      for (let byte = 0; byte < width; byte += 1) raw[at + byte] = (value / 256 ** byte) & 255;
      at += width;
    }
    return raw;
  }

  function pack(files) {
    const [parts, directory] = [[], []];
    let offset = 0;
    for (const name of [...files.keys()].sort()) {
      const [content, encoded] = [files.get(name), utf8(name)];
      const common = [
        [2, 20], [2, 0], [2, 0], [2, 0], [2, 0x21], [4, crc32(content)], [4, content.length], [4, content.length],
        [2, encoded.length], [2, 0],
      ];
      parts.push(header([4, 0x04034b50], ...common), encoded, content);
      directory.push(
        header([4, 0x02014b50], [2, 0x0314], ...common, [2, 0], [2, 0], [2, 0], [4, 0x81a40000], [4, offset]), encoded,
      );
      offset += 30 + encoded.length + content.length;
    }
    const listed = join(...directory);
    const end = header([4, 0x06054b50], [2, 0], [2, 0], [2, files.size], [2, files.size], [4, listed.length], [4, offset], [2, 0]);
    return join(...parts, listed, end);
  }

  function unpack(data) {
    demand(data.length <= 256 * 1024 * 1024, 1, "the archive is too long", "das Archiv ist zu lang");
    const [files, view] = [new Map(), new DataView(data.buffer, data.byteOffset, data.length)];
    let at = 0;
    while (at + 4 <= data.length && view.getUint32(at, true) === 0x04034b50) {
      demand(at + 30 <= data.length && files.size < 4096, 1, "the archive ends inside a header, or has too many files",
        "das Archiv endet in einem Kopf oder hat zu viele Dateien");
      const [check, size, nameSize] = [view.getUint32(at + 14, true), view.getUint32(at + 22, true), view.getUint16(at + 26, true)];
      const [start, end] = [at + 30 + nameSize, at + 30 + nameSize + size];
      demand(size <= 16 * 1024 * 1024 && end <= data.length, 1, "the archive ends inside a file", "das Archiv endet in einer Datei");
      const name = String.fromCharCode(...data.subarray(at + 30, start));
      demand(nameSize <= 120 && /^[A-Za-z0-9_-][A-Za-z0-9._-]*(?:\/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$/.test(name) && !files.has(name), 1,
        "a name in the archive is none that a bundle has, or there twice",
        "ein Name im Archiv gehört in kein Bündel oder kommt doppelt vor");
      const content = data.subarray(start, end);
      demand(crc32(content) === check, 1, `the file ${name} is damaged`, `die Datei ${name} ist beschädigt`);
      files.set(name, content);
      at = end;
    }
    demand(files.size > 0, 1, "the archive does not begin with a file", "das Archiv beginnt nicht mit einer Datei");
    demand(same(pack(files), data), 1, "the archive is not canonical: packed anew its files give other bytes",
      "das Archiv ist nicht kanonisch: neu gepackt ergeben seine Dateien andere Bytes");
    return files;
  }

  // -- statements (§3, §4) ----------------------------------------------------------------------------------------

  const WORDS = new Set([
    "ConsentGiven", "ConsentWithdrawn", "ConsentRevoked", "ConsentInvalidated", "ConsentRenewed", "ObjectionRaised",
    "RestrictionSet", "RestrictionLifted",
  ]);
  const PERMISSIVE = new Set(["ConsentGiven", "ConsentRenewed", "RestrictionLifted"]);
  const RESTRICTIVE = new Set([
    "ConsentRefused", "ConsentWithdrawn", "ConsentRevoked", "ConsentExpired", "ConsentInvalidated", "ObjectionRaised",
    "RestrictionSet",
  ]);
  const REQUESTS = /^(?:Request[A-Z][A-Za-z]*|ErasureOrdered|ErasureHeld|DataErased|ErasureCompleted)$/;
  const VALID = new Set(["ConsentGiven", "RenewedConsentGiven"]);
  const EVERYTHING = "everything:all";

  /* Envelope and the members common to all (§3); what a type has beyond that is read where it is used. */
  function parseStatement(step, raw, where) {
    const refuse = () => new Refusal(step, `${where.en} is no statement we know`, `${where.de} ist keine Aussage, die wir kennen`);
    if (raw.length > 32768 || raw[0] !== 0x7b || raw[raw.length - 1] !== 0x7d) throw refuse();
    const said = parseJson(step, raw, where.en);
    exactly(step, said, where.en, [
      "specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "data",
    ]);
    milliseconds(step, said.time, `the time of ${where.en}`);
    const data = said.data;
    if (
      said.specversion !== "1.0" || said.datacontenttype !== "application/json"
      || typeof said.id !== "string" || !UUID7.test(said.id)
      || typeof said.source !== "string" || !/^[a-z][a-z0-9-]{0,31}$/.test(said.source)
      || typeof said.type !== "string" || !/^[A-Z][A-Za-z]{2,40}$/.test(said.type)
      || typeof said.subject !== "string" || !SUBJECT.test(said.subject)
      || !isObject(data) || said.dataschema !== `consent-ledger/${said.type}/${"software" in data ? 2 : 1}`
      || data.software !== undefined && (typeof data.software !== "string" || !SOFTWARE.test(data.software))
      || ![data.controller, data.sender, data.activity].every((name) => typeof name === "string" && NAME.test(name))
      || typeof data.register_version !== "string" || !HASH.test(data.register_version)
      || ![undefined, null].includes(data.purpose) && (typeof data.purpose !== "string" || !NAME.test(data.purpose))
      || ![undefined, null].includes(data.channel) && (typeof data.channel !== "string" || !NAME.test(data.channel))
      || data.follows !== undefined && !(Array.isArray(data.follows) && data.follows.every((one) => typeof one === "string"))
      || data.notice != null && !(isObject(data.notice) && HASH.test(data.notice.hash) && /^[a-z]{2}$/.test(data.notice.language))
    ) {
      throw refuse();
    }
    if (matterOf(said) === null) throw refuse();
    return said;
  }

  /* Each software with the indexes of its statements, `4-9, 12`; "" is of those that name none. */
  function statedBy(recorded) {
    const spans = new Map();
    let before = null;
    for (const { index, statement } of recorded) {
      const name = statement.data.software ?? "";
      if (!spans.has(name)) spans.set(name, []);
      if (name === before) spans.get(name).at(-1)[1] = index;
      else spans.get(name).push([index, index]);
      before = name;
    }
    return [...spans].map(([name, own]) =>
      [name, own.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(", ")]);
  }

  /* The matter (§4), or null if these words have none. */
  function matterOf({ type, data }) {
    const both = data.purpose && data.channel ? `${data.purpose}/${data.channel}` : null;
    if (type === "ConsentRequested") return both && `ask:${both}`;
    if (type === "ConsentRefused" || type === "ConsentExpired") {
      return both && { proven: `purpose:${both}`, asked: `ask:${both}` }[data.stage] || null;
    }
    if (WORDS.has(type)) return data.scope === "everything" ? EVERYTHING : both && `purpose:${both}`;
    if (type === "ConsentUsed") return both && `use:${both}`;
    if (type === "MessageSent") return data.permit == null ? `data:${data.activity}` : both && `use:${both}`;
    if (type === "DataDisclosed" && both) return `use:${both}`;
    if (["DataCollected", "DataDisclosed", "RetentionExecuted"].includes(type)) return `data:${data.activity}`;
    if (REQUESTS.test(type)) return typeof data.request === "string" ? `request:${data.request}` : null;
    if (type === "RecordAccessed") return `access:${data.activity}`;
    if (type === "NoticePublished") return data.notice ? `notice:${data.notice.hash}` : null;
    return null;
  }

  /* Whether a permissive word comes too late, by the latest restrictive times on its matter and on everything. */
  const isOvertaken = (type, time, ...limits) =>
    PERMISSIVE.has(type) && limits.some((limit) => limit !== undefined && time <= limit);

  function standing(recorded, before = null) {
    const words = new Map();
    for (const one of recorded) {
      const { type, time, data } = one.statement;
      if (before !== null && one.index >= before) break;
      if (one.matter !== EVERYTHING && !one.matter.startsWith("purpose:")) continue;
      const [word, everything] = [words.get(one.matter), words.get(EVERYTHING)];
      if (isOvertaken(type, time, word?.restrictedAt, everything?.restrictedAt)) continue;
      const restrictedAt = RESTRICTIVE.has(type) && !(word?.restrictedAt > time) ? time : word?.restrictedAt;
      words.set(one.matter, { status: data.status, index: one.index, restrictedAt });
    }
    return words;
  }

  function permits(words, purpose, channel) {
    const [word, everything] = [words.get(`purpose:${purpose}/${channel}`), words.get(EVERYTHING)];
    if (word === undefined || !VALID.has(word.status)) return false;
    return everything === undefined || VALID.has(everything.status) || everything.index < word.index;
  }

  // -- entries (§15): a statement and what ties it to the log -----------------------------------------------------

  const COMMITMENT = utf8("consent-ledger/v1/commitment");

  async function verifyInLog(step, entry, checkpoint) {
    const where = { en: `the entry at index ${entry.index}`, de: `der Eintrag mit Index ${entry.index}` };
    const event = parseEvent(step, where, entry.leaf);
    const message = join(entry.opening, entry.pin, unhex(event.label), u64(event.version), entry.statement);
    demand(same(await hmac(COMMITMENT, message), event.commitment), step,
      `${where.en}: statement, pin and opening do not give the commitment in its leaf`,
      `${where.de}: Aussage, Pin und Öffnung ergeben nicht die Festlegung in seinem Blatt`);
    await inclusion(step, where, entry.leaf, entry.index, checkpoint.size, entry.hashes, checkpoint.root);
    return event;
  }

  function parseHashes(step, hashes, limit = 64) {
    return list(step, hashes, "hashes", limit).map((one) => {
      const raw = fromBase64url(step, one, "a hash");
      demand(raw.length === 32, step, "a hash has not 32 bytes", "ein Hash hat nicht 32 Bytes");
      return raw;
    });
  }

  function parseEntry(step, name, value) {
    exactly(step, value, name, ["index", "matter", "overtaken", "leaf", "statement", "pin", "opening", "hashes"]);
    demand(typeof value.overtaken === "boolean", step, `${name} is malformed`, `${name} ist fehlerhaft`);
    return {
      index: decimal(step, value.index, `index of ${name}`),
      matter: string(step, value.matter, `matter of ${name}`),
      overtaken: value.overtaken,
      leaf: fromBase64url(step, value.leaf, `leaf of ${name}`),
      statement: fromBase64url(step, value.statement, `statement of ${name}`),
      pin: hash(step, value.pin, `pin of ${name}`),
      opening: hash(step, value.opening, `opening of ${name}`),
      hashes: parseHashes(step, value.hashes),
    };
  }

  // -- the state map, and the proof of the latest word (§9, §22) ---------------------------------------------------

  const EMPTY = new Uint8Array(32);
  const bit = (label, depth) => (label[depth >> 3] >> (7 - (depth & 7))) & 1;

  function parseRecord(step, said) {
    exactly(step, said, "a record of the map", ["index", "label", "leaf_hash", "version"]);
    return {
      label: hash(step, said.label, "a label"),
      version: decimal(step, said.version, "a version"),
      index: decimal(step, said.index, "an index"),
      leafHash: hash(step, said.leaf_hash, "a hash of a leaf"),
    };
  }

  /* The record of a label in the map with this MAP_ROOT, null if it is absent (§22, step 4). */
  async function verifyPlace(step, label, said, mapRoot) {
    const refuse = () => new Refusal(step, "the place of a label in the state map does not hold", "die Stelle einer Marke in der Zustandskarte stimmt nicht");
    exactly(step, said, "a place in the map", ["record", "siblings"]);
    const siblings = list(step, said.siblings, "siblings", 256).map((one) => fromBase64url(step, one, "a sibling"));
    const record = said.record === null ? null : parseRecord(step, said.record);
    const depth = siblings.length;
    if (siblings.some((one) => one.length !== 32) || (depth > 0 && same(siblings[0], EMPTY))) throw refuse();
    if ((record === null && depth === 0) !== (mapRoot.labels === 0n) || (mapRoot.labels > 1n) !== (depth > 0)) throw refuse();
    let computed = EMPTY;
    if (record !== null) {
      if (record.version < 1n || record.index >= mapRoot.covers) throw refuse();
      for (let at = 0; at < depth; at += 1) if (bit(record.label, at) !== bit(label, at)) throw refuse();
      computed = await sha256(join(Uint8Array.of(2), record.label, u64(record.version), u64(record.index), record.leafHash));
    }
    for (const [at, sibling] of siblings.entries()) {
      const pair = bit(label, depth - 1 - at) ? [sibling, computed] : [computed, sibling];
      computed = await sha256(join(Uint8Array.of(3), ...pair));
    }
    if (!same(computed, mapRoot.root)) throw refuse();
    return record !== null && same(record.label, label) ? record : null;
  }

  /* One proof file of kind `latest`, in all its steps; each of them is `step` to whoever it is judged for. */
  class LatestWord {
    constructor(step, raw, vkey) {
      [this.step, this.raw, this.vkey] = [step, raw, vkey];
      this.leaves = [];
      this.words = new Map();
    }

    demand(holds, en, de) {
      demand(holds, this.step, `the proof of the latest word ${en}`, `der Beweis des letzten Wortes ${de}`);
    }

    async verify() {
      const { step } = this;
      const said = exactly(step, parseJson(step, this.raw, "the proof"), "the proof", [
        "anchor", "channel", "checkpoint", "format", "fresh_vkey", "kind", "label_key", "map_root", "origin", "purpose",
        "subject", "vkey", "words",
      ]);
      this.demand(said.format === "consent-ledger/proof/1" && said.kind === "latest", "is of another kind", "ist von anderer Art");
      this.demand(said.vkey === this.vkey, "is signed by another key", "ist von einem anderen Schlüssel unterschrieben");
      [this.note, this.fresh] = [utf8(string(step, said.checkpoint, "the checkpoint")), string(step, said.fresh_vkey, "the fresh key")];
      this.checkpoint = await verifyCheckpoint(step, this.note, said.vkey, this.fresh);
      [this.subject, this.purpose, this.channel] = [
        string(step, said.subject, "the subject", SUBJECT), string(step, said.purpose, "the purpose", NAME), string(step, said.channel, "the channel", NAME),
      ];
      const { origin } = this.checkpoint;
      this.demand(said.origin === origin && origin.endsWith(`/ledger/log/${this.subject.split(".")[0]}`), "is of another log", "ist von einem anderen Protokoll");
      const mapRoot = await this.mapRoot(exactly(step, said.map_root, "the MAP_ROOT", ["hashes", "leaf"]));
      this.key = hash(step, said.label_key, "the label key");
      this.pin = await hmac(this.key, utf8(`consent-ledger/v1/pin\0${origin}\0${this.subject}`));
      const matters = [`purpose:${this.purpose}/${this.channel}`, EVERYTHING];
      const words = list(step, said.words, "the words", 2).map((one) => exactly(step, one, "a word", ["entries", "matter", "place"]));
      this.demand(words.length === 2 && words.every((one, at) => one.matter === matters[at]), "is not on the purpose and on everything", "betrifft nicht Zweck und Gesamtes");
      for (const one of words) await this.word(one, mapRoot);
      const shown = [...this.words.values()].filter((one) => one.said?.statement);
      this.demand((said.anchor === null) === (shown.length > 0), "has no anchor, or one too many", "hat keinen Anker oder einen zu viel");
      if (said.anchor !== null) {
        const anchor = object(step, said.anchor, "the anchor");
        this.demand(typeof anchor.overtaken === "boolean", "has an anchor that is none", "hat einen Anker, der keiner ist");
        const matter = `${anchor.overtaken ? "overtaken:" : ""}${string(step, anchor.matter, "a matter")}`;
        await this.said(anchor, matter, await this.label(matter));
      }
      this.leaves.sort((one, other) => (one.index < other.index ? -1 : 1));
      this.demand(this.leaves.every((one, at) => at === 0 || this.leaves[at - 1].recordedAt <= one.recordedAt), "goes back in time", "geht in der Zeit zurück");
    }

    label(matter) {
      return hmac(this.key, utf8(`consent-ledger/v1/label\0${matter}`));
    }

    async inLog(said, index) {
      const { step, checkpoint } = this;
      const leaf = fromBase64url(step, said.leaf, "a leaf");
      const where = { en: `the leaf at index ${index}`, de: `das Blatt mit Index ${index}` };
      await inclusion(step, where, leaf, index, checkpoint.size, parseHashes(step, said.hashes), checkpoint.root);
      return leaf;
    }

    async mapRoot(said) {
      const last = this.checkpoint.size - 1n;
      const leaf = await this.inLog(said, last);
      this.demand(leaf.length === 57 && leaf[0] === 2 && readU64(leaf, 1) === last, "does not end in a MAP_ROOT", "endet nicht in einem MAP_ROOT");
      const found = { covers: last, root: leaf.subarray(9, 41), labels: readU64(leaf, 41) };
      this.demand((found.labels === 0n) === same(found.root, EMPTY), "has the root of no map", "hat die Wurzel keiner Karte");
      return found;
    }

    async word(one, mapRoot) {
      const label = await this.label(one.matter);
      const record = await verifyPlace(this.step, label, one.place, mapRoot);
      const entries = list(this.step, one.entries, "the entries", 1);
      this.demand(entries.length === (record === null ? 0 : 1), "does not show the newest word alone", "zeigt nicht allein das neueste Wort");
      const said = record === null ? null : await this.said(object(this.step, entries[0], "an entry"), one.matter, label);
      this.demand(record === null || (said.version === record.version && said.index === record.index && same(said.leafHash, record.leafHash)
        && (said.version === 1n) === (said.previousPlusOne === 0n)), "shows another word than its map", "zeigt ein anderes Wort als seine Karte");
      this.words.set(one.matter, { label: hex(label), said });
    }

    /* One leaf of a label: an EVENT with its statement, or an ERASURE. */
    async said(value, matter, label) {
      const { step, checkpoint } = this;
      let found = null;
      if (given(value.statement)) {
        const entry = parseEntry(step, "an entry of the proof", value);
        const event = await verifyInLog(step, entry, checkpoint);
        const statement = parseStatement(step, entry.statement, { en: "a statement of the proof", de: "eine Aussage des Beweises" });
        this.demand(same(entry.pin, this.pin) && statement.subject === this.subject, "is under another key, or about another subject", "steht unter einem anderen Schlüssel oder betrifft eine andere Kennung");
        this.demand(matterOf(statement) === entry.matter && `${entry.overtaken ? "overtaken:" : ""}${entry.matter}` === matter, "has a word on another matter", "hat ein Wort zu einer anderen Sache");
        found = { ...event, index: entry.index, leafHash: await leafHash(entry.leaf), statement };
      } else {
        exactly(step, value, "an entry of the proof", ["hashes", "index", "leaf"]);
        const index = decimal(step, value.index, "an index");
        const leaf = await this.inLog(value, index);
        this.demand(leaf.length === 89 && leaf[0] === 3 && readU64(leaf, 33) > 0n && same(leaf.subarray(49, 81), EMPTY), "has a leaf without a statement that is no ERASURE", "hat ein Blatt ohne Aussage, das keine Löschung ist");
        found = {
          label: hex(leaf.subarray(1, 33)), version: readU64(leaf, 33), previousPlusOne: readU64(leaf, 41), recordedAt: readU64(leaf, 81),
          index, leafHash: await leafHash(leaf), statement: null,
        };
      }
      this.demand(found.label === hex(label), "has a leaf of another label", "hat ein Blatt einer anderen Marke");
      this.leaves.push(found);
      return found;
    }
  }

  // -- compartments (§16) -----------------------------------------------------------------------------------------

  async function openCompartment(step, key, keyHash, ciphertext, subject, compartment, statement) {
    demand(key.length === 32 && hex(await sha256(join(utf8("consent-ledger/v1/key"), key))) === keyHash, step,
      `the key of ${compartment} is not the one the statement commits to`,
      `der Schlüssel von ${compartment} ist nicht der, auf den sich die Aussage festlegt`);
    const additionalData = utf8(["consent-ledger/v1/seal", subject, compartment, statement].join("\0"));
    try {
      const imported = await subtle.importKey("raw", key, { name: "AES-GCM" }, false, ["decrypt"]);
      const [iv, sealed] = [ciphertext.subarray(0, 12), ciphertext.subarray(12)];
      return new Uint8Array(await subtle.decrypt({ name: "AES-GCM", iv, additionalData, tagLength: 128 }, imported, sealed));
    } catch {
      throw new Refusal(step, `the ciphertext of ${compartment} does not open: altered, or sealed elsewhere`,
        `das Chiffrat von ${compartment} lässt sich nicht öffnen: verändert oder anderswo versiegelt`);
    }
  }

  // -- the consent record (§17) -----------------------------------------------------------------------------------

  const RECORDED = new Set(["ConsentRequested", "ConsentGiven", "ConsentRefused", "ConsentWithdrawn", "ConsentExpired"]);
  const NAMING = [
    "dct:conformsTo", "dct:relation", "dpv:hasApplicableLaw", "dpv:hasContact", "dpv:hasDataSource",
    "dpv:hasJurisdiction", "dpv:hasLegalBasis", "dpv:hasLocation", "dpv:hasNecessity", "dpv:hasProcessing",
    "dpv:hasPurpose", "dpv:hasRecipient", "dpv:isIndicatedBy",
  ];
  const CONTEXT = {
    dct: "http://purl.org/dc/terms/",
    dpv: "https://w3id.org/dpv#",
    "eu-gdpr": "https://w3id.org/dpv/legal/eu/gdpr#",
    loc: "https://w3id.org/dpv/loc#",
    pd: "https://w3id.org/dpv/pd#",
    schema: "https://schema.org/",
    xsd: "http://www.w3.org/2001/XMLSchema#",
    ...Object.fromEntries(NAMING.map((name) => [name, { "@type": "@id" }])),
  };
  const INDICATED_BY = {
    person: "dpv:DataSubject", representative: "dpv:Representative", staff: "dpv:DataController", controller: "dpv:DataController",
  };
  const EXPRESSION = { explicit: "dpv:ExplicitlyExpressedConsent", expressed: "dpv:ExpressedConsent" };

  /* A member that must be there. */
  function at(value, ...path) {
    return path.reduce((inside, name) => {
      if (inside === null || typeof inside !== "object" || inside[name] === undefined) throw new TypeError(name);
      return inside[name];
    }, value);
  }

  const words = (texts) => Object.keys(texts).sort().map((language) => ({ "@language": language, "@value": texts[language] }));
  const unique = (values) => [...new Set(values)].sort();
  const dateTime = (time) => ({ "@type": "xsd:dateTime", "@value": time });
  const given = (value) => value !== undefined && value !== null;

  const recordSoftware = ({ software }) => software === undefined ? {}
    : { "dpv:isImplementedUsingTechnology": { "@type": "dpv:Technology", "dct:identifier": software } };

  function recordOf(statement, files) {
    const data = statement.data;
    const parties = at(files, "parties.toml");
    const activity = at(files, `activities/${data.activity}.toml`);
    const purposes = at(activity, "purposes").filter((one) => !given(data.purpose) || (one.id === data.purpose && one.channel === data.channel));
    if (purposes.length === 0) throw new TypeError("purpose");
    const bases = given(data.legal_basis) ? [data.legal_basis] : purposes.map((one) => at(one, "legal_basis"));
    return {
      "@context": CONTEXT,
      "@id": `urn:uuid:${statement.id}`,
      "@type": "dpv:ConsentRecord",
      "dct:conformsTo": "https://w3id.org/dpv/schema/dpv-27560#record-eu-gdpr",
      "dct:identifier": statement.id,
      "dct:date": dateTime(statement.time),
      "dct:source": { "dct:identifier": `sha256:${data.register_version}`, "dct:title": "register" },
      ...recordSoftware(data),
      "dpv:hasDataSubject": { "@type": "dpv:DataSubject", "dct:identifier": statement.subject },
      "dpv:hasNotice": recordNotices(data, activity, files),
      "dpv:hasProcess": purposes.map((purpose) => recordProcess(purpose, activity, parties)),
      "dpv:hasLegalBasis": given(data.legal_basis) ? bases : unique(bases),
      "dpv:hasJurisdiction": `loc:${at(activity, "jurisdiction")}`,
      "dpv:hasApplicableLaw": "eu-gdpr:GDPR",
      "dpv:hasConsentControl": at(activity, "withdrawal").map((way) => ({
        "@type": "dpv:WithdrawConsent", "dct:identifier": at(way, "id"), "dct:description": words(at(way, "words")),
      })),
      "dpv:hasRight": recordRights(bases, at(files, "rights.toml")),
      "dpv:hasDataController": recordParty(data.controller, parties),
      "dpv:hasDataProtectionOfficer": recordParty(at(activity, "data_protection_officer"), parties),
      "dpv:hasAuthority": recordAuthority(at(activity, "authority"), parties),
      "dpv:hasRecipient": at(activity, "recipients").map((name) => ({
        "@type": ["dpv:Recipient", at(parties, "recipients", name, "kind")],
        "dct:identifier": name,
        "dct:description": words(at(parties, "recipients", name, "words")),
      })),
      "dct:publisher": { "dct:identifier": data.sender, "schema:name": at(activity, "sender", "name") },
      "dpv:hasConsentStatus": recordEvent(statement, purposes),
    };
  }

  const ERASURE = {
    ErasureOrdered: "dpv:RequestAccepted", ErasureHeld: "dpv:RequestActionDelayed",
    DataErased: "dpv:RequestRequiredActionPerformed", ErasureCompleted: "dpv:RequestFulfilled",
  };

  function erasureRecordOf(statement, files) {
    const data = statement.data;
    const parties = at(files, "parties.toml");
    const activity = at(files, `activities/${data.activity}.toml`);
    return {
      "@context": { ...CONTEXT, "dct:isPartOf": { "@type": "@id" }, "dpv:hasStatus": { "@type": "@id" } },
      "@id": `urn:uuid:${statement.id}`,
      "@type": "dpv:RightExerciseRecord",
      "dct:identifier": statement.id,
      "dct:date": dateTime(statement.time),
      "dct:source": { "dct:identifier": `sha256:${data.register_version}`, "dct:title": "register" },
      ...recordSoftware(data),
      "dpv:hasDataSubject": { "@type": "dpv:DataSubject", "dct:identifier": statement.subject },
      "dpv:hasRight": rightsOf(["eu-gdpr:A17"], at(files, "rights.toml")),
      "dpv:hasDataController": recordParty(data.controller, parties),
      "dpv:hasDataProtectionOfficer": recordParty(at(activity, "data_protection_officer"), parties),
      "dpv:hasAuthority": recordAuthority(at(activity, "authority"), parties),
      "dct:publisher": { "dct:identifier": data.sender, "schema:name": at(activity, "sender", "name") },
      "dct:hasPart": erasureEvent(statement),
    };
  }

  function erasureEvent({ id, type, time, source, data }) {
    const [reason, until] = [data.reason ?? data.ground, data.evidence_until ?? data.until];
    return {
      "@type": "dpv:RightExerciseActivity",
      "dct:identifier": id,
      "dct:isPartOf": `urn:uuid:${at(data, "request")}`,
      "dpv:hasStatus": ERASURE[type],
      "dpv:hasProcessing": "dpv:Erase",
      "dpv:isIndicatedAtTime": dateTime(time),
      "dpv:isIndicatedBy": at(INDICATED_BY, data.by),
      "dpv:isImplementedByEntity": { "dct:identifier": source },
      ...(given(reason) && { "dpv:hasJustification": { "dct:identifier": reason } }),
      ...(data.erased?.length && { "dpv:hasPersonalData": data.erased.map((name) => ({ "dct:identifier": name })) }),
      ...(given(until) && { "dpv:hasStorageCondition": {
        "@type": "dpv:StorageDuration", "dpv:hasDuration": { "@type": "dpv:UntilTimeDuration", "dct:date": dateTime(until) },
      } }),
      ...(data.follows?.length && { "dct:relation": data.follows.map((one) => `urn:uuid:${one}`) }),
    };
  }

  function recordProcess(purpose, activity, parties) {
    const key = `${at(purpose, "id")}/${at(purpose, "channel")}`;
    const places = at(activity, "locations");
    const rules = Object.fromEntries(at(activity, "retention").map((rule) => [rule.id, rule]));
    const third = at(places, "third_countries");
    const fields = at(activity, "fields").filter((field) => at(field, "purposes").includes(key));
    const observed = at(activity, "observed").filter((one) => at(one, "purposes").includes(key));
    return {
      "@type": "dpv:Process",
      "dct:identifier": key,
      "dct:title": words(at(purpose, "title")),
      "dpv:hasService": { "dct:identifier": at(activity, "id"), "dct:title": words(at(activity, "title")) },
      "dpv:hasPurpose": at(purpose, "dpv"),
      "dpv:hasPersonalData": [
        ...fields.map((field) => ({
          "@type": at(field, "dpv"), "dct:identifier": at(field, "id"),
          "dpv:hasNecessity": at(field, "mandatory") ? "dpv:Required" : "dpv:Optional", "dpv:hasDataSource": "dpv:DataSubject",
        })),
        ...observed.map((one) => ({
          "@type": at(one, "dpv"), "dct:identifier": at(one, "id"),
          "dct:description": words(at(one, "words")), "dpv:hasDataSource": "dpv:DataController",
        })),
      ],
      "dpv:hasStorageCondition": [
        { "@type": "dpv:StorageLocation", "dpv:hasLocation": at(places, "storage").map((place) => `loc:${place}`) },
        ...at(purpose, "retention").map((name) => recordDuration(at(rules, name))),
      ],
      "dpv:hasLocation": at(places, "processing").map((place) => `loc:${place}`),
      "dpv:hasRule": {
        "@type": third === "never" ? "dpv:Prohibition" : "dpv:Permission",
        "dct:title": `third countries: ${third}`,
        "dct:description": words(at(places, "words")),
        "dpv:hasProcessing": "dpv:Transfer",
        "dpv:hasLegalBasis": [...at(places, "transfer_grounds"), ...at(places, "safeguards")],
      },
      "dpv:hasRecipient": unique(at(activity, "recipients").map((name) => at(parties, "recipients", name, "kind"))),
      "dpv:hasApplicableLaw": at(purpose, "norms").map((norm) => ({ "@type": "dpv:Law", "dct:title": words(norm) })),
    };
  }

  function recordDuration(rule) {
    const period = rule.period || rule.review;
    return {
      "@type": "dpv:StorageDuration",
      "dct:identifier": at(rule, "id"),
      "dct:description": words(at(rule, "words")),
      "dpv:hasDuration": given(period)
        ? { "@type": "xsd:duration", "@value": period }
        : { "@type": "dpv:UntilEventDuration", "dct:description": [...at(rule, "at_once_on")].sort() },
    };
  }

  function recordNotices(data, activity, files) {
    if (given(data.notice)) {
      return [{ "@type": "dpv:ConsentNotice", "dct:identifier": `sha256:${data.notice.hash}`, "dct:language": data.notice.language }];
    }
    return at(files, "register.toml", "languages").map((language) => ({
      "@type": "dpv:PrivacyNotice",
      "dct:identifier": `notices/${data.activity}/${at(activity, "notice")}.${language}.md`,
      "dct:language": language,
    }));
  }

  function recordRights(bases, rights) {
    const article = (term) => {
      const digits = term.includes(":A") ? term.slice(term.lastIndexOf(":A") + 2).split("-")[0] : term.split("-")[0];
      return /^[0-9]+$/.test(digits) ? Number(digits) : 0;
    };
    const terms = unique(bases.flatMap((basis) => at(rights, "legal_bases", basis, "rights")));
    terms.sort((one, other) => article(one) - article(other) || (one < other ? -1 : 1));
    return rightsOf(terms, rights);
  }

  function rightsOf(terms, rights) {
    return terms.map((term) => ({
      "@type": ["dpv:DataSubjectRight", term], "dct:title": words(at(rights, "rights", term, "title")),
    }));
  }

  function recordParty(name, parties) {
    const party = at(parties, "parties", name);
    return {
      "@type": ["dpv:LegalEntity", at(party, "role")],
      "dct:identifier": name,
      "dpv:hasName": at(party, "name"),
      "dpv:hasAddress": at(party, "address").join(", "),
      "dpv:hasContact": `mailto:${at(party, "email")}`,
      "dpv:hasJurisdiction": `loc:${at(party, "region")}`,
    };
  }

  function recordAuthority(name, parties) {
    const authority = at(parties, "authorities", name);
    return {
      "@type": "dpv:DataProtectionAuthority",
      "dct:identifier": name,
      "dpv:hasName": words(at(authority, "name")),
      "dpv:hasContact": at(authority, "website"),
      "dpv:hasJurisdiction": `loc:${at(authority, "region")}`,
    };
  }

  function recordEvent(statement, purposes) {
    const data = statement.data;
    const event = {
      "@type": [`dpv:${data.status}`, ...(given(data.expression) ? [at(EXPRESSION, data.expression)] : [])],
      "dct:identifier": statement.id,
      "dpv:isIndicatedAtTime": dateTime(statement.time),
      "dpv:isIndicatedBy": at(INDICATED_BY, data.by),
      "dpv:hasDuration": unique(purposes.map((one) => at(one, "valid"))).map((one) =>
        one === "until-withdrawn"
          ? { "@type": "dpv:UntilEventDuration", "dct:description": "dpv:WithdrawConsent" }
          : { "@type": "xsd:duration", "@value": one }),
    };
    if (given(data.method)) event["dpv:hasIndicationMethod"] = data.method;
    if (data.follows?.length) event["dct:relation"] = data.follows.map((one) => `urn:uuid:${one}`);
    return event;
  }

  async function parseRegister(step, raw, version, what) {
    demand(hex(await sha256(raw)) === version, step, `${what} is not the register that a statement names`,
      `${what} ist nicht das Verzeichnis, das eine Aussage nennt`);
    const snapshot = parseJson(step, raw, what);
    demand(isObject(snapshot) && snapshot.format === "consent-ledger/register/1" && isObject(snapshot.files), step,
      `${what} is no register snapshot`, `${what} ist kein Stand eines Verzeichnisses`);
    return snapshot;
  }

  function verifyRecord(step, found, statement, snapshot, what) {
    let made = null;
    try {
      made = (statement.type in ERASURE ? erasureRecordOf : recordOf)(statement, snapshot.files);
    } catch {
      throw new Refusal(step, "the register does not know what the statement is about",
        "das Verzeichnis kennt nicht, wovon die Aussage handelt");
    }
    demand(equalJson(found, made), step, `${what} is not the one that statement and register make`,
      `${what} ist nicht der, den Aussage und Verzeichnis ergeben`);
  }

  // -- notices ----------------------------------------------------------------------------------------------------

  function parseNotice(step, raw, snapshot, activity, what) {
    const source = text(step, raw, what);
    const paths = Object.keys(snapshot.files).filter(
      (path) => path.startsWith(`notices/${activity}/`) && snapshot.files[path] === source,
    );
    demand(paths.length === 1, step, `${what} is not in the register its statement names`,
      `${what} steht nicht im Verzeichnis, das seine Aussage nennt`);
    const blocks = source.replace(/\n$/, "").split("\n\n");
    const end = blocks.findIndex((block) => block.startsWith("## "));
    const form = blocks.slice(0, end < 0 ? blocks.length : end);
    const choices = form.map((block) => /^\[(.)\] ([a-z0-9._-]+)\/([a-z0-9._-]+): (.+)$/.exec(block)).filter((one) => one && one[1] !== ">");
    const button = form.map((block) => /^\[>\] (.+)$/.exec(block)).find(Boolean);
    demand(blocks[0].startsWith("# ") && (choices.length === 0 || button) && choices.every((one) => one[1] === " "), step,
      `${what} cannot be read as a notice`, `${what} lässt sich nicht als Hinweis lesen`);
    return {
      title: blocks[0].slice(2),
      source,
      blocks,
      choices: choices.map(([, , purpose, channel, label]) => ({ purpose, channel, label })),
      button: button ? button[1] : "",
    };
  }

  // -- archived mails (§18, step 7; RFC 6376) ---------------------------------------------------------------------

  const binaryOf = (raw) => {
    let binary = "";
    for (let from = 0; from < raw.length; from += 32768) binary += String.fromCharCode(...raw.subarray(from, from + 32768));
    return binary;
  };
  const bytesOf = (binary) => Uint8Array.from(binary, (character) => character.charCodeAt(0));
  const readable = (binary) => new TextDecoder().decode(bytesOf(binary));
  const unfold = (value) => value.replace(/\r\n(?=[ \t])/g, "");

  function parseHeaders(step, head) {
    const lines = head.split(/\r\n(?![ \t])/);
    demand(lines.length <= 200, step, "the archived mail has too many headers", "die archivierte E-Mail hat zu viele Kopfzeilen");
    return lines.map((line) => {
      const colon = line.indexOf(":");
      demand(/^[!-9;-~]+$/.test(line.slice(0, Math.max(0, colon))), step,
        "the archived mail has a malformed header", "die archivierte E-Mail hat eine fehlerhafte Kopfzeile");
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1)];
    });
  }

  function parseMail(step, raw) {
    const binary = binaryOf(raw);
    const gap = binary.indexOf("\r\n\r\n");
    demand(!/\r(?!\n)|(?<!\r)\n/.test(binary) && binary.split("multipart/").length <= 21, step,
      "the archived mail has lines that end otherwise, or too many parts", "die archivierte E-Mail hat anders endende Zeilen oder zu viele Teile");
    demand(gap >= 0 && !binary.slice(0, gap).includes("\0"), step,
      "the archived mail has no empty line after its headers", "die archivierte E-Mail hat keine Leerzeile nach dem Kopf");
    const headers = parseHeaders(step, binary.slice(0, gap));
    const values = (name) => headers.filter(([other]) => other === name).map(([, value]) => value);
    const only = (name) => (values(name).length === 1 ? readable(unfold(values(name)[0])).trim() : null);
    return {
      headers,
      only,
      body: binary.slice(gap + 4),
      recipient: values("to").length === 1 ? recipientOf(readable(unfold(values("to")[0])).replace(/[ \t]+/g, " ").trim()) : "",
      text: textParts(headers, binary.slice(gap + 4), 0).join("\n"),
    };
  }

  /* The one address of a To header: alone, or behind words or a quoted string and in angle brackets. */
  function recipientOf(value) {
    const address = String.raw`([^\x00-\x20<>"(),:;@\\\[\]]+@[^\x00-\x20<>"(),:;@\\\[\]]+)`;
    const before = String.raw`(?:[^\x00-\x1f<>"(),:;@\\\[\]]*|"(?:[^\x00-\x1f"\\]|\\[ -~])*" ?)`;
    const found = new RegExp(`^(?:${address}|${before}<${address}>)$`).exec(value);
    return found === null ? "" : found[1] ?? found[2];
  }

  function textParts(headers, body, depth) {
    const value = (name) => unfold(headers.find(([other]) => other === name)?.[1] ?? "").trim();
    const type = value("content-type") || "text/plain";
    const kind = type.split(";")[0].trim().toLowerCase();
    if (kind.startsWith("multipart/") && depth < 10) {
      const boundary = /;\s*boundary\s*=\s*(?:"([^"]*)"|([^\s;]+))/i.exec(type);
      if (boundary === null) return [];
      const pieces = `\r\n${body}`.split(`\r\n--${boundary[1] ?? boundary[2]}`).slice(1);
      return pieces.filter((piece) => !piece.startsWith("--")).flatMap((piece) => {
        const inner = piece.slice(piece.indexOf("\r\n") + 2);
        const [head, rest] = inner.startsWith("\r\n") ? ["", inner.slice(2)] : inner.split(/\r\n\r\n([^]*)/, 2);
        const own = head === "" ? [] : head.split(/\r\n(?![ \t])/).map((line) => {
          const colon = line.indexOf(":");
          return [line.slice(0, Math.max(0, colon)).trim().toLowerCase(), line.slice(colon + 1)];
        });
        return textParts(own, rest ?? "", depth + 1);
      });
    }
    return kind === "text/plain" ? [readable(decoded(value("content-transfer-encoding").toLowerCase(), body))] : [];
  }

  function decoded(encoding, body) {
    if (encoding === "base64") {
      try {
        return atob(body.replace(/[^A-Za-z0-9+/=]/g, ""));
      } catch {
        return "";
      }
    }
    if (encoding !== "quoted-printable") return body;
    return body.replace(/[ \t]+(?=\r\n|$)/g, "").replace(/=\r\n/g, "")
      .replace(/=([0-9A-Fa-f]{2})/g, (_, digits) => String.fromCharCode(parseInt(digits, 16)));
  }

  /* Local parts without case, domains as the DNS has them (IDNA). */
  function normalisedAddress(address) {
    const [local, domain] = [address.slice(0, Math.max(0, address.lastIndexOf("@"))), address.slice(address.lastIndexOf("@") + 1)];
    // A URL knows ports, paths, escapes and numbers for hosts; the domain of an address has none of these.
    if (!/^[A-Za-z0-9.\u0080-\uffff-]+$/.test(domain) || /(?:^|\.)(?:0[xX][0-9A-Fa-f]*|[0-9]+)\.?$/.test(domain)) return null;
    // What a URL would map or leave out is another domain than what stands there.
    if (domain.normalize("NFKC") !== domain.normalize("NFC") || /[\p{C}\p{Z}\p{Default_Ignorable_Code_Point}\u3002]/u.test(domain)) return null;
    try {
      const host = new URL(`http://${domain}/`).hostname;
      // A dotless i is another letter than i, and upper case would make them one.
      const folded = local.normalize("NFD").split("\u0131").map((part) => part.toUpperCase().toLowerCase()).join("\u0131");
      return `${folded.normalize("NFC")}@${host}`;
    } catch {
      return null;
    }
  }

  function sameAddress(one, other) {
    const normalised = normalisedAddress(one);
    return normalised !== null && !normalised.startsWith("@") && normalised === normalisedAddress(other);
  }

  function tagList(step, source) {
    const tags = new Map();
    for (const part of source.trim().replace(/;$/, "").split(";")) {
      const equals = part.indexOf("=");
      const name = part.slice(0, Math.max(0, equals)).trim();
      demand(equals >= 0 && !tags.has(name), step, "a DKIM tag list is malformed", "eine DKIM-Tag-Liste ist fehlerhaft");
      tags.set(name, part.slice(equals + 1).replace(/[ \t\n\v\f\r]+/g, ""));
    }
    return tags;
  }

  async function parseDkimKeys(step, raw) {
    const keys = new Map();
    const value = exactly(step, parseJson(step, raw, "dkim-keys.json"), "dkim-keys.json", ["keys"]);
    for (const one of list(step, value.keys, "the DKIM keys", 64)) {
      exactly(step, one, "a DKIM key", ["domain", "record", "selector"]);
      const name = `${string(step, one.domain, "a domain").toLowerCase()} ${string(step, one.selector, "a selector")}`;
      const record = tagList(step, string(step, one.record, "a DKIM key"));
      const unfit = ["a DKIM key is named twice or is no RSA key", "ein DKIM-Schlüssel kommt doppelt vor oder ist kein RSA-Schlüssel"];
      demand(!keys.has(name) && (record.get("v") ?? "DKIM1") === "DKIM1" && (record.get("k") ?? "rsa") === "rsa", step, ...unfit);
      try {
        const der = fromBase64(step, record.get("p") ?? "", "a DKIM key");
        const key = await subtle.importKey("spki", der, { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" }, false, ["verify"]);
        // Of 512 bits anybody finds the private key (RFC 8301 §3.2).
        demand(key.algorithm.modulusLength >= 1024, step, ...unfit);
        keys.set(name, key);
      } catch {
        throw new Refusal(step, ...unfit);
      }
    }
    return keys;
  }

  const relaxedHeader = (name, value) => `${name}:${unfold(value).replace(/[ \t]+/g, " ").replace(/^ +| +$/g, "")}`;

  function relaxedBody(body) {
    const lines = body.split("\r\n").map((line) => line.replace(/[ \t]+/g, " ").replace(/ +$/, ""));
    while (lines.length > 0 && lines[lines.length - 1] === "") lines.pop();
    return lines.map((line) => `${line}\r\n`).join("");
  }

  /* What the mail's one DKIM signature says; null if its key is not among those given. */
  async function verifyDkim(step, mail, keys) {
    const found = mail.headers.filter(([name]) => name === "dkim-signature");
    demand(found.length === 1, step, "the archived mail has not one DKIM signature", "die archivierte E-Mail hat nicht genau eine DKIM-Signatur");
    const value = found[0][1];
    const tags = tagList(step, value);
    const [domain, selector] = [(tags.get("d") ?? "").toLowerCase(), tags.get("s") ?? ""];
    const key = keys.get(`${domain} ${selector}`);
    if (key === undefined) return null;
    demand(tags.get("v") === "1" && tags.get("a") === "rsa-sha256" && tags.get("c") === "relaxed/relaxed" && !tags.has("l"), step,
      "the DKIM signature is not rsa-sha256 over the whole body, relaxed/relaxed",
      "die DKIM-Signatur ist nicht rsa-sha256 über den ganzen Inhalt, relaxed/relaxed");
    demand(toBase64(await sha256(bytesOf(relaxedBody(mail.body)))) === tags.get("bh"), step,
      "the body of the archived mail is not the one that DKIM signed", "der Inhalt der archivierten E-Mail ist nicht der, den DKIM unterschrieb");
    const named = (tags.get("h") ?? "").split(":").map((name) => name.trim().toLowerCase());
    demand(named.includes("from"), step, "the DKIM signature does not cover From", "die DKIM-Signatur deckt From nicht ab");
    const left = mail.headers.map(([name, content]) => [name, content]);
    let signed = "";
    for (const name of named) {
      const last = left.map(([other]) => other).lastIndexOf(name);
      if (last >= 0 && name !== "") signed += `${relaxedHeader(name, left.splice(last, 1)[0][1])}\r\n`;
    }
    const unsigned = value.split(";").map((part) => (/^[ \t\r\n]*b[ \t\r\n]*=/.test(part) ? part.slice(0, part.indexOf("=") + 1) : part));
    signed += relaxedHeader("dkim-signature", unsigned.join(";"));
    const signature = fromBase64(step, tags.get("b") ?? "", "the DKIM signature");
    demand(await subtle.verify("RSASSA-PKCS1-v1_5", key, signature, bytesOf(signed)), step,
      "the DKIM signature does not verify", "die DKIM-Signatur ist falsch");
    return { domain, selector, at: /^[0-9]{1,12}$/.test(tags.get("t") ?? "") ? Number(tags.get("t")) : null };
  }

  // -- tokens signed with a notice key (§18 step 8, §21) ----------------------------------------------------------

  const CLOCKS_APART = 2 * 60 * 1000;

  function parseNoticeKeys(step, raw) {
    const keys = new Map();
    const value = exactly(step, parseJson(step, raw, "notice-keys.json"), "notice-keys.json", ["keys"]);
    for (const one of list(step, value.keys, "the notice keys", 64)) {
      exactly(step, one, "a notice key", ["alg", "crv", "kid", "kty", "use", "x"]);
      const x = fromBase64url(step, one.x, "a notice key");
      demand(one.kty === "OKP" && one.crv === "Ed25519" && one.alg === "EdDSA" && one.use === "sig" && x.length === 32
        && typeof one.kid === "string" && !keys.has(one.kid), step,
      "a notice key is no Ed25519 key for signatures, or named twice", "ein Hinweis-Schlüssel ist keiner oder kommt doppelt vor");
      keys.set(one.kid, x);
    }
    return keys;
  }

  const partOf = (step, encoded) => {
    const what = "a part of a signed token";
    return object(step, parseJson(step, fromBase64url(step, encoded, what), what), what);
  };

  /* The claims of a compact JWS of this type; null if it names a key that is not among these. */
  async function verifyToken(step, keys, token, type) {
    const parts = string(step, token, "a signed token").split(".");
    demand(parts.length === 3, step, "a signed token has not three parts", "ein unterschriebenes Merkmal hat nicht drei Teile");
    const head = partOf(step, parts[0]);
    const key = keys.get(string(step, head.kid, "the key id of a token"));
    if (key === undefined) return null;
    demand(head.alg === "EdDSA" && head.typ === type, step, "a signed token is of another kind", "ein unterschriebenes Merkmal ist von anderer Art");
    const signature = fromBase64url(step, parts[2], "the signature of a token");
    demand(await verifyEd25519(key, signature, utf8(`${parts[0]}.${parts[1]}`)), step,
      "the signature of a token does not verify", "die Unterschrift eines Merkmals ist falsch");
    return partOf(step, parts[1]);
  }

  function holdAgainst(step, claims, one, notice) {
    const data = one.statement.data;
    const refuse = (en, de) => new Refusal(step, `the token of the statement at index ${one.index} ${en}`, `das Merkmal der Aussage mit Index ${one.index} ${de}`);
    const boxes = list(step, claims.purposes, "the boxes of a token", 64).map((box) => object(step, box, "a box"));
    const time = (value) => {
      demand(Number.isInteger(value) && value >= 0 && value < 253402300800, step, "a time in a token is no time", "eine Zeit in einem Merkmal ist keine");
      return value * 1000;
    };
    if (claims.notice !== data.notice?.hash || claims.language !== data.notice?.language) throw refuse("is about another notice", "gilt einem anderen Hinweis");
    if (!boxes.some((box) => box.purpose === data.purpose && box.channel === data.channel)) {
      throw refuse("does not have the box of this purpose", "hat das Kästchen dieses Zwecks nicht");
    }
    if (boxes.some((box) => box.default !== false)) throw refuse("says that a box was ticked in advance", "sagt, dass ein Kästchen vorab angekreuzt war");
    const shown = boxes.map(({ purpose, channel, label }) => ({ purpose, channel, label }));
    if (!equalJson(shown, notice.choices) || claims.button !== notice.button) {
      throw refuse("shows other labels than the notice has", "zeigt andere Worte als der Hinweis");
    }
    const saidAt = Date.parse(one.statement.time);
    if (time(claims.iat) > saidAt + CLOCKS_APART) throw refuse("was issued after the statement", "wurde nach der Aussage ausgestellt");
    const expired = saidAt >= time(claims.exp) + CLOCKS_APART;
    if (one.statement.type !== "ConsentGiven" && expired) throw refuse("had expired", "war abgelaufen");
  }

  // -- the bundle, step by step (§18) -----------------------------------------------------------------------------

  const SINGLE = new Set([
    "manifest.json", "checkpoint.txt", "vkey.txt", "fresh-vkey.txt", "keys.json", "notice-keys.json", "dkim-keys.json",
    "README.txt", "verify.py", "proofs/latest.json",
  ]);
  const NUMBER = "(?:0|[1-9][0-9]{0,19})";
  const DIGEST = "[0-9a-f]{64}";
  const MANY = new RegExp(
    `^(?:statements/${NUMBER}\\.json|records/${NUMBER}\\.jsonld|register/${DIGEST}\\.json|notices/${DIGEST}\\.txt`
    + `|attachments/${DIGEST}|(?:effects|timestamps)/${NUMBER}\\.json|opened/${NUMBER}-(?:evidence\\.json|brief\\.json|attachment-[0-9]\\.(?:eml|bin)))$`,
  );

  const plural = (number, one, many) => `${number} ${number === 1 ? one : many}`;

  class Bundle {
    constructor(data, vkey) {
      this.data = data;
      this.vkey = vkey;
      this.kind = "evidence";
      this.findings = [];
      this.files = new Map();
      this.recorded = [];
      this.opened = new Map();
      this.notices = new Map();
      this.registers = new Map();
      this.served = new Map();
      this.stamps = [];
      this.latestProven = false;
      this.given = [];
      this.uncovered = [];
      this.effective = [];
      this.mails = [];
      this.others = [];
    }

    async verify() {
      await this.step1();
      await this.step2();
      await this.step3();
      this.step4();
      await this.step5();
      await this.step6();
      // What was shown to whom is settled before it is asked how good the evidence is.
      const tokens = await this.step8();
      await this.step7();
      this.found(8, ...tokens);
      await this.step9();
      await this.beside();
    }

    /* What is shown though no step rests on it: the mails of each request, also of one that nobody confirmed, and who
       else signed the checkpoint. What cannot be read is shown as that. */
    async beside() {
      const requests = new Set(this.recorded.filter((one) => one.statement.type === "ConsentRequested").map((one) => one.statement.id));
      const keys = await parseDkimKeys(7, this.file(7, "dkim-keys.json"));
      for (const sent of this.recorded.filter((one) => one.statement.type === "MessageSent")) {
        if (!sent.statement.data.follows?.some((one) => requests.has(one))) continue;
        const name = (sent.statement.data.attachments ?? []).filter((one) => one.media_type === "message/rfc822")
          .map((one) => `${sent.statement.id} ${one.compartment}`).find((one) => this.opened.has(one));
        let mail = null;
        try {
          if (name !== undefined) mail = parseMail(7, this.opened.get(name));
          if (mail !== null) mail = { ...mail, signed: await verifyDkim(7, mail, keys) };
        } catch {
          if (mail !== null) mail = { ...mail, signed: null };
        }
        this.mails.push({ sent, mail });
      }
      for (const line of parseNote(2, this.note).signatures) {
        if (line.name === this.origin || line.name === `${this.origin}/fresh`) continue;
        const seconds = line.signature.length > 8 ? readU64(line.signature, 0) : 0n;
        this.others.push({ name: line.name, at: seconds < 253402300800n ? seconds * 1000n : null });
      }
    }

    found(step, en, de) {
      this.findings.push({ step, en, de });
    }

    file(step, name) {
      demand(this.files.has(name), step, `the file ${name} is missing`, `die Datei ${name} fehlt`);
      return this.files.get(name);
    }

    json(step, name) {
      return parseJson(step, this.file(step, name), name);
    }

    line(step, name) {
      const raw = binaryOf(this.file(step, name));
      demand(/^[\u0000-\u0009\u000b-\u007f]*\n$/.test(raw), step, `the file ${name} is not one line of ASCII`, `die Datei ${name} ist nicht eine Zeile ASCII`);
      return raw.slice(0, -1);
    }

    allUsed(step, folders, used) {
      for (const name of this.files.keys()) {
        demand(used.has(name) || !folders.some((folder) => name.startsWith(folder)), step,
          `the file ${name} belongs to no statement`, `die Datei ${name} gehört zu keiner Aussage`);
      }
    }

    async step1() {
      this.files = unpack(this.data);
      const raw = this.file(1, "manifest.json");
      const manifest = exactly(1, parseJson(1, raw, "the manifest"), "the manifest", [
        "channel", "checkpoint_size", "files", "format", "origin", "purpose", "subject",
      ]);
      demand(same(canonicalJson(manifest), raw), 1, "the manifest is not in its canonical form", "das Inhaltsverzeichnis hat nicht seine kanonische Form");
      demand(manifest.format === "consent-ledger/evidence/1", 1, "the manifest names another format", "das Inhaltsverzeichnis nennt ein anderes Format");
      this.subject = string(1, manifest.subject, "the subject", SUBJECT);
      this.purpose = string(1, manifest.purpose, "the purpose", NAME);
      this.channel = string(1, manifest.channel, "the channel", NAME);
      this.origin = string(1, manifest.origin, "the origin");
      this.size = decimal(1, manifest.checkpoint_size, "the size");
      const named = object(1, manifest.files, "the files of the manifest");
      demand([...Object.keys(named), "manifest.json"].sort().join("\n") === [...this.files.keys()].sort().join("\n"), 1,
        "the manifest does not name exactly the files there are", "das Inhaltsverzeichnis nennt nicht genau die Dateien, die da sind");
      for (const [name, content] of this.files) {
        if (name === "manifest.json") continue;
        demand(string(1, named[name], `the hash of ${name}`, HASH) === hex(await sha256(content)), 1,
          `the file ${name} has another hash than the manifest says`, `die Datei ${name} hat einen anderen Hash als im Inhaltsverzeichnis`);
        demand(SINGLE.has(name) || MANY.test(name), 1, `the file ${name} is none that a bundle has`, `die Datei ${name} gehört in kein Bündel`);
      }
      this.found(1, `the archive is whole: ${this.files.size} files, each with the hash its manifest says`,
        `das Archiv ist unversehrt: ${this.files.size} Dateien, jede mit dem Hash aus dem Inhaltsverzeichnis`);
    }

    async step2() {
      const enclosed = this.line(2, "vkey.txt");
      demand(this.vkey === null || this.vkey === enclosed, 2, "the key you gave is not the one this file names",
        "der angegebene Schlüssel ist nicht der, den diese Datei nennt");
      const note = this.file(2, "checkpoint.txt");
      const checkpoint = await verifyCheckpoint(2, note, enclosed, this.line(2, "fresh-vkey.txt"));
      [this.note, this.fresh] = [note, this.line(2, "fresh-vkey.txt")];
      demand(checkpoint.origin === this.origin && checkpoint.size === this.size, 2,
        "the checkpoint is not the one the manifest names", "der Prüfpunkt ist nicht der aus dem Inhaltsverzeichnis");
      [this.checkpoint, this.signedBy] = [checkpoint, enclosed];
      this.found(2, `the checkpoint of ${this.origin} over ${this.size} entries is signed by the log's key`,
        `der Prüfpunkt von ${this.origin} über ${this.size} Einträge ist vom Schlüssel des Protokolls unterschrieben`);
      const sizeOf = (name) => BigInt(name.slice(11, -5));
      const names = [...this.files.keys()].filter((name) => name.startsWith("timestamps/"));
      names.sort((one, other) => (sizeOf(one) < sizeOf(other) ? -1 : 1));
      demand(names.length <= 64, 2, "there are too many timestamps", "es gibt zu viele Zeitstempel");
      for (const name of names) await this.timestamp(name, sizeOf(name));
    }

    async timestamp(name, size) {
      const said = exactly(2, this.json(2, name), name, ["answer", "hashes", "root"]);
      const [root, hashes] = [hash(2, said.root, `root of ${name}`), parseHashes(2, said.hashes, 65)];
      demand(await beginsWith(size, root, this.size, this.checkpoint.root, hashes), 2,
        `the log does not begin with the tree that ${name} is about`, `das Protokoll beginnt nicht mit dem Baum, um den es in ${name} geht`);
      const at = await stampedAt(fromBase64url(2, said.answer, name), utf8(`${this.origin}\n${size}\n${toBase64(root)}\n`));
      demand(at !== null, 2, `${name} was not granted, or is about something else`, `${name} wurde nicht erteilt oder handelt von etwas anderem`);
      this.stamps.push({ size, at });
      const time = new Date(at).toISOString();
      this.found(2, `the log's first ${size} entries were there at ${time}, by the word of an authority; whose signature that is, this page does not judge`,
        `die ersten ${size} Einträge des Protokolls waren um ${time} da, nach dem Wort einer Stelle; wessen Unterschrift das ist, beurteilt diese Seite nicht`);
    }

    async step3() {
      const names = [...this.files.keys()].filter((name) => name.startsWith("statements/"));
      const indexOf = (name) => BigInt(name.slice(11, -5));
      names.sort((one, other) => (indexOf(one) < indexOf(other) ? -1 : 1));
      demand(names.length > 0, 3, "there are no statements", "es gibt keine Aussagen");
      const read = await Promise.allSettled(names.map(async (name) => {
        const entry = parseEntry(3, name, this.json(3, name));
        demand(entry.index === indexOf(name), 3, `${name} holds another index than its name says`, `${name} hat einen anderen Index als im Namen`);
        const event = await verifyInLog(3, entry, this.checkpoint);
        const where = { en: `the statement at index ${entry.index}`, de: `die Aussage mit Index ${entry.index}` };
        const statement = parseStatement(4, entry.statement, where);
        demand(matterOf(statement) === entry.matter, 4, `${where.en} is about another matter than the one it is filed under`,
          `${where.de} handelt von etwas anderem, als wozu sie abgelegt ist`);
        return { ...entry, pin: hex(entry.pin), raw: entry.statement, event, statement };
      }));
      // The first that fails in the order of the log is the one to name, whichever was done first.
      for (const one of read) {
        if (one.status === "rejected") throw one.reason;
        this.recorded.push(one.value);
      }
      this.found(3, `${plural(names.length, "statement is", "statements are")} in the log, each at its index`,
        `${plural(names.length, "Aussage steht", "Aussagen stehen")} im Protokoll, jede an ihrer Stelle`);
    }

    step4() {
      demand(this.origin.endsWith(`/ledger/log/${this.subject.split(".")[0]}`), 4, "the log is not that of the subject",
        "das Protokoll ist nicht das dieser Kennung");
      const both = `${this.purpose}/${this.channel}`;
      const own = new Set([`purpose:${both}`, `ask:${both}`, `use:${both}`, EVERYTHING]);
      demand(new Set(this.recorded.map((one) => one.pin)).size === 1, 4, "there are two pins for one subject: that is proof of fraud",
        "es gibt zwei Pins zu einer Kennung: das beweist Betrug");
      const ids = new Set();
      let before = 0n;
      for (const one of this.recorded) {
        const { statement, event } = one;
        const refuse = (en, de) => new Refusal(4, `the statement at index ${one.index} ${en}`, `die Aussage mit Index ${one.index} ${de}`);
        if (statement.subject !== this.subject) throw refuse("is about another subject", "betrifft eine andere Kennung");
        if (!own.has(one.matter) && !/^(?:data|request):/.test(one.matter)) throw refuse("is about another purpose", "betrifft einen anderen Zweck");
        if (ids.has(`${statement.source} ${statement.id}`)) throw refuse("is recorded a second time", "ist ein zweites Mal aufgezeichnet");
        if (event.recordedAt < before) throw refuse("was recorded before an earlier one", "wurde vor einer früheren aufgezeichnet");
        if (BigInt(Date.parse(statement.time)) > event.recordedAt + BigInt(CLOCKS_APART)) {
          throw refuse("claims a time after it was recorded", "nennt eine Zeit nach ihrer Aufzeichnung");
        }
        ids.add(`${statement.source} ${statement.id}`);
        before = event.recordedAt;
      }
      this.labels(own);
      this.overtaken();
      this.found(4, `all are of the subject ${this.subject} under one pin; each history has no gap`,
        `alle betreffen die Kennung ${this.subject} unter einem Pin; keine Folge hat eine Lücke`);
      const by = (none, index) => statedBy(this.recorded).map(([name, where]) => `${name || none} (${index} ${where})`).join("; ");
      this.found(4, `stated by, in the statements' own words: ${by("not named", "index")}`,
        `ausgesagt von, nach eigenem Wort der Aussagen: ${by("nicht genannt", "Stelle")}`);
    }

    labels(own) {
      const chains = new Map();
      for (const one of this.recorded) {
        const key = `${one.overtaken ? "overtaken:" : ""}${one.matter}`;
        chains.set(key, [...(chains.get(key) ?? []), one]);
      }
      const labels = new Set(this.recorded.map((one) => one.event.label));
      const single = [...chains.values()].every((chain) => new Set(chain.map((one) => one.event.label)).size === 1);
      demand(labels.size === chains.size && single, 4, "there are two labels for one matter, or one for two: that is proof of fraud",
        "es gibt zwei Marken für eine Sache oder eine für zwei: das beweist Betrug");
      for (const chain of chains.values()) {
        let [version, index] = [0n, -1n];
        for (const { event, matter, index: here } of chain) {
          const follows = event.version === version + 1n;
          demand(event.version > version && (!own.has(matter) || follows), 4, `the history of ${matter} has a gap at index ${here}`,
            `die Folge von ${matter} hat bei Index ${here} eine Lücke`);
          demand(!follows || event.previousPlusOne === index + 1n, 4, `the leaf at index ${here} names another before it`,
            `das Blatt mit Index ${here} nennt ein anderes vor sich`);
          [version, index] = [event.version, here];
        }
      }
    }

    overtaken() {
      const restricted = new Map();
      for (const one of this.recorded) {
        const { type, time } = one.statement;
        const late = isOvertaken(type, time, restricted.get(one.matter), restricted.get(EVERYTHING));
        demand(late === one.overtaken, 4, `the statement at index ${one.index} is not marked rightly as overtaken or not`,
          `die Aussage mit Index ${one.index} ist nicht richtig als überholt oder geltend bezeichnet`);
        if (RESTRICTIVE.has(type) && !(restricted.get(one.matter) > time)) restricted.set(one.matter, time);
      }
    }

    async step5() {
      const keys = new Map();
      for (const one of list(5, this.json(5, "keys.json"), "keys.json", 4096)) {
        exactly(5, one, "a key", ["compartment", "key", "statement"]);
        const name = `${string(5, one.statement, "a key")} ${string(5, one.compartment, "a key")}`;
        demand(!keys.has(name), 5, "keys.json names a compartment twice", "keys.json nennt ein Fach doppelt");
        keys.set(name, fromBase64url(5, one.key, "a key"));
      }
      const used = new Set();
      for (const one of this.recorded) {
        for (const part of await this.compartments(one, used)) {
          const name = `${one.statement.id} ${part.name}`;
          const key = keys.get(name);
          if (key === undefined) continue;
          keys.delete(name);
          demand(part.ciphertext !== undefined, 5, "keys.json has a key to an attachment that is not here",
            "keys.json hat einen Schlüssel zu einer Anlage, die nicht hier ist");
          const content = await openCompartment(5, key, part.keyHash, part.ciphertext, this.subject, part.name, one.statement.id);
          const shown = this.files.get(part.openedAs);
          demand(shown !== undefined && same(shown, content), 5, `the file ${part.openedAs} is missing or is not what the key opens`,
            `die Datei ${part.openedAs} fehlt oder ist nicht, was der Schlüssel öffnet`);
          used.add(part.openedAs);
          this.opened.set(name, content);
        }
      }
      demand(keys.size === 0, 5, "keys.json has a key to a compartment that no statement has",
        "keys.json hat einen Schlüssel zu einem Fach, das keine Aussage hat");
      this.allUsed(5, ["opened/", "attachments/"], used);
      this.found(5, `${plural(this.opened.size, "sealed part", "sealed parts")} opened with the keys that the statements commit to`,
        `${plural(this.opened.size, "versiegelter Teil", "versiegelte Teile")} mit den Schlüsseln geöffnet, auf die sich die Aussagen festlegen`);
    }

    async compartments(one, used) {
      const parts = [];
      for (const [name, sealed] of Object.entries(one.statement.data.sealed ?? {})) {
        object(5, sealed, "a compartment");
        const ciphertext = fromBase64url(5, sealed.ciphertext, "a ciphertext");
        parts.push({ name, ciphertext, keyHash: sealed.key_hash, openedAs: `opened/${one.index}-${name}.json` });
      }
      const seen = new Set();
      for (const attachment of list(5, one.statement.data.attachments ?? [], "attachments", 16)) {
        object(5, attachment, "an attachment");
        const name = string(5, attachment.compartment, "an attachment", /^attachment\/[0-9]$/);
        demand(!seen.has(name), 5, "a statement names one compartment twice", "eine Aussage nennt ein Fach doppelt");
        seen.add(name);
        const file = `attachments/${attachment.hash}`;
        const ciphertext = this.files.get(file);
        if (ciphertext !== undefined) {
          used.add(file);
          demand(hex(await sha256(ciphertext)) === attachment.hash && ciphertext.length === attachment.size, 5,
            `the file ${file} is not the attachment its statement names`, `die Datei ${file} ist nicht die Anlage, die ihre Aussage nennt`);
        }
        const ending = attachment.media_type === "message/rfc822" ? "eml" : "bin";
        parts.push({ name, ciphertext, keyHash: attachment.key_hash, openedAs: `opened/${one.index}-${name.replace("/", "-")}.${ending}` });
      }
      return parts;
    }

    async step6() {
      const used = new Set();
      let records = 0;
      for (const one of this.recorded) {
        const { data, type } = one.statement;
        const version = data.register_version;
        if (!this.registers.has(version)) {
          const name = `register/${version}.json`;
          used.add(name);
          this.registers.set(version, await parseRegister(6, this.file(6, name), version, name));
        }
        const snapshot = this.registers.get(version);
        if (given(data.notice) && !this.notices.has(`${version} ${data.notice.hash}`)) {
          const name = `notices/${data.notice.hash}.txt`;
          used.add(name);
          const raw = this.file(6, name);
          demand(hex(await sha256(raw)) === data.notice.hash, 6, `the file ${name} is not the notice that a statement names`,
            `die Datei ${name} ist nicht der Hinweis, den eine Aussage nennt`);
          this.notices.set(`${version} ${data.notice.hash}`, parseNotice(6, raw, snapshot, data.activity, name));
        }
        if (RECORDED.has(type)) {
          const name = `records/${one.index}.jsonld`;
          used.add(name);
          records += 1;
          verifyRecord(6, this.json(6, name), one.statement, snapshot, name);
        }
      }
      this.allUsed(6, ["register/", "notices/", "records/"], used);
      this.found(6,
        `${plural(this.notices.size, "notice", "notices")} and ${plural(this.registers.size, "register", "registers")} with the hashes that the statements name; ${plural(records, "record", "records")}, each what statement and register say`,
        `${plural(this.notices.size, "Hinweis", "Hinweise")} und ${plural(this.registers.size, "Verzeichnis", "Verzeichnisse")} mit den Hashes, die die Aussagen nennen; ${plural(records, "Nachweis", "Nachweise")}, jeder so, wie Aussage und Verzeichnis es sagen`);
    }

    noticeOf(one) {
      return this.notices.get(`${one.statement.data.register_version} ${one.statement.data.notice?.hash}`);
    }

    async step7() {
      const keys = await parseDkimKeys(7, this.file(7, "dkim-keys.json"));
      for (const one of this.recorded.filter((other) => other.statement.type === "ConsentGiven")) {
        this.given.push(await this.doubleOptIn(one, keys));
      }
      if (this.given.length === 0) this.found(7, "there is no consent, so no double opt-in to check", "es gibt keine Einwilligung, also keine Bestätigung zu prüfen");
    }

    async doubleOptIn(one, keys) {
      const [data, it] = [one.statement.data, { en: `the consent at index ${one.index}`, de: `die Einwilligung mit Index ${one.index}` }];
      const followed = this.recorded.filter((other) => data.follows?.includes(other.statement.id));
      const requests = followed.filter((other) => other.statement.type === "ConsentRequested");
      const mails = followed.filter((other) => other.statement.type === "MessageSent");
      const request = requests.length === 1 ? requests[0] : null;
      let archived = null;
      if (request === null) {
        this.found(7, `the request that ${it.en} answers is not here`, `die Anfrage, auf die ${it.de} antwortet, ist nicht hier`);
      } else {
        this.answers(one, request, it);
        this.found(7, `${it.en} answers the request at index ${request.index}, in time and on the same notice`,
          `${it.de} antwortet auf die Anfrage mit Index ${request.index}, rechtzeitig und zum selben Hinweis`);
        for (const mail of mails) archived = (await this.confirmationMail(request, mail, keys)) ?? archived;
      }
      if (mails.length === 0) {
        this.found(7, `the confirmation mail that ${it.en} answers is not here`, `die Bestätigungs-E-Mail, auf die ${it.de} antwortet, ist nicht hier`);
      }
      const facts = new Set();
      if (data.stage === "proven") facts.add("contact_point_proven");
      if (this.served.has(one.statement.id)) facts.add("served_notice_verified");
      if (request !== null) facts.add("request_recorded");
      if (archived !== null) facts.add("confirmation_mail_archived");
      const grade = gradeOf(this.registers.get(data.register_version), facts);
      this.found(7, `${it.en} has grade ${grade} by the register's rule, computed from these facts`,
        `${it.de} hat nach der Regel des Verzeichnisses die Stufe ${grade}, berechnet aus diesen Tatsachen`);
      const rests = request === null || archived === null;
      if (rests) {
        this.found(7, `of ${it.en}, that the holder of the address gave it is the word of ${one.statement.source} alone: whoever has that source's key could have said it`,
          `von ${it.de} sagt allein ${one.statement.source}, dass sie von der Person kam, der die Adresse gehört: wer den Schlüssel dieser Quelle hat, hätte es sagen können`);
      }
      return { one, request, mails, mail: archived, grade, rests };
    }

    answers(one, request, it) {
      const [said, asked] = [one.statement.data, request.statement.data];
      demand(said.purpose === asked.purpose && said.channel === asked.channel && said.activity === asked.activity, 7,
        `${it.en} answers a request for another purpose`, `${it.de} antwortet auf eine Anfrage zu einem anderen Zweck`);
      demand(equalJson(said.notice, asked.notice) && equalJson(said.served ?? null, asked.served ?? null), 7,
        `${it.en} names another notice than the request it answers`, `${it.de} nennt einen anderen Hinweis als die Anfrage`);
      milliseconds(7, asked.expires_at, "expires_at");
      demand(request.statement.time <= one.statement.time && one.statement.time < asked.expires_at, 7,
        `${it.en} was not given in the time the request allowed`, `${it.de} kam nicht in der Frist der Anfrage`);
    }

    /* The archived mail if it is shown to have carried the token to the address that was typed, else null. */
    async confirmationMail(request, sent, keys) {
      const where = { en: `the mail at index ${sent.index}`, de: `die E-Mail mit Index ${sent.index}` };
      demand(sent.statement.data.follows?.includes(request.statement.id), 7, `${where.en} does not follow the request that the consent answers`,
        `${where.de} folgt nicht der Anfrage, auf die die Einwilligung antwortet`);
      const evidence = this.opened.get(`${request.statement.id} evidence`);
      const name = (sent.statement.data.attachments ?? []).filter((one) => one.media_type === "message/rfc822")
        .map((one) => `${sent.statement.id} ${one.compartment}`).find((one) => this.opened.has(one));
      if (evidence === undefined || name === undefined) {
        this.found(7, `${where.en} was sent; its words or the address are not opened here`, `${where.de} ging ab; ihr Wortlaut oder die Adresse ist hier nicht geöffnet`);
        return null;
      }
      const typed = string(7, object(7, parseJson(7, evidence, "the evidence of the request"), "the evidence of the request").address, "the address typed");
      const mail = parseMail(7, this.opened.get(name));
      demand(sameAddress(mail.recipient, typed), 7, `${where.en} went to another address than the one that was typed`,
        `${where.de} ging an eine andere Adresse als die eingegebene`);
      demand(mail.only("message-id") === sent.statement.data.message_id, 7, `${where.en} has another Message-ID than its statement`,
        `${where.de} hat eine andere Message-ID als ihre Aussage`);
      const tokens = await Promise.all([...mail.text.matchAll(/\/confirm\/([A-Za-z0-9_-]{22,512})/g)].map(async (one) => hex(await sha256(utf8(one[1])))));
      demand(tokens.includes(request.statement.data.token_hash), 7, `${where.en} does not carry the token of the request`,
        `${where.de} trägt nicht das Merkmal der Anfrage`);
      const signed = await verifyDkim(7, mail, keys);
      const dkim = signed === null
        ? ["the key of its DKIM signature is not here", "der Schlüssel ihrer DKIM-Signatur ist nicht hier"]
        : [`DKIM: signed by ${signed.domain} (compare with selector ${signed.selector} of that domain's DNS)`,
          `DKIM: unterschrieben von ${signed.domain} (mit Selektor ${signed.selector} im DNS dieser Domain vergleichen)`];
      this.found(7, `${where.en} went to the address that was typed and carried the request's token; ${dkim[0]}`,
        `${where.de} ging an die eingegebene Adresse und trug das Merkmal der Anfrage; ${dkim[1]}`);
      return { ...mail, signed };
    }

    async step8() {
      const keys = parseNoticeKeys(8, this.file(8, "notice-keys.json"));
      let unproven = 0;
      for (const one of this.recorded) {
        const echoed = one.statement.data.served;
        if (!given(echoed) || echoed.verified !== true) continue;
        const claims = await verifyToken(8, keys, echoed.token, "consent-ledger-served-notice+jwt");
        if (claims === null) {
          unproven += 1;
          continue;
        }
        holdAgainst(8, claims, one, this.noticeOf(one));
        this.served.set(one.statement.id, claims);
      }
      const missing = unproven === 0 ? ["", ""] : [`; the key of ${unproven} more is not here, so they do not count`, `; der Schlüssel von ${unproven} weiteren ist nicht hier, sie zählen nicht`];
      return [
        `${plural(this.served.size, "statement", "statements")} with a token that the notice keys signed, and that shows the notice and no box ticked${missing[0]}`,
        `${plural(this.served.size, "Aussage", "Aussagen")} mit einem Merkmal, das die Hinweis-Schlüssel unterschrieben haben und das den Hinweis ohne angekreuztes Kästchen zeigt${missing[1]}`,
      ];
    }

    async step9() {
      const now = standing(this.recorded);
      const word = now.get(`purpose:${this.purpose}/${this.channel}`);
      this.holds = permits(now, this.purpose, this.channel);
      this.state = this.holds ? "holds" : word === undefined ? "none" : "ended";
      this.found(9, ...{
        holds: ["by the statements here, consent holds", "nach den Aussagen hier gilt die Einwilligung"],
        none: ["by the statements here, no consent was given", "nach den Aussagen hier wurde keine Einwilligung erteilt"],
        ended: ["by the statements here, consent does not hold (any more)", "nach den Aussagen hier gilt die Einwilligung nicht (mehr)"],
      }[this.state]);
      await this.latest();
      this.effects();
      for (const one of this.recorded.filter((other) => other.statement.type === "ConsentUsed")) {
        const size = decimal(9, one.statement.data.permit?.size, "the size of a permit");
        if (!permits(standing(this.recorded, size), this.purpose, this.channel)) {
          this.uncovered.push(one.index);
          this.found(9, `the use at index ${one.index} relied on no consent in force when its permit was issued`,
            `die Nutzung mit Index ${one.index} stützte sich auf keine Einwilligung, die bei ihrer Erlaubnis galt`);
        }
      }
    }

    /* Whether the log has a later word than this bundle, by its state map (§22). */
    async latest() {
      if (!this.files.has("proofs/latest.json")) {
        this.found(9, "that the log holds no later word is not proven by this file", "dass das Protokoll kein späteres Wort enthält, beweist diese Datei nicht");
        return;
      }
      const proof = new LatestWord(9, this.file(9, "proofs/latest.json"), this.signedBy);
      await proof.verify();
      const about = [proof.subject, proof.purpose, proof.channel, proof.fresh, binaryOf(proof.note)];
      const own = [this.subject, this.purpose, this.channel, this.fresh, binaryOf(this.note)];
      demand(about.every((one, at) => one === own[at]), 9, "the proof of the latest word is about something else, or under another checkpoint",
        "der Beweis des letzten Wortes handelt von etwas anderem oder steht unter einem anderen Prüfpunkt");
      for (const [matter, { label, said }] of proof.words) {
        const mine = this.recorded.filter((one) => one.matter === matter && !one.overtaken);
        // An ERASURE is a later word too, and no entry of a bundle: what it ended must not look as if it never was.
        const newest = said?.index;
        demand(mine.at(-1)?.index === newest && mine.every((one) => one.event.label === label), 9,
          `the latest word on ${matter} is another than the one here`, `das letzte Wort zu ${matter} ist ein anderes als das hier`);
      }
      this.latestProven = true;
      this.found(9, "the log holds no later word at this size: by its state map, proven in this file",
        "das Protokoll enthält bei dieser Größe kein späteres Wort: nach seiner Zustandskarte, in dieser Datei bewiesen");
    }

    /* What the operator's systems noted of when a withdrawal took effect; nothing proves it. */
    effects() {
      const restrictive = new Map(this.recorded.filter((one) => RESTRICTIVE.has(one.statement.type)).map((one) => [String(one.index), one.statement.id]));
      for (const name of [...this.files.keys()].filter((one) => one.startsWith("effects/"))) {
        const index = name.slice(8, -5);
        const noted = exactly(9, this.json(9, name), name, ["statement", "systems"]);
        demand(noted.statement === restrictive.get(index), 9, `the file ${name} is about no withdrawal here`, `die Datei ${name} betrifft keinen Widerruf hier`);
        for (const system of list(9, noted.systems, "systems", 64)) {
          exactly(9, system, "a system", ["applied_at", "in_transmission", "system"]);
          const [where, when] = [string(9, system.system, "a system", NAME), system.applied_at];
          milliseconds(9, when, "a time");
          list(9, system.in_transmission, "messages", 4096).forEach((one) => string(9, one, "a message", /^[!-~]{1,200}$/));
          this.effective.push({ index, system: where, appliedAt: when, inTransmission: system.in_transmission });
          this.found(9, `by the operator's word, the withdrawal at index ${index} took effect in ${where} at ${when}`,
            `nach Angabe des Betreibers wirkte der Widerruf mit Index ${index} in ${where} um ${when}`);
        }
      }
    }
  }

  function gradeOf(snapshot, facts) {
    const refuse = () => new Refusal(7, "the grade rule of the register is none we know", "die Stufenregel des Verzeichnisses ist keine bekannte");
    try {
      const grades = at(snapshot, "files", "grades.toml");
      const rule = at(grades, "rules").find((one) => one.version === at(grades, "current"));
      if (typeof rule.version !== "number") throw refuse();
      const needs = at(rule, "grades").map((one) => [at(one, "grade"), at(one, "needs")]);
      if (needs.some(([letter]) => !/^[A-D]$/.test(letter)) || needs.every(([, need]) => need.length > 0)) throw refuse();
      return needs.find(([, need]) => need.every((one) => facts.has(one)))[0];
    } catch {
      throw refuse();
    }
  }

  // -- the receipt (§17) ------------------------------------------------------------------------------------------

  function parseProof(step, raw) {
    const source = text(step, raw, "the proof");
    const gap = source.indexOf("\n\n");
    demand(gap >= 0 && source.length <= 300000, step, "the proof has no empty line before a checkpoint", "der Beweis hat keine Leerzeile vor dem Prüfpunkt");
    const lines = source.slice(0, gap).split("\n");
    const refuse = () => new Refusal(step, "the proof is malformed", "der Beweis ist fehlerhaft");
    if (lines.shift() !== "c2sp.org/tlog-proof@v1") throw refuse();
    const index = lines.shift();
    if (!index?.startsWith("index ") || lines.length > 64) throw refuse();
    const hashes = lines.map((line) => fromBase64(step, line, "a hash"));
    if (hashes.some((one) => one.length !== 32)) throw refuse();
    return { index: decimal(step, index.slice(6), "the index"), hashes, note: utf8(source.slice(gap + 2)) };
  }

  class Receipt {
    constructor(data, vkey) {
      this.data = data;
      this.vkey = vkey;
      this.kind = "receipt";
      this.findings = [];
    }

    found(step, en, de) {
      this.findings.push({ step, en, de });
    }

    async verify() {
      demand(this.data.length <= 4 * 1024 * 1024, 1, "the receipt is too long", "die Quittung ist zu lang");
      const said = exactly(1, parseJson(1, this.data, "the receipt"), "the receipt", [
        "format", "fresh_vkey", "index", "leaf", "opening", "origin", "pin", "proof", "record", "register", "shard",
        "statement", "vkey",
      ]);
      demand(said.format === "consent-ledger/receipt/1", 1, "the receipt names another format", "die Quittung nennt ein anderes Format");
      const vkey = string(2, said.vkey, "the verifier key");
      demand(this.vkey === null || this.vkey === vkey, 2, "the key you gave is not the one this receipt names", "der angegebene Schlüssel ist nicht der, den diese Quittung nennt");
      const proof = parseProof(2, utf8(string(2, said.proof, "the proof")));
      this.checkpoint = await verifyCheckpoint(2, proof.note, vkey, string(2, said.fresh_vkey, "the fresh key"));
      demand(this.checkpoint.origin === said.origin, 2, "the checkpoint is of another log", "der Prüfpunkt ist von einem anderen Protokoll");
      this.signedBy = vkey;
      this.found(2, `the checkpoint of ${said.origin} over ${this.checkpoint.size} entries is signed by the log's key`,
        `der Prüfpunkt von ${said.origin} über ${this.checkpoint.size} Einträge ist vom Schlüssel des Protokolls unterschrieben`);
      demand(decimal(3, said.index, "the index") === proof.index, 3, "the index is not that of the proof", "der Index ist nicht der des Beweises");
      const entry = {
        index: proof.index,
        leaf: fromBase64url(3, said.leaf, "the leaf"),
        statement: fromBase64url(3, said.statement, "the statement"),
        pin: hash(3, said.pin, "the pin"),
        opening: hash(3, said.opening, "the opening"),
        hashes: proof.hashes,
      };
      this.event = await verifyInLog(3, entry, this.checkpoint);
      this.index = entry.index;
      this.found(3, `the statement is in the log at index ${entry.index}`, `die Aussage steht im Protokoll an Stelle ${entry.index}`);
      this.statement = parseStatement(4, entry.statement, { en: "the statement", de: "die Aussage" });
      const shard = this.statement.subject.split(".")[0];
      demand(String(said.shard) === shard && typeof said.shard === "number" && said.origin.endsWith(`/ledger/log/${shard}`), 4,
        "the log is not that of the subject", "das Protokoll ist nicht das dieser Kennung");
      const { software } = this.statement.data;
      this.found(4, `it is ${this.statement.type} ${this.statement.id} of ${this.statement.time}${software ? `, stated by ${software}, as it says itself` : ""}`,
        `sie ist ${this.statement.type} ${this.statement.id} vom ${this.statement.time}${software ? `, nach eigenem Wort ausgesagt von ${software}` : ""}`);
      const snapshot = await parseRegister(6, utf8(string(6, said.register, "the register")), this.statement.data.register_version, "the register");
      verifyRecord(6, said.record, this.statement, snapshot, "the record");
      this.found(6, "the record is what the statement and the register it names say", "der Nachweis ist, was Aussage und Verzeichnis sagen");
    }
  }

  /* What a file shows: `valid`, the findings of its steps, and why not. `vkey` is the key to hold it against, or null
     to check everything under the key that it brings along: whose that is remains to be asked. */
  async function verify(kind, data, vkey = null) {
    const checked = new { evidence: Bundle, receipt: Receipt }[kind](data, vkey);
    checked.refusal = null;
    try {
      await checked.verify();
    } catch (error) {
      // Nothing we know of ends here but a Refusal; whatever else does was caused by the file.
      checked.refusal = error instanceof Refusal
        ? error
        : new Refusal("unexpected", `the file cannot be understood (${error.name})`, `die Datei ist nicht zu verstehen (${error.name})`);
    }
    checked.valid = checked.refusal === null;
    return checked;
  }

  return {
    verify,
    statedBy,
    /* Web Crypto is there only on pages of https, localhost and file. */
    able: () => subtle !== undefined,
    fromBase64: (encoded) => fromBase64(1, encoded, "the enclosed file"),
    ed25519: { verify: verifyEd25519, byHand: verifyEd25519ByHand, isNative: () => ed25519.native },
    pack,
  };
})();
globalThis.ConsentLedger = ConsentLedger;
