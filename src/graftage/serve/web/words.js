// All words of the page, in English and Chinese. `{0}`, `{1}` … stand for what is filled in.
"use strict";

const WORDS = {
  en: {
    other: "中文", otherLang: "zh-CN",
    skip: "Skip to the results", model: "Model", keyAsked: "This server asks for its key", keyGive: "Use it",
    drop: "Drop pictures or a folder here, or paste one", choose: "Choose pictures", folder: "Choose a folder",
    camera: "Camera", stays: "Pictures go to this server only, and are not kept.",
    staysHere: "Pictures stay in this browser: nothing is sent.", noModel: "{0} cannot be loaded: serve this folder by a web server.", stop: "Stop", results: "Results",
    csv: "Download as csv", clear: "Clear", picture: "Picture", label: "Class", probability: "Probability",
    runnerUp: "Runner-up", set: "May be", remarks: "Remarks", about: "About this model", card: "Model card",
    close: "Close", snap: "Take the picture", where: "Where in the picture?", hide: "Hide",
    working: "working …", waiting: "waiting …", rejected: "cannot be used", failed: "not answered",
    repaired: "damaged, used as far as it goes", unsure: "not sure enough", unlike: "unlike anything seen in training",
    unsureMore: "Not sure enough to promise its error: have a person look.",
    unlikeMore: "Unlike anything seen in training (p = {0}): no class may be right.",
    setIs: "May be: {0}", setHolds: "such sets hold the true class of at least {0} of pictures",
    whereOf: "{0}, {1}: show where in the picture", others: "{0} more classes share {1}",
    heatFor: "speaks for {0}", heatAgainst: "against it", heatAlt: "heat map: where in the picture {0} comes from",
    similar: "Most similar training pictures", noSimilar: "The model file holds no training pictures in small.",
    alike: "{0} alike", noPreview: "no preview", done: "{0} of {1} pictures answered", doneAll: "{0} pictures answered",
    doneOne: "{0}: {1}, {2}", rate: "{0} a second, {1} left", rejectedCount: "{0} could not be used",
    stopped: "Stopped.", cleared: "Cleared.", noPictures: "There is no picture in it.",
    reading: "Looking through the folder …", gone: "The server cannot be reached.", wrongKey: "That is not the key.",
    noCamera: "The camera cannot be used ({0}).", shown: "The first {0} rows are shown; the csv holds all.",
    accuracy: "Accuracy", balanced: "Balanced accuracy", macroF1: "Macro F1", to: "{0} ({1} to {2})",
    heldOut: "Measured on {0} pictures held out, with 95 % intervals.", classes: "Classes", learntFrom: "Learnt from",
    nPictures: "{0} pictures", promiseSets: "What it may be: such sets hold the true class of at least {0} of pictures like those it learnt from.",
    promiseAnswers: "Of the answers not marked as not sure enough, at most {0} are wrong.",
    promiseUnlike: "Pictures unlike anything seen in training are flagged; so are {0} of pictures like them.",
    noPromise: "Not promised: {0}", seconds: "{0} s", minutes: "{0} min",
  },
  zh: {
    other: "English", otherLang: "en",
    skip: "跳到结果", model: "模型", keyAsked: "此服务器需要密钥", keyGive: "使用",
    drop: "把图片或文件夹拖到这里，也可以粘贴图片", choose: "选择图片", folder: "选择文件夹",
    camera: "拍照", stays: "图片只发送到本服务器，不会被保存。",
    staysHere: "图片只留在此浏览器中，不会发送到任何地方。", noModel: "无法加载 {0}：请通过网页服务器打开此文件夹。", stop: "停止", results: "结果",
    csv: "下载 csv", clear: "清除", picture: "图片", label: "类别", probability: "概率",
    runnerUp: "第二类别", set: "可能是", remarks: "备注", about: "关于此模型", card: "模型卡",
    close: "关闭", snap: "拍下", where: "依据在图中何处？", hide: "隐藏",
    working: "处理中……", waiting: "等待中……", rejected: "无法使用", failed: "没有得到回答",
    repaired: "图片已损坏，仅使用可解码的部分", unsure: "把握不足", unlike: "与训练中见过的都不同",
    unsureMore: "把握不足，无法保证错误率：请人工查看。",
    unlikeMore: "与训练中见过的都不同（p = {0}）：可能不属于任何类别。",
    setIs: "可能是：{0}", setHolds: "这样的集合至少对 {0} 的图片包含真实类别",
    whereOf: "{0}，{1}：显示依据在图中何处", others: "其余 {0} 个类别合计 {1}",
    heatFor: "支持“{0}”", heatAgainst: "反对", heatAlt: "热图：“{0}”的依据在图中何处",
    similar: "最相似的训练图片", noSimilar: "模型文件中没有训练图片的缩略信息。",
    alike: "相似度 {0}", noPreview: "无法预览", done: "已回答 {0} / {1} 张图片", doneAll: "已回答 {0} 张图片",
    doneOne: "{0}：{1}，{2}", rate: "每秒 {0} 张，还需 {1}", rejectedCount: "{0} 张无法使用",
    stopped: "已停止。", cleared: "已清除。", noPictures: "其中没有图片。",
    reading: "正在查看文件夹……", gone: "无法连接服务器。", wrongKey: "密钥不对。",
    noCamera: "无法使用摄像头（{0}）。", shown: "只显示前 {0} 行；csv 中有全部。",
    accuracy: "准确率", balanced: "平衡准确率", macroF1: "宏平均 F1", to: "{0}（{1} 至 {2}）",
    heldOut: "在 {0} 张留出图片上测得，附 95 % 区间。", classes: "类别数", learntFrom: "训练图片",
    nPictures: "{0} 张", promiseSets: "“可能是”：对与训练图片相似的图片，至少 {0} 的集合包含真实类别。",
    promiseAnswers: "未标为“把握不足”的回答中，至多 {0} 是错的。",
    promiseUnlike: "与训练中见过的都不同的图片会被标出；相似的图片中也有 {0} 会被误标。",
    noPromise: "未作保证：{0}", seconds: "{0} 秒", minutes: "{0} 分钟",
  },
};

// The reasons with which the server rejects a picture, by their beginnings.
const REASONS_ZH = {
  "empty file": "空文件", "not an image": "不是图片", "unsupported format": "不支持的格式", "too many bytes": "文件太大",
  "too many pixels": "像素太多", "too large for memory": "内存不足", truncated: "文件不完整", corrupt: "文件已损坏",
};

let language = localStorage.getItem("graftage-language") || (navigator.language.startsWith("zh") ? "zh" : "en");

function w(name, ...parts) {
  return WORDS[language][name].replace(/\{(\d)\}/g, (_, i) => parts[i]);
}

function reason(text) {
  if (language !== "zh") return text;
  const known = Object.keys(REASONS_ZH).find((start) => text.startsWith(start));
  return known ? REASONS_ZH[known] : text;
}

function percent(value, digits = 1) {
  return `${(100 * value).toFixed(digits)} %`;
}

// A share as it was promised: 90 %, 99.5 %.
function share(value) {
  return `${Number((100 * value).toFixed(2))} %`;
}

function speak() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-w]")) element.textContent = w(element.dataset.w);
  const button = document.getElementById("language");
  button.textContent = WORDS[language].other;
  button.lang = WORDS[language].otherLang;
}
