"use strict";
// Opens the pictures behind a number, moves through the matrix by arrow keys, sorts tables, copies code.
// Text from the data reaches the page through textContent only.
(() => {
  const { classes, cells, dots } = JSON.parse(document.getElementById("pictures").textContent);
  const viewer = document.querySelector(".viewer");
  document.documentElement.classList.add("moving");

  const make = (tag, text = "", css = "") => {
    const element = document.createElement(tag);
    element.textContent = text;
    if (css) element.className = css;
    return element;
  };

  const picture = (source, alt) => {
    if (!source) return make("span", "", "blank");
    if (source.startsWith("@")) {
      const [key, number] = source.slice(1).split(":");
      return picture(cells[key].shots[number][3], alt);
    }
    const image = make("img");
    image.src = source.startsWith("#") ? document.getElementById(source.slice(1)).src : source;
    image.alt = alt;
    return image;
  };

  const card = ([id, confidence, runnerUp, source], isRight) => {
    const figure = make("figure", "", isRight ? "right" : "");
    const caption = make("figcaption");
    caption.append(make("b", `${(100 * confidence).toFixed(1)} %`, "said"), " sure");
    if (runnerUp) caption.append(make("br"), `or else ${runnerUp}`);
    const file = make("span", id.split(/[\\/]/).pop(), "file");
    file.title = id;
    caption.append(file);
    figure.append(picture(source, id), caption);
    return figure;
  };

  const open = (key) => {
    const [row, column] = key.split(",").map(Number);
    const { n, shots } = cells[key];
    const title = row === column ? `${classes[row]}, recognised` : `${classes[row]}, taken for ${classes[column]}`;
    const pictures = n === 1 ? "1 picture" : `${n} pictures`;
    viewer.querySelector("h2").textContent = title;
    viewer.querySelector("p").textContent = shots.length < n ? `${pictures}, ${shots.length} of them shown` : pictures;
    viewer.querySelector(".gallery").replaceChildren(...shots.map((s) => card(s, row === column)));
    viewer.showModal(); // Escape closes it, and the focus returns to the button
    viewer.scrollTop = 0;
  };

  viewer.querySelector("button").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
  for (const button of document.querySelectorAll("[data-cell]")) {
    button.addEventListener("click", () => open(button.dataset.cell));
  }

  // The matrix is one stop of the Tab key; arrows go to the next cell that has a button.
  const buttons = [...document.querySelectorAll(".matrix [data-cell]")];
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const stop = (chosen) => buttons.forEach((button) => (button.tabIndex = button === chosen ? 0 : -1));
  const place = (button) => button.dataset.cell.split(",").map(Number);
  const next = (button, [down, right]) => {
    const [row, column] = place(button);
    const ahead = buttons
      .map((other) => [other, ...place(other)])
      .map(([other, r, c]) => [other, (r - row) * down + (c - column) * right, Math.abs(down ? c - column : r - row)])
      .filter(([, along]) => along > 0)
      .sort((a, b) => a[1] + 1000 * a[2] - b[1] - 1000 * b[2]);
    return ahead.length ? ahead[0][0] : button;
  };
  stop(buttons[0]);
  for (const button of buttons) {
    button.addEventListener("focus", () => stop(button));
    button.addEventListener("keydown", (event) => {
      if (!(event.key in steps)) return;
      event.preventDefault();
      next(button, steps[event.key]).focus();
    });
  }

  // The map: one stop of the Tab key, arrows go to the next dot, what is looked at stands beside it.
  const looked = document.querySelector(".looked");
  const marks = [...document.querySelectorAll("[data-dot]")];
  const centre = (mark) => [Number(mark.getAttribute("cx")), Number(mark.getAttribute("cy"))];
  const look = (mark) => {
    const [id, confidence, truth, said, source] = dots[mark.dataset.dot];
    marks.forEach((other) => other.classList.toggle("now", other === mark));
    marks.forEach((other) => other.setAttribute("tabindex", other === mark ? 0 : -1));
    const figure = make("figure", "", truth === said ? "right" : "");
    const caption = make("figcaption");
    caption.append(make("b", classes[said], "said"), ` ${(100 * confidence).toFixed(1)} %`);
    if (truth !== said) caption.append(make("br"), "truly ", make("b", classes[truth]));
    const file = make("span", id.split(/[\\/]/).pop(), "file");
    file.title = id;
    caption.append(file);
    figure.append(picture(source, id), caption);
    looked.replaceChildren(figure);
  };
  const beside = (mark, [down, right]) => {
    const [x, y] = centre(mark);
    const ahead = marks
      .filter((other) => other !== mark && !other.classList.contains("faint"))
      .map((other) => [other, centre(other)])
      .map(([other, [u, v]]) => [other, (v - y) * down + (u - x) * right, Math.abs(down ? u - x : v - y)])
      .filter(([, along, off]) => along > 0 && off <= 2 * along)
      .sort((a, b) => a[1] + 2 * a[2] - b[1] - 2 * b[2]);
    return ahead.length ? ahead[0][0] : mark;
  };
  if (marks.length) marks[0].setAttribute("tabindex", 0);
  for (const mark of marks) {
    for (const event of ["pointerenter", "focus", "click"]) mark.addEventListener(event, () => look(mark));
    mark.addEventListener("keydown", (event) => {
      if (!(event.key in steps)) return;
      event.preventDefault();
      beside(mark, steps[event.key]).focus();
    });
  }
  document.querySelector(".of-class")?.addEventListener("change", (event) => {
    const chosen = event.target.value;
    marks.forEach((mark) => mark.classList.toggle("faint", chosen !== "" && mark.dataset.true !== chosen));
  });

  const sort = (table, index, heading) => {
    const order = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const value = (row) => row.cells[index].dataset.v;
    const numeric = index > 0;
    const rows = [...table.tBodies[0].rows].sort(
      (a, b) => order * (numeric ? value(a) - value(b) : value(a).localeCompare(value(b), undefined, { numeric: true })),
    );
    table.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", order > 0 ? "ascending" : "descending");
    table.tBodies[0].append(...rows);
  };
  for (const table of document.querySelectorAll(".sortable table")) {
    [...table.tHead.rows[0].cells].forEach((heading, index) => {
      heading.querySelector("button").addEventListener("click", () => sort(table, index, heading));
    });
  }

  for (const range of document.querySelectorAll(".strength input")) {
    range.addEventListener("input", () => {
      document.documentElement.style.setProperty("--heat", range.value / 100);
    });
  }

  const select = (element) => {
    const range = document.createRange();
    range.selectNodeContents(element);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
  };
  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        select(code); // no clipboard here: the text is marked, ready for the keyboard
        button.textContent = "Marked: now press Ctrl+C";
      }
      setTimeout(() => (button.textContent = "Copy"), 2500);
    });
  }
})();
