"use strict";
// Shows one kind of problem at a time, and copies commands. The filters are one stop of the Tab key; arrows move on.
(() => {
  document.documentElement.classList.add("moving");
  const buttons = [...document.querySelectorAll("[data-show]")];
  const sections = [...document.querySelectorAll(".kind-of-problem")];

  const stop = (chosen) => buttons.forEach((button) => (button.tabIndex = button === chosen ? 0 : -1));
  const show = (chosen) => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button === chosen));
    for (const section of sections) section.hidden = Boolean(chosen.dataset.show) && section.id !== chosen.dataset.show;
    stop(chosen);
  };
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  buttons.forEach((button, place) => {
    button.addEventListener("click", () => show(button));
    button.addEventListener("keydown", (event) => {
      if (!(event.key in steps)) return;
      event.preventDefault();
      const next = buttons[(place + steps[event.key] + buttons.length) % buttons.length];
      stop(next);
      next.focus();
    });
  });
  if (buttons.length) stop(buttons[0]);

  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        const range = document.createRange(); // no clipboard here: the text is marked, ready for the keyboard
        range.selectNodeContents(code);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        button.textContent = "Marked: now press Ctrl+C";
      }
      setTimeout(() => (button.textContent = "Copy"), 2500);
    });
  }
})();
