// What the page asks the server. File names never leave the browser: a picture is sent alone, as the body.
"use strict";

const EXPLAINS = true; // whether it can say where in a picture an answer comes from

class Unanswered extends Error {}
class NoKey extends Error {}

const MANY_TRIES = 20; // of a picture that finds the queue full

let key = sessionStorage.getItem("graftage-key") || "";
let model = "";

function useKey(text) {
  key = text;
  sessionStorage.setItem("graftage-key", text);
}

async function ask(path, query, options = {}) {
  const wanted = new URLSearchParams({ ...(model ? { model } : {}), ...query });
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  let response;
  try {
    response = await fetch(`${path}?${wanted}`, { ...options, headers: { ...headers, ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unanswered(w("gone"));
  }
  if (response.status === 401) throw new NoKey(w("wrongKey"));
  if (response.status === 503) return { busy: Number(response.headers.get("retry-after") || 1) };
  const answer = await response.json().catch(() => ({ detail: response.statusText }));
  if (!response.ok) throw new Unanswered(answer.detail || response.statusText);
  return answer;
}

async function askPatiently(path, query, options) {
  for (let tries = 0; tries < MANY_TRIES; tries++) {
    const answer = await ask(path, query, options);
    if (!answer.busy) return answer;
    await new Promise((wake) => setTimeout(wake, 1000 * answer.busy));
    options.signal?.throwIfAborted();
  }
  throw new Unanswered(w("gone"));
}

function sending(file, signal) {
  return { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" }, signal };
}

// A file → { row, classes }.
async function predict(file, signal) {
  const answer = await askPatiently("v1/predict", { rejected: "row" }, sending(file, signal));
  return { row: answer.predictions[0], classes: answer.classes };
}

// A file and one of the classes → heat map and similar pictures.
function explain(file, label) {
  return askPatiently("v1/explain", { label, picture: "true", similar: "5" }, sending(file));
}
