// What was answered, as elements of the page. Text from files and models goes in as text, never as HTML.
"use strict";

const BARS = 5; // classes shown of a picture
const ROWS = 1000; // of the table; the csv holds all

function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function ranked(item) {
  return item.row.probabilities
    .map((p, k) => [item.classes[k], p])
    .sort((a, b) => b[1] - a[1]);
}

function remarks(item) {
  if (item.state !== "done") return [[w(item.state), item.state === "failed" ? "error" : ""]];
  const row = item.row;
  if (row.status === "rejected") return [[`${w("rejected")}: ${reason(row.reason)}`, "error"]];
  const found = [];
  if (row.unlike) found.push([w("unlike"), "error"]);
  if (row.abstained) found.push([w("unsure"), "error"]);
  if (row.status === "repaired") found.push([w("repaired"), ""]);
  return found;
}

function tags(item) {
  return remarks(item).map(([text, kind]) => el("span", { className: `tag ${kind}` }, text));
}

// ---------------------------------------------------------------- a card

function card(item, heading = true) {
  const article = el("article", { className: "card-of" });
  article.setAttribute("aria-label", item.name);
  article.append(pictured(item));
  const side = el("div", { className: "says" });
  if (heading) side.append(el("h3", { className: "file-name" }, item.name));
  if (item.state !== "done" || item.row.status === "rejected") {
    side.append(el("p", { className: "remarks" }, ...tags(item)));
    if (item.error) side.append(el("p", { className: "quiet" }, item.error));
  } else {
    side.append(...said(item));
  }
  article.append(side);
  return article;
}

function pictured(item) {
  const frame = el("figure", { className: "shown" });
  const image = el("img", { src: item.explained?.picture || item.url, alt: item.name });
  image.addEventListener("error", () => image.replaceWith(el("div", { className: "no-preview" }, w("noPreview"))));
  const under = el("div", { className: "under" }, image);
  frame.append(under);
  if (item.explained && item.open) {
    under.append(el("img", { className: "heat-map", src: item.explained.heat.png, alt: w("heatAlt", item.open) }));
    frame.append(
      el("figcaption", { className: "heat-key" }, el("span", {}, w("heatFor", item.open)), " ",
        el("span", { className: "against" }, w("heatAgainst"))),
    );
  }
  return frame;
}

function said(item) {
  const row = item.row;
  const verdict = el("p", { className: "verdict-of" }, el("b", { className: "name" }, row.label), " ",
    el("span", { className: "value" }, percent(row.probability)));
  const parts = [verdict];
  const warnings = [];
  if (row.unlike) warnings.push(w("unlikeMore", row.unlike_p.toPrecision(2)));
  if (row.abstained) warnings.push(w("unsureMore"));
  if (row.status === "repaired") warnings.push(w("repaired"));
  if (warnings.length) parts.push(el("ul", { className: "warnings" }, ...warnings.map((text) => el("li", {}, text))));
  parts.push(bars(item));
  if (row.prediction_set.length) {
    const coverage = about?.decisions?.sets?.coverage;
    parts.push(el("p", { className: "set" }, w("setIs", row.prediction_set.join(", ")),
      coverage ? el("span", { className: "quiet" }, ` (${w("setHolds", share(coverage))})`) : null));
  }
  if (EXPLAINS) parts.push(whereButton(item));
  if (item.problem) parts.push(el("p", { className: "quiet", role: "alert" }, item.problem));
  if (item.explained && item.open) parts.push(likes(item.explained));
  return parts;
}

function bars(item) {
  const all = ranked(item);
  const list = el("ol", { className: "bars" });
  for (const [name, p] of all.slice(0, BARS)) {
    const fill = el("span", { className: "fill" });
    fill.style.width = `${100 * p}%`;
    const button = el("button", { type: "button" }, el("span", { className: "name" }, name),
      el("span", { className: "track" }, fill), el("span", { className: "value" }, percent(p)));
    button.dataset.class = name;
    if (EXPLAINS) {
      button.setAttribute("aria-label", w("whereOf", name, percent(p)));
      button.setAttribute("aria-pressed", String(item.open === name));
      button.addEventListener("click", () => openHeat(item, name));
    } else button.disabled = true;
    list.append(el("li", {}, button));
  }
  const left = all.slice(BARS);
  if (left.length) {
    const sum = left.reduce((total, [, p]) => total + p, 0);
    list.append(el("li", { className: "quiet rest" }, w("others", left.length, percent(sum))));
  }
  return list;
}

function whereButton(item) {
  const button = el("button", { type: "button", className: "where" });
  button.textContent = item.busy ? w("working") : item.open ? w("hide") : w("where");
  button.disabled = Boolean(item.busy);
  button.addEventListener("click", () => openHeat(item, item.open || item.row.label));
  return button;
}

function likes(explained) {
  if (!explained.similar.length) return el("p", { className: "quiet" }, w("noSimilar"));
  const list = el("ul", { className: "likes" });
  for (const like of explained.similar) {
    const image = like.thumbnail ? el("img", { src: like.thumbnail, alt: "" }) : null;
    list.append(el("li", {}, image, el("span", {}, el("b", { className: "name" }, like.label), " ",
      el("span", { className: "quiet" }, w("alike", percent(like.similarity, 0))),
      el("span", { className: "file" }, like.id))));
  }
  return el("div", {}, el("h4", {}, w("similar")), list);
}

// ---------------------------------------------------------------- a row of the table, and of the csv

function tableRow(item) {
  const good = item.state === "done" && item.row.status !== "rejected";
  const opener = el("button", { type: "button", className: "plain name" }, item.name);
  opener.addEventListener("click", () => view(item));
  return el("tr", {},
    el("th", { scope: "row" }, opener),
    el("td", {}, good ? item.row.label : ""),
    el("td", { className: "number" }, good ? percent(item.row.probability) : ""),
    el("td", {}, good ? item.row.runner_up : ""),
    el("td", {}, good ? item.row.prediction_set.join(", ") : ""),
    el("td", {}, ...tags(item)));
}

const COLUMNS = ["path", "status", "reason", "label", "probability", "runner_up", "runner_up_probability",
  "prediction_set", "abstained", "unlike_p", "unlike"];

function csvRow(item) {
  const row = item.row;
  if (!row) return [item.name, item.state, item.error || "", ...Array(8).fill("")];
  const bad = row.status === "rejected";
  const truth = (value) => (value === null ? "" : String(value));
  return [item.name, row.status, row.reason, row.label, bad ? "" : row.probability, row.runner_up,
    bad ? "" : ranked(item)[1][1], row.prediction_set.length ? JSON.stringify(row.prediction_set) : "",
    truth(row.abstained), row.unlike_p ?? "", truth(row.unlike)];
}

// With a byte order mark, by which spreadsheets know that it is UTF-8.
function csvText(items) {
  const quoted = (cell) => (/[",\r\n]/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : String(cell));
  return "\ufeff" + [COLUMNS, ...items.map(csvRow)].map((row) => row.map(quoted).join(",") + "\n").join("");
}

// ---------------------------------------------------------------- the model

function showAbout(record) {
  const facts = document.getElementById("facts");
  facts.replaceChildren();
  const fact = (name, ...value) => facts.append(el("div", {}, el("dt", {}, name), el("dd", {}, ...value)));
  const between = (e) => w("to", percent(e.value), (100 * e.low).toFixed(1), (100 * e.high).toFixed(1));
  for (const [name, word] of [["accuracy", "accuracy"], ["balanced_accuracy", "balanced"], ["macro_f1", "macroF1"]]) {
    const estimate = record.scores[name];
    if (typeof estimate?.value === "number") fact(w(word), between(estimate));
  }
  fact(w("classes"), record.classes.length.toLocaleString());
  if (record.learnt_from.pictures) fact(w("learntFrom"), w("nPictures", record.learnt_from.pictures.toLocaleString()));
  const promises = document.getElementById("promises");
  promises.replaceChildren(...[
    record.scores.n ? w("heldOut", record.scores.n.toLocaleString()) : null,
    promise(record, "sets", (rule) => w("promiseSets", share(rule.coverage))),
    promise(record, "answers", (rule) => w("promiseAnswers", share(rule.max_error))),
    promise(record, "unlike", (rule) => w("promiseUnlike", share(rule.false_alarm))),
  ].filter(Boolean).map((text) => el("li", {}, text)));
  document.getElementById("card").replaceChildren(
    ...record.card.flatMap((part) => [el("dt", {}, part.heading), el("dd", {}, part.text)]));
  document.getElementById("about").hidden = false;
}

function promise(record, name, text) {
  const rule = record.decisions[name];
  return rule ? text(rule) : w("noPromise", record.decisions.reasons[name] || name);
}
