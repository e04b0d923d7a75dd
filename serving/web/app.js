// The page at /: asks the service as any client does, and shows what it says. Whatever comes from the service or a person is
// set as text, never as HTML.

const FIGURES_EVERY_MS = 3000;
const HISTORY_SHOWN = 30;
const LOOK_AGAIN_MS = 250;
const GIVE_UP_MS = 10000;
const ACTS = [["click", "Click"], ["cart", "Add to cart"], ["purchase", "Buy"], ["dislike", "Dislike"]];

const at = (id) => document.getElementById(id);
const random = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
const session = remembered("pagewise-session", () => `web-${random()}`);

// What is on the screen: `pages` of one list, and of each item's facts what was asked for.
const state = { user: null, pages: [], cursor: null, asked: 0, facts: new Map(), acted: new Map() };

function remembered(name, make) {
  const value = sessionStorage.getItem(name) ?? make();
  sessionStorage.setItem(name, value);
  return value;
}

/** Make an element: attributes, listeners (`onclick`), children as elements or text. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Ask the service; an answer that is no success becomes an Error that says what the service said. */
async function ask(path, body) {
  const key = sessionStorage.getItem("pagewise-key");
  const headers = { ...(key && { "X-API-Key": key }), ...(body && { "Content-Type": "application/json" }) };
  let answer;
  try {
    answer = await fetch(path, { headers, ...(body && { method: "POST", body: JSON.stringify(body) }) });
  } catch (error) {
    throw new Error(`The service cannot be reached (${error.message}).`);
  }
  const text = await answer.text();
  if (answer.ok) return answer.headers.get("Content-Type").startsWith("application/json") ? JSON.parse(text) : text;
  if (answer.status === 401) at("access").hidden = false;
  const again = answer.headers.get("Retry-After");
  throw new Error(`${answer.status} ${said(text)}${again ? ` Ask again in ${again} s.` : ""}`);
}

function said(text) {
  try {
    const { error, detail } = JSON.parse(text);
    return `${error}: ${detail}.`;
  } catch {
    return text.slice(0, 200);
  }
}

const tell = (text) => { at("status").textContent = text; };

function complain(error) {
  at("problem").textContent = error ? error.message : "";
  at("problem").hidden = !error;
}

/** Run something that may fail, and say so where it does. */
async function attempt(work) {
  complain(null);
  try {
    return await work();
  } catch (error) {
    complain(error);
    return null;
  }
}

// ---- what is asked for

function filters() {
  const chosen = {};
  for (const name of ["category", "brand"]) if (at(name).value.trim()) chosen[name] = at(name).value.trim();
  for (const name of ["min_price", "max_price"]) if (at(name).value !== "") chosen[name] = Number(at(name).value);
  return Object.keys(chosen).length ? { filters: chosen } : {};
}

async function choose(user) {
  state.user = user;
  state.acted.clear();
  at("user").value = user;
  history.replaceState(null, "", `?user=${encodeURIComponent(user)}`);
  tell(`Asking for a page for ${user}…`);
  await attempt(async () => {
    const [page] = await Promise.all([firstPage(), showHistory()]);
    if (page) tell(`A page of ${page.items.length} items for ${user}.`);
  });
}

/** Ask for the first page of a new list, and show what changed against the one on the screen. */
async function firstPage(before = null) {
  const size = at("page_size").value ? { page_size: Number(at("page_size").value) } : {};
  return loadPage({ user_id: state.user, ...size, ...filters() }, (page) => {
    state.pages = [page];
    at("items").replaceChildren();
    showPage(page, before);
  });
}

async function nextPage() {
  await attempt(async () => {
    const page = await loadPage({ user_id: state.user, cursor: state.cursor }, (made) => {
      state.pages.push(made);
      showPage(made, null);
    });
    if (page) {
      tell(`${page.items.length} more items.`);
      at("items").querySelector(`[data-request="${page.request_id}"] button`)?.focus();
    }
  });
}

/** Ask for a page and show it, unless another one was asked for in the meantime. */
async function loadPage(request, show) {
  const mine = ++state.asked;
  at("page").setAttribute("aria-busy", "true");
  try {
    const page = await ask("/v1/recommend?explain=true", request);
    await learnFacts(page.items.map((item) => item.item_id));
    if (mine !== state.asked) return null;
    state.cursor = page.next_cursor;
    show(page);
    return page;
  } finally {
    if (mine === state.asked) at("page").setAttribute("aria-busy", "false");
  }
}

async function learnFacts(ids) {
  const wanted = [...new Set(ids)].filter((id) => !state.facts.has(id));
  if (!wanted.length) return;
  const query = wanted.map((id) => `id=${encodeURIComponent(id)}`).join("&");
  for (const item of (await ask(`/v1/items?${query}`)).items) state.facts.set(item.item_id, item);
  const all = [...state.facts.values()];
  options("categories", all.flatMap((item) => item.category));
  options("brands", all.map((item) => item.brand).filter(Boolean));
}

const options = (id, values) =>
  at(id).replaceChildren(...[...new Set(values)].sort().map((value) => element("option", { value })));

// ---- the page of recommendations

function showPage(page, before) {
  const places = before && new Map(before.items.map((item, place) => [item.item_id, place]));
  const most = Math.max(...page.items.flatMap((item) => Object.values(item.parts ?? {})), Number.MIN_VALUE);
  at("items").append(...page.items.map((item, place) => card(page, item, place, places, most)));
  const notes = [`release ${page.release}`, page.delta ? `delta ${page.delta}` : "", `arm ${page.arm}`, `policy ${page.policy}`];
  if (page.fallback) notes.push(`fallback: ${page.fallback}`);
  if (page.reason) notes.push(page.reason);
  at("about").textContent = notes.filter(Boolean).join(" · ");
  at("more").hidden = !state.cursor;
}

function card(page, item, place, places, most) {
  const facts = state.facts.get(item.item_id) ?? {};
  const change = places && changeOf(item.item_id, place, places);
  const title = facts.title ?? item.item_id;
  const price = facts.price === null || facts.price === undefined ? "" : `price ${facts.price}`;
  const about = [(facts.category ?? []).join(" › "), facts.brand, price, item.item_id].filter(Boolean).join(" · ");
  const acts = ACTS.map(([kind, label]) =>
    element("button", { type: "button", "aria-label": `${label}: ${title}`, "data-act": kind, onclick: () => act(page, item, place, kind) }, label));
  return element("li", { "data-item": item.item_id, "data-request": page.request_id, class: change ? "fresh" : "" },
    element("h3", {}, `${place + 1 + shownBefore(page)}. ${title} `, change && element("span", { class: "mark" }, change)),
    element("span", { class: "quiet" }, about),
    element("span", { class: "quiet" }, `from ${item.source}, score ${short(item.score)}`),
    parts(item.parts, most),
    element("div", { class: "acts" }, ...acts, did(item.item_id)));
}

const shownBefore = (page) =>
  state.pages.slice(0, state.pages.indexOf(page)).reduce((sum, earlier) => sum + earlier.items.length, 0);

function changeOf(id, place, places) {
  if (!places.has(id)) return "new";
  const up = places.get(id) - place;
  return up === 0 ? null : up > 0 ? `up ${up}` : `down ${-up}`;
}

function parts(shares, most) {
  if (!shares) return null;
  const rows = Object.entries(shares).sort((a, b) => b[1] - a[1]).flatMap(([name, share]) => [
    element("span", {}, name),
    element("meter", { min: 0, max: most, value: Math.max(0, share), "aria-label": `share of ${name}` }),
    element("span", {}, short(share)),
  ]);
  return element("div", { class: "parts" }, ...rows);
}

const did = (id) => (state.acted.has(id) ? element("span", { class: "done" }, `you: ${[...state.acted.get(id)].join(", ")}`) : null);
const short = (number) => (number === 0 ? "0" : Number(number.toPrecision(3)).toString());

// ---- what a person does with an item

async function act(page, item, place, kind) {
  const user = state.user;
  const buttons = document.querySelectorAll("#items button");
  buttons.forEach((button) => { button.disabled = true; });
  const began = Date.now();
  const price = state.facts.get(item.item_id)?.price;
  const event = {
    event_id: `${session}-${random()}`, user_id: user, item_id: item.item_id, event: kind, timestamp: began,
    request_id: page.request_id, session_id: session, position: place,
    ...(kind === "purchase" && typeof price === "number" && { value: price }),
  };
  await attempt(async () => {
    const before = (await known(user)).position;
    await ask("/v1/events", event);
    state.acted.set(item.item_id, (state.acted.get(item.item_id) ?? new Set()).add(kind));
    tell(`The ${kind} is on the stream; waiting until it is in the history…`);
    const found = await readable(user, item.item_id, before);
    if (user !== state.user) return;
    await showHistory();
    if (found) await changed(began, kind);
    else tell(`The ${kind} was accepted, but is not in the history after ${GIVE_UP_MS / 1000} s: does \`pagewise stream\` run?`);
  });
  document.querySelectorAll("#items button").forEach((button) => { button.disabled = false; });
  (document.querySelector(`#items [data-item="${CSS.escape(item.item_id)}"] [data-act="${kind}"]`) ?? at("page-heading")).focus();
}

const known = (user) => ask(`/v1/users/${encodeURIComponent(user)}?limit=${HISTORY_SHOWN}`);

/** Wait until the stream has folded an event into the user's history. */
async function readable(user, item, before) {
  for (const end = Date.now() + GIVE_UP_MS; Date.now() < end;) {
    const now = await known(user);
    if (now.position > before && now.history.some((entry) => entry.item_id === item)) return true;
    await new Promise((resolve) => { setTimeout(resolve, LOOK_AGAIN_MS); });
  }
  return false;
}

async function changed(began, kind) {
  const seconds = ((Date.now() - began) / 1000).toFixed(1);
  const old = state.pages[0];
  const page = await firstPage(old);
  if (!page) return;
  const had = old.items.map((item) => item.item_id);
  const fresh = page.items.filter((item) => !had.includes(item.item_id)).length;
  const moved = page.items.filter((item, place) => had.includes(item.item_id) && had[place] !== item.item_id).length;
  const what = fresh || moved ? `the page changed: ${fresh} new, ${moved} moved` : "the page stays as it was";
  tell(`The ${kind} was in the history after ${seconds} s; ${what}.`);
}

// ---- history

async function showHistory() {
  const user = state.user;
  const found = await known(user);
  if (user !== state.user) return;
  at("history").replaceChildren(...found.history.map((entry) => element("li", {},
    `${entry.event} · ${entry.title ?? entry.item_id} `,
    element("span", { class: "quiet" }, `${entry.item_id} · ${new Date(entry.timestamp).toISOString().slice(0, 19).replace("T", " ")}`))));
  at("freshness").textContent = found.history.length
    ? `Newest of ${found.history.length} shown: ${age(found.age_s)} ago.`
    : found.known ? "No events, but features or attributes." : "Nothing is known of this user: the page is the popular list.";
}

function age(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const [name, size] = units.find(([, unit]) => seconds >= unit) ?? ["s", 1];
  return `${(seconds / size).toFixed(size === 1 ? 0 : 1)} ${name}`;
}

// ---- live figures

/** Read Prometheus's text format: name -> [{labels, value}]. */
function metrics(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const match = /^(\w+)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!match || line.startsWith("#")) continue;
    const labels = Object.fromEntries([...(match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map((pair) => [pair[1], pair[2]]));
    found.set(match[1], [...(found.get(match[1]) ?? []), { labels, value: Number(match[3].replace("Inf", "Infinity")) }]);
  }
  return found;
}

const total = (found, name, keep = () => true) =>
  (found.get(`pagewise_${name}`) ?? []).filter(({ labels }) => keep(labels)).reduce((sum, { value }) => sum + value, 0);

/** The upper edge of the bucket that holds a share of all answers to /v1/recommend, in milliseconds. */
function quantile(found, share) {
  const buckets = (found.get("pagewise_request_seconds_bucket") ?? [])
    .filter(({ labels }) => labels.route === "/v1/recommend")
    .map(({ labels, value }) => [Number(labels.le.replace("Inf", "Infinity")), value])
    .sort((a, b) => a[0] - b[0]);
  const all = buckets.at(-1)?.[1] ?? 0;
  if (!all) return "none yet";
  const edge = buckets.find(([, count]) => count >= share * all)[0];
  return edge === Infinity ? `over ${buckets.at(-2)[0] * 1000} ms` : `up to ${edge * 1000} ms`;
}

function figures(found, running) {
  const pages = total(found, "pages_total");
  const fallbacks = total(found, "pages_total", (labels) => labels.fallback !== "none");
  const newest = running.store_newest_event_time;
  return [
    ["Requests since the start", total(found, "requests_total")],
    ["Answers of status 500 and more", total(found, "requests_total", (labels) => labels.status >= "500")],
    ["Half of the pages took", quantile(found, 0.5)],
    ["99 % of the pages took", quantile(found, 0.99)],
    ["Pages served", pages],
    ["Fallback rate", pages ? `${((100 * fallbacks) / pages).toFixed(1)} %` : "none yet"],
    ["Events accepted", total(found, "events_total", (labels) => labels.verdict === "accepted")],
    ["Events rejected", total(found, "events_total", (labels) => labels.verdict === "rejected")],
    ["Newest event in the store", newest ? `${age(Math.max(0, (Date.now() - newest) / 1000))} ago` : "not known"],
  ];
}

async function showFigures() {
  try {
    const [text, running] = await Promise.all([ask("/metrics"), ask("/version")]);
    at("figures").replaceChildren(...figures(metrics(text), running).flatMap(([name, value]) => [
      element("dt", {}, name), element("dd", {}, String(value))]));
    const experiment = running.challenger ? ` · challenger ${running.challenger} for ${100 * running.challenger_share} %` : "";
    const delta = running.delta ? ` · delta ${running.delta}` : "";
    at("serving").textContent =
      `release ${running.release}${delta} · ${running.items} items · ${running.retrievers.join(", ")}${experiment}`;
  } catch (error) {
    at("serving").textContent = error.message;
  }
}

async function keepFigures() {
  if (!document.hidden) await showFigures();
  setTimeout(keepFigures, FIGURES_EVERY_MS);
}

// ---- start

async function offerUsers() {
  const { users } = await ask("/v1/users?limit=8");
  at("examples").hidden = !users.length;
  at("examples").querySelector("span").replaceChildren(...users.map((user) =>
    element("button", { type: "button", onclick: () => choose(user) }, user)));
  options("users", users);
}

function start() {
  const wanted = new URLSearchParams(location.search).get("user");
  if (wanted) choose(wanted);
  attempt(offerUsers);
  keepFigures();
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  choose(at("user").value.trim());
});
at("access").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("pagewise-key", at("key").value.trim());
  location.reload();
});
at("more").addEventListener("click", nextPage);
start();
