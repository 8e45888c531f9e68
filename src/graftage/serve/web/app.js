// Pictures come in by drop, paste, choice or camera; they are sent a few at a time; what comes back is shown.
"use strict";

const TOGETHER = 4; // pictures under way at once
const CARDS = 12; // more pictures than this, or a folder, make a table
const PICTURE = /\.(jpe?g|jpe|jfif|png|webp|tiff?|bmp|gif|heic|avif|jp2)$/i; // what a folder is searched for

const $ = (id) => document.getElementById(id);

let items = [];
let about = null;
let asTable = false;
let work = null; // { stop, running, started, done }
let viewed = null;

// ---------------------------------------------------------------- in

function take(files, { folder = false } = {}) {
  const found = folder ? files.filter(({ name }) => PICTURE.test(name) && !/(^|\/)\./.test(name)) : files;
  if (!found.length) return tell(w("noPictures"));
  for (const { file, name } of found) {
    items.push({ file, name, url: URL.createObjectURL(file), state: "waiting" });
  }
  asTable = asTable || folder || items.length > CARDS;
  $("results").hidden = false;
  draw();
  send();
}

async function entriesOf(entry, name) {
  if (entry.isFile) {
    return [{ file: await new Promise((found, lost) => entry.file(found, lost)), name }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) { // a reader gives a hundred at a time
    const some = await new Promise((read, lost) => reader.readEntries(read, lost));
    if (!some.length) break;
    for (const inner of some) found.push(...(await entriesOf(inner, `${name}/${inner.name}`)));
  }
  return found;
}

async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const folder = entries.some((entry) => entry.isDirectory);
  if (!folder) return take([...transfer.files].map((file) => ({ file, name: file.name })));
  tell(w("reading"));
  const found = [];
  for (const entry of entries) found.push(...(await entriesOf(entry, entry.name)));
  const order = new Intl.Collator(undefined, { numeric: true });
  return take(found.sort((a, b) => order.compare(a.name, b.name)), { folder });
}

// ---------------------------------------------------------------- to and fro

async function send() {
  if (work) return;
  const own = { stop: new AbortController(), started: performance.now(), done: 0 };
  work = own;
  $("progress").hidden = false;
  const turns = Array.from({ length: TOGETHER }, async () => {
    let item;
    while (work === own && (item = items.find((one) => one.state === "waiting"))) await answer(item, own);
  });
  await Promise.all(turns);
  if (work !== own) return;
  work = null;
  $("progress").hidden = true;
  finished();
}

async function answer(item, own) {
  item.state = "working";
  redraw(item);
  try {
    Object.assign(item, await predict(item.file, own.stop.signal), { state: "done" });
  } catch (error) {
    if (error.name === "AbortError" || error instanceof NoKey) item.state = "waiting";
    else Object.assign(item, { state: "failed", error: error.message });
    if (error instanceof NoKey) askForKey(error.message);
  }
  own.done += item.state === "waiting" ? 0 : 1;
  redraw(item);
  advance(own);
}

function advance(own) {
  if (work !== own) return;
  const left = items.filter((item) => ["waiting", "working"].includes(item.state)).length;
  $("bar").max = own.done + left;
  $("bar").value = own.done;
  const seconds = (performance.now() - own.started) / 1000;
  if (seconds < 2 || !own.done) return;
  const rate = own.done / seconds;
  const eta = left / rate;
  const time = eta < 90 ? w("seconds", Math.ceil(eta)) : w("minutes", Math.ceil(eta / 60));
  tell(`${w("done", own.done, own.done + left)}, ${w("rate", rate.toFixed(1), time)}`);
}

function stop(word) {
  work?.stop.abort();
  work = null;
  $("progress").hidden = true;
  items = items.filter((item) => item.state === "done" || item.state === "failed");
  draw();
  tell(word);
}

function finished() {
  const bad = items.filter((item) => item.state === "failed" || item.row?.status === "rejected").length;
  const only = items.length === 1 && !bad ? items[0] : null;
  const text = only
    ? w("doneOne", only.name, only.row.label, percent(only.row.probability))
    : w("doneAll", items.filter((item) => item.state === "done").length);
  tell(bad ? `${text}, ${w("rejectedCount", bad)}` : text);
}

async function openHeat(item, label) {
  if (item.open === label) {
    item.open = "";
    return redraw(item, label);
  }
  item.busy = true;
  item.problem = "";
  redraw(item, label);
  try {
    item.explained = await explain(item.file, label);
    item.open = label;
  } catch (error) {
    item.problem = error.message;
    if (error instanceof NoKey) askForKey(error.message);
  }
  item.busy = false;
  redraw(item, label);
}

// ---------------------------------------------------------------- out

function tell(text) {
  $("status").textContent = text;
}

function draw() {
  $("cards").hidden = asTable;
  $("many").hidden = !asTable;
  $("results").hidden = !items.length;
  for (const item of items) item.element = null;
  $("cards").replaceChildren();
  $("rows").replaceChildren();
  for (const item of items.slice(0, asTable ? ROWS : CARDS)) {
    item.element = asTable ? tableRow(item) : card(item);
    (asTable ? $("rows") : $("cards")).append(item.element);
  }
  $("more").hidden = !asTable || items.length <= ROWS;
  $("more").textContent = w("shown", ROWS.toLocaleString());
}

// One item anew, where it stands; a button of it that had the focus keeps it.
function redraw(item, label = "") {
  const held = document.activeElement?.closest(".bars") ? label : "";
  const where = document.activeElement?.classList.contains("where");
  const fresh = asTable ? tableRow(item) : card(item);
  if (item.element?.isConnected) {
    item.element.replaceWith(fresh);
    item.element = fresh;
  }
  if (viewed === item) $("viewer-card").replaceChildren(card(item, false));
  const home = viewed === item ? $("viewer-card") : fresh;
  if (held) home.querySelector(`.bars [data-class="${CSS.escape(held)}"]`)?.focus();
  else if (where) home.querySelector(".where")?.focus();
}

function view(item) {
  viewed = item;
  $("viewer-title").textContent = item.name;
  $("viewer-card").replaceChildren(card(item, false));
  $("viewer").showModal();
}

function download() {
  const url = URL.createObjectURL(new Blob([csvText(items)], { type: "text/csv;charset=utf-8" }));
  el("a", { href: url, download: "predictions.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// ---------------------------------------------------------------- camera

let film = null;

async function openCamera() {
  if (!navigator.mediaDevices?.getUserMedia) return $("shot").click(); // a phone opens its camera by itself
  try {
    film = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
  } catch (error) {
    return tell(w("noCamera", error.name));
  }
  $("video").srcObject = film;
  $("camera-box").showModal();
}

function closeCamera() {
  film?.getTracks().forEach((track) => track.stop());
  film = null;
}

function snap() {
  const video = $("video");
  const canvas = el("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => {
    const name = `${w("camera")} ${new Date().toLocaleTimeString(document.documentElement.lang)}.jpg`;
    take([{ file: blob, name }]);
  }, "image/jpeg", 0.95);
  $("camera-box").close();
}

// ---------------------------------------------------------------- the model, the key, the language

async function meet() {
  try {
    about = null;
    const { models } = await ask("v1/models", {});
    $("models").hidden = models.length < 2;
    model = model || models[0];
    $("model").replaceChildren(...models.map((name) => el("option", { value: name, selected: name === model }, name)));
    about = await ask("v1/model", {});
    $("key-form").hidden = true;
    named();
    send();
  } catch (error) {
    if (error instanceof NoKey) askForKey(key ? error.message : "");
    else tell(error.message);
  }
}

function named() {
  $("model-name").textContent = about.name;
  document.title = `${about.name} – graftage`;
  showAbout(about);
}

function askForKey(text) {
  $("key-form").hidden = false;
  $("key").focus();
  tell(text);
}

function listen() {
  $("choose").addEventListener("click", () => $("files").click());
  $("choose-folder").addEventListener("click", () => $("folder").click());
  $("camera").addEventListener("click", openCamera);
  for (const id of ["files", "shot", "folder"]) {
    $(id).addEventListener("change", () => {
      const folder = id === "folder";
      take([...$(id).files].map((file) => ({ file, name: (folder && file.webkitRelativePath) || file.name })), { folder });
      $(id).value = "";
    });
  }
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) take(files.map((file) => ({ file, name: file.name })));
  });
  let inside = 0;
  document.addEventListener("dragenter", () => $("drop").classList.toggle("over", ++inside > 0));
  document.addEventListener("dragleave", () => $("drop").classList.toggle("over", --inside > 0));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    inside = 0;
    $("drop").classList.remove("over");
    dropped(event.dataTransfer);
  });
  $("stop").addEventListener("click", () => stop(w("stopped")));
  $("csv").addEventListener("click", download);
  $("clear").addEventListener("click", () => {
    for (const item of items) URL.revokeObjectURL(item.url);
    items = [];
    asTable = false;
    stop(w("cleared"));
    $("choose").focus();
  });
  $("viewer-close").addEventListener("click", () => $("viewer").close());
  $("viewer").addEventListener("close", () => (viewed = null));
  $("camera-close").addEventListener("click", () => $("camera-box").close());
  $("camera-box").addEventListener("close", closeCamera);
  $("snap").addEventListener("click", snap);
  $("language").addEventListener("click", () => {
    language = language === "zh" ? "en" : "zh";
    localStorage.setItem("graftage-language", language);
    speak();
    if (about) named();
    draw();
    tell("");
  });
  $("model").addEventListener("change", () => {
    model = $("model").value;
    for (const item of items) Object.assign(item, { state: "waiting", row: null, open: "", explained: null, error: "" });
    draw();
    meet();
  });
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    useKey($("key").value);
    meet();
  });
}

speak();
listen();
if (document.documentElement.dataset.keyed === "yes" && !key) askForKey("");
else meet();
