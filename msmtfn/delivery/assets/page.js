"use strict";
// What calls say reaches the page as text nodes only; nothing is parsed as markup and no attribute comes from a call but
// the address of its recording, which was built when the page was made.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const calls = data.calls;
  const PER_PAGE = 50;
  const SIDES = ["words", "sound", "both"];
  const FACTS = ["talk", "monologue", "delay", "interruptions", "silence", "turns"];
  const $ = (id) => document.getElementById(id);
  const at = (column, row) => (column.at[row] < 0 ? null : column.names[column.at[row]]);
  const state = { language: data.language, search: "", domain: "", agent: "", intents: new Set(), one: true, sort: "rank", reversed: false, page: 0, open: null, playing: null };
  let shown = [];
  let stopAt = null;

  // Words

  const say = (key, values = {}) => {
    const words = data.words[state.language];
    const text = (values.n === 1 && words[key + "_one"]) || words[key] || key.slice(key.lastIndexOf(".") + 1);
    return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? (typeof values[name] === "number" ? values[name].toLocaleString("en") : values[name]) : whole));
  };
  const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
  const percent = (share) => `${Math.round(100 * share)} %`;
  const points = (change) => (Math.abs(change) < 1 ? Math.abs(change).toFixed(1) : Math.abs(change).toFixed(0));
  const signed = (change) => say(change >= 0 ? "evidence.plus" : "evidence.minus", { points: points(change) });

  // Elements

  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "onclick") element.addEventListener("click", value);
      else if (value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return element;
  };
  const draw = (name, width, label, ...shapes) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("class", name);
    svg.setAttribute("viewBox", `0 0 ${width} 10`);
    svg.setAttribute("preserveAspectRatio", "none");
    if (label) { svg.setAttribute("role", "img"); svg.setAttribute("aria-label", label); } else svg.setAttribute("aria-hidden", "true");
    for (const [kind, x, y, wide, high, strength] of shapes) {
      const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      for (const [key, value] of Object.entries({ class: kind, x, y, width: wide, height: high, rx: 1, "fill-opacity": strength ?? 1 })) rect.setAttribute(key, value);
      svg.append(rect);
    }
    return svg;
  };
  const text = (value) => make("bdi", {}, value === null ? "–" : String(value));

  // Customers

  const nameOf = (row) => calls.customer[row] ?? calls.call[row];
  const callsOf = new Map();
  const isFirst = calls.call.map((_, row) => {
    const customer = calls.customer[row];
    if (customer === null) return true;
    if (!callsOf.has(customer)) callsOf.set(customer, []);
    return callsOf.get(customer).push(row) === 1;
  });
  const othersOf = (row) => (callsOf.get(calls.customer[row]) ?? []).filter((other) => other !== row);

  // Filters and order

  const haystack = calls.call.map((call, row) => [call, calls.customer[row], at(calls.agent, row)].join("\n").toLowerCase());
  const isWanted = (row) =>
    (!state.search || haystack[row].includes(state.search)) &&
    (!state.domain || at(calls.domain, row) === state.domain) &&
    (!state.agent || at(calls.agent, row) === state.agent) &&
    (!state.intents.size || state.intents.has(at(calls.intent, row)));
  const KEYS = {
    rank: (row) => calls.rank[row], score: (row) => -(calls.score[row] ?? -1), customer: nameOf, agent: (row) => at(calls.agent, row),
    domain: (row) => at(calls.domain, row), intent: (row) => at(calls.intent, row), seconds: (row) => calls.seconds[row], started: (row) => calls.started[row],
  };
  const names = new Intl.Collator(undefined, { numeric: true });
  const compare = (a, b) => (a === b ? 0 : a === null ? 1 : b === null ? -1 : typeof a === "string" ? names.compare(a, b) : a - b);

  const select = () => {
    const seen = new Set();
    const rows = [];
    for (let row = 0; row < calls.call.length; row += 1) {
      if (!isWanted(row)) continue;
      const customer = calls.customer[row];
      if (state.one && customer !== null) {
        if (seen.has(customer)) continue;
        seen.add(customer);
      }
      rows.push(row);
    }
    const key = KEYS[state.sort];
    const sign = state.reversed ? -1 : 1;
    rows.sort((a, b) => sign * compare(key(a), key(b)) || calls.rank[a] - calls.rank[b]);
    shown = rows;
  };

  // Player

  const audio = $("audio");
  const urlOf = (row) => (audio && calls.url[row] !== null ? data.url_start + calls.url[row] : null);
  const play = (row, moment) => {
    const url = urlOf(row);
    if (url === null) return;
    const [start, end] = moment ?? [0, null];
    state.playing = row;
    $("player").hidden = false;
    $("failed").hidden = true;
    document.body.classList.add("plays");
    const what = moment ? `${clock(start)}–${clock(end)} · ${signed(moment[2])}` : clock(0);
    $("playing").replaceChildren(make("b", {}, text(nameOf(row))), make("small", {}, what));
    const begin = () => { audio.currentTime = start; stopAt = end; audio.play().catch(() => {}); };
    if (audio.dataset.row === String(row) && audio.readyState > 0) begin();
    else {
      audio.dataset.row = row;
      stopAt = null;
      audio.src = url;
      audio.addEventListener("loadedmetadata", begin, { once: true });
      audio.load();
    }
    mark();
  };
  const bestMoment = (row) => calls.evidence[row].find((each) => each[2] >= 0) ?? calls.evidence[row][0] ?? null;
  const mark = () => {
    for (const row of document.querySelectorAll("tr.lead")) row.classList.toggle("playing", Number(row.dataset.row) === state.playing);
  };
  if (audio) {
    audio.addEventListener("timeupdate", () => { if (stopAt !== null && audio.currentTime >= stopAt) { stopAt = null; audio.pause(); } });
    audio.addEventListener("seeking", () => { if (stopAt !== null && audio.currentTime > stopAt) stopAt = null; });
    audio.addEventListener("error", () => {
      $("failed").textContent = say("player.error", { url: audio.currentSrc || audio.src });
      $("failed").hidden = false;
    });
  }
  const closePlayer = () => {
    audio.pause();
    $("player").hidden = true;
    document.body.classList.remove("plays");
    state.playing = null;
    mark();
  };

  // Rows

  const momentButton = (row, moment) => {
    const [start, , change] = moment;
    const name = `moment ${change >= 0 ? "up" : "down"}`;
    const content = [make("span", {}, urlOf(row) === null ? clock(start) : `▶ ${clock(start)}`), make("b", {}, signed(change))];
    if (urlOf(row) === null) return make("span", { class: name }, content);
    const label = `${say("play", { start: clock(start) })}, ${say(change >= 0 ? "raises" : "lowers", { points: points(change) })}`;
    return make("button", { type: "button", class: name, "aria-label": label, onclick: (event) => { event.stopPropagation(); play(row, moment); } }, content);
  };
  const timeline = (row) => {
    const seconds = calls.seconds[row];
    if (!seconds || !calls.evidence[row].length) return null;
    const most = Math.max(...calls.evidence[row].map((each) => Math.abs(each[2])), 1e-9);
    const shapes = calls.evidence[row].map(([start, end, change]) => {
      const wide = Math.max(6, (1000 * (end - start)) / seconds - 3);
      return [change >= 0 ? "up" : "down", (1000 * start) / seconds, 0, wide, 10, 0.3 + (0.7 * Math.abs(change)) / most];
    });
    return draw("timeline", 1000, say("timeline"), ["track", 0, 4, 1000, 2], ...shapes);
  };
  const sureness = (row) => {
    const set = [...calls.set[row]];
    const intent = at(calls.intent, row);
    if (!set.length) return intent === null ? null : say(`intent.${intent}`);
    if (set.length === 1 && set[0] === intent) return say("sure");
    const others = set.filter((each) => each !== intent);
    return set.length > 2 || others.length !== 1 ? say("unsure", { set: set.join(" / ") }) : `${say("or")} ${others[0]}`;
  };
  const leadRow = (row) => {
    const intent = at(calls.intent, row);
    const certainty = calls.five[row].length ? percent(calls.five[row][data.intents.indexOf(intent)] / 1000) : null;
    const evidence = calls.evidence[row];
    const number = 1 + othersOf(row).length;
    const isOpen = state.open === row;
    const name = make("button", { type: "button", "aria-expanded": String(isOpen), "data-row": row }, text(nameOf(row)));
    const about = [calls.customer[row] === null ? null : calls.call[row], calls.started[row]].filter((each) => each !== null);
    const title = calls.set[row] ? say("set", { set: [...calls.set[row]].join(", ") }) : null;
    const listen = urlOf(row) === null ? "–" : make("button", { type: "button", class: "moment none", "aria-label": say("play", { start: "0:00" }), onclick: (event) => { event.stopPropagation(); play(row, null); } }, "▶ 0:00");
    return make(
      "tr", { class: `lead${isOpen ? " open" : ""}${state.playing === row ? " playing" : ""}`, "data-row": row, onclick: () => toggle(row) },
      make("td", { class: "rank" }, calls.rank[row].toLocaleString("en")),
      make("td", { class: "who" }, name, number > 1 ? make("span", { class: "badge" }, say("customers.calls", { n: number })) : null, make("small", {}, about.map((each, place) => [place ? " · " : null, text(each)]).flat())),
      make("td", { class: "score" }, make("b", {}, calls.score[row] === null ? "–" : calls.score[row].toFixed(0)), draw("bar", 100, null, ["track", 0, 0, 100, 10], ["fill", 0, 0, calls.score[row] ?? 0, 10])),
      make("td", { class: "sure", title }, intent === null ? null : make("span", { class: `chip i${intent}` }, intent), certainty === null ? null : make("b", {}, certainty), make("small", {}, sureness(row))),
      make("td", { class: "why" }, timeline(row), make("div", { class: "moments" }, evidence.length ? evidence.map((each) => momentButton(row, each)) : listen)),
      make("td", { class: "agent" }, text(at(calls.agent, row)), make("small", {}, text(at(calls.domain, row)))),
    );
  };

  const evidenceBlock = (row) => {
    const items = calls.evidence[row].map((moment) => {
      const [start, end, change, side] = moment;
      const how = say(change >= 0 ? "raises" : "lowers", { points: points(change) });
      return make("li", {}, momentButton(row, moment), make("span", {}, how, make("small", {}, `${clock(start)}–${clock(end)}${side < 0 ? "" : ` · ${say(`side.${SIDES[side]}`)}`}`)));
    });
    return make("div", { class: "block" }, make("h3", {}, say("evidence")), items.length ? make("ol", {}, items) : say("evidence.none"));
  };
  const fiveBlock = (row) => {
    if (!calls.five[row].length) return null;
    const bars = data.intents.map((intent, place) => {
      const share = calls.five[row][place] / 1000;
      return make("div", {}, make("span", { class: `chip i${intent}` }, intent), draw("share", 100, null, ["track", 0, 0, 100, 10], [intent, 0, 0, 100 * share, 10]), make("span", {}, percent(share)));
    });
    const set = calls.set[row] ? make("p", { class: "note" }, say("set", { set: [...calls.set[row]].join(", ") })) : null;
    return make("div", { class: "block" }, make("h3", {}, say("probabilities")), make("div", { class: "five" }, bars), set);
  };
  const listBlock = (heading, pairs) => make("div", { class: "block" }, make("h3", {}, say(heading)), make("dl", {}, pairs.map(([term, value]) => [make("dt", {}, say(term)), make("dd", {}, text(value))]).flat()));
  const factsBlock = (row) => {
    const facts = calls.facts[row];
    const shown = { talk: percent, silence: percent, interruptions: String, turns: (each) => each.toFixed(1) };
    const pairs = FACTS.map((name, place) => [`facts.${name}`, facts[place], shown[name] ?? ((each) => say("seconds", { n: each.toFixed(1) }))]).filter(([, value]) => value !== null && value !== undefined);
    if (!pairs.length) return make("div", { class: "block" }, make("h3", {}, say("facts")), say("facts.none"));
    return listBlock("facts", pairs.map(([term, value, format]) => [term, format(value)]));
  };
  const othersBlock = (row) => {
    const others = othersOf(row);
    if (!others.length) return null;
    const items = others.slice(0, 20).map((other) => make("li", {}, make("button", { type: "button", class: "link", onclick: () => jump(other) }, `${calls.rank[other]} · `, text(calls.call[other])), ` ${calls.score[other]?.toFixed(0) ?? "–"} ${calls.started[other] ?? ""}`));
    return make("div", { class: "block others" }, make("h3", {}, say("others")), make("ol", {}, items));
  };
  const aboutBlock = (row) => make("div", { class: "about" }, make("dl", {}, [
    ["about.call", calls.call[row]], ["about.started", calls.started[row]], ["about.seconds", calls.seconds[row] === null ? null : clock(calls.seconds[row])], ["about.rounds", calls.rounds[row]],
    ["column.agent", at(calls.agent, row)], ["domain", at(calls.domain, row)], ["about.language", at(calls.language, row)], ["about.uri", calls.uri[row]],
  ].filter(([, value]) => value !== null && value !== undefined).map(([term, value]) => make("div", {}, make("dt", {}, say(term)), make("dd", {}, text(value))))));
  const detailRow = (row) => make("tr", { class: "detail" }, make("td", { colspan: 6 }, make("div", { class: "cards" }, make("div", {}, evidenceBlock(row), othersBlock(row)), make("div", {}, fiveBlock(row)), make("div", {}, factsBlock(row)), aboutBlock(row))));

  const render = () => {
    const pages = Math.max(1, Math.ceil(shown.length / PER_PAGE));
    state.page = Math.min(state.page, pages - 1);
    const from = state.page * PER_PAGE;
    const rows = shown.slice(from, from + PER_PAGE);
    $("rows").replaceChildren(...rows.flatMap((row) => (state.open === row ? [leadRow(row), detailRow(row)] : [leadRow(row)])));
    $("empty").hidden = shown.length > 0;
    document.querySelector("table.leads").hidden = shown.length === 0;
    $("pager").hidden = shown.length === 0;
    $("shown").textContent = say("shown", { from: from + 1, to: from + rows.length, n: shown.length });
    $("previous").disabled = state.page === 0;
    $("next").disabled = state.page >= pages - 1;
    for (const heading of document.querySelectorAll("th[data-sort]")) {
      const isSorted = heading.dataset.sort === state.sort;
      if (isSorted) heading.setAttribute("aria-sort", state.reversed !== (state.sort === "score") ? "descending" : "ascending");
      else heading.removeAttribute("aria-sort");
    }
  };
  const refresh = () => { state.page = 0; select(); render(); };
  const focusRow = (row) => document.querySelector(`#rows button[data-row="${row}"]`)?.focus();
  const toggle = (row) => { state.open = state.open === row ? null : row; render(); focusRow(row); };
  const jump = (row) => {
    if (state.one) { state.one = false; $("one").checked = false; }
    select();
    state.open = row;
    state.page = Math.floor(Math.max(0, shown.indexOf(row)) / PER_PAGE);
    render();
    focusRow(row);
  };

  // Controls

  const options = (id, names) => {
    const chosen = $(id).value;
    $(id).replaceChildren(make("option", { value: "" }, say("all")), ...names.map((name) => make("option", { value: name }, name)));
    $(id).value = chosen;
  };
  const translate = () => {
    document.documentElement.lang = state.language;
    for (const element of document.querySelectorAll("[data-t]")) element.textContent = say(element.dataset.t, JSON.parse(element.dataset.v ?? "{}"));
    for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", say(element.dataset.label));
    for (const element of document.querySelectorAll("[data-placeholder]")) element.placeholder = say(element.dataset.placeholder);
    document.querySelector(".day").textContent = data.day[state.language];
    for (const button of document.querySelectorAll("[data-language]")) button.setAttribute("aria-pressed", String(button.dataset.language === state.language));
    options("domain", calls.domain.names);
    options("agent", calls.agent.names);
    $("sort").replaceChildren(...Object.keys(KEYS).map((key) => make("option", { value: key }, say(`sort.${key}`))));
    $("sort").value = state.sort;
    for (const button of $("intents").children) button.title = say(`intent.${button.textContent}`);
    for (const heading of document.querySelectorAll("th[data-sort]")) {
      const key = heading.dataset.sort;
      heading.replaceChildren(make("button", { type: "button", onclick: () => sortBy(key, state.sort === key && !state.reversed) }, say(`column.${key}`)));
    }
  };
  const sortBy = (key, reversed) => {
    state.sort = key;
    state.reversed = reversed;
    $("sort").value = key;
    $("order").setAttribute("aria-pressed", String(reversed));
    refresh();
  };
  const chips = () => $("intents").replaceChildren(...data.intents.map((intent) => make("button", {
    type: "button", class: `i${intent}`, "aria-pressed": "false",
    onclick: (event) => {
      const isOn = !state.intents.delete(intent);
      if (isOn) state.intents.add(intent);
      event.currentTarget.setAttribute("aria-pressed", String(isOn));
      refresh();
    },
  }, intent)));
  const reset = () => {
    Object.assign(state, { search: "", domain: "", agent: "", one: true, sort: "rank", reversed: false });
    state.intents.clear();
    $("order").setAttribute("aria-pressed", "false");
    chips();
    translate();
    refresh();
  };
  const showSection = () => {
    const wanted = ["unranked", "rejected", "moved", "outcomes"].find((id) => $(id) && `#${id}` === location.hash) ?? "leads";
    for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== wanted;
    for (const link of document.querySelectorAll("nav a")) {
      if (link.getAttribute("href") === `#${wanted}`) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };
  const onKey = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || ["INPUT", "SELECT", "AUDIO"].includes(event.target.tagName)) return;
    if (event.key === "/") { event.preventDefault(); $("search").focus(); return; }
    const buttons = [...document.querySelectorAll("#rows .who button")];
    const place = buttons.findIndex((name) => name.closest("tr") === event.target.closest?.("tr"));
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const next = buttons[place + (event.key === "ArrowDown" ? 1 : -1)];
      if (next) { event.preventDefault(); next.focus(); }
    } else if (event.key.toLowerCase() === "p" && place >= 0) {
      const row = Number(buttons[place].dataset.row);
      play(row, bestMoment(row));
    }
  };

  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", () => setTimeout(reset));
  $("search").addEventListener("input", (event) => { state.search = event.target.value.trim().toLowerCase(); refresh(); });
  for (const id of ["domain", "agent"]) $(id).addEventListener("change", (event) => { state[id] = event.target.value; refresh(); });
  $("one").addEventListener("change", (event) => { state.one = event.target.checked; refresh(); });
  $("sort").addEventListener("change", (event) => sortBy(event.target.value, false));
  $("order").addEventListener("click", () => sortBy(state.sort, !state.reversed));
  $("previous").addEventListener("click", () => { state.page -= 1; render(); scrollTo(0, 0); });
  $("next").addEventListener("click", () => { state.page += 1; render(); scrollTo(0, 0); });
  $("close").addEventListener("click", closePlayer);
  for (const button of document.querySelectorAll("[data-language]")) button.addEventListener("click", () => { state.language = button.dataset.language; translate(); render(); });
  addEventListener("hashchange", showSection);
  const isWide = matchMedia("(min-width: 641px)");
  const fitFilters = () => { document.querySelector(".box").open = isWide.matches; };
  isWide.addEventListener("change", fitFilters);
  fitFilters();
  document.addEventListener("keydown", onKey);
  for (const element of document.querySelectorAll(".languages, .box, .keys")) element.hidden = false;
  chips();
  translate();
  refresh();
  showSection();
})();
