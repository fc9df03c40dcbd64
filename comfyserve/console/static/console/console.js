// The console's own scripts, in addition to unfold's and htmx.
"use strict";

// A button with data-copy="#id" copies the text of that element to the clipboard.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const text = document.querySelector(button.dataset.copy).textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Browsers offer the clipboard API only with https: use the old way.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1500);
});

// Keep the scroll position of elements with an id and data-keep when htmx replaces them.
let scrolled = new Map();
document.addEventListener("htmx:beforeSwap", () => {
  scrolled = new Map([...document.querySelectorAll("[data-keep][id]")].map((e) => [e.id, e.scrollLeft]));
});
document.addEventListener("htmx:afterSwap", () => {
  for (const [id, left] of scrolled) {
    const element = document.getElementById(id);
    if (element) element.scrollLeft = left;
  }
});

// Some of unfold's controls are neither links nor buttons, so that keyboards and screen readers cannot use them:
// the navigation toggle, the user menu, the theme switch.
const NAMES = { dock_to_right: "Show or hide the navigation", close: "Close the navigation", more_horiz: "More actions" };
document.addEventListener("DOMContentLoaded", () => {
  for (const element of document.querySelectorAll(".cursor-pointer[x-on\\:click], .cursor-pointer > [x-on\\:click]")) {
    if (element.matches("button, input, summary, a[href]") || element.closest("template")) continue;
    element.tabIndex = 0;
    element.setAttribute("role", "button");
    const name = NAMES[element.textContent.trim()];
    if (name) element.setAttribute("aria-label", name);
    element.addEventListener("keydown", (event) => {
      if (event.target !== element || (event.key !== "Enter" && event.key !== " ")) return;
      event.preventDefault();
      element.click();
    });
  }
});
