// What the page asks where there is no server: the model runs in this browser, by onnxruntime-web. Nothing is sent.
// The same names as in ask.js.
"use strict";

const EXPLAINS = false; // a heat map needs the network's gradients, which the exported graph has not

class Unanswered extends Error {}
class NoKey extends Error {}

let key = "";
let model = "";
let opened = null; // { card, session }
let turn = Promise.resolve(); // one picture at a time: there is one thread

function useKey() {}

function open() {
  opened ??= (async () => {
    const [card, graph] = await Promise.all([fetched("about.json"), fetched("model.onnx")]);
    ort.env.wasm.numThreads = 1; // more would need headers that not every static server sends
    ort.env.wasm.wasmPaths = new URL("./", document.baseURI).href;
    return {
      card: JSON.parse(new TextDecoder().decode(card)),
      session: await ort.InferenceSession.create(new Uint8Array(graph), { logSeverityLevel: 3 }),
    };
  })();
  return opened;
}

async function fetched(name) {
  const response = await fetch(name).catch(() => null);
  if (!response?.ok) throw new Unanswered(w("noModel", name));
  return response.arrayBuffer();
}

async function ask(path) {
  const { card } = await open();
  return path === "v1/models" ? { models: [card.name] } : card;
}

// A file → { row, classes }.
async function predict(file, signal) {
  const { card, session } = await open();
  const answered = turn.then(async () => {
    signal?.throwIfAborted();
    const picture = await pixelsOf(file, card.short_side);
    if (picture.reason) return rejected(picture.reason);
    const input = new ort.Tensor("uint8", picture.pixels, [picture.height, picture.width, 3]);
    const answer = await session.run({ pixels: input });
    return row(answer, card);
  });
  turn = answered.catch(() => {});
  return { row: await answered, classes: card.classes };
}

function explain() {
  return Promise.reject(new Unanswered(""));
}

function rejected(reason) {
  return { status: "rejected", reason, label: "", probability: 0, runner_up: "", probabilities: [], prediction_set: [],
    abstained: null, unlike_p: null, unlike: null };
}

// p-value and flag come from the graph where the model has the detector.
function row({ probabilities, unlike_p: oddity, unlike: flag }, card) {
  const p = [...probabilities.data];
  const order = p.map((_, k) => k).sort((a, b) => p[b] - p[a] || a - b);
  const { sets, answers } = card.decisions;
  const inSet = order.filter((k, i) => sets && (i === 0 || 1 - p[k] <= sets.threshold));
  return { status: "ok", reason: "", label: card.classes[order[0]], probability: p[order[0]],
    runner_up: card.classes[order[1]], probabilities: p, prediction_set: inSet.map((k) => card.classes[k]),
    abstained: answers ? p[order[0]] < answers.threshold : null,
    unlike_p: oddity ? oddity.data[0] : null, unlike: flag ? Boolean(flag.data[0]) : null };
}

// ---------------------------------------------------------------- pictures

// Upright sRGB over white. A large JPEG is brought to the scale that training decodes it at, by means over blocks.
async function pixelsOf(file, shortSide) {
  if (!file.size) return { reason: "empty file" };
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    return { reason: "unsupported format: this browser cannot decode it" };
  }
  const canvas = el("canvas", { width: bitmap.width, height: bitmap.height });
  const context = canvas.getContext("2d", { alpha: false, colorSpace: "srgb", willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0);
  const { data, width, height } = context.getImageData(0, 0, canvas.width, canvas.height);
  bitmap.close();
  const start = new Uint8Array(await file.slice(0, 3).arrayBuffer());
  const jpeg = start[0] === 0xff && start[1] === 0xd8 && start[2] === 0xff;
  const scale = jpeg ? [8, 4, 2].find((s) => Math.floor(Math.min(width, height) / s) >= shortSide) ?? 1 : 1;
  return blocks(data, width, height, scale);
}

function blocks(data, width, height, scale) {
  const across = Math.ceil(width / scale);
  const down = Math.ceil(height / scale);
  const pixels = new Uint8Array(across * down * 3);
  for (let y = 0; y < down; y++) {
    for (let x = 0; x < across; x++) {
      const right = Math.min((x + 1) * scale, width);
      const bottom = Math.min((y + 1) * scale, height);
      const count = (right - x * scale) * (bottom - y * scale);
      let [r, g, b] = [0, 0, 0];
      for (let v = y * scale; v < bottom; v++) {
        for (let i = 4 * (v * width + x * scale), end = 4 * (v * width + right); i < end; i += 4) {
          r += data[i];
          g += data[i + 1];
          b += data[i + 2];
        }
      }
      const at = 3 * (y * across + x);
      pixels[at] = Math.round(r / count);
      pixels[at + 1] = Math.round(g / count);
      pixels[at + 2] = Math.round(b / count);
    }
  }
  return { pixels, width: across, height: down };
}
